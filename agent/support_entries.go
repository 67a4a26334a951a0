package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tectonic-worker/tectonic-worker/agent/kubelet"
	"github.com/tectonic-worker/tectonic-worker/agent/node"
	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
	"github.com/tectonic-worker/tectonic-worker/sysconfig"
)

type supporter struct {
	sys *System
	o   SupportOptions
}

// journalLines bounds one unit's part of the journal.
const journalLines = "3000"

// supportUnits are whose journals and definitions are asked for; those that a
// host does not have leave an empty entry.
var supportUnits = []string{
	"kubelet.service", "kubelet.path", "kubelet-kubeconfig.service", "wait-for-dns.service", "tectonic-worker.service",
	"firewalld.service", "containerd.service", "crio.service", "docker.service",
}

// supportFiles are taken as they are, but for their secrets. No kubeconfig and
// no key is among them: what there is to know of those is in credentials.txt.
var supportFiles = []string{
	sysconfig.Path, sysconfig.KubeletEnvPath, kubelet.ConfigPath, kubelet.CAPath, selinux.ConfigPath,
	"/etc/os-release", "/etc/resolv.conf", "/etc/hosts", "/etc/containerd/config.toml", "/etc/crio/crio.conf",
	"/etc/containers/registries.conf", "/etc/containers/policy.json", "/etc/containers/storage.conf",
	"/etc/firewalld/firewalld.conf", "/etc/fapolicyd/fapolicyd.conf",
	"/proc/cmdline", "/proc/meminfo", "/proc/swaps", "/proc/cgroups", "/proc/loadavg", "/proc/modules", "/proc/self/mountinfo",
	"/var/lib/kubelet/config.yaml",
}

// supportDirs are taken file by file, not deeper.
var supportDirs = []string{kubelet.DropInDir, "/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/tectonic-worker.service.d", "/etc/cni/net.d", "/etc/sysctl.d", "/etc/firewalld/zones"}

// supportCommands are asked what they know; a program that a host does not have
// is one of the index's failures.
var supportCommands = []struct {
	name string
	argv []string
}{
	{"versions/kernel.txt", []string{"uname", "-a"}},
	{"versions/rpm.txt", []string{"rpm", "-q", "tectonic-worker", "podman", "crun", "runc", "conmon", "containerd.io", "cri-o", "container-selinux", "firewalld", "systemd", "kernel"}},
	{"versions/podman.txt", []string{"podman", "version"}},
	{"versions/containerd.txt", []string{"containerd", "--version"}},
	{"versions/systemd.txt", []string{"systemctl", "--version"}},
	{"systemd/failed.txt", []string{"systemctl", "--failed", "--no-pager", "--full"}},
	{"systemd/jobs.txt", []string{"systemctl", "list-jobs", "--no-pager"}},
	{"journal/kernel.txt", []string{"journalctl", "--dmesg", "--lines=1000", "--no-pager", "--output=short-iso"}},
	{"firewall/state.txt", []string{"firewall-cmd", "--state"}},
	{"firewall/runtime.txt", []string{"firewall-cmd", "--list-all-zones"}},
	{"firewall/permanent.txt", []string{"firewall-cmd", "--permanent", "--list-all-zones"}},
	{"firewall/nft.txt", []string{"nft", "list", "ruleset"}},
	{"firewall/iptables.txt", []string{"iptables-save"}},
	{"selinux/sestatus.txt", []string{"sestatus"}},
	{"selinux/denials.txt", []string{"ausearch", "--input-logs", "-m", "avc", "-ts", "recent"}},
	{"network/addresses.txt", []string{"ip", "address"}},
	{"network/routes.txt", []string{"ip", "route", "show", "table", "all"}},
	{"network/listeners.txt", []string{"ss", "-ltnup"}},
	{"containers/podman.txt", []string{"podman", "ps", "--all"}},
	{"containers/images.txt", []string{"podman", "images", "--digests"}},
	{"host/disk.txt", []string{"df", "-hT"}},
	{"host/inodes.txt", []string{"df", "-i"}},
	{"host/time.txt", []string{"timedatectl", "status"}},
	{"host/processes.txt", []string{"ps", "-eo", "pid,ppid,stat,lstart,rss,comm"}},
}

func (s *supporter) collectors() []collector {
	list := []collector{
		{name: "status.json", limit: time.Minute, write: func(ctx context.Context, w io.Writer) error {
			return indented(w, Status(ctx, s.sys, s.o.Environ))
		}},
		{name: "doctor.json", limit: 90 * time.Second, write: func(ctx context.Context, w io.Writer) error {
			return indented(w, Doctor(ctx, s.sys, DoctorOptions{Environ: s.o.Environ}))
		}},
		{name: "credentials.txt", write: s.credentials},
		{name: "ledger.txt", write: s.ledger},
		{name: "kubelet/arguments.txt", write: s.arguments},
		{name: "agent.json", write: func(ctx context.Context, w io.Writer) error {
			body, err := ask(ctx, s.sys, "/status")
			_, werr := w.Write(body)
			return errors.Join(err, werr)
		}},
	}
	for _, u := range supportUnits {
		list = append(list,
			s.command("journal/"+u+".txt", "journalctl", "--unit="+u, "--lines="+journalLines, "--no-pager", "--quiet", "--output=short-iso-precise"),
			s.command("systemd/"+u+".show.txt", "systemctl", "show", "--no-pager", u),
			s.command("systemd/"+u+".cat.txt", "systemctl", "cat", "--no-pager", u),
		)
	}
	for _, c := range supportCommands {
		list = append(list, s.command(c.name, c.argv...))
	}
	for _, f := range supportFiles {
		list = append(list, s.file(f))
	}
	for _, d := range supportDirs {
		entries, err := os.ReadDir(s.sys.Root.Path(d))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				list = append(list, s.file(d+"/"+e.Name()))
			}
		}
	}
	return list
}

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// command is the output of a program, the error stream after the other.
func (s *supporter) command(name string, argv ...string) collector {
	return collector{name: name, write: func(ctx context.Context, w io.Writer) error {
		res, err := s.sys.Root.Run(ctx, nil, argv...)
		_, werr := fmt.Fprintf(w, "# %s\n%s%s", strings.Join(argv, " "), res.Stdout, res.Stderr)
		return errors.Join(err, werr)
	}}
}

// file is a file as it is on the host. One that is not there is nothing wrong.
func (s *supporter) file(path string) collector {
	return collector{name: "files" + path, write: func(_ context.Context, w io.Writer) error {
		data, err := s.sys.Root.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}}
}

// credentials tells of the kubeconfigs and certificates all that is no secret.
func (s *supporter) credentials(_ context.Context, w io.Writer) error {
	for _, path := range []string{kubelet.KubeconfigPath, kubelet.NodeKubeconfigPath} {
		st, err := s.sys.Root.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(w, "%s: not there\n", path)
			continue
		}
		if err != nil {
			fmt.Fprintf(w, "%s: %v\n", path, err)
			continue
		}
		fmt.Fprintf(w, "%s: mode %v, owner %d\n", path, st.Mode, st.UID)
		data, err := s.sys.Root.ReadFile(path)
		var k *node.Kubeconfig
		if err == nil {
			k, err = node.ParseFiles(data, filepath.Dir(path), s.sys.Root.ReadFile)
		}
		if err != nil {
			fmt.Fprintf(w, "  %s\n", oneLine(err.Error()))
			continue
		}
		fmt.Fprintf(w, "  %v\n  valid from %s until %s\n", k, moment(k.NotBefore), moment(k.NotAfter))
	}
	subject, end, source, err := s.sys.Certificate()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "in use: %s from %s until %s\n", subject, source, moment(end))
	return err
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "not said"
	}
	return t.UTC().Format(time.RFC3339)
}

// ledger is what was changed, without what stood there before.
func (s *supporter) ledger(_ context.Context, w io.Writer) error {
	l, err := OpenLedger(s.sys.Root)
	if err != nil {
		return err
	}
	for _, e := range l.Entries() {
		if _, err := fmt.Fprintf(w, "%s  %-12s %s done=%t\n", e.Since.UTC().Format(time.RFC3339), e.Kind, e.Name, e.Done); err != nil {
			return err
		}
	}
	return nil
}

// arguments are the command lines of the kubelet and of what runs it. Each is
// one line: a flag and its value must not be told apart from each other.
func (s *supporter) arguments(_ context.Context, w io.Writer) error {
	procs, err := filepath.Glob(s.sys.Root.Path("/proc/[0-9]*"))
	if err != nil {
		return err
	}
	for _, p := range procs {
		pid := filepath.Base(p)
		comm, err := s.sys.Root.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue // it ended
		}
		switch strings.TrimSpace(string(comm)) {
		case "kubelet", "hyperkube", "rkt", "podman", "conmon", "tectonic-worker":
			argv, err := s.sys.Root.ReadFile("/proc/" + pid + "/cmdline")
			if err != nil {
				continue
			}
			line := strings.ReplaceAll(string(bytes.TrimRight(argv, "\x00")), "\x00", " ")
			if _, err := fmt.Fprintf(w, "%s %s\n", pid, strings.ReplaceAll(line, "\n", " ")); err != nil {
				return err
			}
		}
	}
	return nil
}
