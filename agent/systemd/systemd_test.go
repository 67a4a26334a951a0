package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A bus that takes the connection and says nothing must not keep us, also
// where the caller set no deadline.
func TestConnectToSilentBus(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("this host's systemd would answer instead")
	}
	sock := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+sock)
	defer func(d time.Duration) { connectTimeout = d }(connectTimeout)
	connectTimeout = 200 * time.Millisecond
	begin := time.Now()
	_, err = Connect(context.Background())
	if !errors.Is(err, ErrNoBus) || time.Since(begin) > 10*time.Second {
		t.Errorf("error %v after %v", err, time.Since(begin))
	}
}

func TestConnectToNothing(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("this host's systemd would answer instead")
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	_, err := Connect(t.Context())
	if !errors.Is(err, ErrNoBus) || !strings.Contains(err.Error(), "is this host booted with systemd") {
		t.Errorf("error %v", err)
	}
}

func TestNotify(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: sock, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", sock)
	if err := Notify(Ready + "\nSTATUS=x"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if err := l.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := l.Read(buf)
	if got := string(buf[:n]); err != nil || got != "READY=1\nSTATUS=x" {
		t.Errorf("systemd got %q, %v", got, err)
	}
	os.Unsetenv("NOTIFY_SOCKET")
	if err := Notify(Ready); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}

func TestState(t *testing.T) {
	for file, want := range map[string]bool{"enabled": true, "enabled-runtime": true, "disabled": false, "static": false, "masked": false, "": false} {
		if got := (State{File: file}).Enabled(); got != want {
			t.Errorf("%q is enabled: %v", file, got)
		}
	}
	for active, want := range map[string]bool{"active": true, "activating": false, "failed": false, "inactive": false} {
		if got := (State{Active: active}).Running(); got != want {
			t.Errorf("%q is running: %v", active, got)
		}
	}
	if got := (&JobError{"start", "kubelet.service", "dependency"}).Error(); got != `cannot start kubelet.service: the job ended as "dependency"` {
		t.Errorf("error %q", got)
	}
}
