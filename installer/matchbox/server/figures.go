package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// figures are what /metrics tells.
type figures struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	calls    *prometheus.CounterVec
}

func newFigures(registry *prometheus.Registry, s *store) *figures {
	if registry == nil {
		registry = prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	f := &figures{
		registry: registry,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "matchbox_http_requests_total", Help: "Answered HTTP requests.",
		}, []string{"endpoint", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "matchbox_http_request_seconds", Help: "How long an HTTP request took.",
			Buckets: []float64{1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100},
		}, []string{"endpoint"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "matchbox_rpc_calls_total", Help: "Answered gRPC calls.",
		}, []string{"method", "code"}),
	}
	registry.MustRegister(f.requests, f.seconds, f.calls)
	for k := range kinds {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "matchbox_objects", Help: "Objects that are served.", ConstLabels: prometheus.Labels{"kind": directories[k]},
		}, func() float64 { return float64(s.index.count(k)) }))
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "matchbox_problems", Help: "Files of the data directory that are not served because they are broken.",
	}, func() float64 { return float64(len(s.listProblems())) }))
	return f
}

func (f *figures) handler() http.Handler {
	return promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{})
}

// endpointFigures are those of one path, found once.
type endpointFigures struct {
	requests *prometheus.CounterVec
	good     prometheus.Counter
	seconds  prometheus.Observer
}

func (f *figures) endpoint(name string) *endpointFigures {
	if name == "" {
		name = "/"
	}
	requests := f.requests.MustCurryWith(prometheus.Labels{"endpoint": name})
	return &endpointFigures{requests, requests.WithLabelValues("200"), f.seconds.WithLabelValues(name)}
}

func (e *endpointFigures) count(status int, took time.Duration) {
	e.seconds.Observe(took.Seconds())
	if status == http.StatusOK {
		e.good.Inc()
		return
	}
	e.requests.WithLabelValues(strconv.Itoa(status)).Inc()
}
