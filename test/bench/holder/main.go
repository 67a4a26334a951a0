// Command holder is the least that an agent could be: it holds a connection to the system bus and one TLS connection to the
// API server, with the agent's own watch of one Node on it, and reads. The benchmark of the idle agent compares with it. It
// owns nothing, must not understand what it reads, and must not be shipped.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tectonic-worker/tectonic-worker/firewall"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: holder HOST:PORT NODE DIRECTORY (with ca.crt, client.crt and client.key)")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "holder:", err)
		os.Exit(1)
	}
}

func run(server, node, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	bus, err := firewall.Connect(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	ca, err := os.ReadFile(dir + "/ca.crt")
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(dir+"/client.crt", dir+"/client.key")
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return errors.New("ca.crt has no certificate")
	}
	config := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	for {
		if err := hold(server, node, config); err != nil {
			return err
		}
	}
}

// hold is one connection: a watch, read until the server ends it. Without a request the server would hang up after 32 s.
func hold(server, node string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", server, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := "GET /api/v1/nodes?watch=1&resourceVersion=0&timeoutSeconds=3600&fieldSelector=metadata.name%3D" + node +
		" HTTP/1.1\r\nHost: " + server + "\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:min(n, 12)]) != "HTTP/1.1 200" {
		return errors.Join(fmt.Errorf("the API server does not let us watch: %q", buf[:n]), err)
	}
	fmt.Println("holding")
	for {
		if _, err := conn.Read(buf); err != nil {
			return nil
		}
	}
}
