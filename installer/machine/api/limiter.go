package api

import (
	"net/netip"
	"sync"
	"time"
)

// A token has 256 bits and is not found by trying. What is bounded is the noise: an address that shows unknown tokens
// is not listened to for the rest of a minute.
const (
	maxBad     = 20
	badWindow  = time.Minute
	maxSenders = 4096
)

type limiter struct {
	now func() time.Time
	mu  sync.Mutex
	by  map[netip.Addr]*sender
}

type sender struct {
	since time.Time
	n     int
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, by: map[netip.Addr]*sender{}}
}

// group is what counts as one sender: an IPv6 host has a /64 for itself.
func group(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, err := a.Prefix(64)
		if err == nil {
			return p.Addr()
		}
	}
	return a
}

// blocked says how long an address is not listened to.
func (l *limiter) blocked(a netip.Addr) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.by[group(a)]
	if s == nil || s.n < maxBad {
		return 0
	}
	return max(0, badWindow-l.now().Sub(s.since))
}

func (l *limiter) count(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if len(l.by) >= maxSenders {
		for k, s := range l.by {
			if now.Sub(s.since) >= badWindow {
				delete(l.by, k)
			}
		}
		if len(l.by) >= maxSenders {
			clear(l.by)
		}
	}
	s := l.by[group(a)]
	if s == nil || now.Sub(s.since) >= badWindow {
		s = &sender{since: now}
		l.by[group(a)] = s
	}
	s.n++
}
