package check

import (
	"net/http"
	"net/url"

	"golang.org/x/net/http/httpproxy"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
)

// proxyOf is the machines' proxy, not this one's.
func proxyOf(c *cluster.Cluster) func(*http.Request) (*url.URL, error) {
	config := httpproxy.Config{HTTPProxy: c.Proxy.HTTP, HTTPSProxy: c.Proxy.HTTPS}
	for i, host := range c.Proxy.NoProxy {
		if i > 0 {
			config.NoProxy += ","
		}
		config.NoProxy += host
	}
	choose := config.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}
