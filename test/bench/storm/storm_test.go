package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == serveWord {
		if err := serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A small storm: what the benchmark proves of ten thousand machines holds for three hundred in every run of the tests.
func TestStorm(t *testing.T) {
	s := settings{machines: 300, dir: t.TempDir(), target: time.Minute}
	r, err := run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r.show(&out, s)
	t.Log("\n" + out.String())
	if r.storm >= s.target || !strings.Contains(out.String(), "met)") {
		t.Errorf("%d machines took %s", s.machines, r.storm)
	}
	if r.peak < 1<<20 || r.disk < 300*1000 || r.processor <= 0 || len(r.took["claim"]) != s.machines {
		t.Errorf("the figures are not measured: %+v", r)
	}
}
