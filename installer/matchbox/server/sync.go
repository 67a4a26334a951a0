package server

import (
	"os"
	"runtime"
	"sync"
)

// directorySync makes the names in a directory durable. Those who ask while it is at work share the next turn.
type directorySync struct {
	mu      sync.Mutex
	running bool
	next    *turn
}

// turn is one fsync that some wait for.
type turn struct {
	done chan struct{}
	err  error
}

// sync returns when a sync that began after the call has ended.
func (d *directorySync) sync(dir string) error {
	d.mu.Lock()
	if d.next == nil {
		d.next = &turn{done: make(chan struct{})}
	}
	mine := d.next
	if !d.running {
		d.running = true
		go d.run(dir)
	}
	d.mu.Unlock()
	<-mine.done
	return mine.err
}

func (d *directorySync) run(dir string) {
	for {
		d.mu.Lock()
		now := d.next
		if d.next = nil; now == nil {
			d.running = false
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
		now.err = syncDirectory(dir)
		close(now.done)
	}
}

func syncDirectory(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory cannot be opened for that
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
