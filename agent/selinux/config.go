package selinux

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// ConfigPath is the file that decides the mode at boot. /etc/sysconfig/selinux is a symbolic link to it.
const ConfigPath = "/etc/selinux/config"

const (
	modeKey = "SELINUX="
	typeKey = "SELINUXTYPE="

	// maxLine is where libselinux cuts a line in two and reads the rest as another line.
	maxLine = 4095
)

// words are the values libselinux knows. It compares only as many letters as the word has, in any case.
var words = []Mode{Enforcing, Permissive, Disabled}

// meant finds lines that look like a mode to a human but not to libselinux: indented, quoted by position, spaced, exported.
var meant = regexp.MustCompile(`^(\x{feff})?\s*(export\s+)?(?i:SELINUX)\s*=`)

// place is where the effective mode stands in the bytes of the file.
type place struct {
	mode       Mode
	start, end int // of the word
}

// find looks for the mode the way libselinux does at boot (selinux_getenforcemode): the first line that begins with
// "SELINUX=" in column one and goes on, after white space, with one of the three words in any case. Lines that do not
// are passed over, also where they are a mode in quotes. So of two lines the first one counts.
func find(data []byte) (place, error) {
	if bytes.IndexByte(data, 0) >= 0 {
		return place{}, fmt.Errorf("%s: is not a text file; restore it from the selinux-policy package", ConfigPath)
	}
	var doubt error
	number, offset := 0, 0
	for line := range bytes.Lines(data) {
		number++
		start := offset
		offset += len(line)
		if len(line) > maxLine {
			return place{}, fmt.Errorf("%s:%d: the line is longer than %d bytes, which libselinux would read as two; shorten it", ConfigPath, number, maxLine)
		}
		if rest, ok := bytes.CutPrefix(line, []byte(modeKey)); ok {
			value := bytes.TrimLeft(rest, " \t\v\f\r\n")
			at := start + len(line) - len(value)
			for _, w := range words {
				if len(value) >= len(w) && bytes.EqualFold(value[:len(w)], []byte(w)) {
					return place{mode: w, start: at, end: at + len(w)}, nil
				}
			}
		}
		if doubt == nil && meant.Match(line) {
			doubt = fmt.Errorf("%s:%d: %q names no mode that libselinux understands; write SELINUX=enforcing or SELINUX=permissive, at the start of the line and without quotes",
				ConfigPath, number, bytes.TrimSpace(line))
		}
	}
	return place{mode: Unset, start: -1}, doubt
}

// ParseConfig gives the mode that a configuration asks for at the next boot, Unset where it names none. It is an error
// where a line looks like a mode but means nothing to libselinux, and no other line is one.
func ParseConfig(data []byte) (Mode, error) {
	p, err := find(data)
	return p.mode, err
}

// EditConfig gives the configuration with the mode changed. Only the word of the effective line changes, every other
// byte stays; where no line names a mode, one is added at the end. It refuses Disabled, and what ParseConfig refuses.
func EditConfig(data []byte, m Mode) ([]byte, error) {
	if m != Enforcing && m != Permissive {
		return nil, fmt.Errorf("%s: SELINUX=%s is never written; only enforcing and permissive are", ConfigPath, m)
	}
	p, err := find(data)
	switch {
	case err != nil:
		return nil, err
	case p.mode == m:
		return bytes.Clone(data), nil
	case p.start >= 0:
		return bytes.Join([][]byte{data[:p.start], []byte(m), data[p.end:]}, nil), nil
	}
	edited := bytes.Clone(data)
	if len(edited) > 0 && edited[len(edited)-1] != '\n' {
		edited = append(edited, '\n')
	}
	return append(edited, modeKey+string(m)+"\n"...), nil
}

// Config gives the mode that the host below root boots into next; Unset where there is no configuration.
func Config(root string) (Mode, error) {
	data, err := os.ReadFile(filepath.Join(root, ConfigPath))
	if errors.Is(err, fs.ErrNotExist) {
		return Unset, nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the SELinux configuration: %w", err)
	}
	return ParseConfig(data)
}

// policyType gives the name of the policy, "targeted" where the configuration does not say.
func policyType(data []byte) string {
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(typeKey)); ok {
			if name := bytes.TrimSpace(rest); len(name) > 0 && bytes.IndexByte(name, '/') < 0 && string(name) != ".." {
				return string(name)
			}
		}
	}
	return "targeted"
}
