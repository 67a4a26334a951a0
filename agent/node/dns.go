package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// DNSServiceIP finds the address of the cluster's DNS Service, and says in how where it comes from: the Service itself, or,
// where there is none yet, the tenth address of the range of Services, which is where installers put it. A bootstrap token may
// not read Services; then the error is an APIError for the reason Forbidden, and the address has to be given.
func (c *Client) DNSServiceIP(ctx context.Context) (ip netip.Addr, how string, err error) {
	const op = "find the address of the cluster's DNS Service"
	var services corev1.ServiceList
	if err := c.get(ctx, op, c.rest.Get().Namespace("kube-system").Resource("services"), &services); err != nil {
		return netip.Addr{}, "", dnsRemedy(err)
	}
	if s, ip := dnsService(services.Items); s != nil {
		return ip, "the Service kube-system/" + clean(s.Name), nil
	}
	var kubernetes corev1.Service
	if err := c.get(ctx, op, c.rest.Get().Namespace("default").Resource("services").Name("kubernetes"), &kubernetes); err != nil {
		return netip.Addr{}, "", dnsRemedy(err)
	}
	first, err := netip.ParseAddr(kubernetes.Spec.ClusterIP)
	if err != nil {
		return netip.Addr{}, "", &APIError{Layer: LayerAPI, Reason: NoService, Op: op, What: "the Service default/kubernetes has no cluster IP", Remedy: giveDNS}
	}
	if cidr, ok := c.serviceRange(ctx, first); ok {
		if tenth, ok := TenthAddress(cidr); ok {
			return tenth, fmt.Sprintf("the tenth address of the Services' range %s, there being no DNS Service in kube-system yet", cidr), nil
		}
	}
	// The range itself is readable for few before 1.33; its first address is the kubernetes Service's.
	tenth := first
	for range 9 {
		tenth = tenth.Next()
	}
	if !tenth.IsValid() {
		return netip.Addr{}, "", &APIError{Layer: LayerAPI, Reason: NoService, Op: op, What: "the range of Services ends before its tenth address", Remedy: giveDNS}
	}
	return tenth, fmt.Sprintf("the tenth address of the Services' range, whose first is that of the Service default/kubernetes (%s), there being no DNS Service in kube-system yet", first), nil
}

const giveDNS = "give it with --dns-service-ip, or set KUBERNETES_DNS_SERVICE_IP in /etc/sysconfig/tectonic-worker"

func dnsRemedy(err error) error {
	if e, ok := err.(*APIError); ok && (e.Reason == Forbidden || e.Reason == NotFound) {
		e.Remedy = giveDNS
	}
	return err
}

// dnsService picks among the Services of kube-system. Their names are older than any convention about labels; others carry the
// label too, node-local DNS's kube-dns-upstream for instance, so a name goes first.
func dnsService(services []corev1.Service) (*corev1.Service, netip.Addr) {
	rank := func(s *corev1.Service) int {
		switch {
		case s.Name == "kube-dns":
			return 0
		case s.Name == "coredns":
			return 1
		case s.Labels["k8s-app"] == "kube-dns" && !strings.HasSuffix(s.Name, "-upstream"):
			return 2
		}
		return 3
	}
	var best *corev1.Service
	var bestIP netip.Addr
	for i := range services {
		s := &services[i]
		ip, err := netip.ParseAddr(s.Spec.ClusterIP)
		serves := slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == 53 })
		if err != nil || !serves || rank(s) == 3 {
			continue
		}
		if best == nil || rank(s) < rank(best) || rank(s) == rank(best) && s.Name < best.Name {
			best, bestIP = s, ip
		}
	}
	return best, bestIP
}

// serviceRange reads the ServiceCIDR that the API server makes from its own flags (networking.k8s.io/v1 from 1.33 on), the
// prefix of the same family as ip.
func (c *Client) serviceRange(ctx context.Context, ip netip.Addr) (netip.Prefix, bool) {
	body, _, err := c.raw(ctx, "read the range of Services", c.rest.Get().AbsPath("/apis/networking.k8s.io/v1/servicecidrs/kubernetes"))
	if err != nil {
		return netip.Prefix{}, false
	}
	var cidr struct{ Spec struct{ CIDRs []string } }
	if json.Unmarshal(body, &cidr) != nil {
		return netip.Prefix{}, false
	}
	for _, s := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(s); err == nil && p.Contains(ip) {
			return p.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// TenthAddress is the address of a range that the Tectonic Installer and kubeadm give to the DNS Service: its base plus ten.
func TenthAddress(p netip.Prefix) (netip.Addr, bool) {
	ip := p.Masked().Addr()
	for range 10 {
		ip = ip.Next()
	}
	return ip, ip.IsValid() && p.Contains(ip)
}
