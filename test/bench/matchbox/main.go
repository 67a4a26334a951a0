// Command matchbox measures the embedded matchbox server against the least that could give the same answers: a bare
// net/http handler that returns the same bytes, in the same run. It owns the figures of /ipxe, /ignition and /metadata and
// their targets (docs/benchmarks.md). Both sides are processes of their own with the same limits, asked by the same
// client over as many connections; ours writes its access log and counts its metrics as in production. A target that is
// missed is said loudly and is no failure: exit code 1 means not measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// settings are what the flags say.
type settings struct {
	sizes       []int
	rounds      int
	duration    time.Duration
	connections int
	matchbox    string
	matchboxMax int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "matchbox bench server:", err)
			os.Exit(1)
		}
		return
	}
	var s settings
	sizes := flag.String("groups", "10,1000,5000,100000", "how many groups there are, with commas; the first is what the others are held against")
	flag.IntVar(&s.rounds, "rounds", 9, "how often each side is measured, in turn, after one round that does not count")
	flag.DurationVar(&s.duration, "duration", 500*time.Millisecond, "how long each side is asked in a round")
	flag.IntVar(&s.connections, "connections", 32, "how many connections ask at a time")
	flag.StringVar(&s.matchbox, "matchbox", "", "also measure this matchbox `program`, without a target")
	flag.IntVar(&s.matchboxMax, "matchbox-groups", 5000, "with how many groups at most")
	flag.Parse()
	for _, n := range strings.Split(*sizes, ",") {
		size, err := strconv.Atoi(n)
		if err != nil || size < 1 {
			fmt.Fprintf(os.Stderr, "-groups: %q is not a number of groups\n", n)
			os.Exit(2)
		}
		s.sizes = append(s.sizes, size)
	}
	if flag.NArg() > 0 || s.rounds < 1 || s.duration <= 0 || s.connections < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	limit := 5*time.Minute + time.Duration(len(s.sizes)*(s.rounds+1)*3*3)*(s.duration+time.Second)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, s); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "matchbox bench: %v\n", err)
		os.Exit(1)
	}
}

// endpoints are what is asked, in the order of a machine's boot.
var endpoints = []string{"/ipxe", "/ignition", "/metadata"}

// result is what one endpoint did with one number of groups.
type result struct {
	groups                 int
	endpoint               string
	ours, bare, theirs     side
	theirsMeasured         bool
	ofBare, ofFirst        float64       // our rate, of the bare handler's and of ours with the first number of groups
	started                time.Duration // from exec to the first answer
	resident, residentBare int64         // bytes
}

// side is the median of a side's rounds.
type side struct {
	rate float64       // answers a second
	p99  time.Duration // of one answer
	cpu  float64       // seconds of processor for one answer, without the asking side
}

// The targets.
const (
	ofBare  = 0.5
	ofFirst = 0.8
)

func run(ctx context.Context, s settings) error {
	before := load()
	results, err := measure(ctx, s)
	if err != nil {
		return err
	}
	show(results, s)
	after := load()
	fmt.Printf("\nLoad average %.1f before and %.1f after, on %d processors, which the asking side shares.\n", before, after, runtime.NumCPU())
	if max(before, after) > float64(runtime.NumCPU())+1 {
		fmt.Println("BUSY: other work ran beside this one. Measure again on a quiet machine.")
	}
	return nil
}

func show(results []result, s settings) {
	out := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(out, "groups\tendpoint\tours/s\tp99\tCPU\tbare/s\tp99\tCPU\tof bare\tat least %.1f\tof %d groups\tat least %.1f\tmatchbox/s\tp99\n", ofBare, s.sizes[0], ofFirst)
	missed := 0
	verdict := func(met bool) string {
		if met {
			return "met"
		}
		missed++
		return "MISSED"
	}
	for _, r := range results {
		theirs, p99 := "", ""
		if r.theirsMeasured {
			theirs, p99 = fmt.Sprintf("%.0f", r.theirs.rate), milliseconds(r.theirs.p99)
		}
		fmt.Fprintf(out, "%d\t%s\t%.0f\t%s\t%.1f µs\t%.0f\t%s\t%.1f µs\t%.2f\t%s\t%.2f\t%s\t%s\t%s\n", r.groups, r.endpoint,
			r.ours.rate, milliseconds(r.ours.p99), r.ours.cpu*1e6, r.bare.rate, milliseconds(r.bare.p99), r.bare.cpu*1e6,
			r.ofBare, verdict(r.ofBare >= ofBare), r.ofFirst, verdict(r.ofFirst >= ofFirst), theirs, p99)
	}
	out.Flush()
	fmt.Println()
	for _, r := range results {
		if r.endpoint == endpoints[len(endpoints)-1] {
			fmt.Printf("%d groups: answers %.2f s after its start, %.1f MiB resident (bare: %.1f MiB)\n",
				r.groups, r.started.Seconds(), float64(r.resident)/(1<<20), float64(r.residentBare)/(1<<20))
		}
	}
	fmt.Printf("Median of %d rounds of %s each, %d connections.\n", s.rounds, s.duration, s.connections)
	if missed > 0 {
		fmt.Printf("MISSED: %d targets\n", missed)
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}

func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	value, _ := strconv.ParseFloat(first, 64)
	return value
}

func median[T float64 | time.Duration](values []T) T {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
