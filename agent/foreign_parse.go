package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// chainPrefixes tell whose a chain is by how its name begins; the first that
// fits counts.
var chainPrefixes = []struct {
	prefix string
	owner  Owner
}{
	{"KUBE-ROUTER-", OwnerKubeRouter}, {"KUBE-POD-FW-", OwnerKubeRouter}, {"KUBE-NWPLCY-", OwnerKubeRouter},
	{"KUBE-FIREWALL", OwnerKubelet}, {"KUBE-KUBELET-", OwnerKubelet}, {"KUBE-IPTABLES-HINT", OwnerKubelet},
	{"KUBE-HOSTPORTS", OwnerKubelet}, {"KUBE-HP-", OwnerKubelet},
	{"KUBE-", OwnerKubeProxy},
	{"CNI-", OwnerHostPorts},
	{"FLANNEL-", OwnerFlannel},
	{"cali-", OwnerCalico}, {"felix-", OwnerCalico},
	{"CILIUM_", OwnerCilium}, {"OLD_CILIUM_", OwnerCilium},
	{"WEAVE", OwnerWeave},
	{"DOCKER", OwnerDocker},
	{"NETAVARK", OwnerPodman},
	{"LIBVIRT_", OwnerLibvirt},
	{"f2b-", OwnerFail2ban},
}

// commentPrefixes tell whose a rule in a chain of the kernel is that jumps to
// nobody's chain.
var commentPrefixes = []struct {
	prefix string
	owner  Owner
}{
	{"flanneld ", OwnerFlannel},
	{"cali:", OwnerCalico},
	{"cilium", OwnerCilium},
	{"kubernetes ", OwnerKubeProxy},
}

func ownerOfChain(name string) (Owner, bool) {
	for _, p := range chainPrefixes {
		if strings.HasPrefix(name, p.prefix) {
			return p.owner, true
		}
	}
	return "", false
}

// saveCounter counts what iptables-save(8) prints, line by line as it comes.
type saveCounter struct {
	filter string
	into   Foreign

	table string
	part  []byte // a line whose end has not come yet
	long  bool   // the rest of the line is dropped
}

// maxRule bounds a line, in bytes; iptables' own rules are far below it.
const maxRule = 64 << 10

func (c *saveCounter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte("\n"))
		p = rest
		if !c.long {
			c.part = append(c.part, line...)
			c.long = len(c.part) > maxRule
		}
		if whole {
			c.end()
		}
	}
	return n, nil
}

// end takes what was read as a whole line.
func (c *saveCounter) end() {
	c.line(string(c.part))
	c.part, c.long = c.part[:0], false
}

func (c *saveCounter) count(owner Owner, add Tally) {
	at := Spot{owner, c.filter, c.table}
	t := c.into[at]
	c.into[at] = Tally{t.Chains + add.Chains, t.Rules + add.Rules, t.Jumps + add.Jumps}
}

func (c *saveCounter) line(line string) {
	switch {
	case line == "" || line[0] == '#':
	case line[0] == '*':
		c.table = line[1:]
	case line[0] == ':':
		name, _, _ := strings.Cut(line[1:], " ")
		if owner, ok := ownerOfChain(name); ok {
			c.count(owner, Tally{Chains: 1})
		}
	case strings.HasPrefix(line, "-A "):
		words := splitRule(line)
		if len(words) < 2 {
			return
		}
		if owner, ok := ownerOfChain(words[1]); ok {
			c.count(owner, Tally{Rules: 1})
			return
		}
		comment := ""
		for i := 2; i+1 < len(words); i++ {
			switch words[i] {
			case "-j", "-g":
				if owner, ok := ownerOfChain(words[i+1]); ok {
					c.count(owner, Tally{Jumps: 1})
					return
				}
			case "--comment":
				comment = words[i+1]
				i++
			}
		}
		for _, p := range commentPrefixes {
			if strings.HasPrefix(comment, p.prefix) {
				c.count(p.owner, Tally{Rules: 1})
				return
			}
		}
	}
}

// splitRule splits a rule at blanks outside of double quotes, in which
// iptables-save puts a comment with a backslash before a quote.
func splitRule(line string) []string {
	var words []string
	var word []byte
	begun, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch b := line[i]; {
		case b == '\\' && quoted && i+1 < len(line):
			i++
			word = append(word, line[i])
		case b == '"':
			quoted, begun = !quoted, true
		case b == ' ' && !quoted:
			if begun {
				words = append(words, string(word))
			}
			word, begun = word[:0], false
		default:
			word, begun = append(word, b), true
		}
	}
	if begun {
		words = append(words, string(word))
	}
	return words
}

// nftTable is a table as "nft -j list tables" names it.
type nftTable struct{ Family, Name string }

// tableOwners are the owners of nftables' tables.
var tableOwners = map[string]Owner{
	"kube-proxy":             OwnerKubeProxy,
	"cni_plugins_masquerade": OwnerHostPorts,
	"cni_hostport":           OwnerHostPorts,
	"flannel-ipv4":           OwnerFlannel,
	"flannel-ipv6":           OwnerFlannel,
	"calico":                 OwnerCalico,
	"netavark":               OwnerPodman,
	"docker-bridges":         OwnerDocker,
	"libvirt_network":        OwnerLibvirt,
	"f2b-table":              OwnerFail2ban,
}

// compatTables are those in which iptables-nft and its sisters keep their
// rules.
var compatTables = []string{"filter", "nat", "mangle", "raw", "security", "broute"}

// nftOwner tells whose a table is; false where it is firewalld's or iptables'.
// A table that nobody here knows is an owner of its own.
func nftOwner(t nftTable) (Owner, bool) {
	switch {
	case strings.HasPrefix(t.Name, "firewalld"): // also firewalld_policy_drop, which is there during a reload
		return "", false
	case t.Family != "inet" && t.Family != "netdev" && slices.Contains(compatTables, t.Name):
		return "", false
	}
	if owner, known := tableOwners[t.Name]; known {
		return owner, true
	}
	return Owner("nftables' table " + t.Family + " " + t.Name), true
}

// nftItems gives f each object of nft's JSON by its kind, one at a time: the
// whole may be far larger than this process should get.
func nftItems(r io.Reader, f func(kind string, item json.RawMessage) error) error {
	d := json.NewDecoder(r)
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return errors.New("the answer is not the JSON of libnftables-json(5)")
		}
		if err != nil {
			return err
		}
		if t == json.Delim('[') {
			break
		}
	}
	for d.More() {
		var item map[string]json.RawMessage
		if err := d.Decode(&item); err != nil {
			return err
		}
		for kind, body := range item {
			if err := f(kind, body); err != nil {
				return err
			}
		}
	}
	_, err := d.Token() // the end of the list, or that it was cut off
	return err
}

func nftTables(r io.Reader) ([]nftTable, error) {
	var tables []nftTable
	err := nftItems(r, func(kind string, item json.RawMessage) error {
		if kind != "table" {
			return nil
		}
		var t nftTable
		err := json.Unmarshal(item, &t)
		tables = append(tables, t)
		return err
	})
	return tables, err
}

// nftTally counts a table's chains and rules. A table is whole in itself: its
// base chains are hooked into the kernel, so there are no jumps from others'.
func nftTally(r io.Reader) (Tally, error) {
	var t Tally
	err := nftItems(r, func(kind string, _ json.RawMessage) error {
		switch kind {
		case "chain":
			t.Chains++
		case "rule":
			t.Rules++
		}
		return nil
	})
	return t, err
}

func (s *System) countNftTable(ctx context.Context, f Foreign, t nftTable, owner Owner) error {
	r, w := io.Pipe()
	type counted struct {
		Tally
		err error
	}
	done := make(chan counted, 1)
	go func() {
		tally, err := nftTally(r)
		_, _ = io.Copy(io.Discard, r)
		done <- counted{tally, err}
	}()
	res, err := s.Root.RunTo(ctx, nil, w, "nft", "-j", "-t", "list", "table", t.Family, t.Name)
	w.Close()
	got := <-done
	switch {
	case err != nil && strings.Contains(res.Stderr, "No such file or directory"): // it went meanwhile
		return nil
	case err != nil:
		return err
	case got.err != nil:
		return fmt.Errorf("nft list table %s %s: %w", t.Family, t.Name, got.err)
	}
	f[Spot{owner, "nft " + t.Family, t.Name}] = got.Tally
	return nil
}
