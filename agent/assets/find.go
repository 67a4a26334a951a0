package assets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"unicode"
)

// Bounds against archives made to exhaust whoever reads them.
const (
	maxArchive   = 1 << 30  // the file itself, in bytes
	maxDirectory = 16 << 20 // a ZIP archive's directory, in bytes; an entry has at least 46
	maxUnpacked  = 1 << 30  // what a TAR archive unpacks to, in bytes
	maxEntries   = 50_000
)

const freshDownload = "fetch the assets from the installer again"

// find reads the wanted files from wherever they are.
func find(name string) (found, error) {
	// O_NONBLOCK: opening a FIFO must not wait for a writer.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the assets: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot open the assets: %w", err)
	}
	var f found
	switch {
	case info.IsDir():
		f, err = inDirectory(name)
	case !info.Mode().IsRegular():
		err = errors.New("it is neither a directory nor a file")
	case info.Size() > maxArchive:
		err = fmt.Errorf("it has %d bytes, more than the assets of a cluster ever have (%d)", info.Size(), maxArchive)
	default:
		f, err = inArchive(file, info.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the assets %q: %w", name, err)
	}
	return f, nil
}

func inDirectory(name string) (found, error) {
	root, err := os.OpenRoot(name) // keeps every symbolic link inside
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f := found{}
	look := func(file string) error {
		data, err := readIn(root, file)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", printable(file), err)
		}
		f[file] = data
		return nil
	}
	for _, w := range wanted {
		if err := look(w); err != nil {
			return nil, err
		}
	}
	if len(f) > 0 {
		return f, nil
	}
	top, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, entry := range top {
		if !entry.IsDir() {
			continue
		}
		for _, w := range wanted {
			if err := look(path.Join(entry.Name(), w)); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

func readIn(root *os.Root, name string) ([]byte, error) {
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if strings.Contains(err.Error(), "escapes") {
			return nil, errors.New("it is a symbolic link that leads out of the directory; give the real directory")
		}
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	return bounded(file)
}

// bounded reads a whole file, or fails where it is too large. Sizes that an archive states are not believed.
func bounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes, which no such file is", maxFile)
	}
	return data, nil
}

type readerAt interface {
	io.Reader
	io.ReaderAt
}

func inArchive(file readerAt, size int64) (found, error) {
	head := make([]byte, 512)
	n, err := file.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return inZIP(file, size)
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		unzipped, err := gzip.NewReader(file)
		if err != nil {
			return nil, fmt.Errorf("its gzip header is damaged; %s", freshDownload)
		}
		return inTAR(unzipped)
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		return inTAR(file)
	}
	return nil, errors.New("it is neither a directory nor a ZIP or TAR.GZ archive; a kubeconfig alone is given with --kubeconfig")
}

// collect takes one entry of an archive, if it is wanted. regular tells a plain file from a link, a directory or a device.
func (f found) collect(name string, regular bool, open func() (io.Reader, error)) error {
	if unsafeName(name) {
		return fmt.Errorf("it holds the name %q, which leads out of it: no installer writes that, and it is not used", printable(name))
	}
	name = path.Clean(name)
	if !isWanted(name) {
		return nil
	}
	if !regular {
		return fmt.Errorf("%s in it is not a plain file; %s", printable(name), freshDownload)
	}
	if _, twice := f[name]; twice {
		return fmt.Errorf("it holds %s twice: which one counts would be a guess; %s", printable(name), freshDownload)
	}
	r, err := open()
	if err != nil {
		return fmt.Errorf("%s in it cannot be read: %w", printable(name), err)
	}
	data, err := bounded(r)
	if err != nil {
		return fmt.Errorf("%s in it cannot be read: %w", printable(name), err)
	}
	f[name] = data
	return nil
}

// unsafeName tells names that an extracting program would have to fear.
func unsafeName(name string) bool {
	if strings.HasPrefix(name, "/") || len(name) > 1 && name[1] == ':' || strings.IndexByte(name, 0) >= 0 {
		return true
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

func inZIP(file io.ReaderAt, size int64) (found, error) {
	limited := &limitedAt{file, maxDirectory}
	archive, err := zip.NewReader(limited, size)
	switch {
	case limited.left < 0:
		return nil, errors.New("its directory is larger than that of any installer's archive")
	case err != nil:
		return nil, fmt.Errorf("it is a damaged ZIP archive, perhaps an incomplete copy (%w); %s", err, freshDownload)
	}
	limited.left = maxUnpacked // from here on each file has its own bound
	f := found{}
	for _, entry := range archive.File {
		name := strings.ReplaceAll(entry.Name, `\`, "/") // written so by some Windows programs
		var body io.ReadCloser
		err := f.collect(name, entry.Mode().IsRegular(), func() (_ io.Reader, err error) {
			body, err = entry.Open()
			return body, err
		})
		if body != nil {
			body.Close()
		}
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// limitedAt fails after so many bytes were read.
type limitedAt struct {
	io.ReaderAt
	left int64
}

func (l *limitedAt) ReadAt(p []byte, off int64) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		return 0, errors.New("too much to read")
	}
	return l.ReaderAt.ReadAt(p, off)
}

func inTAR(r io.Reader) (found, error) {
	limited := &io.LimitedReader{R: r, N: maxUnpacked}
	archive := tar.NewReader(limited)
	f := found{}
	for n := 0; ; n++ {
		entry, err := archive.Next()
		switch {
		case limited.N <= 0 || n > maxEntries:
			return nil, errors.New("it unpacks to more than the assets of a cluster ever have")
		case err == io.EOF:
			return f, nil
		case err != nil:
			return nil, fmt.Errorf("it is a damaged TAR archive, perhaps an incomplete copy (%w); %s", err, freshDownload)
		}
		err = f.collect(entry.Name, entry.Typeflag == tar.TypeReg, func() (io.Reader, error) { return archive, nil })
		if err != nil {
			return nil, err
		}
	}
}

// printable makes a name from an archive fit for a message.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 120 {
		return string(r[:120]) + "…"
	}
	return s
}
