package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// checkTimeout is for "dnsmasq --test", which reads a file and ends.
const checkTimeout = 10 * time.Second

// FindDnsmasq gives the path of dnsmasq. It is looked for in /usr/sbin too, which is not in every user's PATH.
func FindDnsmasq() (string, error) {
	if path, err := exec.LookPath("dnsmasq"); err == nil {
		return path, nil
	}
	for _, path := range []string{"/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq", "/opt/homebrew/sbin/dnsmasq"} {
		if _, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("cannot find dnsmasq on this host: install the package dnsmasq")
}

var atLine = regexp.MustCompile(`^dnsmasq: (.*) at line ([0-9]+) of .*$`)

// Check lets the host's own dnsmasq read a configuration.
func Check(ctx context.Context, text []byte) error {
	program, err := FindDnsmasq()
	if err != nil {
		return err
	}
	path, remove, err := configFile(text)
	if err != nil {
		return err
	}
	defer remove()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--test", "--conf-file="+path).CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("cannot check the dnsmasq configuration: %s --test did not end: %w", program, ctx.Err())
	}
	said := string(bytes.TrimSpace(out))
	if m := atLine.FindStringSubmatch(said); m != nil {
		n, _ := strconv.Atoi(m[2])
		if lines := strings.Split(string(text), "\n"); n >= 1 && n <= len(lines) {
			return fmt.Errorf("dnsmasq does not take line %d of its configuration, %q: %s", n, lines[n-1], m[1])
		}
	}
	return fmt.Errorf("dnsmasq does not take its configuration: %s", printable(strings.TrimPrefix(said, "dnsmasq: ")))
}

// configFile writes a configuration where only we read it.
func configFile(text []byte) (path string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "tectonic-netboot-*")
	if err != nil {
		return "", nil, fmt.Errorf("cannot make a directory for the dnsmasq configuration: %w", err)
	}
	path = filepath.Join(dir, "dnsmasq.conf")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("cannot write the dnsmasq configuration: %w", err)
	}
	return path, func() { os.RemoveAll(dir) }, nil
}
