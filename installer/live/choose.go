package live

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Choose gives the one disk that all hints allow. Disks that are removable, read-only, in use or smaller than
// minimum (bytes) are never chosen. Where only size or rotational are given and several disks are left, the
// smallest is meant; where even that leaves two, or several are left without any hint, nothing is chosen: a guess
// could erase the wrong one.
func Choose(disks []machine.InventoryDisk, hints machine.Disk, minimum int64) (machine.InventoryDisk, error) {
	var left []machine.InventoryDisk
	var seen []string
	for _, d := range disks {
		why := unfit(d, hints, minimum)
		if why == "" {
			left = append(left, d)
			why = "fits"
		}
		seen = append(seen, fmt.Sprintf("%s (%s: %s)", d.Name, describe(d), why))
	}
	if len(disks) == 0 {
		return machine.InventoryDisk{}, fmt.Errorf("this machine shows no disk at all; look at its controller's settings in the firmware")
	}
	list := strings.Join(seen, ", ")
	if len(left) == 0 {
		return machine.InventoryDisk{}, fmt.Errorf("no disk fits: %s", list)
	}
	named := hints.Serial != "" || hints.WWN != "" || hints.Model != ""
	sized := hints.MinSize != 0 || hints.MaxSize != 0 || hints.Rotational != nil
	if len(left) > 1 && sized && !named {
		slices.SortStableFunc(left, func(a, b machine.InventoryDisk) int {
			switch {
			case a.Size < b.Size:
				return -1
			case a.Size > b.Size:
				return 1
			}
			return 0
		})
		if left[0].Size < left[1].Size {
			return left[0], nil
		}
	}
	if len(left) > 1 {
		return machine.InventoryDisk{}, fmt.Errorf("%d disks fit and one must be meant: %s; give the serial or wwn of one as the machine's disk in the cluster file", len(left), list)
	}
	return left[0], nil
}

// unfit says why a disk is not to be taken, or nothing.
func unfit(d machine.InventoryDisk, hints machine.Disk, minimum int64) string {
	switch {
	case d.InUse != "":
		return "in use: " + d.InUse
	case d.Removable:
		return "removable"
	case d.ReadOnly:
		return "read-only"
	case hints.Serial != "" && !strings.EqualFold(strings.TrimSpace(hints.Serial), d.Serial):
		return "other serial"
	case hints.WWN != "" && bareWWN(hints.WWN) != bareWWN(d.WWN):
		return "other wwn"
	case hints.Model != "" && !strings.Contains(strings.ToLower(d.Model), strings.ToLower(strings.TrimSpace(hints.Model))):
		return "other model"
	case hints.MinSize != 0 && d.Size < hints.MinSize:
		return "smaller than " + size(hints.MinSize)
	case hints.MaxSize != 0 && d.Size > hints.MaxSize:
		return "larger than " + size(hints.MaxSize)
	case hints.Rotational != nil && *hints.Rotational != d.Rotational:
		if d.Rotational {
			return "rotational"
		}
		return "not rotational"
	case d.Size < minimum:
		return "smaller than the minimum of " + size(minimum)
	}
	return ""
}

// bareWWN takes 0x5000c500a1b2c3d4, naa.5000c500a1b2c3d4 and 5000c500a1b2c3d4 for the same.
func bareWWN(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, prefix := range []string{"0x", "naa.", "eui.", "uuid.", "nvme."} {
		s = strings.TrimPrefix(s, prefix)
	}
	return s
}

func describe(d machine.InventoryDisk) string {
	all := []string{size(d.Size)}
	for _, x := range []struct{ key, value string }{{"model", d.Model}, {"serial", d.Serial}, {"wwn", d.WWN}} {
		if x.value != "" {
			all = append(all, x.key+" "+x.value)
		}
	}
	return strings.Join(all, ", ")
}
