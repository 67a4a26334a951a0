package live

import (
	"context"
	"fmt"
	"os"
)

// Where signatures are: partition tables (GPT's second one at the end), file systems (the furthest known from the
// start is btrfs at 64 KiB, its copies at 64 MiB and 256 GiB), RAID (md 1.0 and DDF at the end), ZFS (256 KiB labels,
// two at either end), LVM (first MiB).
const (
	wipeEdge = 4 << 20
	wipeStep = 1 << 20
)

// wipe overwrites the edges of a disk of size bytes, and of each partition on it, with zeros: what was on it is not
// found any more. It does not overwrite the data between them.
func wipe(ctx context.Context, disk *os.File, size int64) error {
	type extent struct{ from, to int64 }
	extents := []extent{{0, size}}
	for _, p := range readPartitions(disk, size) {
		extents = append(extents, extent{p.from, p.to})
	}
	zeros := make([]byte, wipeStep)
	zero := func(from, to int64) error {
		for from = max(0, from); from < min(to, size); from += wipeStep {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := disk.WriteAt(zeros[:min(wipeStep, min(to, size)-from)], from); err != nil {
				return err
			}
		}
		return nil
	}
	// Partitions first: if this is cut short, the table that says where they are is still there.
	for i := len(extents) - 1; i >= 0; i-- {
		e := extents[i]
		for _, part := range []extent{{e.from, min(e.to, e.from+wipeEdge)}, {max(e.from, e.to-wipeEdge), e.to},
			{e.from + 64<<20, min(e.to, e.from+64<<20+wipeStep)}} {
			if err := zero(part.from, part.to); err != nil {
				return err
			}
		}
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("cannot write it out: %w", err)
	}
	return rereadPartitions(disk)
}
