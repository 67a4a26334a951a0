// Command reloads reloads firewalld again and again on a host whose agent keeps the ports, and prints for each time how many
// microseconds lay between the signals Reloaded and PortAdded, the later of the worker's two ports. It owns the measurement
// on the host. It must not open a port itself, and must not be shipped.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/tectonic-worker/tectonic-worker/firewall"
)

// calm is how long the agent is left alone between two reloads: it looks again within a second of what it did itself, and
// a look that runs into the next reload would be measured with it.
const calm = 1300 * time.Millisecond

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: reloads COUNT BARE-ZONE ZONE")
		os.Exit(2)
	}
	count, err := strconv.Atoi(os.Args[1])
	if err == nil {
		err = run(count, os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "reloads:", err)
		os.Exit(1)
	}
}

func run(count int, bare, zone string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(count)*15*time.Second)
	defer cancel()
	events := firewall.Watch(ctx, nil)
	if err := await(ctx, events, firewall.Event{Kind: firewall.Connected}); err != nil {
		return err
	}
	content, err := os.ReadFile(bare)
	if err != nil {
		return err
	}
	for range count {
		if err := quiet(ctx, events); err != nil {
			return err
		}
		if err := os.WriteFile(zone, content, 0o644); err != nil {
			return err
		}
		took, err := once(ctx, events)
		if err != nil {
			return err
		}
		fmt.Println(took.Microseconds())
	}
	return nil
}

func once(ctx context.Context, events <-chan firewall.Event) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	reload := exec.CommandContext(ctx, "firewall-cmd", "-q", "--reload")
	if err := reload.Start(); err != nil {
		return 0, err
	}
	err := await(ctx, events, firewall.Event{Kind: firewall.Reloaded})
	begin := time.Now()
	if err == nil {
		err = await(ctx, events,
			firewall.Event{Kind: firewall.PortAdded, Port: firewall.Port{Port: "10250", Protocol: "tcp"}},
			firewall.Event{Kind: firewall.PortAdded, Port: firewall.Port{Port: "4789", Protocol: "udp"}})
	}
	took := time.Since(begin)
	if failed := reload.Wait(); err == nil && failed != nil {
		err = fmt.Errorf("firewall-cmd --reload: %w", failed)
	}
	return took, err
}

// await reads events until all those that are wanted have come.
func await(ctx context.Context, events <-chan firewall.Event, wanted ...firewall.Event) error {
	for len(wanted) > 0 {
		select {
		case e, ok := <-events:
			if !ok {
				return context.Cause(ctx)
			}
			for i, w := range wanted {
				if e.Kind == w.Kind && e.Port == w.Port {
					wanted = append(wanted[:i:i], wanted[i+1:]...)
					break
				}
			}
		case <-ctx.Done():
			return fmt.Errorf("no signal %s %s: %w", wanted[0].Kind, wanted[0].Port, ctx.Err())
		}
	}
	return nil
}

// quiet waits until firewalld has said nothing for a while.
func quiet(ctx context.Context, events <-chan firewall.Event) error {
	t := time.NewTimer(calm)
	defer t.Stop()
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return context.Cause(ctx)
			}
			t.Reset(calm)
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
