// Package assets reads what the Tectonic Installer leaves behind: the kubeconfig and, from terraform.tfvars, the address of
// the cluster's DNS Service. The assets are a directory, a ZIP or a TAR archive. It reads them where they are: it never
// extracts an archive, never follows a link out of a directory, never blocks on a FIFO, and never shows a value of
// terraform.tfvars other than the two that it looks for, since passwords and keys are in there too.
package assets

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// The files that are looked for, below the top of the assets or below one folder there.
const (
	KubeconfigPath = "generated/auth/kubeconfig"
	TFVarsPath     = "terraform.tfvars"
	TFVarsJSONPath = "terraform.tfvars.json"
)

var wanted = []string{KubeconfigPath, TFVarsPath, TFVarsJSONPath}

// maxFile bounds each of the files, in bytes. A terraform.tfvars for a thousand workers has about 150 KiB.
const maxFile = 1 << 20

// Assets is what was found.
type Assets struct {
	Kubeconfig     []byte     // as it is; agent/node judges it
	KubeconfigFrom string     // where: "assets.zip: mycluster/generated/auth/kubeconfig"
	DNSServiceIP   netip.Addr // zero where terraform.tfvars does not tell
	How            string     // where DNSServiceIP comes from, or why it is zero
}

// A NoKubeconfigError says that the assets lack a kubeconfig. Read returns it together with the rest of the Assets, for a
// caller that has a kubeconfig from elsewhere.
type NoKubeconfigError struct{ Path string }

func (e *NoKubeconfigError) Error() string {
	return fmt.Sprintf("the assets %q have no %s; give the directory or archive that the installer wrote, whole, or the kubeconfig alone with --kubeconfig", e.Path, KubeconfigPath)
}

// A TFVarsError says that terraform.tfvars cannot be used. Read returns it together with the rest of the Assets, for a caller
// that has the DNS Service's address from elsewhere.
type TFVarsError struct {
	Path string
	Err  error
}

func (e *TFVarsError) Error() string {
	return fmt.Sprintf("cannot take the DNS Service's address from the assets %q: %v", e.Path, e.Err)
}

func (e *TFVarsError) Unwrap() error { return e.Err }

// Read finds the kubeconfig and the DNS Service's address in a directory, a ZIP archive or a TAR archive, gzipped or not. What
// kind of archive it is, is told by its content. An error that is nothing but a NoKubeconfigError or a TFVarsError comes with
// what could be read.
func Read(name string) (Assets, error) {
	f, err := find(name)
	if err != nil {
		return Assets{}, err
	}
	top, err := f.top()
	if err != nil {
		return Assets{}, fmt.Errorf("cannot use the assets %q: %w", name, err)
	}
	if len(f) == 0 {
		return Assets{}, fmt.Errorf("cannot use the assets %q: neither %s nor %s is in there; give the directory or archive that the installer wrote", name, KubeconfigPath, TFVarsPath)
	}
	var a Assets
	var problems []error
	kubeconfig := path.Join(top, KubeconfigPath)
	if data, ok := f[kubeconfig]; ok {
		a.Kubeconfig, a.KubeconfigFrom = data, name+": "+printable(kubeconfig)
	} else {
		problems = append(problems, &NoKubeconfigError{name})
	}
	a.DNSServiceIP, a.How, err = dnsServiceIP(f, top)
	if err != nil {
		problems = append(problems, &TFVarsError{name, err})
	}
	return a, errors.Join(problems...)
}

// found is the wanted files by their clean, slash-separated path below the top of the assets.
type found map[string][]byte

// isWanted matches a clean path: a wanted file, or one in a single folder.
func isWanted(name string) bool {
	if slices.Contains(wanted, name) {
		return true
	}
	_, rest, ok := strings.Cut(name, "/")
	return ok && slices.Contains(wanted, rest)
}

// top is the folder that holds the cluster's files. The files of one cluster belong together, so a kubeconfig decides.
func (f found) top() (string, error) {
	folders := func(names ...string) (all []string) {
		for name := range f {
			for _, w := range names {
				if name == w {
					return []string{""}
				}
				if dir, ok := strings.CutSuffix(name, "/"+w); ok && !slices.Contains(all, dir) {
					all = append(all, dir)
				}
			}
		}
		slices.Sort(all)
		return all
	}
	all := folders(KubeconfigPath)
	if len(all) == 0 {
		all = folders(TFVarsPath, TFVarsJSONPath)
	}
	if _, ok := f[KubeconfigPath]; ok {
		return "", nil
	}
	switch len(all) {
	case 0:
		return "", nil
	case 1:
		return all[0], nil
	}
	for i := range all {
		all[i] = printable(all[i])
	}
	return "", fmt.Errorf("there are several clusters in it (%s); give the directory of one", strings.Join(all, ", "))
}
