package sysconfig

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/viper"
)

// Source is where the settings come from.
type Source struct {
	Root    string            // prefix of the host's files; empty is /
	Flags   map[string]string // values given on the command line, by the key's name
	Environ []string          // "KEY=VALUE", as os.Environ gives it; nil for none
}

// maxSize is far beyond any real settings file; it keeps a mistaken path from filling the memory.
const maxSize = 1 << 20

// value is a setting before it is checked, with its place.
type value struct {
	text string
	file string
	line int
}

// Load reads the settings: a flag wins over the environment, that over the files, those over the
// defaults. An empty value is an unset one. A file that does not exist sets nothing.
//
// The error is of type Problems and holds everything that is wrong, in all sources. The Settings are
// then what could be read, for a report; they must not be acted upon.
func Load(src Source) (Settings, error) {
	files := make(map[string]value)
	var problems Problems
	for _, name := range []string{Path, KubeletEnvPath} {
		problems = append(problems, readInto(files, filepath.Join("/", src.Root, name))...)
	}
	environ := make(map[string]string)
	for _, e := range src.Environ {
		if k, v, ok := strings.Cut(e, "="); ok {
			environ[k] = v
		}
	}

	v := viper.New()
	fromFiles := make(map[string]any)
	for name, val := range files {
		if val.text != "" {
			fromFiles[name] = val.text
		}
	}
	if err := v.MergeConfigMap(fromFiles); err != nil {
		return Settings{}, fmt.Errorf("cannot put the settings together: %w", err)
	}
	for _, k := range keys {
		v.SetDefault(k.Name, k.Default)
		// viper's own reading of the environment is the process's alone; as a flag value, whose
		// place is between Set and the files, any environment can be given.
		if err := v.BindFlagValue(k.Name, environmentValue{k.Name, environ[k.Name]}); err != nil {
			return Settings{}, fmt.Errorf("cannot put the settings together: %w", err)
		}
		if flag, set := src.Flags[k.Name]; set {
			if flag == "" {
				flag = k.Default
			}
			v.Set(k.Name, flag)
		}
	}
	for name := range src.Flags {
		if find(name) == nil {
			problems = append(problems, Problem{File: "flag", Key: name, Why: "there is no such setting"})
		}
	}

	s := Settings{origin: make(map[string]string)}
	for _, k := range keys {
		text := v.GetString(k.Name)
		p := Problem{Key: k.Name, Value: redact(k.Name, text)}
		flag, flagged := src.Flags[k.Name]
		inFile := files[k.Name]
		switch {
		case flagged && flag != "":
			s.origin[k.Name] = "flag"
			p.File = "flag --" + k.Flag
		case flagged:
			s.origin[k.Name] = "default"
		// systemd passes on what it read in the files: then the file is the better address.
		case environ[k.Name] != "" && environ[k.Name] != inFile.text:
			s.origin[k.Name] = "environment"
			p.File = "environment"
		case inFile.text != "":
			s.origin[k.Name] = fmt.Sprintf("%s:%d", inFile.file, inFile.line)
			p.File, p.Line = inFile.file, inFile.line
		default:
			s.origin[k.Name] = "default"
		}
		if text == "" {
			continue
		}
		for _, f := range k.check(&s, text) {
			p.Why, p.Remedy = f.why, f.remedy
			problems = append(problems, p)
		}
		if s.origin[k.Name] == "environment" || s.origin[k.Name] == "flag" {
			if hasControl(text) {
				p.Why, p.Remedy = "the value holds a control character or a line break", "write it on one line"
				problems = append(problems, p)
			}
		}
	}
	for _, kind := range []*string{&s.DriftFiles, &s.DriftPorts, &s.DriftSELinux, &s.DriftUnits} {
		*kind = cmp.Or(*kind, s.Drift)
	}
	problems = append(problems, together(&s, files)...)
	if len(problems) > 0 {
		var places []string // in the order of the first problem found in each
		for _, p := range problems {
			if !slices.Contains(places, p.File) {
				places = append(places, p.File)
			}
		}
		slices.SortStableFunc(problems, func(a, b Problem) int {
			return cmp.Or(slices.Index(places, a.File)-slices.Index(places, b.File), a.Line-b.Line)
		})
		return s, problems
	}
	return s, nil
}

// together checks what only two settings together can get wrong.
func together(s *Settings, files map[string]value) Problems {
	var problems Problems
	at := func(key string) Problem {
		p := Problem{File: s.origin[key], Key: key}
		if val := files[key]; p.File == fmt.Sprintf("%s:%d", val.file, val.line) {
			p.File, p.Line = val.file, val.line
		}
		return p
	}
	if s.DNSServiceIP.IsValid() && slices.Contains(s.NodeIPs, s.DNSServiceIP) {
		p := at("KUBERNETES_DNS_SERVICE_IP")
		p.Value = s.DNSServiceIP.String()
		p.Why = "this is also NODE_IP, but a Service's address is never a host's"
		p.Remedy = "set it to the address of the cluster's DNS Service, tectonic_kube_dns_service_ip in terraform.tfvars"
		problems = append(problems, p)
	}
	if i := s.Image; i.Image == "" && i.URL != "" && i.Tag == "" && !tagged(i.URL) {
		p := at("KUBELET_IMAGE_URL")
		p.Value = i.URL
		p.Why = "the image has no tag"
		p.Remedy = "set KUBELET_IMAGE_TAG, for instance to v1.34.4"
		problems = append(problems, p)
	}
	return problems
}

// tagged says whether an image's reference names a version: by tag, by digest, by being a file, or by
// being one of rkt's hashes.
func tagged(ref string) bool {
	last := ref[strings.LastIndex(ref, "/")+1:]
	return strings.ContainsAny(last, ":@") || strings.HasSuffix(last, ".aci") || strings.HasPrefix(ref, "sha512-")
}

// readInto reads one file into vals.
func readInto(vals map[string]value, file string) Problems {
	data, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return Problems{{File: file, Why: "cannot read the settings: " + err.Error(),
			Remedy: "make it a regular file that root can read"}}
	}
	assignments, problems := Parse(file, data)
	for _, a := range assignments {
		if find(a.Key) == nil {
			problems = append(problems, Problem{File: file, Line: a.Line, Key: a.Key, Value: redact(a.Key, a.Value),
				Why: "there is no such setting", Remedy: didYouMean(a.Key)})
			continue
		}
		vals[a.Key] = value{text: a.Value, file: file, line: a.Line}
	}
	return problems
}

func read(file string) ([]byte, error) {
	// Without O_NONBLOCK, a FIFO in the file's place would block for ever.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("it is larger than %d KiB", maxSize>>10)
	}
	return data, err
}

func find(name string) *KeyDoc {
	for i := range keys {
		if keys[i].Name == name {
			return &keys[i]
		}
	}
	return nil
}

// didYouMean names the key that is nearest to name, if one is near.
func didYouMean(name string) string {
	best, least := "", 1+len(name)/4
	for _, k := range keys {
		if d := distance(strings.ToUpper(name), k.Name); d <= least {
			best, least = k.Name, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "remove it, or put it into a drop-in of the unit that needs it"
}

// distance is the number of letters to change, add or drop to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// environmentValue is a key's value in the environment, as viper.FlagValue.
type environmentValue struct{ name, text string }

func (e environmentValue) HasChanged() bool    { return e.text != "" }
func (e environmentValue) Name() string        { return e.name }
func (e environmentValue) ValueString() string { return e.text }
func (e environmentValue) ValueType() string   { return "string" }
