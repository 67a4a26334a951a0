package matchbox

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// checkWanted refuses what matchbox would take and then serve wrongly or not at all: it checks little of what is put, and
// a group that it cannot read is skipped without a word to anyone.
func checkWanted(wanted Wanted, cluster string) error {
	if cluster == "" {
		return errors.New("cannot plan for a cluster without a name")
	}
	var errs []error
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("cannot plan for cluster "+cluster+": "+format, args...))
	}
	checkName := func(kind Kind, id string) {
		if err := CheckID(id); err != nil {
			refuse("%s: %v", kind, err)
		} else if !strings.HasPrefix(id, cluster+"-") {
			refuse("%s %s does not begin with %s-: it could not be told from others' later", kind, quote(id), cluster)
		}
	}
	for _, name := range sortedKeys(wanted.Ignition) {
		checkName(KindIgnition, name)
	}
	for _, name := range sortedKeys(wanted.Generic) {
		checkName(KindGeneric, name)
	}
	profiles := map[string]bool{}
	for _, p := range wanted.Profiles {
		checkName(KindProfile, p.ID)
		if profiles[p.ID] {
			refuse("profile %s is there twice", quote(p.ID))
		}
		profiles[p.ID] = true
		if _, ok := wanted.Ignition[p.IgnitionID]; !ok && p.IgnitionID != "" {
			refuse("profile %s names the Ignition config %s, which is not part of the plan", quote(p.ID), quote(p.IgnitionID))
		}
		if _, ok := wanted.Generic[p.GenericID]; !ok && p.GenericID != "" {
			refuse("profile %s names the generic config %s, which is not part of the plan", quote(p.ID), quote(p.GenericID))
		}
	}
	ids, selectors := map[string]bool{}, map[string]string{}
	for _, g := range wanted.Groups {
		checkName(KindGroup, g.ID)
		if ids[g.ID] {
			refuse("group %s is there twice", quote(g.ID))
		}
		ids[g.ID] = true
		if !profiles[g.Profile] {
			refuse("group %s names the profile %s, which is not part of the plan", quote(g.ID), quote(g.Profile))
		}
		if owner, ours := isOurs(g); !ours || owner != cluster {
			refuse("group %s does not say in its metadata that it is this cluster's", quote(g.ID))
		}
		if len(g.Selector) == 0 {
			refuse("group %s selects every machine on the network; give it a MAC address", quote(g.ID))
			continue
		}
		for key, value := range g.Selector {
			if _, err := net.ParseMAC(value); strings.EqualFold(key, "mac") && err != nil {
				refuse("group %s selects by %s, which is not a MAC address; matchbox would skip the group", quote(g.ID), quote(value))
			}
		}
		key := selectorKey(g.Selector)
		if other, ok := selectors[key]; ok {
			refuse("groups %s and %s select the same machines (%s); matchbox would take either", quote(other), quote(g.ID), key)
		}
		selectors[key] = g.ID
	}
	return errors.Join(errs...)
}

// selectorKey is the same for selectors that match the same requests.
func selectorKey(selector map[string]string) string {
	var all []string
	for key, value := range normalSelector(selector) {
		// matchbox compares this one key without regard to case, in requests.
		if strings.EqualFold(key, "mac") {
			key = "mac"
		}
		all = append(all, key+"="+value)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}
