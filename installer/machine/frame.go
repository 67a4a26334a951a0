package machine

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
)

// record is one change of the store. A machine's latest entry wins, so reading a record twice does no harm.
type record struct {
	Key        string          `json:"key"`
	Entry      *entry          `json:"entry,omitempty"`
	Inventory  *Inventory      `json:"inventory,omitempty"`
	Definition json.RawMessage `json:"definition,omitempty"`
	Event      *Event          `json:"event,omitempty"`
	// Gone ends a machine: everything of it but its timeline.
	Gone bool `json:"gone,omitempty"`
	// Forgotten ends its timeline, too.
	Forgotten bool `json:"forgotten,omitempty"`
	// Seq is the last event's number, where a snapshot was taken.
	Seq uint64 `json:"seq,omitempty"`

	from State // before Entry; for who follows, not kept
}

// A frame is what is written and synced at once: a line of the CRC-32C of the rest in eight hex digits, a space, and a
// JSON array of records. The next frame is begun when the one before is on the disk. So a broken frame with nothing
// after it was never answered for, and a broken frame with another after it means that the disk lost what it had.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeFrame(records []record) ([]byte, error) {
	body, err := json.Marshal(records)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, 0, len(body)+10)
	frame = fmt.Appendf(frame, "%08x ", crc32.Checksum(body, castagnoli))
	frame = append(frame, body...)
	return append(frame, '\n'), nil
}

func decodeFrame(line []byte) ([]record, error) {
	if len(line) < 10 || line[8] != ' ' || line[len(line)-1] != '\n' {
		return nil, errors.New("it is cut off")
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil {
		return nil, errors.New("it has no checksum")
	}
	body := line[9 : len(line)-1]
	if crc32.Checksum(body, castagnoli) != uint32(sum) {
		return nil, errors.New("its checksum is wrong")
	}
	var records []record
	if err := json.Unmarshal(body, &records); err != nil {
		return nil, fmt.Errorf("it is not understood: %w", err)
	}
	return records, nil
}

// readFrames gives each record to apply. It returns how many bytes hold good frames; less than what r has means that
// the last frame is torn. A broken frame before a good one is an error.
func readFrames(r io.Reader, apply func(record) error) (good int64, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	var broken error
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			records, damage := decodeFrame(line)
			switch {
			case damage != nil && broken == nil:
				broken = fmt.Errorf("line %d: %w", n, damage)
			case damage == nil && broken != nil:
				return good, fmt.Errorf("%w, and whole lines follow it", broken)
			case damage == nil:
				for _, rec := range records {
					if err := apply(rec); err != nil {
						return good, fmt.Errorf("line %d: %w", n, err)
					}
				}
				good += int64(len(line))
			}
		}
		if errors.Is(err, io.EOF) {
			return good, nil
		}
		if err != nil {
			return good, err
		}
	}
}
