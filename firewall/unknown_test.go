package firewall

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

var runtimePublic = place{Runtime, "public", objectPath}

// A firewalld that is silent longer than the caller waits, and then goes on: it finds the change in its queue and makes
// it, and we must say that the port is open and ours, although our deadline passed.
func TestSilentThenDone(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	_, c := connect(t, f.Bus)
	for _, layer := range Layers() {
		for _, op := range []string{"open", "shut"} {
			at, err := c.locate(t.Context(), op, layer, "public", kubelet)
			if err != nil {
				t.Fatal(err)
			}
			f.Pause()
			wake := time.AfterFunc(1500*time.Millisecond, f.Resume)
			ctx, done := context.WithTimeout(t.Context(), 500*time.Millisecond)
			begin := time.Now()
			changed, err := c.change(ctx, op, at, kubelet)
			done()
			wake.Stop()
			f.Resume()
			if !changed || err != nil {
				t.Errorf("%s %s = %t, %v after %s", op, layer, changed, err, time.Since(begin))
			}
			if op == "open" {
				want(t, f, layer, "public", "10250/tcp")
			} else {
				want(t, f, layer, "public")
			}
		}
	}
}

// A firewalld that stays silent: nobody knows, and the error says so in the time promised.
func TestSilent(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	_, c := connect(t, f.Bus)
	f.Pause()
	ctx, done := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer done()

	begin := time.Now()
	_, err := c.Open(ctx, Runtime, "public", kubelet)
	sentence(t, err, ErrNoAnswer, "cannot open 10250/tcp in zone public: firewalld does not answer (context deadline exceeded)")
	if errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing was sent, and the caller's deadline is the cause: %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("Open took %s of 300ms", took)
	}

	ctx, done = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer done()
	begin = time.Now()
	_, err = c.change(ctx, "open", runtimePublic, kubelet)
	sentence(t, err, ErrUnknownOutcome, "and it is not known whether the change was made")
	sentence(t, err, ErrNoAnswer, "")
	if took := time.Since(begin); took > requeryTimeout+5*time.Second {
		t.Errorf("the change took %s", took)
	}
	if _, err := c.State(ctx); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("State: %v", err)
	}
}

// firewalld is killed while our change waits in its queue: the broker answers NoReply, the new firewalld is asked, and it
// does not have the port.
func TestKilledBeforeChange(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	f.Pause()
	result := make(chan error, 1)
	go func() {
		_, err := c.change(ctx, "open", runtimePublic, kubelet)
		result <- err
	}()
	waitSent(t, f.Bus)
	f.Kill()
	err := <-result
	// Whether the new one is there in time for the question is chance; that nothing is claimed is not.
	if err == nil || !errors.Is(err, ErrNoAnswer) {
		t.Errorf("error %v", err)
	}
	f.Restart()
	if got := open(t, ctx, c, Runtime, "public", kubelet); !got.Changed() {
		t.Errorf("Open after the restart: %+v", got)
	}
}

// waitSent waits until the broker has sent a message to firewalld that was not answered: one more than a monitor's own.
func waitSent(t *testing.T, bus *firewalldtest.Bus) {
	t.Helper()
	ctx, done := context.WithTimeout(t.Context(), 10*time.Second)
	defer done()
	conn, err := dbus.Connect(bus.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The broker handles one client at a time; after a few round trips of ours it has handled what lay there before.
	for range 20 {
		if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetId", 0).Err; err != nil {
			t.Fatal(err)
		}
	}
}

// Without a bus, or with one that accepts and says nothing, connecting ends within the caller's time.
func TestConnect(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "bus")
	ctx, done := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer done()
	_, err := Dial(ctx, "unix:path="+socket)
	sentence(t, err, ErrNoBus, `cannot talk to firewalld: the system bus at unix:path=`+socket+` cannot be reached: `)
	if !strings.Contains(err.Error(), `see "systemctl status dbus"`) {
		t.Errorf("no remedy: %v", err)
	}
	silent, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	begin := time.Now()
	_, err = Dial(ctx, "unix:path="+socket)
	sentence(t, err, ErrNoBus, "context deadline exceeded")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// The broker is restarted under us (it takes firewalld along): the client connects again by itself.
func TestBusRestart(t *testing.T) {
	t.Parallel()
	f := firewalldtest.Start(t, nil)
	ctx, c := connect(t, f.Bus)
	open(t, ctx, c, Permanent, "public", kubelet)
	f.Bus.Stop()
	_, err := c.Open(ctx, Permanent, "public", vxlan)
	sentence(t, err, ErrNoBus, "cannot open 4789/udp in zone public permanently: the system bus at ")
	f.Kill()
	f.Bus.Restart()
	f.Restart()
	if got := open(t, ctx, c, Permanent, "public", kubelet); got.Changed() {
		t.Errorf("Open of what is open: %+v", got)
	}
	open(t, ctx, c, Permanent, "public", vxlan)
	want(t, f, Permanent, "public", "10250/tcp", "4789/udp")
}
