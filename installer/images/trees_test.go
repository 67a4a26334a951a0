package images

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/rpmpack"
	"github.com/klauspost/compress/zstd"
)

const coreOSTestVersion = "41.20241109.3.0"

func TestSyncFedoraCoreOS(t *testing.T) {
	g := newGPG(t)
	dir := coreOSMirror(t, g, coreOSTestVersion, "x86_64", "aarch64")
	dest := t.TempDir()
	for _, test := range []struct{ version, arch string }{{Current, "x86_64"}, {coreOSTestVersion, "aarch64"}} {
		spec := Spec{OS: FedoraCoreOS, Channel: "stable", Version: test.version, Arch: test.arch, Source: serve(t, dir, nil).URL, Dest: dest, Keys: []string{g.Key}}
		r, err := Sync(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dest, "fedora-coreos", coreOSTestVersion); r.Dir != want || r.Fetched != 4 {
			t.Errorf("result %+v", r)
		}
		original := filepath.Join(dir, "prod/streams/stable/builds", coreOSTestVersion, test.arch)
		prefix := "fedora-coreos-" + coreOSTestVersion + "-"
		sameTree(t, r.Dir, original, withSignatures([]string{prefix + "live-initramfs." + test.arch + ".img", prefix + "live-rootfs." + test.arch + ".img",
			prefix + "metal." + test.arch + ".raw.xz"})...)
		// By the name of then and by the name of now.
		kernel := read(t, filepath.Join(original, prefix+"live-kernel-"+test.arch))
		for _, name := range []string{"live-kernel-" + test.arch, "live-kernel." + test.arch} {
			if !bytes.Equal(read(t, filepath.Join(r.Dir, prefix+name)), kernel) {
				t.Errorf("%s is not the kernel", name)
			}
		}
		if err := Verify(t.Context(), r.Tree, nil); err != nil {
			t.Error(err)
		}
	}
	trees, err := List(dest)
	if err != nil || len(trees) != 2 {
		t.Errorf("listed %+v, %v", trees, err)
	}
}

func TestFedoraCoreOSRefuses(t *testing.T) {
	g := newGPG(t)
	for _, test := range []struct {
		name     string
		old, new string // in the metadata
		version  string
		want     string
	}{
		{"a digest that is not the file's", "\"sha256\":\"", "\"sha256\":\"00", coreOSTestVersion, "no right digest"},
		{"a way out of the tree", "/prod/streams", "/../../etc", coreOSTestVersion, "outside of its tree"},
		{"plain http", "https://builds", "http://builds", coreOSTestVersion, "no https URL"},
		{"a version that was not released", "", "", "41.20250101.3.0", "its newest is " + coreOSTestVersion},
		{"no metadata", "{", "", coreOSTestVersion, "cannot read"},
		{"no signatures", "\"signature\"", "\"x\"", coreOSTestVersion, "names no signature"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := coreOSMirror(t, g, coreOSTestVersion, "x86_64")
			name := filepath.Join(dir, "prod/streams/stable/builds", coreOSTestVersion, "release.json")
			write(t, name, bytes.ReplaceAll(read(t, name), []byte(test.old), []byte(test.new)))
			if test.old == "" {
				os.Remove(name)
			}
			_, err := Sync(t.Context(), Spec{OS: FedoraCoreOS, Channel: "stable", Version: test.version, Arch: "x86_64", Source: dir, Dest: t.TempDir(), Keys: []string{g.Key}}, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// rhelTree makes an installation tree with two repositories of real packages; createrepo_c makes their metadata.
func rhelTree(t *testing.T, compression string) string {
	t.Helper()
	needTool(t, "createrepo_c", "createrepo-c")
	dir := t.TempDir()
	var treeinfo strings.Builder
	treeinfo.WriteString("[header]\ntype = productmd.treeinfo\nversion = 1.2\n\n[release]\nname = Red Hat Enterprise Linux\nshort = RHEL\nversion = 9.4\n\n" +
		"[tree]\narch = x86_64\nplatforms = x86_64,xen\nvariants = AppStream,BaseOS\n\n[checksums]\n")
	for i, name := range []string{"images/efiboot.img", "images/install.img", "images/pxeboot/initrd.img", "images/pxeboot/vmlinuz"} {
		content := noise(uint64(i), 50_000+i)
		write(t, filepath.Join(dir, name), content)
		fmt.Fprintf(&treeinfo, "%s = sha256:%s\n", name, sum(content).value)
	}
	fmt.Fprintf(&treeinfo, "images/boot.iso = sha256:%s\n", strings.Repeat("0", 64))
	for i, repository := range []string{"AppStream", "BaseOS"} {
		fmt.Fprintf(&treeinfo, "\n[variant-%s]\nid = %[1]s\npackages = %[1]s/Packages\nrepository = %[1]s\n", repository)
		for j := range 3 {
			name := fmt.Sprintf("p%d%d", i, j)
			r, err := rpmpack.NewRPM(rpmpack.RPMMetaData{Name: name, Version: "1", Release: "1", Arch: "x86_64", Summary: name, Description: name})
			if err != nil {
				t.Fatal(err)
			}
			r.AddFile(rpmpack.RPMFile{Name: "/usr/share/" + name, Body: noise(uint64(10*i+j), 9000), Mode: 0o100644, Owner: "root", Group: "root"})
			var b bytes.Buffer
			if err := r.Write(&b); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, repository, "Packages/p", name+"-1-1.x86_64.rpm"), b.Bytes())
		}
		if out, err := exec.Command("createrepo_c", "--quiet", "--no-database", "--general-compress-type="+strings.Replace(compression, "zst", "gz", 1), filepath.Join(dir, repository)).CombinedOutput(); err != nil {
			t.Fatalf("createrepo_c: %v\n%s", err, out)
		}
		if compression == "zst" {
			toZstandard(t, filepath.Join(dir, repository))
		}
	}
	write(t, filepath.Join(dir, ".treeinfo"), []byte(treeinfo.String()))
	return dir
}

// toZstandard packs a repository's list of packages as newer createrepo_c does.
func toZstandard(t *testing.T, repository string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(repository, "repodata/*-primary.xml.gz"))
	if err != nil || len(names) != 1 {
		t.Fatalf("lists of packages: %q, %v", names, err)
	}
	old := read(t, names[0])
	r, err := gzip.NewReader(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed)
	if err == nil {
		_, err = io.Copy(w, r)
	}
	if err = errors.Join(err, w.Close(), os.Remove(names[0])); err != nil {
		t.Fatal(err)
	}
	was, is := sum(old).value, sum(packed.Bytes()).value
	write(t, filepath.Join(repository, "repodata", is+"-primary.xml.zst"), packed.Bytes())
	repomd := filepath.Join(repository, "repodata/repomd.xml")
	text := strings.NewReplacer(was+"-primary.xml.gz", is+"-primary.xml.zst", was, is, fmt.Sprintf("<size>%d</size>", len(old)), fmt.Sprintf("<size>%d</size>", packed.Len())).
		Replace(string(read(t, repomd)))
	write(t, repomd, []byte(text))
}

func TestSyncRHEL(t *testing.T) {
	for _, compression := range []string{"gz", "zst"} {
		t.Run(compression, func(t *testing.T) {
			dir := rhelTree(t, compression)
			spec := Spec{OS: RHEL, Arch: "x86_64", Source: serve(t, dir, nil).URL, Dest: t.TempDir()}
			r, err := Sync(t.Context(), spec, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(spec.Dest, "rhel/9.4/x86_64"); r.Dir != want {
				t.Errorf("published as %s, want %s", r.Dir, want)
			}
			// The whole tree, byte for byte, with what Anaconda looks for at its root.
			if out, err := exec.Command("diff", "-r", "--exclude=.images-x86_64.json", dir, r.Dir).CombinedOutput(); err != nil {
				t.Errorf("the trees differ: %s", out)
			}
			if len(r.Notes) == 0 || !strings.Contains(r.Notes[0], "not signed") {
				t.Errorf("notes %q", r.Notes)
			}
		})
	}
}

func TestRHELRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		break_ func(t *testing.T, dir string, s *Spec)
		want   string
	}{
		{"another version", func(t *testing.T, dir string, s *Spec) { s.Version = "8.10" }, `is version "9.4", not 8.10`},
		{"another architecture", func(t *testing.T, dir string, s *Spec) { s.Arch = "aarch64" }, "not aarch64"},
		{"a changed kernel", func(t *testing.T, dir string, s *Spec) {
			write(t, filepath.Join(dir, "images/pxeboot/vmlinuz"), noise(77, 50_003))
		}, "images/pxeboot/vmlinuz"},
		{"a changed package", func(t *testing.T, dir string, s *Spec) {
			name := filepath.Join(dir, "BaseOS/Packages/p/p10-1-1.x86_64.rpm")
			b := read(t, name)
			b[len(b)-1] ^= 1
			write(t, name, b)
		}, "p10-1-1.x86_64.rpm"},
		{"a changed list of packages", func(t *testing.T, dir string, s *Spec) {
			names, _ := filepath.Glob(filepath.Join(dir, "BaseOS/repodata/*primary.xml*"))
			b := read(t, names[0])
			b[len(b)-1] ^= 1
			write(t, names[0], b)
		}, "primary.xml"},
		{"a missing package", func(t *testing.T, dir string, s *Spec) {
			os.Remove(filepath.Join(dir, "AppStream/Packages/p/p01-1-1.x86_64.rpm"))
		}, "p01-1-1.x86_64.rpm"},
		{"no tree", func(t *testing.T, dir string, s *Spec) { os.Remove(filepath.Join(dir, ".treeinfo")) }, "root of an installation tree"},
		{"a list that nobody unpacks", func(t *testing.T, dir string, s *Spec) {
			name := filepath.Join(dir, "BaseOS/repodata/repomd.xml")
			b := read(t, name)
			gz, _ := filepath.Glob(filepath.Join(dir, "BaseOS/repodata/*-primary.xml.gz"))
			xz := strings.TrimSuffix(gz[0], "gz") + "xz"
			if err := os.Rename(gz[0], xz); err != nil {
				t.Fatal(err)
			}
			write(t, name, bytes.ReplaceAll(b, []byte(filepath.Base(gz[0])), []byte(filepath.Base(xz))))
		}, "neither by gzip nor by zstd"},
		{"no source", func(t *testing.T, dir string, s *Spec) { s.Source = "" }, "no public server"},
		{"a way out of the tree", func(t *testing.T, dir string, s *Spec) {
			name := filepath.Join(dir, ".treeinfo")
			write(t, name, bytes.Replace(read(t, name), []byte("images/efiboot.img"), []byte("../../etc/passwd"), 1))
		}, "outside of its tree"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := rhelTree(t, "gz")
			spec := Spec{OS: RHEL, Arch: "x86_64", Source: dir, Dest: t.TempDir()}
			test.break_(t, dir, &spec)
			_, err := Sync(t.Context(), spec, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if _, err := os.Stat(filepath.Join(spec.Dest, "rhel")); err == nil {
				t.Error("something was published")
			}
		})
	}
}

func TestListAndPrune(t *testing.T) {
	g := newGPG(t)
	all := []string{"3975.2.2", "3975.2.10", "4081.2.0", "3815.2.5"}
	spec := flatcarSpec(t, g, flatcarMirror(t, g, all...))
	for _, v := range all {
		spec.Version = v
		if _, err := Sync(t.Context(), spec, nil); err != nil {
			t.Fatal(err)
		}
	}
	stranger := filepath.Join(spec.Dest, "flatcar/9999.0.0/x")
	write(t, stranger, nil)
	list := func() (versions []string) {
		t.Helper()
		trees, err := List(spec.Dest)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range trees {
			versions = append(versions, x.Version)
		}
		return versions
	}
	if got, want := list(), []string{"4081.2.0", "3975.2.10", "3975.2.2", "3815.2.5"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	o := PruneOptions{Keep: 2, InUse: []string{"3815.2.5"}, DryRun: true}
	for range 2 {
		removed, err := Prune(spec.Dest, o)
		if err != nil || len(removed) != 1 || removed[0].Version != "3975.2.2" {
			t.Errorf("dry run %v: removed %+v, %v", o.DryRun, removed, err)
		}
		o.DryRun = false
	}
	if got, want := list(), []string{"4081.2.0", "3975.2.10", "3815.2.5"}; !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
	if _, err := os.Stat(stranger); err != nil {
		t.Error("a tree that is not ours was pruned")
	}
	if entries, _ := os.ReadDir(filepath.Join(spec.Dest, stagingDir)); len(entries) != 1 { // the lock
		t.Errorf("left in the staging directory: %v", entries)
	}
	if _, err := Prune(spec.Dest, PruneOptions{}); err == nil {
		t.Error("everything would have been pruned")
	}
	nowhere := filepath.Join(spec.Dest, "nowhere")
	if _, err := Prune(nowhere, PruneOptions{Keep: 1}); err == nil {
		t.Error("a directory that is not there was pruned")
	}
	if _, err := os.Stat(nowhere); err == nil {
		t.Error("pruning made a directory")
	}
}

func TestFlatcarOfTwoArchitectures(t *testing.T) {
	g := newGPG(t)
	dir := flatcarMirror(t, g)
	if err := os.CopyFS(filepath.Join(dir, "arm64-usr"), os.DirFS(filepath.Join(dir, "amd64-usr"))); err != nil {
		t.Fatal(err)
	}
	spec := flatcarSpec(t, g, dir)
	if _, err := Sync(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	spec.Arch = "aarch64"
	if _, err := Sync(t.Context(), spec, nil); err == nil || !strings.Contains(err.Error(), "one architecture only") {
		t.Errorf("error %v", err)
	}
}

func FuzzReadINI(f *testing.F) {
	f.Add("[checksums]\nimages/a = sha256:00\n[variant-x]\nrepository=x\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range readINI(text).repositories() {
			if r == "" {
				t.Error("an empty repository")
			}
		}
	})
}
