package live

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"syscall"
)

// partition is an entry of a partition table; from and to in bytes, to exclusive.
type partition struct {
	number   int // from 1
	from, to int64
	sector   int64 // bytes
	kind, id guid  // zero in an MBR
}

// guid is as it lies on a disk (UEFI specification, appendix A).
type guid [16]byte

// efiSystem is the partition type C12A7328-F81F-11D2-BA4B-00A0C93EC93B (UEFI specification 5.3.3).
var efiSystem = guid{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

func (g guid) String() string { return hex.EncodeToString(g[:]) }

// readPartitions reads a GPT (UEFI specification 5.3), or the four primary entries of an MBR. What cannot be made out
// is left out: a broken table is no partition.
func readPartitions(disk io.ReaderAt, size int64) []partition {
	for _, sector := range []int64{512, 4096} {
		if all := readGPT(disk, size, sector); all != nil {
			return all
		}
	}
	mbr := make([]byte, 512)
	if _, err := disk.ReadAt(mbr, 0); err != nil || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil
	}
	var all []partition
	for i := range 4 {
		e := mbr[446+16*i:]
		from, n := int64(binary.LittleEndian.Uint32(e[8:]))*512, int64(binary.LittleEndian.Uint32(e[12:]))*512
		if e[4] != 0 && n > 0 && from > 0 && from < size {
			all = append(all, partition{number: i + 1, from: from, to: min(size, from+n), sector: 512})
		}
	}
	return all
}

func readGPT(disk io.ReaderAt, size, sector int64) []partition {
	header := make([]byte, 512)
	if _, err := disk.ReadAt(header, sector); err != nil || !bytes.HasPrefix(header, []byte("EFI PART")) {
		return nil
	}
	table := int64(binary.LittleEndian.Uint64(header[72:]))
	count, width := binary.LittleEndian.Uint32(header[80:]), int64(binary.LittleEndian.Uint32(header[84:]))
	if count > 1024 || width < 128 || width > 4096 || table < 2 || table > size/sector {
		return nil
	}
	entries := make([]byte, int64(count)*width)
	if _, err := disk.ReadAt(entries, table*sector); err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	all := []partition{}
	for i := range int64(count) {
		e := entries[i*width:]
		p := partition{number: int(i) + 1, sector: sector}
		copy(p.kind[:], e)
		copy(p.id[:], e[16:])
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if p.kind == (guid{}) || first == 0 || last < first || last >= uint64(size/sector) {
			continue
		}
		p.from, p.to = int64(first)*sector, int64(last+1)*sector
		all = append(all, p)
	}
	return all
}

// rereadPartitions makes the kernel forget the partitions that are gone (BLKRRPART, linux/fs.h). A plain file has none.
func rereadPartitions(disk *os.File) error {
	const blkrrpart = 0x125f
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, disk.Fd(), blkrrpart, 0)
	if errno != 0 && errno != syscall.ENOTTY && errno != syscall.EINVAL {
		return errors.New("cannot make the kernel read the new partition table: " + errno.Error())
	}
	return nil
}
