package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// app is what a "rkt run" is to run.
type app struct {
	pod       values // run options
	options   values // image options
	reference string
	args      []string
}

// parseRun reads "[run options] IMAGE [image options] [-- ARGS...]" of exactly one image: the fly stage1 runs no more.
func (c *cli) parseRun(args []string) (*app, error) {
	a := &app{pod: values{}, options: values{}}
	args, err := c.parseWithGlobals(runOptions, args, a.pod)
	if err != nil {
		return nil, err
	}
	var chosen []string
	for _, name := range stage1Options {
		if len(a.pod[name]) > 0 {
			chosen = append(chosen, "--"+name)
		}
	}
	if len(chosen) > 1 {
		return nil, usagef("only one of %s can be given", strings.Join(chosen, " and "))
	}
	if len(a.pod["pod-manifest"]) > 0 {
		return nil, errors.New("the double has no --pod-manifest")
	}
	if len(args) == 0 || args[0] == "--" || args[0] == "---" {
		return nil, usagef("must provide at least one image or specify the pod manifest")
	}
	a.reference = args[0]
	if args, err = imageOptions.parse(args[1:], a.options, nil); err != nil {
		return nil, err
	}
	if len(args) > 0 {
		if args[0] != "--" {
			return nil, fmt.Errorf("the fly stage1 can run one app only, not %q and %q", a.reference, args[0])
		}
		a.args = args[1:]
		if slices.Contains(a.args, "---") {
			return nil, errors.New("the fly stage1 can run one app only")
		}
	}
	return a, c.checkStage1(a)
}

// checkStage1 accepts what ends in the fly stage1, the only one that the double has.
func (c *cli) checkStage1(a *app) error {
	var path string
	switch {
	case a.pod.last("stage1-from-dir") != "":
		// rkt's paths configuration, its default.
		path = filepath.Join("/usr/libexec/rkt", a.pod.last("stage1-from-dir"))
		if strings.Contains(a.pod.last("stage1-from-dir"), "/") {
			return fmt.Errorf("--stage1-from-dir=%s: it is a file's name, not a path", a.pod.last("stage1-from-dir"))
		}
	case a.pod.last("stage1-path") != "":
		path = a.pod.last("stage1-path")
		if !filepath.IsAbs(path) {
			return fmt.Errorf("--stage1-path=%s: the double wants an absolute path", path)
		}
	default:
		return errors.New("the double has the fly stage1 only: give --stage1-from-dir or --stage1-path")
	}
	if !strings.Contains(filepath.Base(path), "fly") {
		return fmt.Errorf("the double has the fly stage1 only, not %s", path)
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("cannot get the stage1 image: %w", err)
	}
	if net := a.pod.last("net"); net != "host" {
		return fmt.Errorf("fly: --net=%s: the fly stage1 runs in the host's network only, give --net=host", net)
	}
	return nil
}

func (c *cli) run(args []string) error {
	a, err := c.parseRun(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("cannot run as unprivileged user")
	}
	mounts, err := binds(a.pod["volume"], append(slices.Clone(a.pod["mount"]), a.options["mount"]...))
	if err != nil {
		return fmt.Errorf("error generating mounts: %w", err)
	}
	policy := a.pod.last("pull-policy")
	if policy == "" {
		policy = "new"
	}
	img, err := c.find(a.reference, policy)
	if err != nil {
		return err
	}
	command := append(slices.Clone(img.Exec), a.args...)
	if exec := a.options.last("exec"); exec != "" {
		command = append([]string{exec}, a.args...)
	}
	p, err := c.newPod(img)
	if err != nil {
		return err
	}
	if file := a.pod.last("uuid-file-save"); file != "" {
		if err := os.WriteFile(file, []byte(p.uuid), 0o644); err != nil {
			return fmt.Errorf("error saving pod UUID to file: %w", err)
		}
	}
	root := p.rootfs()
	if err := p.mount(img); err != nil {
		return err
	}
	if err := fly(root, a, mounts); err != nil {
		return err
	}
	environ, err := environment(a)
	if err != nil {
		return err
	}
	if err := p.savePID(); err != nil {
		return err
	}
	workingDir := a.options.last("working-dir")
	if workingDir == "" {
		workingDir = "/"
	}
	return become(root, workingDir, command, environ)
}

// fly makes the mounts of the fly stage1 below root.
func fly(root string, a *app, mounts []bind) error {
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := bindMount(dir, filepath.Join(root, dir), true, false); err != nil {
			return err
		}
	}
	tmp := filepath.Join(root, "tmp")
	if err := os.MkdirAll(tmp, 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", tmp, "tmpfs", 0, "mode=1777"); err != nil {
		return fmt.Errorf("fly: mounting tmpfs on /tmp: %w", err)
	}
	if a.pod.last("dns") == "host" {
		mounts = append(mounts, bind{volume{kind: "host", source: "/etc/resolv.conf", readOnly: true}, "/etc/resolv.conf"})
	}
	if a.pod.last("hosts-entry") == "host" {
		mounts = append(mounts, bind{volume{kind: "host", source: "/etc/hosts", readOnly: true}, "/etc/hosts"})
	}
	for _, m := range mounts {
		if m.kind == "empty" {
			if err := os.MkdirAll(filepath.Join(root, m.target), 0o755); err != nil {
				return err
			}
			continue
		}
		if isMountPoint(m.source) {
			// Mounts that the app makes inside then reach the host.
			if err := unix.Mount("", m.source, "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
				return fmt.Errorf("fly: making %s shared: %w", m.source, err)
			}
		}
		if err := bindMount(m.source, filepath.Join(root, m.target), m.recursive, m.readOnly); err != nil {
			return err
		}
	}
	return nil
}

func bindMount(source, target string, recursive, readOnly bool) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("fly: stat of host path %s: %w", source, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("fly: preparing the mount point for %s: %w", source, err)
	}
	flags := uintptr(unix.MS_BIND)
	if recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(source, target, "none", flags, ""); err != nil {
		return fmt.Errorf("fly: mounting %s: %w", source, err)
	}
	if readOnly {
		if err := unix.Mount("", target, "none", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("fly: remounting %s read-only: %w", source, err)
		}
	}
	return nil
}

// environment is the app's: the host's only with --inherit-env.
func environment(a *app) ([]string, error) {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/sh"}
	if a.pod.bool("inherit-env") {
		env = append(env, os.Environ()...)
	}
	for _, file := range a.pod["set-env-file"] {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--set-env-file: %w", err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				env = append(env, line)
			}
		}
	}
	env = append(env, a.pod["set-env"]...)
	env = append(env, a.options["environment"]...)
	return append(env, "AC_APP_NAME="+appName(a.reference)), nil
}

func appName(reference string) string {
	name, _, _ := strings.Cut(filepath.Base(reference), ":")
	return name
}

// become replaces this process by the app inside root.
func become(root, workingDir string, command, environ []string) error {
	if len(command) == 0 {
		return errors.New("the image has no app: give --exec")
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("fly: chroot: %w", err)
	}
	if err := os.Chdir(workingDir); err != nil {
		return fmt.Errorf("fly: chdir: %w", err)
	}
	path := command[0]
	if !strings.Contains(path, "/") {
		found, err := exec.LookPath(path)
		if err != nil {
			return fmt.Errorf("fly: can't execute %q: %w", path, err)
		}
		path = found
	}
	err := syscall.Exec(path, command, dedupe(environ))
	return fmt.Errorf("fly: can't execute %q: %w", path, err)
}

// dedupe keeps the last value of each variable.
func dedupe(environ []string) []string {
	last := map[string]int{}
	for i, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		last[name] = i
	}
	var out []string
	for i, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); last[name] == i {
			out = append(out, kv)
		}
	}
	return out
}
