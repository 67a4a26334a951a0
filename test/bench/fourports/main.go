// Command fourports makes the seed's four firewall changes the product's way, for the benchmark: two ports, now and
// permanently, over one connection. It owns nothing; the package firewall does the work. It must not be shipped.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tectonic-worker/tectonic-worker/firewall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := firewall.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, port := range []firewall.Port{{Port: "10250", Protocol: "tcp"}, {Port: "4789", Protocol: "udp"}} {
		for _, layer := range []firewall.Layer{firewall.Runtime, firewall.Permanent} {
			change, err := c.Open(ctx, layer, "public", port)
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
