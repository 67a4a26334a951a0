// probe stands for the kubelet in a container: it prints what it finds there
// as JSON, and mounts something that the host should see.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
)

type report struct {
	Args       []string
	Env        []string
	Namespaces map[string]string
	Mounts     map[string]string // target: "ro" or "rw", and the propagation
	Devices    bool              // a device of the host that no container has by itself
	Error      string
}

func main() {
	r := report{Args: os.Args, Env: os.Environ(), Namespaces: map[string]string{}, Mounts: map[string]string{}}
	for _, ns := range []string{"pid", "net", "uts", "cgroup"} {
		r.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.Error = err.Error()
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		mode, _, _ := strings.Cut(f[5], ",")
		tags := "private"
		if f[6] != "-" {
			tags, _, _ = strings.Cut(f[6], ":")
		}
		r.Mounts[f[4]] = mode + " " + tags
	}
	_, err = os.Stat("/dev/worker-probe")
	r.Devices = err == nil
	if at := os.Getenv("PROBE_MOUNT"); at != "" {
		if err := syscall.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
			r.Error = fmt.Sprintf("mount %s: %v", at, err)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		os.Exit(2)
	}
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "--fail" {
		os.Exit(3)
	}
}
