// Command fourports makes the seed's four firewall changes the product's way, for the benchmark: two ports, now and
// permanently, over one connection, with every question that join asks before. It owns nothing; the package firewall does
// the work. It must not be shipped.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tectonic-worker/tectonic-worker/firewall"
)

func main() {
	bare := len(os.Args) > 1 && os.Args[1] == "--bare" // the changes alone
	if err := run(bare); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(bare bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := firewall.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	zone := "public"
	if !bare {
		state, err := c.State(ctx)
		if err != nil {
			return err
		}
		if !state.Serves() || state.Panic {
			return errors.New(state.Note())
		}
		if zone, err = c.ZoneOfInterface(ctx, "eth0"); err != nil {
			return err
		}
	}
	for _, port := range []firewall.Port{{Port: "10250", Protocol: "tcp"}, {Port: "4789", Protocol: "udp"}} {
		for _, layer := range firewall.Layers() {
			if !bare {
				if _, err := c.Query(ctx, layer, zone, port); err != nil {
					return err
				}
			}
			change, err := c.Add(ctx, layer, zone, port)
			if err != nil {
				return err
			}
			if !change.Changed() {
				return fmt.Errorf("%s was open already: nothing was measured", port)
			}
		}
	}
	return nil
}
