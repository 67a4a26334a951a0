package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// How a machine's firmware is told to boot from disk (Definition.Exit).
const (
	ExitAuto    = "auto"     // by its platform: BIOS and UEFI want different ways
	ExitExit    = "exit"     // leave iPXE: the firmware goes on to the next boot device
	ExitHTTP404 = "http-404" // no script at all
	ExitSanboot = "sanboot"  // iPXE starts the first disk itself
)

const (
	definitionDir = "definitions"
	// maxDefinition bounds a definition as JSON, in bytes.
	maxDefinition = 16 << 20
	maxMACs       = 32
)

// check says everything that is wrong with a definition, and brings its MAC addresses into the one form.
func (d *Definition) check() error {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if err := checkName(d.Name); err != nil {
		say("%v", err)
	}
	if d.Cluster == "" || len(d.Cluster) > 200 {
		say("cluster is empty or too long")
	}
	if len(d.MACs) == 0 || len(d.MACs) > maxMACs {
		say("macs has %d addresses: a machine has 1 to %d that can boot", len(d.MACs), maxMACs)
	}
	macs := make([]string, 0, len(d.MACs))
	for _, m := range d.MACs {
		mac, err := ParseMAC(m)
		switch {
		case err != nil:
			say("%v", err)
		case slices.Contains(macs, mac):
			say("%s is there twice", mac)
		default:
			macs = append(macs, mac)
		}
	}
	d.MACs = macs
	if !slices.Contains([]string{"", ExitAuto, ExitExit, ExitHTTP404, ExitSanboot}, d.Exit) {
		say("exit %q: use auto, exit, http-404 or sanboot", oneLine(d.Exit, 40))
	}
	if d.Minimum.Memory < 0 || d.Minimum.Disk < 0 || d.Minimum.Cores < 0 || d.Disk.MinSize < 0 || d.Disk.MaxSize < 0 {
		say("a size is negative")
	}
	if d.Image.OS == "" {
		say("image.os is empty: use flatcar, fedora-coreos or rhel")
	}
	for _, f := range d.Files {
		if !strings.HasPrefix(f.Path, "/") || path.Clean(f.Path) != f.Path || f.Path == "/" {
			say("file %q: its path must be absolute and without . or ..", oneLine(f.Path, 100))
		}
		if f.Mode > 0o7777 {
			say("file %s: mode %o is no permission", oneLine(f.Path, 100), f.Mode)
		}
	}
	if len(d.Config) > 0 && !json.Valid(d.Config) {
		say("config is not JSON")
	}
	if len(wrong) == 0 {
		return nil
	}
	name := d.Name
	if name == "" {
		name = "without a name"
	}
	return refuse(ErrInvalid, "cannot take machine %s: %s", oneLine(name, 64), strings.Join(wrong, "; "))
}

// encode gives the form in which a definition is kept, and its digest.
func (d *Definition) encode() (json.RawMessage, [sha256.Size]byte, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, [sha256.Size]byte{}, refuse(ErrInvalid, "cannot take machine %s: %v", d.Name, err)
	}
	if len(text) > maxDefinition {
		return nil, [sha256.Size]byte{}, refuse(ErrInvalid, "cannot take machine %s: its definition has %d MiB, more than %d", d.Name, len(text)>>20, maxDefinition>>20)
	}
	return text, sha256.Sum256(text), nil
}

// Digest tells two definitions apart: the SHA-256 of the form in which one is kept, in hex. It says nothing of the
// secrets in it.
func (d *Definition) Digest() (string, error) {
	_, sum, err := d.encode()
	return hex.EncodeToString(sum[:]), err
}

// public is a definition without what may be secret or large: what is held in memory.
func (d Definition) public() *Definition {
	d.Config, d.Files = nil, nil
	return &d
}

func decodeDefinition(text []byte) (*Definition, error) {
	var d Definition
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, err
	}
	return &d, d.check()
}

func definitionPath(dir, name string) string { return filepath.Join(dir, definitionDir, name+".json") }

// writeDefinition replaces a definition's file at once. It does not sync: until the next snapshot, which does, the
// journal has the definition too.
func writeDefinition(dir, name string, text []byte) error {
	at := definitionPath(dir, name)
	if err := os.WriteFile(at+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(at+".new", at)
}

func removeDefinition(dir, name string) error {
	if err := os.Remove(definitionPath(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// readDefinitions gives every definition's file to take, good or not: the journal may have a newer one.
func readDefinitions(dir string, take func(name string, text []byte)) error {
	entries, err := os.ReadDir(filepath.Join(dir, definitionDir))
	if err != nil {
		return fmt.Errorf("cannot read the machines' definitions: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		text, err := os.ReadFile(definitionPath(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read the definition of %s: %w", name, err)
		}
		take(name, bytes.TrimSpace(text))
	}
	return nil
}
