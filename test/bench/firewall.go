package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

const (
	seedScript = `firewall-cmd -q --add-port 10250/tcp
firewall-cmd -q --add-port 10250/tcp --permanent
firewall-cmd -q --add-port 4789/udp
firewall-cmd -q --add-port 4789/udp --permanent`
	shutScript = `firewall-cmd -q --remove-port 10250/tcp --remove-port 4789/udp
firewall-cmd -q --permanent --remove-port 10250/tcp --remove-port 4789/udp`
	// Both layers have to have both ports, whoever opened them.
	openScript = `for layer in "" --permanent; do
	for port in 10250/tcp 4789/udp; do firewall-cmd -q $layer --query-port $port; done
done`
)

// firewall compares the seed's four commands with the same four changes by the package firewall, with the start of its
// process and every question that join asks before. Both are started by the same shell and meet the same firewalld.
func (b bench) firewall(ctx context.Context) ([]figure, error) {
	h, err := b.host(ctx)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if err := install(ctx, h, "fourports"); err != nil {
		return nil, err
	}
	var ours, bare, theirs times
	for round := range b.rounds + 1 {
		progress("firewall: round %d of %d", round, b.rounds)
		for _, side := range []struct {
			script string
			times  *times
		}{{seedScript, &theirs}, {"fourports", &ours}, {"fourports --bare", &bare}} {
			took, err := timed(ctx, h, side.script)
			if err != nil {
				return nil, err
			}
			if _, err := h.Must(ctx, "bash", "-ec", openScript+"\n"+shutScript); err != nil {
				return nil, fmt.Errorf("%q did not open the ports: %w", side.script, err)
			}
			if round > 0 {
				*side.times = append(*side.times, took)
			}
		}
	}
	ratio := float64(theirs.median()) / float64(bare.median())
	return []figure{
		{"the four changes / the seed's four firewall-cmd", bare.String(), theirs.String(), fmt.Sprintf("%.1fx faster", ratio), "at least 20x", ratio >= 20},
		{"  join's whole firewall step, its questions included", ours.String(), theirs.String(), fmt.Sprintf("%.1fx faster", float64(theirs.median())/float64(ours.median())), "", false},
	}, h.Close()
}

// timed runs a script on the host and gives how long it took there, the lab's way in left out.
func timed(ctx context.Context, h *lab.Host, script string) (time.Duration, error) {
	r, err := h.Must(ctx, "bash", "-ec", "s=$EPOCHREALTIME\n"+script+"\ne=$EPOCHREALTIME\necho $(( ${e/./} - ${s/./} ))")
	if err != nil {
		return 0, err
	}
	us, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
	if err != nil || us <= 0 {
		return 0, errors.Join(fmt.Errorf("cannot read the time of %q from %q", script, r.Stdout), err)
	}
	return time.Duration(us) * time.Microsecond, nil
}
