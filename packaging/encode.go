package packaging

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/rpmpack"
)

// Tags of an RPM's header and signature header (rpm's include/rpm/rpmtag.h), where rpmpack writes
// none or the wrong value.
const (
	tagFileFlags       = 1037
	tagChangelogTime   = 1080
	tagChangelogName   = 1081
	tagChangelogText   = 1082
	tagEncoding        = 5062
	sigTagMD5          = 1004
	sigTagSHA1         = 269
	sigTagPayloadSize  = 1007
	leadSize           = 96
	headerIntroduction = 16
)

var _ Encoder = Encode

// Encode makes an RPM with rpmpack, and mends what rpmpack leaves wrong.
func Encode(p *Package) ([]byte, error) {
	if !p.LegacyDigests {
		return encode(p, nil)
	}
	// The digests are over the header, which is finished only when the package is: it is built twice.
	first, err := encode(p, nil)
	if err != nil {
		return nil, err
	}
	header, err := headerOf(first)
	if err != nil {
		return nil, fmt.Errorf("cannot read back %s: %w", p.FileName(), err)
	}
	sum := md5.Sum(first[header.start:])
	return encode(p, map[int]rpmpack.IndexEntry{
		sigTagMD5:  rpmpack.EntryBytes(sum[:]),
		sigTagSHA1: rpmpack.EntryString(fmt.Sprintf("%x", sha1.Sum(first[header.start:header.end]))),
	})
}

func encode(p *Package, signatures map[int]rpmpack.IndexEntry) ([]byte, error) {
	r, err := rpmpack.NewRPM(rpmpack.RPMMetaData{
		Name: p.Name, Version: p.Version, Release: p.Release, Arch: p.Arch,
		Epoch:   rpmpack.NoEpoch, // the zero value would write epoch 0
		Summary: p.Summary, Description: p.Description, Licence: p.License, URL: p.URL,
		Group: "System Environment/Daemons", Vendor: "Tectonic Worker", BuildHost: "localhost", BuildTime: p.Time,
		Compressor: cmp.Or(p.Compressor, "gzip"),
		Provides:   relations(p.Provides), Requires: relations(p.Requires), Conflicts: relations(p.Conflicts), Recommends: relations(p.Recommends),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", p.FileName(), err)
	}
	r.AddPrein(p.Pre)
	r.AddPostin(p.Post)
	r.AddPreun(p.Preun)
	r.AddPostun(p.Postun)

	var flags []uint32
	archive := int64(0)
	for _, f := range p.Files {
		mode := f.Mode
		if f.Kind == Dir {
			mode |= 0o40000
		}
		ghost := f.Kind == Ghost || f.Kind == GhostConfig
		entry := rpmpack.RPMFile{Name: f.Path, Body: f.Body, Mode: mode, Owner: cmp.Or(f.Owner, "root"), Group: cmp.Or(f.Owner, "root"),
			MTime: uint32(p.Time.Unix())}
		if ghost {
			// rpmpack keeps a file out of the payload only where Ghost is its one flag; with more it
			// would install an empty kubeconfig. The real flags overwrite the tag below.
			entry.Type = rpmpack.GhostFile
		} else {
			archive += entrySize(f.Path, len(f.Body))
		}
		r.AddFile(entry)
		flags = append(flags, uint32(fileFlags(f.Kind)))
	}
	if len(flags) > 0 {
		// In the order of the files, which are sorted as rpmpack sorts them.
		r.AddCustomTag(tagFileFlags, rpmpack.EntryUint32(flags))
	}
	r.AddCustomTag(tagEncoding, rpmpack.EntryString("utf-8"))
	r.AddCustomTag(tagChangelogTime, rpmpack.EntryInt32([]int32{int32(p.Time.Unix())}))
	r.AddCustomTag(tagChangelogName, rpmpack.EntryStringSlice([]string{
		fmt.Sprintf("Tectonic Worker <noreply@tectonic-worker.invalid> - %s-%s", p.Version, p.Release)}))
	r.AddCustomTag(tagChangelogText, rpmpack.EntryStringSlice([]string{p.Changelog}))
	// rpmpack gives the sum of the files; rpm2cpio and some registries want the archive's own size.
	archive += entrySize("TRAILER!!!", 0)
	r.AddCustomSig(sigTagPayloadSize, rpmpack.EntryInt32([]int32{int32(archive)}))
	for tag, entry := range signatures {
		r.AddCustomSig(tag, entry)
	}

	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		return nil, fmt.Errorf("cannot make %s: %w", p.FileName(), err)
	}
	return b.Bytes(), nil
}

// fileFlags are rpm's flags (include/rpm/rpmfiles.h) for a kind.
func fileFlags(k Kind) rpmpack.FileType {
	switch k {
	case Config:
		return rpmpack.ConfigFile | rpmpack.NoReplaceFile
	case Doc:
		return rpmpack.DocFile
	case License:
		return rpmpack.LicenceFile
	case Ghost:
		return rpmpack.GhostFile
	case GhostConfig:
		return rpmpack.GhostFile | rpmpack.ConfigFile | rpmpack.MissingOkFile
	}
	return rpmpack.GenericFile
}

// entrySize is the size of one file in a cpio archive of the "newc" form (cpio(5)): a header of 110
// bytes, the name with its NUL, and the content, the latter two padded to 4 bytes.
func entrySize(name string, body int) int64 {
	pad := func(n int64) int64 { return (n + 3) &^ 3 }
	return pad(110+int64(len(name))+1) + pad(int64(body))
}

func relations(in []Relation) rpmpack.Relations {
	var out rpmpack.Relations
	for _, r := range in {
		out = append(out, &rpmpack.Relation{Name: r.Name, Version: r.Version, Sense: as(rpmpack.SenseAny, senseBits(r))})
	}
	return out
}

// senseBits are rpm's flags for a relation (rpmsenseFlags in include/rpm/rpmds.h), of which rpmpack
// names but a few.
func senseBits(r Relation) uint32 {
	bits := map[string]uint32{"": 0, "=": rpmpack.SenseEqual, ">=": rpmpack.SenseGreater | rpmpack.SenseEqual,
		"<=": rpmpack.SenseLess | rpmpack.SenseEqual}[r.Op]
	for when, bit := range map[When]uint32{Interpreter: 1 << 8, Post: 1 << 10, Preun: 1 << 11, Postun: 1 << 12, Pre: 1 << 9, RPMLib: 1 << 24} {
		if r.When&when != 0 {
			bits |= bit
		}
	}
	return bits
}

// as gives v the type of like, which rpmpack does not export.
func as[T ~uint32](_ T, v uint32) T { return T(v) }

// extent is where a header lies in an RPM.
type extent struct{ start, end int }

// headerOf finds the main header: after the lead and the signature header, which is padded to 8 bytes.
func headerOf(data []byte) (extent, error) {
	end := func(start int) (int, error) {
		if len(data) < start+headerIntroduction || !bytes.HasPrefix(data[start:], []byte{0x8e, 0xad, 0xe8, 0x01}) {
			return 0, errors.New("no header where one was written")
		}
		entries := int(binary.BigEndian.Uint32(data[start+8:]))
		size := int(binary.BigEndian.Uint32(data[start+12:]))
		return start + headerIntroduction + 16*entries + size, nil
	}
	start, err := end(leadSize)
	if err != nil {
		return extent{}, err
	}
	start = (start + 7) &^ 7
	stop, err := end(start)
	if err == nil && stop > len(data) {
		err = errors.New("the header is longer than the file")
	}
	return extent{start, stop}, err
}
