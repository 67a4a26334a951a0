package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Owner is a program that writes packet filter rules on a node: not us, and
// not firewalld.
type Owner string

// The owners that are told apart by the names of their chains and tables.
const (
	OwnerKubeProxy  Owner = "kube-proxy"
	OwnerKubelet    Owner = "the kubelet"
	OwnerHostPorts  Owner = "the CNI plugins" // host ports and masquerading of pods, written once when the pod is made
	OwnerFlannel    Owner = "flannel"
	OwnerCalico     Owner = "calico"
	OwnerCilium     Owner = "cilium"
	OwnerWeave      Owner = "weave"
	OwnerKubeRouter Owner = "kube-router"
	OwnerDocker     Owner = "docker"
	OwnerPodman     Owner = "podman"
	OwnerLibvirt    Owner = "libvirt"
	OwnerFail2ban   Owner = "fail2ban"
)

// Spot is where in the packet filter rules stand.
type Spot struct {
	Owner Owner
	// Filter is the program that lists them, iptables or ip6tables with -nft or
	// -legacy where the host has both, or nft with the family: "nft ip".
	Filter string
	Table  string
}

// Tally counts what stands at a Spot.
type Tally struct {
	Chains int
	Rules  int // in the owner's chains, or marked as the owner's
	Jumps  int // from others' chains to the owner's: without one, no packet gets there
}

// Foreign is what others have in this host's packet filter.
type Foreign map[Spot]Tally

// Owners names whoever has something there, in order.
func (f Foreign) Owners() []Owner {
	owners := map[Owner]bool{}
	for at := range f {
		owners[at.Owner] = true
	}
	return slices.Sorted(maps.Keys(owners))
}

// Loss is what one owner had and has no longer.
type Loss struct {
	Owner Owner
	Spots []Spot
	Tally // of all the spots, before

	before Foreign // each spot
}

// String says who lost what, and what to do about it.
func (l Loss) String() string {
	var where []string
	for _, at := range l.Spots {
		where = append(where, at.Filter+" "+at.Table)
	}
	s := fmt.Sprintf("%s lost its packet filter rules (%s; there were %d rules in %d chains)",
		l.Owner, strings.Join(where, ", "), l.Rules+l.Jumps, l.Chains)
	if remedy := l.Remedy(); remedy != "" {
		s += "; " + remedy
	}
	return s
}

// Remedy is what brings the rules back.
func (l Loss) Remedy() string {
	switch l.Owner {
	case OwnerKubelet:
		return "the kubelet writes them again within a minute"
	case OwnerHostPorts:
		return "delete the pods of this node that use a hostPort, so that they are made again"
	case OwnerKubeProxy, OwnerFlannel, OwnerCalico, OwnerCilium, OwnerWeave, OwnerKubeRouter:
		return fmt.Sprintf("delete the %s pod of this node, so that it starts again and writes them, or set FIREWALL_RESTORE=yes", l.Owner)
	case OwnerDocker:
		return `run "systemctl restart docker"`
	case OwnerPodman:
		return `run "podman network reload --all"`
	case OwnerLibvirt:
		return `run "systemctl restart libvirtd"`
	case OwnerFail2ban:
		return `run "systemctl restart fail2ban"`
	}
	return "load them again"
}

// Lost compares what stood before with what stands now. An owner lost its
// rules at a spot when all of them are gone, or when nothing leads to them any
// more: a flush leaves nothing, while an owner that has less to do takes away
// some and leaves others.
func Lost(before, after Foreign) []Loss {
	found := map[Owner]*Loss{}
	for at, had := range before {
		has := after[at]
		if had.Rules+had.Jumps == 0 { // chains alone filter nothing
			continue
		}
		if has.Rules+has.Jumps > 0 && (had.Jumps == 0 || has.Jumps > 0) {
			continue
		}
		l := found[at.Owner]
		if l == nil {
			l = &Loss{Owner: at.Owner, before: Foreign{}}
			found[at.Owner] = l
		}
		l.before[at] = had
		l.Spots = append(l.Spots, at)
		l.Chains += had.Chains
		l.Rules += had.Rules
		l.Jumps += had.Jumps
	}
	var out []Loss
	for _, l := range found {
		slices.SortFunc(l.Spots, func(a, b Spot) int { return cmp.Or(cmp.Compare(a.Filter, b.Filter), cmp.Compare(a.Table, b.Table)) })
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Loss) int { return cmp.Compare(a.Owner, b.Owner) })
	return out
}

// Foreign counts what others have in the packet filter, in both back ends of
// iptables and in nftables, as far as they are installed and in use. What
// could be counted is returned beside an error about the rest. It needs
// CAP_NET_ADMIN.
//
// Count again after firewall.Reloaded and firewall.Back, since a start flushes
// as a reload does, and by a timer: since 2.0 the first direct rule that
// somebody adds makes firewalld flush iptables' tables, and no signal of ours
// tells. docs/firewall.md has what was measured.
func (s *System) Foreign(ctx context.Context) (Foreign, error) {
	f := Foreign{}
	var failed []error
	for _, family := range []string{"iptables", "ip6tables"} {
		failed = append(failed, s.countTables(ctx, f, family))
	}
	failed = append(failed, s.countNft(ctx, f))
	if err := errors.Join(failed...); err != nil {
		return f, fmt.Errorf("cannot count all packet filter rules: %w", err)
	}
	return f, nil
}

// countTables counts one family of iptables. The two back ends are two
// programs where a distribution has both; where it has one, that has the plain
// name.
func (s *System) countTables(ctx context.Context, f Foreign, family string) error {
	var failed []error
	plain := true
	for _, end := range []string{"-nft", "-legacy"} {
		name := family + end
		if _, err := s.Root.Look(name + "-save"); err != nil {
			continue
		}
		plain = false
		// The legacy back end says in /proc which tables it has; to list without
		// them would load the kernel's modules for nothing.
		if end == "-legacy" && s.emptyLegacy(family) {
			continue
		}
		failed = append(failed, s.countSave(ctx, f, name))
	}
	if _, err := s.Root.Look(family + "-save"); plain && err == nil {
		failed = append(failed, s.countSave(ctx, f, family))
	}
	return errors.Join(failed...)
}

func (s *System) emptyLegacy(family string) bool {
	names := "/proc/net/ip_tables_names"
	if family == "ip6tables" {
		names = "/proc/net/ip6_tables_names"
	}
	data, err := s.Root.ReadFile(names)
	return err != nil || strings.TrimSpace(string(data)) == ""
}

func (s *System) countSave(ctx context.Context, f Foreign, name string) error {
	c := &saveCounter{filter: name, into: f}
	_, err := s.Root.RunTo(ctx, nil, c, name+"-save")
	c.end()
	return err
}

// countNft counts the tables of nftables that are neither firewalld's nor, as
// iptables itself shows those, iptables'.
func (s *System) countNft(ctx context.Context, f Foreign) error {
	if _, err := s.Root.Look("nft"); err != nil {
		return nil
	}
	res, err := s.Root.Run(ctx, nil, "nft", "-j", "list", "tables")
	if err != nil {
		// Before 0.9 nft speaks no JSON, and nothing on such a host uses it.
		if strings.Contains(err.Error(), "JSON support not compiled-in") || strings.Contains(err.Error(), "invalid option") {
			return nil
		}
		return err
	}
	tables, err := nftTables(strings.NewReader(res.Stdout))
	if err != nil {
		return fmt.Errorf("nft list tables: %w", err)
	}
	for _, t := range tables {
		owner, counted := nftOwner(t)
		if !counted {
			continue
		}
		if err := s.countNftTable(ctx, f, t, owner); err != nil {
			return err
		}
	}
	return nil
}
