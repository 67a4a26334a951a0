package installer

import (
	"context"
	"fmt"
	"time"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/machine"
	"github.com/tectonic-worker/tectonic-worker/installer/machine/api"
	"github.com/tectonic-worker/tectonic-worker/installer/netboot"
)

// NetbootOptions say where things are on the host that serves the machines' network.
type NetbootOptions struct {
	TFTPRoot, LeaseFile string
	Assets              string // of matchbox, for UEFI HTTP Boot; empty: none
}

// RunNetboot serves the machines' network until ctx ends. log gets dnsmasq's lines and what else is worth a line.
func RunNetboot(ctx context.Context, c *cluster.Cluster, o NetbootOptions, log func(string)) error {
	cfg, err := netboot.Render(c, netboot.Options{TFTPRoot: o.TFTPRoot, LeaseFile: o.LeaseFile})
	if err != nil {
		return err
	}
	if c.Network.DHCP != cluster.DHCPNone {
		firmware, err := netboot.FindFirmware("/")
		if err != nil {
			log("warning: " + err.Error())
		}
		if err := firmware.Install(cfg, o.TFTPRoot, o.Assets); err != nil {
			return err
		}
	}
	for _, n := range cfg.Notes {
		log("note: " + n)
	}
	if err := netboot.Check(ctx, cfg.Text); err != nil {
		return err
	}
	events := func(netboot.Event) {}
	if c.Matchbox.Machines != "" {
		machines, err := Machines(c)
		if err != nil {
			return err
		}
		defer machines.Close()
		f := newForwarder(machines, log)
		defer f.close()
		events = f.take
	}
	return netboot.Run(ctx, cfg, events, log)
}

// forwarder brings events to the provisioner. Booting never waits for it: when the provisioner is away, the newest
// events are kept and the oldest are lost.
type forwarder struct {
	machines *api.Client
	log      func(string)
	queue    chan machine.Event
	stop     context.CancelFunc
	done     chan struct{}
}

const (
	forwardQueue = 10000
	forwardBatch = 500
	forwardPause = 2 * time.Second // before the provisioner is tried again
)

func newForwarder(machines *api.Client, log func(string)) *forwarder {
	ctx, stop := context.WithCancel(context.Background())
	f := &forwarder{machines: machines, log: log, queue: make(chan machine.Event, forwardQueue), stop: stop, done: make(chan struct{})}
	go f.run(ctx)
	return f
}

func (f *forwarder) take(e netboot.Event) {
	// An event of no machine is in the log.
	if e.MAC == "" {
		return
	}
	out := machine.Event{Time: e.Time, MAC: e.MAC, Source: e.Source, Kind: e.Kind, Message: e.Message}
	for {
		select {
		case f.queue <- out:
			return
		default:
		}
		select {
		case <-f.queue:
		default:
		}
	}
}

func (f *forwarder) run(ctx context.Context) {
	defer close(f.done)
	away := false
	for {
		var batch []machine.Event
		select {
		case <-ctx.Done():
			return
		case e := <-f.queue:
			batch = append(batch, e)
		}
		for more := true; more && len(batch) < forwardBatch; {
			select {
			case e := <-f.queue:
				batch = append(batch, e)
			default:
				more = false
			}
		}
		for {
			sctx, cancel := context.WithTimeout(ctx, callTime)
			_, err := f.machines.Observe(sctx, batch)
			cancel()
			if err == nil {
				if away {
					f.log("the provisioner answers again")
				}
				away = false
				break
			}
			if ctx.Err() != nil {
				return
			}
			if !away {
				f.log(fmt.Sprintf("warning: what is seen here does not reach the machines' timelines for now: %v", err))
			}
			away = true
			select {
			case <-ctx.Done():
				return
			case <-time.After(forwardPause):
			}
		}
	}
}

func (f *forwarder) close() {
	f.stop()
	<-f.done
}
