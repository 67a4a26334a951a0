package sysconfig

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func one(why, remedy string) []fault { return []fault{{why, remedy}} }

// choice checks a key that takes one of a few words.
func choice(field func(*Settings) *string, allowed ...string) func(*Settings, string) []fault {
	return func(s *Settings, v string) []fault {
		if !slices.Contains(allowed, v) {
			return one("this is not one of the values it takes", "set it to "+strings.Join(allowed[:len(allowed)-1], ", ")+" or "+allowed[len(allowed)-1])
		}
		*field(s) = v
		return nil
	}
}

// yesNo checks a key that is a switch.
func yesNo(field func(*Settings) *bool) func(*Settings, string) []fault {
	return func(s *Settings, v string) []fault {
		if v != "yes" && v != "no" {
			return one("this is not one of the values it takes", "set it to yes or no")
		}
		*field(s) = v == "yes"
		return nil
	}
}

// address parses an address that a host could have or a Service could get.
func address(v string) (netip.Addr, string) {
	a, err := netip.ParseAddr(v)
	switch {
	case err != nil:
		return netip.Addr{}, "this is not an IP address"
	case a.Zone() != "":
		return netip.Addr{}, "an address with a zone is valid on this host alone"
	case a.Is4In6():
		return netip.Addr{}, "this is an IPv4 address written as IPv6"
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, "nothing in a cluster can have this address"
	}
	return a, ""
}

func checkDNSServiceIP(s *Settings, v string) []fault {
	const remedy = "set it to the address of the cluster's DNS Service, tectonic_kube_dns_service_ip in terraform.tfvars, for instance 10.3.0.10"
	if len(split(v)) > 1 {
		return one("this is more than one address", remedy)
	}
	a, why := address(v)
	if why != "" {
		return one(why, remedy)
	}
	s.DNSServiceIP = a
	return nil
}

func checkClusterDomain(s *Settings, v string) []fault {
	if why := subdomain(v); why != "" {
		remedy := "set it to the cluster's domain, for instance cluster.local"
		if fixed := strings.Trim(strings.ToLower(v), "."); fixed != v && subdomain(fixed) == "" {
			remedy = "write " + fixed
		}
		return one(why, remedy)
	}
	s.ClusterDomain = v
	return nil
}

func checkNodeName(s *Settings, v string) []fault {
	if why := subdomain(v); why != "" {
		remedy := "use lower case letters, digits, - and ., for instance worker1.example.com"
		if fixed := strings.Trim(strings.ToLower(v), "."); fixed != v && subdomain(fixed) == "" {
			remedy = "write " + fixed
		}
		return one(why, remedy)
	}
	// The API server would take 253, but the kubelet also makes the name the value of the label
	// kubernetes.io/hostname.
	if len(v) > 63 {
		return one("the name is longer than 63 characters, which is the most a label's value may have", "choose a shorter one")
	}
	s.NodeName = v
	return nil
}

// firewalld limits a zone's name to 17 characters, because it becomes part of a chain's name
// (firewalld.zone(5)).
var zoneName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_/-]{0,16}$`)

func checkZone(s *Settings, v string) []fault {
	if !zoneName.MatchString(v) {
		return one("this cannot be the name of a firewalld zone", `name one that "firewall-cmd --get-zones" lists, or leave it empty`)
	}
	s.FirewallZone = v
	return nil
}

func checkPorts(s *Settings, v string) []fault {
	var faults []fault
	for _, w := range split(v) {
		p, why := port(w)
		if why != "" {
			faults = append(faults, fault{fmt.Sprintf("%q %s", w, why), "write ports as 10250/tcp or 30000-32767/tcp, separated by spaces"})
		} else if !slices.Contains(s.FirewallPorts, p) {
			s.FirewallPorts = append(s.FirewallPorts, p)
		}
	}
	return faults
}

func port(w string) (Port, string) {
	number, protocol, found := strings.Cut(w, "/")
	if !found {
		return Port{}, "has no protocol"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp", "dccp"}, protocol) {
		return Port{}, "has a protocol other than tcp, udp, sctp and dccp"
	}
	low, high, isRange := strings.Cut(number, "-")
	l, ok := portNumber(low)
	h := l
	if isRange {
		var okHigh bool
		h, okHigh = portNumber(high)
		ok = ok && okHigh
	}
	switch {
	case !ok:
		return Port{}, "has a port that is not a number from 1 to 65535"
	case isRange && l >= h:
		return Port{}, "is a range that does not go up"
	}
	return Port{Port: number, Protocol: protocol}, ""
}

func portNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && n <= 65535 && strconv.Itoa(n) == s
}

func checkNodeIPs(s *Settings, v string) []fault {
	const remedy = "set it to the host's address, or to its IPv4 and its IPv6 address separated by a comma"
	var faults []fault
	var ips []netip.Addr
	for _, w := range split(v) {
		a, why := address(w)
		if why != "" {
			faults = append(faults, fault{fmt.Sprintf("%q: %s", w, why), remedy})
			continue
		}
		ips = append(ips, a)
	}
	if len(faults) > 0 {
		return faults
	}
	if len(ips) > 2 || (len(ips) == 2 && ips[0].Is4() == ips[1].Is4()) {
		return one("a Node has one address, or one of each family", remedy)
	}
	s.NodeIPs = ips
	return nil
}

func checkLabels(s *Settings, v string) []fault {
	var faults []fault
	for _, w := range split(v) {
		key, value, found := strings.Cut(w, "=")
		why := ""
		switch {
		case !found:
			why = "has no ="
		case qualifiedName(key) != "":
			why = "has a key that " + qualifiedName(key)
		case labelValue(value) != "":
			why = "has a value that " + labelValue(value)
		}
		if old, twice := s.NodeLabels[key]; why == "" && twice && old != value {
			why = "contradicts " + key + "=" + old
		}
		if why != "" {
			faults = append(faults, fault{fmt.Sprintf("the label %q %s", w, why), "write labels as example.com/rack=r12, separated by commas"})
			continue
		}
		if s.NodeLabels == nil {
			s.NodeLabels = make(map[string]string)
		}
		s.NodeLabels[key] = value
	}
	return faults
}

func checkTaints(s *Settings, v string) []fault {
	var faults []fault
	for _, w := range split(v) {
		rest, effect, found := cutLast(w, ":")
		key, value, _ := strings.Cut(rest, "=")
		why := ""
		switch {
		case !found:
			why = "has no effect"
		case !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect):
			why = "has an effect other than NoSchedule, PreferNoSchedule and NoExecute"
		case qualifiedName(key) != "":
			why = "has a key that " + qualifiedName(key)
		case labelValue(value) != "":
			why = "has a value that " + labelValue(value)
		case slices.ContainsFunc(s.NodeTaints, func(t Taint) bool { return t.Key == key && t.Effect == effect }):
			why = "has the key and the effect of another one"
		}
		if why != "" {
			faults = append(faults, fault{fmt.Sprintf("the taint %q %s", w, why), "write taints as example.com/dedicated=gpu:NoSchedule, separated by commas"})
			continue
		}
		s.NodeTaints = append(s.NodeTaints, Taint{key, value, effect})
	}
	return faults
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func checkEndpoint(s *Settings, v string) []fault {
	p := strings.TrimPrefix(v, "unix://")
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, " \t,:?#") {
		return one("this is not a unix socket", "set it to one, for instance unix:///run/containerd/containerd.sock, or leave it empty")
	}
	s.ContainerRuntimeEndpoint = "unix://" + p
	return nil
}

// proxy checks a proxy's URL. The scheme may be left out, as Go's net/http allows.
func proxy(field func(*Settings) *string) func(*Settings, string) []fault {
	return func(s *Settings, v string) []fault {
		u, err := url.Parse(v)
		if !strings.Contains(v, "://") {
			u, err = url.Parse("http://" + v)
		}
		if err != nil || u.Hostname() == "" || strings.ContainsAny(v, " \t") ||
			!slices.Contains([]string{"http", "https", "socks5"}, u.Scheme) {
			return one("this is not the URL of a proxy", "set it to one, for instance http://proxy.example.com:3128, or leave it empty")
		}
		*field(s) = v
		return nil
	}
}

func checkNoProxy(s *Settings, v string) []fault {
	if slices.Contains(split(v), "#") {
		return trailingComment
	}
	s.NoProxy = v
	return nil
}

// checkImage checks the reference of an image no further than to keep it from being taken for an
// option or for two arguments: rkt also takes URLs, files and hashes.
func checkImage(field func(*Settings) *string) func(*Settings, string) []fault {
	return func(s *Settings, v string) []fault {
		if strings.HasPrefix(v, "-") || strings.ContainsAny(v, " \t\"'") {
			return one("this is not a reference to an image", "write it as quay.io/poseidon/kubelet:v1.34.4")
		}
		*field(s) = v
		return nil
	}
}

// A tag's form is fixed by the OCI distribution specification.
var imageTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

func checkImageTag(s *Settings, v string) []fault {
	if !imageTag.MatchString(v) {
		return one("this is not a tag", "write it as v1.8.9_coreos.0")
	}
	s.Image.Tag = v
	return nil
}

var trailingComment = one(`systemd knows no comment at the end of a line, so "#" and what follows would be passed on`, "put the comment on a line of its own")

// words splits a value into arguments: at white space, but not in quotes. A backslash outside single
// quotes takes the special meaning from a quote, a backslash or white space, and is itself otherwise.
func words(field func(*Settings) *[]string) func(*Settings, string) []fault {
	return func(s *Settings, v string) []fault {
		args, ok := splitWords(v)
		if !ok {
			return one("a quote in the value is never closed", "close it")
		}
		if slices.Contains(args, "#") {
			return trailingComment
		}
		*field(s) = args
		return nil
	}
}

func splitWords(v string) (out []string, ok bool) {
	var word []byte
	var quote byte
	started := false
	for i := 0; i < len(v); i++ {
		c := v[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(v) && strings.IndexByte("\\\"' \t", v[i+1]) >= 0:
			i++
			word, started = append(word, v[i]), true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '"' || c == '\'':
			quote, started = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if started {
				out, word, started = append(out, string(word)), nil, false
			}
		default:
			word, started = append(word, c), true
		}
	}
	if started {
		out = append(out, string(word))
	}
	return out, quote == 0
}
