package metal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Untouched says whether nothing was ever written to a machine's disk, not even zeros: its file has no blocks.
func Untouched(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, errors.New("the system does not tell the blocks of a file")
	}
	return stat.Blocks == 0, nil
}

// Fingerprint is a digest of all that an installation writes and a running system does not: partition table, boot
// partition, system and Ignition config. Two that are equal are of the same installation, or of none.
func Fingerprint(ctx context.Context, path string) (string, error) {
	parts, err := partitions(ctx, path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	areas := []partition{{Size: 2048}} // the table itself
	for _, p := range parts {
		if p.Name != "ROOT" {
			areas = append(areas, p)
		}
	}
	for _, a := range areas {
		if err := a.copy(h, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ReadFile reads a file that the installed system wrote, from the disk of a machine that is off.
func ReadFile(ctx context.Context, disk, file string) (string, error) {
	out, err := debugfs(ctx, disk, "cat /upper"+file)
	if err == nil && out == "" {
		err = fmt.Errorf("there is no %s on the disk, or it is empty", file)
	}
	return out, err
}

// Stat is debugfs' "stat" of such a file; empty when there is none.
func Stat(ctx context.Context, disk, file string) (string, error) {
	return debugfs(ctx, disk, "stat /upper"+file)
}

func debugfs(ctx context.Context, disk, request string) (string, error) {
	parts, err := partitions(ctx, disk)
	if err != nil {
		return "", err
	}
	for _, p := range parts {
		if p.Name != "ROOT" {
			continue
		}
		f, err := os.CreateTemp("", "root-")
		if err != nil {
			return "", err
		}
		defer os.Remove(f.Name())
		if err := errors.Join(p.copy(f, disk), f.Close()); err != nil {
			return "", err
		}
		// The journal may hold what the file system does not yet have.
		if out, err := exec.CommandContext(ctx, "e2fsck", "-p", f.Name()).CombinedOutput(); err != nil {
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() > 1 {
				return "", fmt.Errorf("e2fsck: %w: %s", err, out)
			}
		}
		out, err := exec.CommandContext(ctx, "debugfs", "-R", request, f.Name()).Output()
		return string(out), err
	}
	return "", fmt.Errorf("%s has no partition ROOT", disk)
}

// partition is a part of a disk, in sectors of 512 bytes.
type partition struct {
	Name        string
	Start, Size int64
}

func (p partition) copy(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, io.NewSectionReader(f, p.Start*512, p.Size*512))
	return err
}

func partitions(ctx context.Context, path string) ([]partition, error) {
	out, err := exec.CommandContext(ctx, "sfdisk", "--json", path).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot read the partition table of %s: %w", path, err)
	}
	var table struct {
		Partitiontable struct{ Partitions []partition }
	}
	if err := json.Unmarshal(out, &table); err != nil {
		return nil, err
	}
	if len(table.Partitiontable.Partitions) == 0 {
		return nil, fmt.Errorf("%s has no partitions: %s", path, strings.TrimSpace(string(out)))
	}
	return table.Partitiontable.Partitions, nil
}
