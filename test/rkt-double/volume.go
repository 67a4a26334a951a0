package main

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// volume is a --volume: NAME,kind=host|empty,source=DIR[,readOnly=BOOL][,recursive=BOOL].
type volume struct {
	name, kind, source  string
	readOnly, recursive bool
}

// mount is a --mount: volume=NAME,target=DIR.
type mount struct{ volume, target string }

// acName is the appc specification's AC Name.
var acName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

func checkVolume(value string) error { _, err := parseVolume(value); return err }
func checkMount(value string) error  { _, err := parseMount(value); return err }

// query reads "a=b,c=d" as rkt does: as a URL's query, percent signs and plus signs included.
func query(value string) (map[string]string, error) {
	q, err := url.ParseQuery(strings.ReplaceAll(value, ",", "&"))
	if err != nil {
		return nil, err
	}
	single := map[string]string{}
	for key, list := range q {
		if len(list) != 1 {
			return nil, fmt.Errorf("label %s with multiple values %q", key, list)
		}
		single[key] = list[0]
	}
	return single, nil
}

func parseVolume(value string) (volume, error) {
	v := volume{}
	params, err := query("name=" + value)
	if err != nil {
		return v, err
	}
	for key, value := range params {
		switch key {
		case "name":
			v.name = value
		case "kind":
			v.kind = value
		case "source":
			v.source = value
		case "readOnly":
			v.readOnly, err = strconv.ParseBool(value)
		case "recursive":
			v.recursive, err = strconv.ParseBool(value)
		case "mode", "uid", "gid":
			_, err = strconv.ParseUint(value, 8, 32)
		default:
			return v, fmt.Errorf("unknown volume parameter %q", key)
		}
		if err != nil {
			return v, err
		}
	}
	switch {
	case !acName.MatchString(v.name):
		return v, fmt.Errorf("volume name %q: ACName must contain only lower case alphanumeric characters plus \"-\"", v.name)
	case v.kind == "empty" && v.source != "":
		return v, errors.New("source for empty volume must be empty")
	case v.kind == "host" && v.source == "":
		return v, errors.New("source for host volume cannot be empty")
	case v.kind == "host" && !filepath.IsAbs(v.source):
		return v, errors.New("source for host volume must be absolute path")
	case v.kind != "host" && v.kind != "empty":
		return v, fmt.Errorf("unrecognized volume type: must be one of \"empty\", \"host\"")
	}
	return v, nil
}

func parseMount(value string) (mount, error) {
	m := mount{}
	params, err := query(value)
	if err != nil {
		return m, err
	}
	for key, value := range params {
		switch key {
		case "volume":
			m.volume = value
		case "target":
			m.target = value
		default:
			return m, fmt.Errorf("unknown mount parameter %q", key)
		}
	}
	switch {
	case !acName.MatchString(m.volume):
		return m, fmt.Errorf("volume name %q: ACName must contain only lower case alphanumeric characters plus \"-\"", m.volume)
	case !filepath.IsAbs(m.target):
		return m, fmt.Errorf("mount target %q must be an absolute path", m.target)
	}
	return m, nil
}

// bind is a mount with its volume found.
type bind struct {
	volume
	target string
}

// binds joins mounts with volumes. A mount without a volume, and a volume's name given twice, are errors.
func binds(volumes, mounts []string) ([]bind, error) {
	byName := map[string]volume{}
	for _, text := range volumes {
		v, err := parseVolume(text)
		if err != nil {
			return nil, err
		}
		if _, twice := byName[v.name]; twice {
			return nil, fmt.Errorf("duplicate volume name %q", v.name)
		}
		byName[v.name] = v
	}
	var out []bind
	for _, text := range mounts {
		m, err := parseMount(text)
		if err != nil {
			return nil, err
		}
		v, ok := byName[m.volume]
		if !ok {
			return nil, fmt.Errorf("no volume for mountpoint %q", m.volume)
		}
		for _, b := range out {
			if filepath.Clean(b.target) == filepath.Clean(m.target) {
				return nil, fmt.Errorf("mount target %q is there twice", m.target)
			}
		}
		out = append(out, bind{v, m.target})
	}
	return out, nil
}
