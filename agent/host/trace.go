package host

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// maxLinks is the kernel's own limit of symbolic links in one path
// (path_resolution(7)).
const maxLinks = 40

// trace follows each path as the kernel would and gives every directory that
// is passed, with the names in it on which the outcome depends: the last name,
// each link, and the first name that is missing.
func (r Root) trace(paths []string) map[string]*watched {
	dirs := map[string]*watched{}
	at := func(dir string) *watched {
		if dirs[dir] == nil {
			dirs[dir] = &watched{entries: map[string][]string{}}
		}
		return dirs[dir]
	}
	for _, path := range paths {
		entry := func(dir, name string) {
			d := at(dir)
			if !slices.Contains(d.entries[name], path) {
				d.entries[name] = append(d.entries[name], path)
			}
		}
		dir, rest, links := "/", strings.TrimPrefix(filepath.Clean(path), "/"), 0
		for {
			if d := at(dir); !slices.Contains(d.self, path) {
				d.self = append(d.self, path)
			}
			if rest == "" { // path is a directory
				entry(dir, "")
				break
			}
			name, after, more := strings.Cut(rest, "/")
			full := filepath.Join(dir, name)
			fi, err := os.Lstat(r.Path(full))
			switch {
			case err != nil:
				entry(dir, name)
			case fi.Mode()&fs.ModeSymlink != 0:
				entry(dir, name)
				target, err := os.Readlink(r.Path(full))
				if links++; err != nil || links > maxLinks {
					break
				}
				if !filepath.IsAbs(target) {
					target = filepath.Join(dir, target)
				}
				dir, rest = "/", strings.TrimPrefix(filepath.Join(target, after), "/")
				continue
			case fi.IsDir():
				if !more {
					entry(dir, name)
				}
				dir, rest = full, after
				continue
			default: // a file; or one where a directory should be
				entry(dir, name)
			}
			break
		}
	}
	return dirs
}

// merge joins what two names of one directory are watched for.
func merge(a, b *watched) *watched {
	if a == nil {
		return b
	}
	out := &watched{entries: map[string][]string{}, self: union(a.self, b.self)}
	for _, from := range []*watched{a, b} {
		for name, paths := range from.entries {
			out.entries[name] = union(out.entries[name], paths)
		}
	}
	return out
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

func same(a, b map[string]*watched) bool { return reflect.DeepEqual(a, b) }
