package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func flatcarSpec(t *testing.T, g *gnupg, source string) Spec {
	s := Spec{OS: Flatcar, Channel: "stable", Version: flatcarTestVersion, Arch: "x86_64", Source: source, Dest: t.TempDir()}
	if g != nil {
		s.Keys = []string{g.Key}
	}
	return s
}

// sameTree compares a published tree with where it came from.
func sameTree(t *testing.T, published, source string, names ...string) {
	t.Helper()
	for _, name := range names {
		if !bytes.Equal(read(t, filepath.Join(published, name)), read(t, filepath.Join(source, name))) {
			t.Errorf("%s is not what the source has", name)
		}
	}
}

func withSignatures(names []string) []string {
	var all []string
	for _, n := range names {
		all = append(all, n, n+".sig")
	}
	return all
}

func TestSyncFlatcar(t *testing.T) {
	g := newRSA(t)
	dir := flatcarMirror(t, g)
	web := serve(t, dir, nil)
	for _, source := range []string{dir, "file://" + dir, web.URL} {
		t.Run(source[:4], func(t *testing.T) {
			spec := flatcarSpec(t, g, source)
			spec.Version = Current
			spec.Dest = filepath.Join(spec.Dest, "new/assets")
			var last Step
			r, err := Sync(t.Context(), spec, func(s Step) { last = s })
			if err != nil {
				t.Fatal(err)
			}
			final := filepath.Join(spec.Dest, "flatcar", flatcarTestVersion)
			if r.Dir != final || r.Version != flatcarTestVersion || r.Fetched != 3 || len(r.SignedBy) != 1 {
				t.Errorf("result %+v", r)
			}
			sameTree(t, final, filepath.Join(dir, "amd64-usr", flatcarTestVersion), withSignatures(flatcarFiles)...)
			if last.Done != last.Total || last.Done < 900_000 {
				t.Errorf("the last step is %+v", last)
			}
			for _, name := range []string{filepath.Dir(spec.Dest), spec.Dest, filepath.Dir(final), final, filepath.Join(final, flatcarFiles[0])} {
				if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o444 != 0o444 {
					t.Errorf("%s has mode %v, not readable by all (%v)", name, info.Mode(), err)
				}
			}
			if err := Verify(t.Context(), r.Tree, nil); err != nil {
				t.Error(err)
			}
			// Again: nothing to fetch.
			if r, err = Sync(t.Context(), spec, nil); err != nil || r.Fetched != 0 {
				t.Errorf("the second run fetched %d files: %v", r.Fetched, err)
			}
		})
	}
}

// What we publish is itself a source, as is matchbox's own assets directory.
func TestSyncFromPublishedTree(t *testing.T) {
	g := newGPG(t)
	first := flatcarSpec(t, g, flatcarMirror(t, g))
	if _, err := Sync(t.Context(), first, nil); err != nil {
		t.Fatal(err)
	}
	second := flatcarSpec(t, g, filepath.Join(first.Dest, "flatcar"))
	if _, err := Sync(t.Context(), second, nil); err != nil {
		t.Fatal(err)
	}
	sameTree(t, filepath.Join(second.Dest, "flatcar", flatcarTestVersion), filepath.Join(first.Dest, "flatcar", flatcarTestVersion), flatcarFiles...)
}

// nothing says that no tree was published.
func nothing(t *testing.T, dest string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dest, "flatcar"))
	if err == nil && len(entries) > 0 {
		t.Errorf("something was published: %v", entries)
	}
}

func TestSyncRefusesWhatIsNotRight(t *testing.T) {
	g, other := newGPG(t), newGPG(t)
	image := filepath.Join("amd64-usr", flatcarTestVersion, flatcarFiles[1])
	for _, test := range []struct {
		name   string
		break_ func(t *testing.T, dir string, s *Spec)
		want   string
	}{
		{"a changed byte", func(t *testing.T, dir string, s *Spec) {
			b := read(t, filepath.Join(dir, image))
			b[1000] ^= 1
			write(t, filepath.Join(dir, image), b)
			os.Remove(filepath.Join(dir, image+".DIGESTS"))
		}, "its signature is not right"},
		{"a changed byte, by its digest", func(t *testing.T, dir string, s *Spec) {
			b := read(t, filepath.Join(dir, image))
			b[1000] ^= 1
			write(t, filepath.Join(dir, image), b)
		}, "its sha512 is"},
		{"another's signature", func(t *testing.T, dir string, s *Spec) { other.sign(filepath.Join(dir, image)) }, "which is not among yours"},
		{"another file's signature", func(t *testing.T, dir string, s *Spec) {
			write(t, filepath.Join(dir, image+".sig"), read(t, filepath.Join(dir, "amd64-usr", flatcarTestVersion, flatcarFiles[0]+".sig")))
		}, "its signature is not right"},
		{"no signature", func(t *testing.T, dir string, s *Spec) { os.Remove(filepath.Join(dir, image+".sig")) }, flatcarFiles[1] + ".sig"},
		{"an empty signature", func(t *testing.T, dir string, s *Spec) { write(t, filepath.Join(dir, image+".sig"), nil) }, "which is not among yours"},
		{"no image", func(t *testing.T, dir string, s *Spec) { os.Remove(filepath.Join(dir, image)) }, "has no " + filepath.ToSlash(image)},
		{"no such version", func(t *testing.T, dir string, s *Spec) { s.Version = "9.9.9" }, "has no version 9.9.9"},
		{"the key is no key", func(t *testing.T, dir string, s *Spec) { s.Keys = []string{filepath.Join(dir, image)} }, "holds no OpenPGP public key"},
		{"no key", func(t *testing.T, dir string, s *Spec) { s.Keys = nil }, "--key"},
		{"neither signature nor digest", func(t *testing.T, dir string, s *Spec) {
			s.Keys, s.SkipSignatures = nil, true
			os.Remove(filepath.Join(dir, image+".DIGESTS"))
		}, "nothing would tell"},
		{"a version out of the tree", func(t *testing.T, dir string, s *Spec) { s.Version = "3../../x" }, "is not a version"},
		{"an unsigned newest version", func(t *testing.T, dir string, s *Spec) {
			s.Version = Current
			write(t, filepath.Join(dir, "amd64-usr/current/version.txt"), []byte("FLATCAR_VERSION=1.0.0\n"))
		}, "version.txt is not right"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := flatcarMirror(t, g)
			spec := flatcarSpec(t, g, dir)
			test.break_(t, dir, &spec)
			_, err := Sync(t.Context(), spec, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			nothing(t, spec.Dest)
		})
	}
}

func TestSyncWithoutSignatures(t *testing.T) {
	dir := flatcarMirror(t, nil)
	spec := flatcarSpec(t, nil, dir)
	spec.SkipSignatures = true
	r, err := Sync(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.SignedBy) != 0 {
		t.Errorf("signed by %v", r.SignedBy)
	}
}

// cut sends half of a file's bytes, then drops the connection.
func cut(t *testing.T, w http.ResponseWriter, content []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	w.Write(content[:len(content)/2])
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestSyncGoesOnAfterFaults(t *testing.T) {
	g := newGPG(t)
	image := "/amd64-usr/" + flatcarTestVersion + "/" + flatcarFiles[2]
	for _, test := range []struct {
		name  string
		fault func(t *testing.T, dir string) func(w http.ResponseWriter, r *http.Request, n int) bool
		check func(t *testing.T, m *mirror, size int64)
	}{
		{"a connection that breaks", func(t *testing.T, dir string) func(http.ResponseWriter, *http.Request, int) bool {
			broken := false
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path == image && r.Method == "GET" && !broken {
					broken = true
					cut(t, w, read(t, filepath.Join(dir, image)))
				}
				return false
			}
		}, func(t *testing.T, m *mirror, size int64) {
			if !slices.Contains(m.seen(), fmt.Sprintf("GET %s bytes=%d-", image, size/2)) {
				t.Errorf("it did not go on at the half: %q", m.seen())
			}
			if m.bytes(image) != size {
				t.Errorf("%d bytes were sent of %d", m.bytes(image), size)
			}
		}},
		{"a server that knows no ranges", func(t *testing.T, dir string) func(http.ResponseWriter, *http.Request, int) bool {
			broken := false
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path != image || r.Method != "GET" {
					return false
				}
				content := read(t, filepath.Join(dir, image))
				if !broken {
					broken = true
					cut(t, w, content)
				}
				w.Write(content)
				return true
			}
		}, nil},
		{"a file that changes meanwhile", func(t *testing.T, dir string) func(http.ResponseWriter, *http.Request, int) bool {
			broken := false
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path == image && r.Method == "GET" && !broken {
					broken = true
					w.Header().Set("ETag", `"an older one"`)
					cut(t, w, noise(99, len(read(t, filepath.Join(dir, image)))))
				}
				return false
			}
		}, nil},
		{"503 and 429", func(t *testing.T, dir string) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.Method == "GET" && n%3 != 0 {
					w.WriteHeader([]int{503, 429}[n%2])
					return true
				}
				return false
			}
		}, nil},
		{"a server that falls silent", func(t *testing.T, dir string) func(http.ResponseWriter, *http.Request, int) bool {
			silent := false
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.URL.Path != image || r.Method != "GET" || silent {
					return false
				}
				silent = true
				content := read(t, filepath.Join(dir, image))
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				w.Write(content[:1000])
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return true
			}
		}, nil},
		{"no HEAD, no length", func(t *testing.T, dir string) func(http.ResponseWriter, *http.Request, int) bool {
			return func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.Method == "HEAD" {
					w.WriteHeader(http.StatusMethodNotAllowed)
					return true
				}
				content, err := os.ReadFile(filepath.Join(dir, r.URL.Path))
				if err != nil {
					return false
				}
				w.Write(content[:1])
				http.NewResponseController(w).Flush() // chunked from here on
				w.Write(content[1:])
				return true
			}
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := stall
			stall = time.Second
			defer func() { stall = old }()
			dir := flatcarMirror(t, g)
			m := serve(t, dir, test.fault(t, dir))
			spec := flatcarSpec(t, g, m.URL)
			if _, err := Sync(t.Context(), spec, nil); err != nil {
				t.Fatal(err)
			}
			sameTree(t, filepath.Join(spec.Dest, "flatcar", flatcarTestVersion), filepath.Join(dir, "amd64-usr", flatcarTestVersion), withSignatures(flatcarFiles)...)
			if test.check != nil {
				test.check(t, m, int64(len(read(t, filepath.Join(dir, image)))))
			}
		})
	}
}

func TestSyncGivesUp(t *testing.T) {
	g := newGPG(t)
	for _, test := range []struct {
		name   string
		status int
		want   string
	}{
		{"forbidden at once", 403, "403 Forbidden"},
		{"always busy", 503, "503 Service Unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := serve(t, flatcarMirror(t, g), func(w http.ResponseWriter, r *http.Request, n int) bool {
				if r.Method == "GET" {
					w.WriteHeader(test.status)
				}
				return r.Method == "GET"
			})
			spec := flatcarSpec(t, g, m.URL)
			_, err := Sync(t.Context(), spec, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			nothing(t, spec.Dest)
		})
	}
}

// syncChild is this test's program, run again to be killed: it synchronises and says so.
func syncChild(spec string) int {
	var s Spec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if _, err := Sync(context.Background(), s, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestSyncGoesOnAfterKill(t *testing.T) {
	g := newGPG(t)
	dir := flatcarMirror(t, g)
	image := "/amd64-usr/" + flatcarTestVersion + "/" + flatcarFiles[2]
	size := int64(len(read(t, filepath.Join(dir, image))))
	half := make(chan struct{}, 1)
	slow := true
	m := serve(t, dir, func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !slow || r.URL.Path != image || r.Method != "GET" {
			return false
		}
		content := read(t, filepath.Join(dir, image))
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:len(content)/2])
		http.NewResponseController(w).Flush()
		half <- struct{}{}
		<-r.Context().Done()
		return true
	})
	spec := flatcarSpec(t, g, m.URL)
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "IMAGES_TEST_SYNC="+string(text))
	child.SysProcAttr = &syscall.SysProcAttr{}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	<-half
	part := filepath.Join(spec.Dest, stagingDir, "flatcar-"+flatcarTestVersion+"-x86_64", flatcarFiles[2]+partSuffix)
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if info, err := os.Stat(part); err == nil && info.Size() == size/2 {
			break
		}
		if time.Now().After(deadline) {
			child.Process.Kill()
			t.Fatal("the child did not write what it got")
		}
	}
	// Another run is refused while this one works.
	if _, err := Sync(t.Context(), spec, nil); err == nil || !strings.Contains(err.Error(), "at work") {
		t.Errorf("a second synchronisation at the same time: %v", err)
	}
	child.Process.Kill()
	child.Wait()
	nothing(t, spec.Dest)
	slow = false
	if _, err := Sync(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(m.seen(), fmt.Sprintf("GET %s bytes=%d-", image, size/2)) {
		t.Errorf("it did not go on where it was killed: %q", m.seen())
	}
	sameTree(t, filepath.Join(spec.Dest, "flatcar", flatcarTestVersion), filepath.Join(dir, "amd64-usr", flatcarTestVersion), flatcarFiles...)
}

// What a crash left may be garbage of the right length: it is noticed and fetched anew.
func TestDamagedPart(t *testing.T) {
	g := newGPG(t)
	dir := flatcarMirror(t, g)
	m := serve(t, dir, nil)
	spec := flatcarSpec(t, g, m.URL)
	name := filepath.Join("amd64-usr", flatcarTestVersion, flatcarFiles[0])
	part := filepath.Join(spec.Dest, stagingDir, "flatcar-"+flatcarTestVersion+"-x86_64", flatcarFiles[0]+partSuffix)
	write(t, part, make([]byte, 100_000))
	write(t, part+".version", []byte(`"`+sum(read(t, filepath.Join(dir, name))).value[:16]+`"`))
	if _, err := Sync(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(m.seen(), "GET /"+filepath.ToSlash(name)+" bytes=100000-") {
		t.Errorf("the part was not used: %q", m.seen())
	}
	sameTree(t, filepath.Join(spec.Dest, "flatcar", flatcarTestVersion), filepath.Join(dir, "amd64-usr", flatcarTestVersion), flatcarFiles...)
}

func TestSyncRepairs(t *testing.T) {
	g := newGPG(t)
	dir := flatcarMirror(t, g)
	spec := flatcarSpec(t, g, dir)
	r, err := Sync(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(r.Dir, flatcarFiles[1])
	b := read(t, damaged)
	b[7] ^= 0x80
	write(t, damaged, b)
	os.Remove(filepath.Join(r.Dir, flatcarFiles[2]))
	err = Verify(t.Context(), r.Tree, nil)
	for _, name := range flatcarFiles[1:] {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Verify does not name %s: %v", name, err)
		}
	}
	r, err = Sync(t.Context(), spec, nil)
	if err != nil || r.Fetched != 2 || len(r.Notes) != 1 {
		t.Errorf("repair: %+v, %v", r, err)
	}
	sameTree(t, r.Dir, filepath.Join(dir, "amd64-usr", flatcarTestVersion), flatcarFiles...)
}

func TestSyncLeavesStrangersAlone(t *testing.T) {
	g := newGPG(t)
	spec := flatcarSpec(t, g, flatcarMirror(t, g))
	own := filepath.Join(spec.Dest, "flatcar", flatcarTestVersion, "mine")
	write(t, own, []byte("mine"))
	if _, err := Sync(t.Context(), spec, nil); err == nil || !strings.Contains(err.Error(), "was not made by") {
		t.Errorf("error %v", err)
	}
	if string(read(t, own)) != "mine" {
		t.Error("the operator's file was changed")
	}
}

func TestDiskSpaceIsCheckedFirst(t *testing.T) {
	g := newGPG(t)
	m := serve(t, flatcarMirror(t, g), nil)
	spec := flatcarSpec(t, g, m.URL)
	s, err := newSyncer(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.free = func(string) (int64, error) { return slack + 900_000, nil }
	plan, err := s.flatcar(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.sync(t.Context(), plan)
	if err == nil || !strings.Contains(err.Error(), "3.0 kB more are needed") {
		t.Errorf("error %v", err)
	}
	for _, r := range m.seen() {
		if strings.HasPrefix(r, "GET ") && slices.Contains(flatcarFiles, filepath.Base(r)) {
			t.Errorf("%s was fetched though the disk is too small", r)
		}
	}
}

func TestSyncEndsWithItsContext(t *testing.T) {
	g := newGPG(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the operator pressed Ctrl-C")
	m := serve(t, flatcarMirror(t, g), func(w http.ResponseWriter, r *http.Request, n int) bool {
		if strings.HasSuffix(r.URL.Path, ".bz2") && r.Method == "GET" {
			cancel(why)
			<-r.Context().Done()
			return true
		}
		return false
	})
	if _, err := Sync(ctx, flatcarSpec(t, g, m.URL), nil); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

func TestRedirectToPlainHTTPIsRefused(t *testing.T) {
	check := defaultClient().CheckRedirect
	from, _ := http.NewRequest("GET", "https://mirror.example.com/x", nil)
	to, _ := http.NewRequest("GET", "http://mirror.example.com/x", nil)
	if err := check(to, []*http.Request{from}); err == nil {
		t.Error("a redirect from https to http was followed")
	}
	if err := check(from, []*http.Request{to}); err != nil {
		t.Error(err)
	}
}

func TestBar(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	b := NewBar(&out, true, 80)
	b.now = func() time.Time { return now }
	for _, done := range []int64{0, 50e6, 100e6} {
		b.Step(Step{"fetch", "a/flatcar_production_image.bin.bz2", done, 100e6})
		now = now.Add(2 * time.Second)
	}
	b.End()
	for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\r") {
		if n := len(strings.TrimSuffix(line, "\x1b[K")); n >= 80 {
			t.Errorf("%d columns of 80: %q", n, line)
		}
	}
	if !strings.Contains(out.String(), "fetch [==========          ]  50% of 100.0 MB, 25.0 MB/s, 2s") {
		t.Errorf("drawn:\n%q", out.String())
	}
	out.Reset()
	b = NewBar(&out, false, 80)
	for done := range int64(101) {
		b.Step(Step{"fetch", "x", done, 100})
	}
	if n := strings.Count(out.String(), "\n"); n != 11 {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}
