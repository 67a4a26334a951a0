// Command fleet is many agents' conversations with one API server, in one process: each agent has its own credential, its own
// client and so its own connection, and does what the agent does there by the agent's own package: it writes its condition
// once and follows its Node. It owns nothing, and must not be shipped.
//
// It reads kubeconfigs, one file for each node and named for it, and prints "following N" when all of them are heard of. It
// ends with its standard input.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fleet DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel(nil)
	}()
	// A fleet that is switched on at once is another measurement: this many connect at a time.
	gate := make(chan struct{}, 50)
	var heard, all sync.WaitGroup
	heard.Add(len(entries))
	for _, e := range entries {
		all.Go(func() {
			if err := follow(ctx, filepath.Join(dir, e.Name()), e.Name(), gate, heard.Done); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("agent of %s: %w", e.Name(), err))
			}
		})
	}
	there := make(chan struct{})
	go func() { heard.Wait(); close(there) }()
	select {
	case <-there:
		fmt.Printf("following %d\n", len(entries))
		<-ctx.Done()
	case <-ctx.Done():
	}
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func follow(ctx context.Context, path, name string, gate chan struct{}, heard func()) error {
	select {
	case gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	var once sync.Once
	release := func() { once.Do(func() { <-gate; heard() }) }
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	kubeconfig, err := node.Parse(data)
	if err != nil {
		return err
	}
	c, err := node.NewClient(kubeconfig, node.Options{UserAgent: "tectonic-worker/bench", Quiet: true})
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.SetCondition(ctx, name, node.Condition{Type: "TectonicWorkerDrift", Status: "False", Reason: "AsWanted", Message: "the host is as wanted", Since: time.Now()})
	if err != nil {
		return err
	}
	return c.FollowNode(ctx, name,
		func(node.NodeState) { release() },
		func(err error) { fmt.Fprintf(os.Stderr, "fleet: %s: interrupted: %v\n", name, err) })
}
