package systemd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// connectTimeout bounds the way to a connection and to a subscription: a bus that hangs would keep us for ever. It is a variable
// for the test.
var connectTimeout = 20 * time.Second

// Watch delivers a value whenever systemd says that a property of one of the units changed, on a connection of its own. The
// channel is closed when ctx ends or the connection breaks; whoever goes on calls Watch again and then reads the state anew.
// Values are dropped, not queued, while the reader is busy. Only signals of these units are asked for, so that a process that
// waits is not woken by what other units do.
func Watch(ctx context.Context, names ...string) (<-chan struct{}, error) {
	life, end := context.WithCancel(ctx)
	timer := time.AfterFunc(connectTimeout, end)
	conn, err := subscribe(life, names)
	if err == nil && !timer.Stop() {
		_ = conn.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("%w, to watch its units: %v", ErrNoBus, err)
	}
	signals := make(chan *godbus.Signal, 16)
	conn.Signal(signals)
	out := make(chan struct{}, 1)
	go func() {
		defer end()
		defer conn.Close()
		defer close(out)
		for {
			select {
			case <-life.Done():
				return
			case _, ok := <-signals: // closed by godbus with the connection
				if !ok {
					return
				}
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out, nil
}

func subscribe(ctx context.Context, names []string) (*godbus.Conn, error) {
	var conn *godbus.Conn
	var err error
	if address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); address != "" {
		conn, err = godbus.Connect(address, godbus.WithContext(ctx))
	} else {
		conn, err = godbus.ConnectSystemBus(godbus.WithContext(ctx))
	}
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		err = conn.AddMatchSignalContext(ctx, godbus.WithMatchSender(busName), godbus.WithMatchObjectPath(unitPath(n)),
			godbus.WithMatchInterface("org.freedesktop.DBus.Properties"), godbus.WithMatchMember("PropertiesChanged"))
		if err != nil {
			break
		}
	}
	if err == nil {
		// systemd sends no unit's signals while nobody is subscribed; the subscription ends with the connection.
		err = conn.Object(busName, "/org/freedesktop/systemd1").CallWithContext(ctx, busName+".Manager.Subscribe", 0).Err
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

const busName = "org.freedesktop.systemd1"

// unitPath is the object of a unit: its name with every byte but letters and digits as _ and two hexadecimal digits
// (sd_bus_path_encode(3)).
func unitPath(name string) godbus.ObjectPath {
	const hex = "0123456789abcdef"
	p := []byte("/org/freedesktop/systemd1/unit/")
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9' && i > 0:
			p = append(p, c)
		default:
			p = append(p, '_', hex[c>>4], hex[c&15])
		}
	}
	return godbus.ObjectPath(p)
}

// Messages to the service manager, beside Ready.
const (
	Stopping = "STOPPING=1"
	Alive    = "WATCHDOG=1" // restarts the unit's watchdog
)

// WatchdogInterval is how often systemd wants to hear Alive at the latest, or 0 where it does not (sd_watchdog_enabled(3)).
func WatchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
