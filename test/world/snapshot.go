package world

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/test/lab"
)

// Snapshot is a host as it tells itself: everything that join could change, a line a fact, by its area.
type Snapshot map[string]string

// areas are the facts of a Snapshot, as commands on the host.
var areas = map[string]string{
	"files": `find /etc /opt /usr/lib/systemd /usr/bin /usr/libexec /var/lib/tectonic-worker /var/lib/kubelet /var/lib/cni /run/tectonic-worker \
		-xdev \( -type f -o -type l -o -type d \) -printf '%p %y %m %U %G %l ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) 2>/dev/null | sed 's/  .*//' | sort`,
	"firewall now":     `firewall-cmd --list-all-zones 2>&1`,
	"firewall at boot": `firewall-cmd --permanent --list-all-zones 2>&1`,
	"units at boot":    `for u in kubelet.service kubelet.path wait-for-dns.service tectonic-worker.service; do echo $u $(systemctl is-enabled $u 2>&1); done`,
	"units now":        `for u in kubelet.service kubelet.path tectonic-worker.service; do echo $u $(systemctl is-active $u 2>&1); done`,
	"sysctls":          `sysctl -a 2>/dev/null | grep -E '^(net.ipv4.ip_forward|net.bridge|net.ipv4.conf.all.(forwarding|route_localnet)|vm.(overcommit_memory|panic_on_oom)|kernel.panic)'`,
	"mounts":           `awk '{print $5}' /proc/self/mountinfo | grep -E '^/(var/lib/kubelet|etc)' | sort`,
	"SELinux":          `cat /sys/fs/selinux/enforce /etc/selinux/config 2>/dev/null; true`,
}

// TakeSnapshot looks at a host and changes nothing.
func TakeSnapshot(ctx context.Context, h *lab.Host) (Snapshot, error) {
	s := Snapshot{}
	for area, command := range areas {
		r, err := h.Exec(ctx, "sh", "-c", command)
		if err != nil {
			return nil, fmt.Errorf("cannot look at the %s of %s: %w", area, h.Name, err)
		}
		s[area] = r.Stdout
	}
	return s, nil
}

// Diff lists what is different in after, a line each: area, then - for what is gone and + for what came. Lines that begin
// with one of except are passed over.
func (s Snapshot) Diff(after Snapshot, except ...string) []string {
	var out []string
	for _, area := range slices.Sorted(maps.Keys(s)) {
		for _, l := range LineDiff(s[area], after[area], except...) {
			out = append(out, area+": "+l)
		}
	}
	return out
}

// LineDiff lists the lines that only one side has, in whatever order they stand there.
func LineDiff(before, after string, except ...string) []string {
	count := map[string]int{}
	for l := range strings.Lines(before) {
		count[strings.TrimSpace(l)]--
	}
	for l := range strings.Lines(after) {
		count[strings.TrimSpace(l)]++
	}
	var out []string
	for _, l := range slices.Sorted(maps.Keys(count)) {
		switch {
		case count[l] == 0 || slices.ContainsFunc(except, func(e string) bool { return strings.HasPrefix(l, e) }):
		case count[l] < 0:
			out = append(out, "- "+l)
		default:
			out = append(out, "+ "+l)
		}
	}
	return out
}
