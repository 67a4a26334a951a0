package agent

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/firewall/firewalldtest"
)

// here says to a copy of the test binary that it runs in the network namespace that the test is about.
const here = "TECTONIC_WORKER_TEST_FOREIGN"

// count gives what Foreign finds in firewalld's network namespace.
func count(t *testing.T, f *firewalldtest.Firewalld) Foreign {
	t.Helper()
	out := f.Enter("env", here+"=count", os.Args[0], "-test.run=^TestForeignHere$", "-test.v")
	found := Foreign{}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		fields := strings.Split(lines.Text(), "|")
		if len(fields) != 5 || fields[0] != "found" {
			continue
		}
		var tally Tally
		if _, err := fmt.Sscan(fields[4], &tally.Chains, &tally.Rules, &tally.Jumps); err != nil {
			t.Fatal(err)
		}
		found[Spot{Owner(fields[1]), fields[2], fields[3]}] = tally
	}
	if !strings.Contains(out, "counted") {
		t.Fatalf("the copy of the test did not count:\n%s", out)
	}
	return found
}

// TestForeignHere is the other half of count and of TestRestoreForeign.
func TestForeignHere(t *testing.T) {
	switch os.Getenv(here) {
	case "count":
		found, err := (&System{Root: "/"}).Foreign(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for at, tally := range found {
			fmt.Printf("found|%s|%s|%s|%d %d %d\n", at.Owner, at.Filter, at.Table, tally.Chains, tally.Rules, tally.Jumps)
		}
		fmt.Println("counted")
	case "restore":
		restoreHere(t)
	default:
		t.Skip("it is run by others, in a network namespace of theirs")
	}
}

// rules are what kube-proxy and flannel write with iptables.
func rules(iptables string) string {
	return strings.NewReplacer("IPT", iptables).Replace(`set -e
IPT -t nat -N KUBE-SERVICES
IPT -t nat -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
IPT -t nat -A KUBE-SERVICES -d 10.3.0.1/32 -p tcp --dport 443 -j DNAT --to-destination 192.0.2.1:443
IPT -N KUBE-FORWARD
IPT -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
IPT -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
IPT -t nat -A POSTROUTING -s 10.2.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE
`)
}

const nftRules = `set -e
nft add table ip kube-proxy
nft 'add chain ip kube-proxy services { type nat hook prerouting priority dstnat; }'
nft add rule ip kube-proxy services ip daddr 10.3.0.1 tcp dport 443 dnat to 192.0.2.1:443
nft add table inet site
nft add chain inet site c
`

// What a reload of firewalld does to others' rules was measured with firewalld 1.3, 2.3 and 2.5: it flushes the tables of
// the iptables that it was started with, also with FlushAllOnReload=no, and before 2.0 also with its own nftables back end;
// nftables' other tables, and the other back end of iptables, it leaves alone. Should this test fail with another release,
// that release does otherwise, and docs/firewall.md has to say so.
func TestReloadDestroys(t *testing.T) {
	t.Parallel()
	var iptables = map[string]string{"nft": "iptables-nft", "legacy": "iptables-legacy"}
	for _, backend := range []string{"nftables", "iptables"} {
		for _, flush := range []string{"yes", "no"} {
			for _, verb := range []string{"--reload", "--complete-reload"} {
				t.Run(backend+" "+flush+" "+verb, func(t *testing.T) {
					t.Parallel()
					firewalldtest.NeedTool(t, "iptables-nft", "iptables-legacy", "ip6tables-nft")
					f := firewalldtest.Start(t, nil)
					f.WriteConfig("firewalld.conf", "DefaultZone=public\nFirewallBackend="+backend+"\nFlushAllOnReload="+flush+"\n")
					f.Restart()
					if diff := cmp.Diff(Foreign{}, count(t, f)); diff != "" {
						t.Fatalf("firewalld's own rules are taken for another's:\n%s", diff)
					}
					// Neither of these is touched by any kind of reload.
					f.Enter("sh", "-c", nftRules)
					f.Enter("sh", "-c", rules(iptables["legacy"]))
					spared := count(t, f)
					want := Foreign{
						{OwnerKubeProxy, "nft ip", "kube-proxy"}:                 {Chains: 1, Rules: 1},
						{Owner("nftables' table inet site"), "nft inet", "site"}: {Chains: 1},
						{OwnerKubeProxy, "iptables-legacy", "nat"}:               {Chains: 1, Rules: 1, Jumps: 1},
						{OwnerKubeProxy, "iptables-legacy", "filter"}:            {Chains: 1, Rules: 1, Jumps: 1},
						{OwnerFlannel, "iptables-legacy", "nat"}:                 {Rules: 1},
					}
					if diff := cmp.Diff(want, spared); diff != "" {
						t.Fatalf("counted (-want +got):\n%s", diff)
					}
					f.Cmd(verb)
					after := count(t, f)
					if diff := cmp.Diff(spared, after); diff != "" || len(Lost(spared, after)) != 0 {
						t.Errorf("%s touched them (-before +after):\n%s", verb, diff)
					}
					// These are.
					f.Enter("sh", "-c", rules(iptables["nft"]))
					f.Enter("sh", "-c", "ip6tables-nft -t nat -N KUBE-SERVICES; ip6tables-nft -t nat -A PREROUTING -j KUBE-SERVICES")
					before := count(t, f)
					f.Cmd(verb)
					after = count(t, f)
					if backend == "nftables" && !strings.HasPrefix(f.Cmd("--version"), "0.") && !strings.HasPrefix(f.Cmd("--version"), "1.") {
						if diff := cmp.Diff(before, after); diff != "" {
							t.Errorf("%s (-before +after):\n%s", verb, diff)
						}
						return
					}
					if diff := cmp.Diff(spared, after); diff != "" {
						t.Errorf("%s (-want +left):\n%s", verb, diff)
					}
					var got []string
					for _, l := range Lost(before, after) {
						got = append(got, l.String())
					}
					sentences := []string{
						"flannel lost its packet filter rules (iptables-nft nat; there were 1 rules in 0 chains); delete the flannel pod of this node, so that it starts again and writes them, or set FIREWALL_RESTORE=yes",
						"kube-proxy lost its packet filter rules (ip6tables-nft nat, iptables-nft filter, iptables-nft nat; there were 5 rules in 3 chains); delete the kube-proxy pod of this node, so that it starts again and writes them, or set FIREWALL_RESTORE=yes",
					}
					if diff := cmp.Diff(sentences, got); diff != "" {
						t.Errorf("losses (-want +got):\n%s", diff)
					}
				})
			}
		}
	}
}

// The pods whose rules are gone are deleted, and nobody else's; who writes them again in time is left alone.
func TestRestoreForeign(t *testing.T) {
	t.Parallel()
	firewalldtest.NeedRoot(t)
	firewalldtest.NeedTool(t, "iptables-nft", "unshare", "nft")
	out, err := exec.Command("unshare", "-n", "env", here+"=restore", os.Args[0], "-test.run=^TestForeignHere$", "-test.v").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestForeignHere") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func restoreHere(t *testing.T) {
	sys := &System{Root: "/"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shell := func(script string) {
		t.Helper()
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	const flush = "for t in nat filter; do iptables-nft -t $t -F; iptables-nft -t $t -X; done"
	const hostPort = "iptables-nft -t nat -N CNI-HOSTPORT-DNAT; iptables-nft -t nat -A PREROUTING -j CNI-HOSTPORT-DNAT"
	look := func() Foreign {
		t.Helper()
		f, err := sys.Foreign(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	proxy := node.Pod{Namespace: "kube-system", Name: "kube-proxy-abcde", UID: "1", DaemonSet: "kube-proxy", Labels: map[string]string{"k8s-app": "kube-proxy"}}
	flannel := node.Pod{Namespace: "kube-flannel", Name: "kube-flannel-ds-abcde", UID: "2", DaemonSet: "kube-flannel-ds", Labels: map[string]string{"app": "flannel"}}
	ingress := node.Pod{Namespace: "ingress", Name: "nginx-abcde", UID: "3", DaemonSet: "nginx", HostPorts: []int32{80}}
	cluster := &clusterDouble{pods: []node.Pod{ingress, flannel, proxy}}

	shell(rules("iptables-nft") + hostPort)
	before := look()
	shell(flush)
	losses := Lost(before, look())
	var deleted []string
	cluster.delete = func(p node.Pod) error {
		deleted = append(deleted, p.String())
		if p.UID == proxy.UID { // what the new pod does
			shell(rules("iptables-nft"))
		}
		return nil
	}
	evidence, err := sys.RestoreForeign(ctx, cluster, "w1", losses)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kube-flannel/kube-flannel-ds-abcde", "kube-system/kube-proxy-abcde"}, deleted, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
	all := strings.Join(evidence, "\n")
	for _, want := range []string{"deleted pod kube-system/kube-proxy-abcde: kube-proxy lost its packet filter rules, and the pod that DaemonSet kube-proxy makes in its place writes them",
		"deleted pod kube-flannel/kube-flannel-ds-abcde", "the CNI plugins lost", "that use a hostPort, so that they are made again: ingress/nginx-abcde"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if left := Lost(before, look()); len(left) != 1 || left[0].Owner != OwnerHostPorts {
		t.Errorf("lost after the restoration: %v", left)
	}

	t.Run("who heals by itself is left alone", func(t *testing.T) {
		shell(flush)
		losses := Lost(before, look())
		shell(rules("iptables-nft") + hostPort)
		deleted = nil
		evidence, err := sys.RestoreForeign(ctx, cluster, "w1", losses)
		if err != nil || len(deleted) != 0 || len(evidence) != 3 || !strings.HasSuffix(evidence[0], "wrote its packet filter rules again by itself") {
			t.Errorf("%v, deleted %v, %q", err, deleted, evidence)
		}
	})
	t.Run("what cannot be deleted is said", func(t *testing.T) {
		shell(flush)
		losses := Lost(before, look())
		cluster.delete = func(p node.Pod) error { return fmt.Errorf("cannot delete pod %s: not allowed", p) }
		cluster.pods = []node.Pod{proxy}
		evidence, err := sys.RestoreForeign(ctx, cluster, "w1", losses)
		if err == nil || !strings.Contains(err.Error(), "cannot delete pod kube-system/kube-proxy-abcde") || strings.Contains(err.Error(), "flannel") {
			t.Errorf("%v", err)
		}
		if !strings.Contains(strings.Join(evidence, "\n"), "no pod of a DaemonSet on node w1 is known to write the rules of flannel") {
			t.Errorf("%q", evidence)
		}
	})
	t.Run("a cluster that does not answer", func(t *testing.T) {
		cluster.podsErr = context.DeadlineExceeded
		_, err := sys.RestoreForeign(ctx, cluster, "w1", losses)
		if err == nil || !strings.HasPrefix(err.Error(), "cannot restart the pods whose packet filter rules are lost: ") {
			t.Errorf("%v", err)
		}
	})
	t.Run("nothing lost", func(t *testing.T) {
		if evidence, err := sys.RestoreForeign(ctx, cluster, "w1", nil); err != nil || len(evidence) != 0 {
			t.Errorf("%v, %v", evidence, err)
		}
	})
}
