package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

func (x *examiner) proxyFunc() func(*url.URL) (*url.URL, error) {
	s := x.f.Settings
	return (&httpproxy.Config{HTTPProxy: s.HTTPProxy, HTTPSProxy: s.HTTPSProxy, NoProxy: s.NoProxy}).ProxyFunc()
}

func (x *examiner) checkProxy(context.Context) (Severity, string, string) {
	s := x.f.Settings
	if s.HTTPProxy == "" && s.HTTPSProxy == "" {
		return SeverityOK, "none is set", ""
	}
	through := x.proxyFunc()
	var lacks []string
	past := func(host, entry string) {
		u := &url.URL{Scheme: "https", Host: host}
		if p, err := through(u); p != nil || err != nil {
			lacks = append(lacks, entry)
		}
	}
	if k := x.f.Kubeconfig; k != nil && k.ProxyURL == "" {
		if u, err := url.Parse(k.Server); err == nil {
			past(u.Host, u.Hostname()+" (the API server)")
		}
	}
	if ip := x.f.DNS; ip.IsValid() {
		past(net.JoinHostPort(ip.String(), "443"), "the service range that has "+ip.String())
	}
	for _, ip := range s.NodeIPs {
		past(net.JoinHostPort(ip.String(), "443"), "the network of "+ip.String()+" (this Node)")
	}
	past("kubernetes.default.svc", ".svc")
	if s.ClusterDomain != "" {
		past("kubernetes.default.svc."+s.ClusterDomain, "."+s.ClusterDomain)
	}
	if lacks != nil {
		return SeverityWarn, "a proxy is set, and NO_PROXY does not have: " + strings.Join(lacks, ", "),
			"add them to NO_PROXY in " + sysconfig.Path + ", and the range of the pods: the cluster's own traffic must not go through a proxy"
	}
	return SeverityOK, "is set, and the cluster's addresses go past it; see that NO_PROXY has the range of the pods too", ""
}

// registryTime bounds the question to a registry, which may be far away.
const registryTime = 10 * time.Second

func (x *examiner) checkRegistry(ctx context.Context) (Severity, string, string) {
	if x.f.Image == "" {
		return SeverityNote, "not asked: which image will run is not known yet", ""
	}
	registry := registryOf(x.f.Image)
	ctx, cancel := context.WithTimeout(ctx, registryTime)
	defer cancel()
	through := x.proxyFunc()
	transport := &http.Transport{
		Proxy:             func(r *http.Request) (*url.URL, error) { return through(r.URL) },
		DisableKeepAlives: true, TLSHandshakeTimeout: registryTime,
		DialContext: (&net.Dialer{Timeout: registryTime}).DialContext,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+registry+"/v2/", nil)
	if err != nil {
		return SeverityWarn, fmt.Sprintf("%q can't be asked: %v", registry, err), ""
	}
	resp, err := (&http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}).Do(req)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode < 500 && resp.StatusCode != http.StatusProxyAuthRequired {
			return SeverityOK, registry + " answers", ""
		}
		return SeverityWarn, fmt.Sprintf("%s answers %s", registry, resp.Status), registryRemedy
	}
	return SeverityWarn, registry + " can't be reached: " + whyNot(ctx, err), registryRemedy
}

const registryRemedy = "an image that is on this host already starts all the same; else set HTTPS_PROXY in " + sysconfig.Path +
	", or KUBELET_IMAGE in " + sysconfig.KubeletEnvPath + " to a mirror's"

// whyNot is the cause of an HTTP request's failure without its URL, which, of a
// proxy, may hold a password.
func whyNot(ctx context.Context, err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case ctx.Err() != nil:
		return fmt.Sprintf("no answer within %v", registryTime)
	case errors.As(err, &cert):
		return cert.Err.Error()
	case errors.As(err, &dns):
		return dns.Name + ": " + dns.Err
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return redactText(err.Error())
}

// registryOf is the registry in an image's reference, as podman and rkt read it.
func registryOf(image string) string {
	image = strings.TrimPrefix(strings.TrimPrefix(image, "docker://"), "https://")
	first, _, hasPath := strings.Cut(image, "/")
	if hasPath && (strings.ContainsAny(first, ".:") || first == "localhost") {
		if first == "docker.io" {
			return "registry-1.docker.io"
		}
		return first
	}
	return "registry-1.docker.io"
}
