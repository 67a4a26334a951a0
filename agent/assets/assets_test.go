package assets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	kubeconfig = "apiVersion: v1\nkind: Config\n"
	// guiVars is JSON under the name of an HCL file, as the installer's GUI writes it.
	guiVars = `{
  "tectonic_admin_password": "s3cret",
  "tectonic_cluster_name": "lab",
  "tectonic_kube_apiserver_service_ip": "10.3.0.1",
  "tectonic_kube_dns_service_ip": "10.3.0.10",
  "tectonic_metal_worker_names": ["node1", "node2"],
  "tectonic_service_cidr": "10.3.0.0/16"
}`
	handVars = `// by hand
tectonic_admin_password = "s3cret"
tectonic_metal_controller_names = ["c1"]
tectonic_metal_matchbox_ca = <<EOD
-----BEGIN CERTIFICATE-----
MIIB
-----END CERTIFICATE-----
EOD
tectonic_service_cidr = "10.7.0.0/16" # not the default
tectonic_extra = { "a" = "b" }
`
)

// A file of the assets to be made.
type file struct {
	name, content string
	kind          byte // a tar type, zero for a plain file
	link          string
}

func directory(t *testing.T, files ...file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch f.kind {
		case 0:
			err = os.WriteFile(path, []byte(f.content), 0o600)
		case tar.TypeSymlink:
			err = os.Symlink(f.link, path)
		case tar.TypeFifo:
			err = syscall.Mkfifo(path, 0o600)
		case tar.TypeDir:
			err = os.Mkdir(path, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func zipped(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(0o600)
		content := f.content
		if f.kind == tar.TypeSymlink {
			h.SetMode(os.ModeSymlink | 0o777)
			content = f.link
		}
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(out, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func tarred(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(f.content)), Linkname: f.link}
		if f.kind != 0 {
			h.Typeflag = f.kind
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// shapes are all the ways in which the same files can be handed over.
var shapes = map[string]func(t *testing.T, files ...file) string{
	"directory": directory,
	"zip":       func(t *testing.T, files ...file) string { return saved(t, zipped(t, files...)) },
	"tar.gz":    func(t *testing.T, files ...file) string { return saved(t, gzipped(t, tarred(t, files...))) },
	"tar":       func(t *testing.T, files ...file) string { return saved(t, tarred(t, files...)) },
}

// saved writes an archive under a name that tells nothing.
func saved(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assets")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	tests := []struct {
		name  string
		files []file
		ip    string
		how   string
		from  string
	}{
		{"the GUI's", []file{{name: KubeconfigPath, content: kubeconfig}, {name: TFVarsPath, content: guiVars}}, "10.3.0.10", "tectonic_kube_dns_service_ip in terraform.tfvars", KubeconfigPath},
		{"by hand", []file{{name: KubeconfigPath, content: kubeconfig}, {name: TFVarsPath, content: handVars}}, "10.7.0.10", "the tenth address of tectonic_service_cidr (10.7.0.0/16) in terraform.tfvars", KubeconfigPath},
		{"one folder down", []file{{name: "lab_2018/" + KubeconfigPath, content: kubeconfig}, {name: "lab_2018/" + TFVarsPath, content: guiVars}, {name: "README", content: "x"}}, "10.3.0.10", "tectonic_kube_dns_service_ip in terraform.tfvars", "lab_2018/" + KubeconfigPath},
		{"JSON by name too", []file{{name: KubeconfigPath, content: kubeconfig}, {name: TFVarsPath, content: handVars}, {name: TFVarsJSONPath, content: `{"tectonic_kube_dns_service_ip":"10.7.0.53"}`}}, "10.7.0.53", "tectonic_kube_dns_service_ip in terraform.tfvars.json", KubeconfigPath},
		{"neither key", []file{{name: KubeconfigPath, content: kubeconfig}, {name: TFVarsPath, content: `tectonic_base_domain = "x"`}}, "invalid IP", "terraform.tfvars has neither tectonic_kube_dns_service_ip nor tectonic_service_cidr", KubeconfigPath},
		{"empty values", []file{{name: KubeconfigPath, content: kubeconfig}, {name: TFVarsPath, content: `{"tectonic_kube_dns_service_ip":"","tectonic_service_cidr":null}`}}, "invalid IP", "terraform.tfvars has neither", KubeconfigPath},
		{"no variables", []file{{name: KubeconfigPath, content: kubeconfig}}, "invalid IP", "the assets have no terraform.tfvars", KubeconfigPath},
		{"IPv6", []file{{name: KubeconfigPath, content: kubeconfig}, {name: TFVarsPath, content: `tectonic_service_cidr = "fd00:10::/112"`}}, "fd00:10::a", "the tenth address", KubeconfigPath},
		{"the top goes before a folder", []file{{name: KubeconfigPath, content: kubeconfig}, {name: "old/" + KubeconfigPath, content: "x"}, {name: "old/" + TFVarsPath, content: guiVars}}, "invalid IP", "the assets have no terraform.tfvars", KubeconfigPath},
	}
	for _, test := range tests {
		for shape, build := range shapes {
			t.Run(test.name+"/"+shape, func(t *testing.T) {
				path := build(t, test.files...)
				a, err := Read(path)
				if err != nil {
					t.Fatal(err)
				}
				if string(a.Kubeconfig) != kubeconfig || a.KubeconfigFrom != path+": "+test.from {
					t.Errorf("kubeconfig %q from %s", a.Kubeconfig, a.KubeconfigFrom)
				}
				if a.DNSServiceIP.String() != test.ip || !strings.HasPrefix(a.How, test.how) {
					t.Errorf("got %v, %q; want %s, %q", a.DNSServiceIP, a.How, test.ip, test.how)
				}
			})
		}
	}
}

func TestReadTarVariants(t *testing.T) {
	for name, path := range map[string]string{
		"./ before each name": saved(t, gzipped(t, tarred(t, file{name: "./", kind: tar.TypeDir}, file{name: "./" + KubeconfigPath, content: kubeconfig}, file{name: "./" + TFVarsPath, content: guiVars}))),
		"backslashes":         saved(t, zipped(t, file{name: `lab\generated\auth\kubeconfig`, content: kubeconfig}, file{name: `lab\terraform.tfvars`, content: guiVars})),
		"stray links":         saved(t, tarred(t, file{name: "lab/current", kind: tar.TypeSymlink, link: "/etc"}, file{name: "lab/" + KubeconfigPath, content: kubeconfig}, file{name: "lab/" + TFVarsPath, content: guiVars})),
	} {
		if a, err := Read(path); err != nil || string(a.Kubeconfig) != kubeconfig || a.DNSServiceIP != netip.MustParseAddr("10.3.0.10") {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
}

func TestReadPartial(t *testing.T) {
	a, err := Read(directory(t, file{name: TFVarsPath, content: guiVars}))
	var missing *NoKubeconfigError
	if !errors.As(err, &missing) || a.DNSServiceIP.String() != "10.3.0.10" || a.Kubeconfig != nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("%+v, %v", a, err)
	}
	a, err = Read(directory(t, file{name: KubeconfigPath, content: kubeconfig}, file{name: TFVarsPath, content: "tectonic_kube_dns_service_ip = 3"}))
	var variables *TFVarsError
	if !errors.As(err, &variables) || errors.As(err, &missing) || string(a.Kubeconfig) != kubeconfig {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestReadRefuses(t *testing.T) {
	good := file{name: KubeconfigPath, content: kubeconfig}
	huge := file{name: KubeconfigPath, content: strings.Repeat("#", maxFile+1)}
	ca := func(files ...file) string { return saved(t, gzipped(t, tarred(t, files...))) }
	zipFile := func(files ...file) string { return saved(t, zipped(t, files...)) }
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	outside := directory(t, good)
	whole := zipped(t, good, file{name: TFVarsPath, content: guiVars})
	wholeTar := gzipped(t, tarred(t, good, file{name: "pad", content: strings.Repeat("x", 100000)}))
	for name, test := range map[string]struct{ path, want string }{
		"no such file":             {filepath.Join(t.TempDir(), "nix"), "cannot open the assets"},
		"a FIFO":                   {fifo, "it is neither a directory nor a file"},
		"a device":                 {"/dev/zero", "it is neither a directory nor a file"},
		"something else":           {saved(t, []byte("hello")), "neither a directory nor a ZIP or TAR.GZ archive"},
		"empty file":               {saved(t, nil), "neither a directory nor a ZIP or TAR.GZ archive"},
		"a kubeconfig":             {saved(t, []byte(kubeconfig)), "a kubeconfig alone is given with --kubeconfig"},
		"empty directory":          {t.TempDir(), "neither generated/auth/kubeconfig nor terraform.tfvars is in there"},
		"empty zip":                {zipFile(), "neither generated/auth/kubeconfig nor terraform.tfvars is in there"},
		"half a zip":               {saved(t, whole[:len(whole)/2]), "damaged ZIP archive, perhaps an incomplete copy"},
		"half a tar.gz":            {saved(t, wholeTar[:len(wholeTar)/2]), "damaged TAR archive, perhaps an incomplete copy"},
		"gzip header":              {saved(t, []byte("\x1f\x8b")), "gzip header is damaged"},
		"zip: ../":                 {zipFile(good, file{name: "a/../../etc/cron.d/x"}), `the name "a/../../etc/cron.d/x", which leads out of it`},
		"zip: ..\\":                {zipFile(good, file{name: `..\x`}), `the name "../x", which leads out of it`},
		"zip: absolute":            {zipFile(good, file{name: "/etc/passwd"}), `the name "/etc/passwd", which leads out of it`},
		"zip: drive":               {zipFile(good, file{name: `C:\x`}), `the name "C:/x", which leads out of it`},
		"zip: link":                {zipFile(file{name: KubeconfigPath, kind: tar.TypeSymlink, link: "/etc/shadow"}), "is not a plain file"},
		"zip: twice":               {zipFile(good, good), "it holds generated/auth/kubeconfig twice"},
		"zip: twice, other words":  {zipFile(good, file{name: "generated/./auth//kubeconfig", content: "x"}), "it holds generated/auth/kubeconfig twice"},
		"zip: large":               {zipFile(huge), "is larger than 1048576 bytes"},
		"tar: ../":                 {ca(good, file{name: "../x"}), `the name "../x", which leads out of it`},
		"tar: control characters":  {ca(good, file{name: "../\x1b[31m"}), `the name "../?[31m", which leads out of it`},
		"tar: absolute":            {ca(good, file{name: "/etc/x"}), `the name "/etc/x", which leads out of it`},
		"tar: link":                {ca(file{name: KubeconfigPath, kind: tar.TypeSymlink, link: "/etc/shadow"}), "is not a plain file"},
		"tar: hard link":           {ca(file{name: TFVarsPath, kind: tar.TypeLink, link: "/etc/shadow"}), "is not a plain file"},
		"tar: device":              {ca(file{name: KubeconfigPath, kind: tar.TypeChar}), "is not a plain file"},
		"tar: twice":               {ca(good, good), "it holds generated/auth/kubeconfig twice"},
		"tar: large":               {ca(huge), "is larger than 1048576 bytes"},
		"two clusters":             {ca(file{name: "b/" + KubeconfigPath}, file{name: "a/" + KubeconfigPath}), "there are several clusters in it (a, b)"},
		"directory: two clusters":  {directory(t, file{name: "b/" + KubeconfigPath}, file{name: "a/" + KubeconfigPath}), "there are several clusters in it (a, b)"},
		"directory: link outwards": {directory(t, file{name: "generated", kind: tar.TypeSymlink, link: filepath.Join(outside, "generated")}), "symbolic link that leads out of the directory"},
		"directory: FIFO":          {directory(t, file{name: TFVarsPath, kind: tar.TypeFifo}), "terraform.tfvars: it is not a file"},
		"directory: directory":     {directory(t, file{name: TFVarsPath, kind: tar.TypeDir}), "terraform.tfvars: it is not a file"},
		"directory: large":         {directory(t, huge), "is larger than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() { _, err := Read(test.path); done <- err }()
			select {
			case err := <-done:
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got  %v\nwant %s", err, test.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it hangs")
			}
		})
	}
	// A link that stays inside is somebody's way of keeping order.
	inside := directory(t, file{name: "v2/auth/kubeconfig", content: kubeconfig}, file{name: "generated", kind: tar.TypeSymlink, link: "v2"})
	if a, err := Read(inside); err != nil || string(a.Kubeconfig) != kubeconfig {
		t.Errorf("%+v, %v", a, err)
	}
}

// repeated is a file of one byte, as long as needed, that compresses to a thousandth.
type repeated struct{ left int64 }

func (r *repeated) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.left))
	clear(p[:n])
	r.left -= int64(n)
	return n, nil
}

// Archives made to exhaust the reader are refused with little memory.
func TestBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks a gigabyte")
	}
	measure := func(t *testing.T, path, want string) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read(path)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 {
			t.Errorf("%d MiB were allocated", used>>20)
		}
	}
	t.Run("gzip", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "bomb")
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(z)
		size := int64(maxUnpacked) + 4096
		if err := w.WriteHeader(&tar.Header{Name: "pad", Typeflag: tar.TypeReg, Size: size}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, &repeated{size}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		z.Close()
		measure(t, path, "it unpacks to more than")
	})
	t.Run("zip entry", func(t *testing.T) {
		var buf bytes.Buffer
		w := zip.NewWriter(&buf)
		out, err := w.Create(KubeconfigPath)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, &repeated{64 << 20}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		measure(t, saved(t, buf.Bytes()), "larger than 1048576 bytes")
	})
	t.Run("zip directory", func(t *testing.T) {
		var buf bytes.Buffer
		w := zip.NewWriter(&buf)
		for range 20000 {
			if _, err := w.CreateHeader(&zip.FileHeader{Name: strings.Repeat("n", 1000), Method: zip.Store}); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		measure(t, saved(t, buf.Bytes()), "directory is larger than")
	})
	t.Run("tar entries", func(t *testing.T) {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		w := tar.NewWriter(z)
		for range maxEntries + 2 {
			if err := w.WriteHeader(&tar.Header{Name: "n", Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		z.Close()
		measure(t, saved(t, buf.Bytes()), "it unpacks to more than")
	})
}

func TestTFVarsProblems(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"not an IP":             {`tectonic_kube_dns_service_ip = "a.b"`, `tectonic_kube_dns_service_ip is "a.b", which is not the address of a Service`},
		"IP with zone":          {`tectonic_kube_dns_service_ip = "fe80::1%eth0"`, "which is not the address of a Service"},
		"unspecified":           {`tectonic_kube_dns_service_ip = "0.0.0.0"`, "which is not the address of a Service"},
		"loopback":              {`tectonic_kube_dns_service_ip = "127.0.0.1"`, "which is not the address of a Service"},
		"number":                {"\n\ntectonic_kube_dns_service_ip = 10", "line 3: tectonic_kube_dns_service_ip is not a plain string"},
		"list":                  {`tectonic_kube_dns_service_ip = ["10.3.0.10"]`, "is not a plain string"},
		"expression":            {`tectonic_kube_dns_service_ip = cidrhost("10.3.0.0/16", 10)`, "is not a plain string"},
		"reference":             {`tectonic_kube_dns_service_ip = "${var.secret}"`, "is not a plain string"},
		"JSON number":           {`{"tectonic_kube_dns_service_ip": 10}`, "tectonic_kube_dns_service_ip is not a string"},
		"cut JSON":              {"{\n\"tectonic_admin_password\": \"s3cret\",\n\"tect", "it is not valid JSON (line 3)"},
		"cut HCL":               {"tectonic_admin_password = \"s3cret\"\ntectonic_x = \"s3cr", "line 2: "},
		"bad range":             {`tectonic_service_cidr = "10.3.0.0"`, "which is not a range of addresses"},
		"small range":           {`tectonic_service_cidr = "10.3.0.0/29"`, "has no tenth address"},
		"outside the range":     {"tectonic_service_cidr = \"10.3.0.0/16\"\ntectonic_kube_dns_service_ip = \"10.4.0.10\"", "is 10.4.0.10, which is not within tectonic_service_cidr (10.3.0.0/16)"},
		"end of all addresses":  {`tectonic_service_cidr = "255.255.255.255/32"`, "has no tenth address"},
		"deep":                  {"x = " + strings.Repeat("[", 500000), "nests deeper than variables do"},
		"deep templates":        {"x = " + strings.Repeat(`"${`, 100000), "nests deeper"},
		"many signs":            {"x = (" + strings.Repeat("-\n", 200000) + "1)", "nests deeper"},
		"many negations":        {"x = (" + strings.Repeat("!\n", 200000) + "1)", "nests deeper"},
		"many conditions":       {"x = " + strings.Repeat("a?b:", 100000) + "c", "nests deeper"},
		"blocks":                {strings.Repeat("a {\n", 100000), "nests deeper"},
		"control characters":    {`{"tectonic_kube_dns_service_ip": "\u001b[31m"}`, `is "?[31m"`},
		"not UTF-8":             {"tectonic_x = \"\xff\xfe\"", "line 1: "},
		"a quoted key of HCL 1": {`"tectonic_x" = "y"`, "line 1: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(directory(t, file{name: KubeconfigPath, content: kubeconfig}, file{name: TFVarsPath, content: test.text}))
			var variables *TFVarsError
			if !errors.As(err, &variables) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
			if strings.Contains(err.Error(), "s3cr") {
				t.Errorf("a secret is shown: %v", err)
			}
		})
	}
}

func FuzzTFVars(f *testing.F) {
	for _, seed := range []string{guiVars, handVars, "", "{", `a = <<E` + "\nE\n", `tectonic_kube_dns_service_ip = "10.0.0.1"`, "x = [for a in b : a]", `x = "${a ? b : c}"`, "\xef\xbb\xbf{}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ip, how, err := dnsServiceIP(found{TFVarsPath: data}, "")
		if err == nil && (how == "" || ip.IsValid() && !ip.IsGlobalUnicast() && !strings.Contains(how, "tenth")) {
			t.Fatalf("%v, %q", ip, how)
		}
		if err != nil && (ip.IsValid() || strings.ContainsAny(err.Error(), "\x1b\n")) {
			t.Fatalf("%v, %q", ip, err)
		}
	})
}

func FuzzArchive(f *testing.F) {
	good := []file{{name: "lab/" + KubeconfigPath, content: kubeconfig}, {name: "lab/" + TFVarsPath, content: guiVars}}
	f.Add(zipped(f, good...))
	f.Add(tarred(f, good...))
	f.Add(gzipped(f, tarred(f, good...)))
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := inArchive(bytes.NewReader(data), int64(len(data)))
		if err != nil && found != nil {
			t.Fatal("both files and an error")
		}
		for name, content := range found {
			if !isWanted(name) || len(content) > maxFile {
				t.Fatalf("%q with %d bytes", name, len(content))
			}
		}
	})
}
