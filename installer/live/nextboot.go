package live

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"unicode/utf16"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

const (
	efivars = "/sys/firmware/efi/efivars"
	// globalVariable is EFI_GLOBAL_VARIABLE as efivarfs writes it (UEFI specification 3.3).
	globalVariable = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	// Non-volatile, for the boot services and at run time.
	efiAttributes = 0x7
	// entryName is what a firmware's menu shows of the entries that are made here.
	entryName = "tectonic-installer"
)

// bootFromDisk makes a boot entry of the disk the firmware's next one and the first of its order (UEFI specification
// 3.1). The entry is the one that the operating system's installer made, or one for the loader in the place that
// every removable medium has it (3.5.1.1).
func (l *Live) bootFromDisk(d machine.InventoryDisk) (string, error) {
	vars := l.path(efivars)
	if entries, err := os.ReadDir(vars); err != nil || len(entries) == 0 {
		if l.Root != "" {
			return "", fmt.Errorf("no EFI variables in %s", efivars)
		}
		if err := syscall.Mount("efivarfs", vars, "efivarfs", syscall.MS_NOSUID|syscall.MS_NOEXEC|syscall.MS_NODEV, ""); err != nil {
			return "", fmt.Errorf("cannot mount efivarfs: %w", err)
		}
	}
	disk, err := os.Open(l.path("/dev/" + d.Name))
	if err != nil {
		return "", fmt.Errorf("cannot read its partitions: %w", err)
	}
	defer disk.Close()
	esp, ok := partition{}, false
	for _, p := range readPartitions(disk, d.Size) {
		if p.kind == efiSystem && !ok {
			esp, ok = p, true
		}
	}
	if !ok {
		return "", errors.New("it has no EFI system partition")
	}
	order := []uint16{}
	if data, err := readVariable(vars, "BootOrder"); err == nil {
		for ; len(data) >= 2; data = data[2:] {
			order = append(order, binary.LittleEndian.Uint16(data))
		}
	}
	number, found, free := uint16(0), false, -1
	names, _ := filepath.Glob(filepath.Join(vars, "Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]"+globalVariable))
	taken := map[uint16]bool{}
	for _, name := range names {
		var n uint16
		if _, err := fmt.Sscanf(filepath.Base(name)[4:8], "%04X", &n); err != nil {
			continue
		}
		taken[n] = true
		data, err := readVariable(vars, fmt.Sprintf("Boot%04X", n))
		if err != nil {
			continue
		}
		label, path := loadOption(data)
		switch {
		case bytes.Contains(path, hardDrive(esp)[24:42]) && !found:
			number, found = n, true
		case label == entryName:
			free = int(n) // of an earlier installation, for a partition that is gone
		}
	}
	which := ""
	if !found {
		for n := 0; free < 0 && n <= 0xffff; n++ {
			if !taken[uint16(n)] {
				free = n
			}
		}
		number = uint16(free)
		if err := writeVariable(vars, fmt.Sprintf("Boot%04X", number), newLoadOption(esp)); err != nil {
			return "", err
		}
		which = "the new "
	}
	wanted := append([]uint16{number}, slices.DeleteFunc(slices.Clone(order), func(n uint16) bool { return n == number })...)
	if !slices.Equal(order, wanted) {
		data := []byte{}
		for _, n := range wanted {
			data = binary.LittleEndian.AppendUint16(data, n)
		}
		if err := writeVariable(vars, "BootOrder", data); err != nil {
			return "", err
		}
	}
	said := fmt.Sprintf("the firmware boots %s next, by %sBoot%04X", d.Name, which, number)
	return said, writeVariable(vars, "BootNext", binary.LittleEndian.AppendUint16(nil, number))
}

// efivarfs(5): a file is four bytes of attributes, then the value; a value is written in one call.
func readVariable(dir, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, name+globalVariable))
	if err != nil {
		return nil, err
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("the EFI variable %s is too short", name)
	}
	return data[4:], nil
}

func writeVariable(dir, name string, value []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, name+globalVariable), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the EFI variable %s: %w", name, err)
	}
	_, err = f.Write(append([]byte{efiAttributes, 0, 0, 0}, value...))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("cannot write the EFI variable %s: %w", name, err)
	}
	return nil
}

// loadOption is the description and the device path of an EFI_LOAD_OPTION (UEFI specification 3.1.3).
func loadOption(data []byte) (string, []byte) {
	if len(data) < 8 {
		return "", nil
	}
	length := int(binary.LittleEndian.Uint16(data[4:]))
	var label []uint16
	for data = data[6:]; len(data) >= 2; data = data[2:] {
		c := binary.LittleEndian.Uint16(data)
		if c == 0 {
			data = data[2:]
			break
		}
		label = append(label, c)
	}
	return string(utf16.Decode(label)), data[:min(length, len(data))]
}

func newLoadOption(esp partition) []byte {
	loader := map[string]string{"amd64": `\EFI\BOOT\BOOTX64.EFI`, "arm64": `\EFI\BOOT\BOOTAA64.EFI`}[runtime.GOARCH]
	file := wide(loader)
	node := binary.LittleEndian.AppendUint16([]byte{4, 4}, uint16(4+len(file))) // media, file path (10.3.5.4)
	path := slices.Concat(hardDrive(esp), node, file, []byte{0x7f, 0xff, 4, 0}) // end of the path (10.3.1)
	option := binary.LittleEndian.AppendUint32(nil, 1)                          // LOAD_OPTION_ACTIVE
	option = binary.LittleEndian.AppendUint16(option, uint16(len(path)))
	return slices.Concat(option, wide(entryName), path)
}

// hardDrive is the device path node of a GPT partition (UEFI specification 10.3.5.1).
func hardDrive(p partition) []byte {
	node := binary.LittleEndian.AppendUint16([]byte{4, 1}, 42)
	node = binary.LittleEndian.AppendUint32(node, uint32(p.number))
	node = binary.LittleEndian.AppendUint64(node, uint64(p.from/p.sector))
	node = binary.LittleEndian.AppendUint64(node, uint64((p.to-p.from)/p.sector))
	return append(append(node, p.id[:]...), 2, 2) // GPT, identified by its GUID
}

func wide(s string) []byte {
	var out []byte
	for _, c := range append(utf16.Encode([]rune(s)), 0) {
		out = binary.LittleEndian.AppendUint16(out, c)
	}
	return out
}
