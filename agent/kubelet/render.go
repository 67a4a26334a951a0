package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// Render says what a kubelet gets. The error joins everything that is wrong
// with the input, each part a sentence of its own; a drop-in's carries file,
// line and key.
func Render(in Input) (Output, error) {
	if err := in.Version.supported(); err != nil {
		return Output{}, err
	}
	var out Output
	errs := refuse(&in)
	out.Notes = notes(&in)

	config := map[string]any{}
	for _, s := range settings {
		value := s.value(&in)
		switch {
		case value == nil:
		case s.since > in.Version.Minor, s.until != 0 && in.Version.Minor > s.until:
		case s.fieldSince != 0 && in.Version.Minor >= s.fieldSince:
			set(config, s.field, value)
		default:
			out.Flags = append(out.Flags, "--"+s.flag+"="+flagValue(value))
		}
	}
	// Everything ours passes through JSON once, so that merging meets the
	// same types as a drop-in's.
	config = viaJSON(config)

	overlay := map[string]any{}
	for _, d := range in.DropIns {
		tree, bad := parseDropIn(d, in.Version)
		errs = append(errs, bad...)
		if len(bad) > 0 {
			continue
		}
		out.Notes = append(out.Notes, weaknesses(d.Name, tree)...)
		if !in.Version.HasConfigFile() {
			_, bad := asFlags(d, "", tree, in.Version)
			errs = append(errs, bad...)
		}
		merge(overlay, tree)
		merge(config, tree)
	}
	errs = append(errs, refuseArgs(in.ExtraArgs, in.Version)...)
	if err := errors.Join(errs...); err != nil {
		return Output{}, err
	}
	if in.Version.HasConfigFile() {
		out.Config = document(config)
	} else {
		flags, _ := asFlags(DropIn{}, "", overlay, in.Version) // errors were found above, file by file
		out.Flags = replaceFlags(out.Flags, flags)
	}
	out.Flags = append(out.Flags, in.ExtraArgs...)
	out.Dirs = []string{RootDir, PKIDir, StaticPodDir, VolumePluginDir}
	if in.Endpoint == "" {
		out.Dirs = append(out.Dirs, CNIConfDir)
	}
	return out, nil
}

// refuse finds what no kubelet of this version could start with, or would run
// wrongly with.
func refuse(in *Input) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	v := in.Version
	if len(in.DNS) == 0 {
		bad("the address of the cluster's DNS service is not known: set KUBERNETES_DNS_SERVICE_IP in /etc/sysconfig/tectonic-worker")
	}
	if in.Endpoint == "" && v.Minor >= 24 {
		bad("kubelet %s cannot use docker, which kubelets know up to 1.23: install containerd or CRI-O, or name its socket in CONTAINER_RUNTIME_ENDPOINT", v)
	}
	if in.CgroupVersion == 2 && v.Minor < 19 {
		bad(`kubelet %s knows cgroup v1 alone and this host runs cgroup v2: boot with systemd.unified_cgroup_hierarchy=0 on the kernel command line, or use an image of 1.19 or later`, v)
	}
	if d := cgroupDriver(in); d != "systemd" && d != "cgroupfs" {
		bad("the cgroup driver %q is neither systemd nor cgroupfs", d)
	}
	switch n := len(in.NodeIPs); {
	case n == 2 && v.Minor < 21:
		bad("NODE_IP names two addresses (%s) and kubelet %s takes one: a pair needs 1.21 or later", join(in.NodeIPs), v)
	case n > 2, n == 2 && in.NodeIPs[0].Is4() == in.NodeIPs[1].Is4():
		bad("NODE_IP=%s: want one address, or one IPv4 and one IPv6 address", join(in.NodeIPs))
	}
	for _, key := range sortedKeys(in.Labels) {
		if err := AllowedLabel(v, key); err != nil && !isRoleLabel(key) {
			bad("NODE_LABELS: %w", err)
		}
	}
	for _, s := range in.Taints {
		if _, err := parseTaint(s); err != nil {
			bad("NODE_TAINTS: %w", err)
		}
	}
	return errs
}

func notes(in *Input) (all []string) {
	v := in.Version
	if v.Minor > Newest {
		all = append(all, fmt.Sprintf("kubelet %s is newer than 1.%d, the newest that is known here: it gets what 1.%d gets", v, Newest, Newest))
	}
	for _, key := range sortedKeys(in.Labels) {
		if isRoleLabel(key) && AllowedLabel(v, key) != nil {
			all = append(all, fmt.Sprintf("the label %s is not passed to the kubelet, which from 1.16 on would exit: set it with \"kubectl label node NAME %s=%s\"", key, key, in.Labels[key]))
		}
	}
	if !in.Bootstrap && !in.NodeCertificate {
		all = append(all, "certificate rotation is off: the credential in "+KubeconfigPath+" is not this node's own, so the kubelet cannot renew it; put a new kubeconfig there before it expires")
	}
	if in.CgroupVersion == 1 && v.Minor >= 31 {
		all = append(all, fmt.Sprintf("this host runs cgroup v1, which kubelet %s supports in maintenance mode and refuses by default from 1.35 on; failCgroupV1 is set to false", v))
	}
	return all
}

// weaknesses names what a drop-in opens that would otherwise be shut.
func weaknesses(name string, tree map[string]any) (all []string) {
	at := func(path string) any {
		var v any = tree
		for _, key := range strings.Split(path, ".") {
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[key]
		}
		return v
	}
	add := func(s string) { all = append(all, name+": "+s) }
	if at("authentication.anonymous.enabled") == true {
		add("lets anonymous callers reach the kubelet's API (CIS 4.2.1)")
	}
	if at("authorization.mode") == "AlwaysAllow" {
		add("lets every caller do everything at the kubelet's API (CIS 4.2.2)")
	}
	if p, ok := at("readOnlyPort").(json.Number); ok && p != "0" {
		add("opens the read-only port " + p.String() + ", which asks for no credential (CIS 4.2.4)")
	}
	if at("serverTLSBootstrap") == true {
		add("the kubelet asks the cluster for its serving certificate; until somebody approves the request, \"kubectl logs\" and \"kubectl exec\" fail on this node")
	}
	return all
}

// refuseArgs finds flags among the administrator's own that the kubelet of
// this version has lost, or does not have yet: it would exit at once.
func refuseArgs(args []string, v Version) (errs []error) {
	for _, arg := range args {
		name, ok := strings.CutPrefix(arg, "--")
		if !ok {
			continue
		}
		name, _, _ = strings.Cut(name, "=")
		name = strings.ReplaceAll(name, "_", "-")
		f, known := knownFlags()[name]
		switch {
		case !known || v.Minor > Newest || f.in(v.Minor):
		case v.Minor > f.last:
			errs = append(errs, fmt.Errorf("KUBELET_EXTRA_ARGS: --%s is gone since 1.%d and kubelet %s would exit at it: remove it", name, f.last+1, v))
		default:
			errs = append(errs, fmt.Errorf("KUBELET_EXTRA_ARGS: --%s is known to kubelets from 1.%d on and %s would exit at it: remove it", name, f.first, v))
		}
	}
	return errs
}

// asFlags turns a drop-in into flags for kubelets below 1.10, which have no
// v1beta1 configuration. What has no flag there is an error.
func asFlags(d DropIn, prefix string, tree map[string]any, v Version) (flags []string, errs []error) {
	c := checker{d, v, nil}
	for _, key := range sortedKeys(tree) {
		path, value := prefix+key, tree[key]
		f := knownFields()[path]
		sub, isMap := value.(map[string]any)
		switch {
		case value == nil:
			c.fail(path, "is null, and kubelet %s takes flags alone: a flag cannot be taken back", v)
		case f.flag != "" && !knownFlags()[f.flag].in(v.Minor), f.flag == "" && !(isMap && c.expanded(path)):
			c.fail(path, "cannot be set on kubelet %s, which reads no configuration file and has no such flag: remove it, or use an image of 1.10 or later", v)
		case f.flag == "manifest-url-header":
			c.fail(path, "cannot be set on kubelet %s: use KUBELET_EXTRA_ARGS", v)
		case isMap && strings.HasPrefix(f.flag, "eviction-") && !strings.HasSuffix(f.flag, "-period") && !strings.HasSuffix(f.flag, "-reclaim"):
			flags = append(flags, "--"+f.flag+"="+strings.ReplaceAll(flagValue(value), "=", "<")) // memory.available<100Mi
		case f.flag != "":
			flags = append(flags, "--"+f.flag+"="+flagValue(value))
		default:
			more, bad := asFlags(d, path+".", sub, v)
			flags, c.errs = append(flags, more...), append(c.errs, bad...)
		}
	}
	return flags, c.errs
}

// replaceFlags takes out of flags what more sets too, because a flag that holds
// a list adds up when it is given twice, and a drop-in's list replaces ours.
func replaceFlags(flags, more []string) []string {
	for _, f := range more {
		name, _, _ := strings.Cut(f, "=")
		flags = slices.DeleteFunc(flags, func(old string) bool { return strings.HasPrefix(old, name+"=") })
	}
	return append(flags, more...)
}

func flagValue(value any) string {
	var all []string
	switch v := value.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	case json.Number:
		return v.String()
	case []string:
		all = v
	case []taint:
		for _, t := range v {
			all = append(all, t.Key+"="+t.Value+":"+t.Effect)
		}
	case []any:
		for _, x := range v {
			all = append(all, flagValue(x))
		}
	case map[string]string:
		for _, k := range sortedKeys(v) {
			all = append(all, k+"="+v[k])
		}
	case map[string]any:
		for _, k := range sortedKeys(v) {
			all = append(all, k+"="+flagValue(v[k]))
		}
	default:
		panic(fmt.Sprintf("kubelet: a flag cannot hold a %T", value))
	}
	return strings.Join(all, ",")
}

func set(tree map[string]any, path string, value any) {
	key, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		tree[key] = value
		return
	}
	sub, ok := tree[key].(map[string]any)
	if !ok {
		sub = map[string]any{}
		tree[key] = sub
	}
	set(sub, rest, value)
}

func viaJSON(tree map[string]any) map[string]any {
	b, err := json.Marshal(tree)
	if err != nil {
		panic(err) // only strings, numbers, lists and maps are in there
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var out map[string]any
	if err := dec.Decode(&out); err != nil {
		panic(err)
	}
	return out
}

func document(config map[string]any) []byte {
	config["apiVersion"], config["kind"] = configAPIVersion, configKind
	b, err := yaml.Marshal(config)
	if err != nil {
		panic(err)
	}
	return append([]byte("# Written by tectonic-worker at each start of the kubelet; changes here are lost.\n# Put yours into "+DropInDir+"/*.yaml.\n"), b...)
}

func sortedKeys[V any](m map[string]V) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
