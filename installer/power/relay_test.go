package power

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// relay stands between a client and a BMC and loses, doubles and delays datagrams, in both directions, the same way for
// the same seed as far as the order of their arrival allows.
type relay struct {
	Address string
	front   *net.UDPConn
	back    string

	mu     sync.Mutex
	random *rand.Rand
	badness
	conns         map[string]*net.UDPConn
	wg            sync.WaitGroup
	requests      [][]byte
	lost, doubled int
	open, most    int // requests without an answer

	late     *sync.Cond
	underWay int
}

// quiet waits until nothing is under way. ipmi_sim does again what comes twice, where the specification has a BMC drop
// a sequence number that it has seen (6.12.13): a "power on" that comes late, and a second time, would undo an off.
func (r *relay) quiet() {
	r.late.L.Lock()
	defer r.late.L.Unlock()
	for r.underWay > 0 {
		r.late.Wait()
	}
}

// badness are shares of all datagrams.
type badness struct{ lose, double, delay float64 }

func startRelay(t *testing.T, back string, seed uint64, bad badness) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Address: front.LocalAddr().String(), front: front, back: back, badness: bad, random: rand.New(rand.NewPCG(seed, 0)), conns: map[string]*net.UDPConn{}, late: sync.NewCond(&sync.Mutex{})}
	r.wg.Go(r.serve)
	t.Cleanup(func() {
		front.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

func (r *relay) serve() {
	buf := make([]byte, 2048)
	for {
		n, client, err := r.front.ReadFromUDP(buf)
		if err != nil {
			return
		}
		datagram := append([]byte(nil), buf[:n]...)
		r.mu.Lock()
		r.requests = append(r.requests, datagram)
		r.open++
		r.most = max(r.most, r.open)
		back := r.conns[client.String()]
		r.mu.Unlock()
		if back == nil {
			addr, err := net.ResolveUDPAddr("udp", r.back)
			if err != nil {
				return
			}
			if back, err = net.DialUDP("udp", nil, addr); err != nil {
				return
			}
			r.mu.Lock()
			r.conns[client.String()] = back
			r.mu.Unlock()
			r.wg.Go(func() { r.answers(back, client) })
		}
		r.pass(datagram, func(b []byte) { back.Write(b) })
	}
}

func (r *relay) answers(back *net.UDPConn, client *net.UDPAddr) {
	buf := make([]byte, 2048)
	for {
		n, err := back.Read(buf)
		if err != nil {
			if err, ok := err.(net.Error); ok && err.Timeout() {
				continue
			}
			return
		}
		r.mu.Lock()
		r.open--
		r.mu.Unlock()
		r.pass(append([]byte(nil), buf[:n]...), func(b []byte) { r.front.WriteToUDP(b, client) })
	}
}

func (r *relay) pass(b []byte, send func([]byte)) {
	r.mu.Lock()
	copies := 1
	switch x := r.random.Float64(); {
	case x < r.lose:
		copies = 0
		r.lost++
	case x < r.lose+r.double:
		copies = 2
		r.doubled++
	}
	var waits []time.Duration
	for range copies {
		var wait time.Duration
		if r.random.Float64() < r.delay { // past those that come after it
			wait = time.Duration(r.random.IntN(30)) * time.Millisecond
		}
		waits = append(waits, wait)
	}
	r.mu.Unlock()
	for _, wait := range waits {
		if wait == 0 {
			send(b)
		} else {
			r.late.L.Lock()
			r.underWay++
			r.late.L.Unlock()
			time.AfterFunc(wait, func() {
				send(b)
				r.late.L.Lock()
				r.underWay--
				r.late.L.Unlock()
				r.late.Broadcast()
			})
		}
	}
}
