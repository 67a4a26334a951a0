package machine

import "fmt"

// bounded is an inventory fit to be kept and shown: whatever a machine said, it is short and printable.
func (in Inventory) bounded() Inventory {
	const word = 128
	out := Inventory{Memory: max(in.Memory, 0), Cores: max(in.Cores, 0), Firmware: oneLine(in.Firmware, 16), Arch: oneLine(in.Arch, 16), NICs: map[string]string{}}
	for _, d := range in.Disks[:min(len(in.Disks), 256)] {
		out.Disks = append(out.Disks, d.bounded())
	}
	for name, mac := range in.NICs {
		if len(out.NICs) == 64 {
			break
		}
		out.NICs[oneLine(name, word)] = oneLine(mac, word)
	}
	return out
}

func (d InventoryDisk) bounded() InventoryDisk {
	const word = 128
	d.Name, d.Serial, d.WWN = oneLine(d.Name, word), oneLine(d.Serial, word), oneLine(d.WWN, word)
	d.Model, d.InUse = oneLine(d.Model, word), oneLine(d.InUse, word)
	return d
}

func diskText(d InventoryDisk) string {
	d = d.bounded()
	text := fmt.Sprintf("%s (%s", d.Name, bytesText(d.Size))
	if d.Model != "" {
		text += ", " + d.Model
	}
	if d.Serial != "" {
		text += ", serial " + d.Serial
	}
	return text + ")"
}

// bytesText is a size in the unit that people give it in: powers of 1024.
func bytesText(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, u := float64(n)/1024, 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[u])
}
