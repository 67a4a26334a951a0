// Command bench measures the product against what it replaces, both in one run on one machine, and prints ratios: the
// seed's four firewall-cmd commands, a bare restart of the kubelet, a reload without the agent, the least that an agent could
// be; and what the agents of a fleet cost their API server. It owns the figures' definitions and targets
// (docs/benchmarks.md has them in words). It must not measure a stand-in: host, firewalld, kubelet and API server are the
// lab's real ones. A target that is missed is said loudly and is no failure: exit code 1 means not measured.
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
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
	"github.com/tectonic-worker/tectonic-worker/test/world"
)

func main() {
	rpm := flag.String("rpm", "dist", "the package, or the `directory` that has it")
	rounds := flag.Int("rounds", 9, "how often each side is measured, after one round that does not count")
	b := bench{}
	flag.IntVar(&b.reloads, "reloads", 30, "how many reloads of firewalld drop the runtime-only ports")
	flag.IntVar(&b.gapReloads, "gap-reloads", 40, "how many reloads a connection is tried through, on each side")
	flag.DurationVar(&b.idleFor, "idle", 2*time.Minute, "how long the idle agent is watched")
	flag.IntVar(&b.agents, "agents", 1000, "how many agents the fleet has")
	full := flag.Bool("full", false, "the counts that the targets are about: 200 and 1000 reloads, an hour idle, also 5000 agents (takes hours)")
	only := flag.String("only", "", "measure only these `rows`, with commas: firewall, join, sizes, reload, gap, idle, leave, fleet")
	flag.Parse()
	if *full {
		b.reloads, b.gapReloads, b.idleFor, b.full = 200, 1000, time.Hour, true
	}
	if flag.NArg() > 0 || *rounds < 1 || b.reloads < 1 || b.gapReloads < 1 || b.idleFor <= 0 || b.agents < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for the cleaning up
	b.rounds = *rounds
	limit := time.Minute*time.Duration(*rounds+20) + b.idleFor + 10*time.Second*time.Duration(b.reloads+b.gapReloads)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, b, *rpm, *only); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// figure is one line of the result.
type figure struct {
	what, ours, theirs, ratio, target string
	met                               bool // has no meaning without a target
}

// bench is what every measurement needs.
type bench struct {
	*world.World
	rpm                 string
	rounds              int
	reloads, gapReloads int
	idleFor             time.Duration
	agents              int
	full                bool // the fleet has 5000 agents, too
}

// measurement is one or more rows of the result.
type measurement struct {
	row     string
	measure func(bench, context.Context) ([]figure, error)
}

// measurements in their order, by the names that --only takes.
var measurements = []measurement{
	{"firewall", bench.firewall}, {"join", bench.join}, {"sizes", bench.sizes}, {"reload", bench.reloaded},
	{"gap", bench.gaps}, {"idle", bench.idle}, {"leave", bench.leave}, {"fleet", bench.fleet},
}

func run(ctx context.Context, b bench, rpm, only string) (err error) {
	wanted := strings.Split(only, ",")
	for _, w := range wanted {
		if only != "" && !slices.ContainsFunc(measurements, func(m measurement) bool { return m.row == w }) {
			return fmt.Errorf("--only: there is no row %q", w)
		}
	}
	if b.rpm, err = world.Package(rpm); err != nil {
		return err
	}
	if b.World, err = world.Open(ctx, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	before := load()
	var figures []figure
	for _, m := range measurements {
		if only != "" && !slices.Contains(wanted, m.row) {
			continue
		}
		got, err := m.measure(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", m.row, err)
		}
		figures = append(figures, got...)
	}
	progress("")
	show(figures, b.rounds)
	after, cpus := load(), runtime.NumCPU()
	fmt.Printf("\nLoad average %.1f before and %.1f after, on %d processors.\n", before, after, cpus)
	if max(before, after) > float64(cpus) {
		fmt.Println("BUSY: other work ran beside this one; that slows the two sides unequally. Measure again on a quiet machine.")
	}
	return nil
}

func show(figures []figure, rounds int) {
	fmt.Printf("Medians of %d rounds (least - most) where nothing else is said, sides in turn, after a round that does not count.\n"+
		"What is written to /etc and /var/lib/tectonic-worker goes to a disk; etcd is in memory.\n\n", rounds)
	missed := 0
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "\tours\ttheirs\tratio\ttarget\t")
	for _, f := range figures {
		verdict := ""
		if f.target != "" && f.met {
			verdict = "met"
		} else if f.target != "" {
			verdict = "MISSED"
			missed++
		}
		fmt.Fprintln(t, strings.Join([]string{f.what, f.ours, f.theirs, f.ratio, f.target, verdict}, "\t"))
	}
	t.Flush()
	if missed > 0 {
		fmt.Printf("\nMISSED: %d of the targets.\n", missed)
	}
}

// host boots a host for measurements. The lab's own root file system forgets fsync; the directories that the product
// writes to are therefore on this machine's disk.
func (b bench) host(ctx context.Context) (*lab.Host, error) {
	h, err := b.Host(ctx, b.rpm)
	if err != nil {
		return nil, err
	}
	const script = `for dir in /etc/firewalld /etc/kubernetes /etc/sysconfig /var/lib/tectonic-worker; do
	disk=/var/lib/rkt/disk$dir
	mkdir -p "$dir" "$disk"
	cp -a "$dir/." "$disk/"
	mount --bind "$disk" "$dir"
done`
	if _, err := h.Must(ctx, "sh", "-ec", script); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// load is the number of processes that ran or waited to, over the last minute (proc(5)); 0 where that is not known.
func load() (average float64) {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(data), &average); err != nil {
		return 0
	}
	return average
}

// progress shows on one line of a terminal, and nowhere else, what is being measured.
func progress(format string, args ...any) {
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		fmt.Fprint(os.Stderr, "\r\x1b[K"+fmt.Sprintf(format, args...))
	}
}

// times are the same thing measured again and again.
type times []time.Duration

func (t times) median() time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
}

func (t times) String() string {
	return fmt.Sprintf("%.3f s (%.3f - %.3f)", t.median().Seconds(), slices.Min(t).Seconds(), slices.Max(t).Seconds())
}
