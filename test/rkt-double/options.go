package main

import (
	"slices"
	"strconv"
	"strings"
)

// kind is what an option takes.
type kind int

const (
	text     kind = iota // --name=VALUE or --name VALUE
	boolean              // --name or --name=true|false
	optional             // --name or --name=VALUE: the next word is never its value
)

// option is one option of rkt 1.30.
type option struct {
	kind  kind
	check func(value string) error // nil: anything
}

// options is a set of them, by name.
type options map[string]option

// values are the options that were given, each with its values in order.
type values map[string][]string

func (v values) last(name string) string {
	if list := v[name]; len(list) > 0 {
		return list[len(list)-1]
	}
	return ""
}

func (v values) bool(name string) bool { b, _ := strconv.ParseBool(v.last(name)); return b }

var globalOptions = options{
	"dir": {}, "local-config": {}, "system-config": {}, "user-config": {}, "debug": {kind: boolean},
	"insecure-options":      {check: insecureOptions},
	"trust-keys-from-https": {kind: boolean},
}

var runOptions = options{
	"dns": {}, "dns-domain": {}, "dns-opt": {}, "dns-search": {}, "hostname": {}, "hosts-entry": {check: hostsEntry},
	"inherit-env": {kind: boolean}, "interactive": {kind: boolean}, "ipc": {check: oneOf("auto", "private", "parent")},
	"mds-register": {kind: boolean}, "mount": {check: checkMount}, "net": {kind: optional}, "no-overlay": {kind: boolean},
	"pod-manifest": {}, "port": {}, "private-users": {kind: boolean}, "pull-policy": {check: oneOf("never", "new", "update")},
	"set-env": {check: setEnv}, "set-env-file": {}, "stage1-from-dir": {}, "stage1-hash": {}, "stage1-name": {},
	"stage1-path": {}, "stage1-url": {}, "user-annotation": {}, "user-label": {}, "uuid-file-save": {},
	"volume": {check: checkVolume},
}

// imageOptions follow an image.
var imageOptions = options{
	"caps-retain": {}, "caps-remove": {}, "cpu": {}, "cpu-shares": {}, "environment": {check: setEnv}, "exec": {}, "group": {},
	"memory": {}, "mount": {check: checkMount}, "name": {}, "oom-score-adj": {}, "readonly-rootfs": {kind: boolean},
	"seccomp": {}, "signature": {}, "stderr": {}, "stdin": {}, "stdout": {}, "supplementary-gids": {}, "user": {},
	"user-annotation": {}, "user-label": {}, "working-dir": {},
}

// stage1Options choose the stage1 and exclude each other.
var stage1Options = []string{"stage1-from-dir", "stage1-hash", "stage1-name", "stage1-path", "stage1-url"}

// parse reads options from the front of args into into, or into also where only that set knows them, and returns the
// rest, which begins with the first word that is no option, or with "--".
func (o options) parse(args []string, into values, also *struct {
	options
	values
}) ([]string, error) {
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" || arg == "---" || arg == "-" || !strings.HasPrefix(arg, "-") {
			return args, nil
		}
		if !strings.HasPrefix(arg, "--") {
			return nil, usagef("unknown shorthand flag: %q in %s", arg[1:2], arg)
		}
		name, value, has := strings.Cut(arg[2:], "=")
		opt, known := o[name]
		target := into
		if !known && also != nil {
			opt, known = also.options[name]
			target = also.values
		}
		if !known {
			return nil, usagef("unknown flag: --%s", name)
		}
		args = args[1:]
		switch {
		case has:
		case opt.kind == boolean:
			value = "true"
		case opt.kind == optional:
			value = "default"
		case len(args) == 0:
			return nil, usagef("flag needs an argument: --%s", name)
		default:
			value, args = args[0], args[1:]
		}
		if opt.kind == boolean {
			if _, err := strconv.ParseBool(value); err != nil {
				return nil, usagef("invalid argument %q for --%s: strconv.ParseBool: parsing %q: invalid syntax", value, name, value)
			}
		}
		if opt.check != nil {
			if err := opt.check(value); err != nil {
				return nil, usagef("invalid argument %q for --%s: %v", value, name, err)
			}
		}
		target[name] = append(target[name], value)
	}
	return nil, nil
}

// parseWithGlobals reads a command's own options, with global ones among them.
func (c *cli) parseWithGlobals(o options, args []string, into values) ([]string, error) {
	return o.parse(args, into, &struct {
		options
		values
	}{globalOptions, c.global})
}

func oneOf(choices ...string) func(string) error {
	return func(value string) error {
		if !slices.Contains(choices, value) {
			return usagef("%q is not one of %s", value, strings.Join(choices, ", "))
		}
		return nil
	}
}

func insecureOptions(value string) error {
	for _, word := range strings.Split(value, ",") {
		err := oneOf("none", "http", "image", "tls", "pubkey", "capabilities", "paths", "seccomp", "ondisk", "all-fetch", "all-run", "all")(word)
		if err != nil {
			return err
		}
	}
	return nil
}

// insecure tells whether --insecure-options switches the check off.
func (c *cli) insecure(check string) bool {
	for _, list := range c.global["insecure-options"] {
		for _, word := range strings.Split(list, ",") {
			if word == check || word == "all" || (word == "all-fetch" && check == "image") {
				return true
			}
		}
	}
	return false
}

func setEnv(value string) error {
	if name, _, ok := strings.Cut(value, "="); !ok || name == "" {
		return usagef("environment variable must be specified as name=value")
	}
	return nil
}

func hostsEntry(value string) error {
	if value == "host" {
		return nil
	}
	for _, pair := range strings.Split(value, ",") {
		if ip, name, ok := strings.Cut(pair, "="); !ok || ip == "" || name == "" {
			return usagef("hosts entry %q is neither \"host\" nor IP=HOSTNAME", pair)
		}
	}
	return nil
}
