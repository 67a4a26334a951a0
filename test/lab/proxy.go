package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// proxyAddress is the second address of the control plane, where proxies listen.
const proxyAddress = "10.77.0.3"

// Mode is what a Proxy does with a connection.
type Mode int

const (
	Forward Mode = iota // to the API server
	Hang                // accepted, read from, never answered
	Reset               // accepted, and reset at the client's first byte
	Refuse              // nothing listens
)

// Proxy stands between a worker and the API server, and breaks on demand. It forwards bytes: TLS is the server's own.
type Proxy struct {
	Server string // "https://10.77.0.3:16443"

	cp       *ControlPlane
	address  string
	mu       sync.Mutex
	mode     Mode
	listener net.Listener
	conns    map[net.Conn]bool
	closed   bool
}

// Proxy starts one, forwarding. Each call gives another port.
func (cp *ControlPlane) Proxy(ctx context.Context) (*Proxy, error) {
	if _, err := cp.lab.spawn.output(ctx, cp.netns, "", "ip", "addr", "replace", proxyAddress+"/24", "dev", "eth0"); err != nil {
		return nil, err
	}
	p := &Proxy{cp: cp, address: proxyAddress + ":0", conns: map[net.Conn]bool{}}
	if err := p.listen(); err != nil {
		return nil, err
	}
	p.address = p.listener.Addr().String()
	p.Server = "https://" + p.address
	return p, nil
}

// Set changes the mode. Connections that are open are reset, so that the next one meets the new mode.
func (p *Proxy) Set(mode Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return os.ErrClosed
	}
	p.mode = mode
	for c := range p.conns {
		reset(c)
	}
	switch {
	case mode == Refuse && p.listener != nil:
		p.listener.Close()
		p.listener = nil
	case mode != Refuse && p.listener == nil:
		return p.listen()
	}
	return nil
}

// Connections is how many connections are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Close ends the proxy.
func (p *Proxy) Close() error {
	if err := p.Set(Refuse); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}

func (p *Proxy) listen() error {
	err := inNetns(p.cp.netns, func() (err error) {
		p.listener, err = net.Listen("tcp", p.address)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot listen on %s in the lab: %w", p.address, err)
	}
	go p.accept(p.listener)
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		mode := p.mode
		p.conns[c] = true
		p.mu.Unlock()
		go func() {
			defer p.forget(c)
			switch mode {
			case Forward:
				p.forward(c)
			case Hang:
				io.Copy(io.Discard, c)
			default:
				c.Read(make([]byte, 1))
				reset(c)
			}
		}()
	}
}

func (p *Proxy) forward(c net.Conn) {
	up, err := p.cp.Dial(context.Background(), "tcp", net.JoinHostPort(controlPlaneAddress, apiPort))
	if err != nil {
		reset(c)
		return
	}
	go func() {
		io.Copy(up, c)
		up.Close()
	}()
	io.Copy(c, up)
	up.Close()
}

func (p *Proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// reset closes with a RST instead of a FIN.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}
