package main

import (
	"context"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// smoke proves the lab without the product.
func smoke(ctx context.Context, logf func(string, ...any)) error {
	l, err := lab.Open(ctx, lab.DefaultCacheDir(), logf)
	if err != nil {
		return err
	}
	defer l.Close()
	for _, runtime := range []string{"podman", "rkt"} {
		for _, r := range lab.Releases {
			if err := l.Smoke(ctx, runtime, r.Version); err != nil {
				return err
			}
		}
	}
	return nil
}
