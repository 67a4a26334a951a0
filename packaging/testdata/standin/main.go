// Command standin takes tectonic-worker's place where the tests are about the package and the units: it
// answers what the units run, and notes each call in /var/tmp/calls
// where the unit's sandbox lets it.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	call := strings.Join(os.Args[1:], " ")
	if calls, err := os.OpenFile("/var/tmp/calls", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
		fmt.Fprintln(calls, call)
		calls.Close()
	}
	if err := answer(call); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(call string) error {
	switch call {
	case "kubelet run":
		if os.Getenv("CLUSTER_DOMAIN") != "cluster.local" {
			return fmt.Errorf("the settings did not arrive: %q", os.Environ())
		}
		kubeconfig, err := os.ReadFile("/etc/kubernetes/kubeconfig")
		if err != nil {
			return err
		}
		if string(kubeconfig) == "bad settings\n" {
			os.Exit(78)
		}
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		// A helper that the kubelet started for a pod: it must outlive a restart.
		helper := exec.Command("sleep", "1000")
		if err := helper.Start(); err != nil {
			return err
		}
		conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
		if err != nil {
			return err
		}
		if _, err := conn.Write([]byte("READY=1")); err != nil {
			return err
		}
		<-term
		return nil
	case "kubelet admit":
		if err := confined(); err != nil {
			return err
		}
		kubeconfig, err := os.ReadFile("/etc/kubernetes/kubeconfig")
		if err != nil || len(kubeconfig) == 0 {
			return err
		}
		return exec.Command("systemctl", "--no-block", "start", "kubelet.service").Run()
	case "wait-for-dns":
		return confined()
	case "kubelet cleanup", "leave --local --timeout 50s":
		return nil
	}
	return fmt.Errorf("no such command: %s", call)
}

// confined is an error unless the unit's sandbox keeps it from changing the host.
func confined() error {
	for _, file := range []string{"/etc/written", "/usr/written", "/var/lib/written"} {
		if err := os.WriteFile(file, nil, 0o644); err == nil {
			return fmt.Errorf("the sandbox let me write %s", file)
		}
	}
	return nil
}
