package matchbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// isOurs says whether a group is this program's, and of which cluster.
func isOurs(g Group) (cluster string, ours bool) {
	var metadata map[string]any
	if len(g.Metadata) == 0 || json.Unmarshal(g.Metadata, &metadata) != nil || metadata[MetadataManagedBy] != ManagedBy {
		return "", false
	}
	cluster, _ = metadata[MetadataCluster].(string)
	return cluster, true
}

// isClusters says whether a group is one cluster's.
func isClusters(g Group, cluster string) bool {
	owner, ours := isOurs(g)
	return ours && owner == cluster
}

func refuseOthers(wanted Wanted, h held, cluster string) error {
	var errs []error
	for _, g := range wanted.Groups {
		old, ok := h.groups[g.ID]
		if !ok {
			continue
		}
		switch owner, ours := isOurs(old); {
		case !ours:
			errs = append(errs, fmt.Errorf("cannot take group %s: matchbox has one of that id that was not made by %s (its metadata has no %s); delete or rename it", quote(g.ID), ManagedBy, MetadataManagedBy))
		case owner != cluster:
			errs = append(errs, fmt.Errorf("cannot take group %s: it is cluster %s's; give this cluster another name", quote(g.ID), quote(owner)))
		}
	}
	return errors.Join(errs...)
}

// clustersOf are the clusters that have groups in this matchbox, and this one.
func clustersOf(groups []Group, cluster string) []string {
	all := map[string]bool{cluster: true}
	for _, g := range groups {
		if owner, ours := isOurs(g); ours {
			all[owner] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// ownedName says whether the name of a profile or config is this cluster's. Of a cluster "prod" and one "prod-install",
// the name "prod-install-install-x86_64" is the second one's: the longest name decides.
func ownedName(name, cluster string, clusters []string) bool {
	owner := ""
	for _, c := range clusters {
		if (strings.HasPrefix(name, c+"-install") || name == c+"-kickstart" || strings.HasPrefix(name, c+"-kickstart-")) && len(c) > len(owner) {
			owner = c
		}
	}
	return owner == cluster
}

// orphans are the cluster's own objects that it does not want: groups by their metadata; profiles by their name, when no
// group that stays uses them; configs likewise, when no profile that stays does.
func orphans(wanted Wanted, h held, cluster string) []Change {
	var all []Change
	clusters := clustersOf(slices.Collect(maps.Values(h.groups)), cluster)

	usedProfiles := map[string]bool{}
	for _, g := range wanted.Groups {
		usedProfiles[g.Profile] = true
	}
	for _, id := range sortedKeys(h.groups) {
		g := h.groups[id]
		if slices.ContainsFunc(wanted.Groups, func(w Group) bool { return w.ID == id }) {
			continue
		}
		owner, ours := isOurs(g)
		if ours && owner == cluster && strings.HasPrefix(id, cluster+"-") && CheckID(id) == nil {
			all = append(all, Change{Kind: KindGroup, ID: id, Action: Delete, Diff: diff(document(normal(g)), nil)})
			continue
		}
		usedProfiles[g.Profile] = true
	}

	usedIgnition, usedGeneric := map[string]bool{}, map[string]bool{}
	for _, p := range wanted.Profiles {
		usedProfiles[p.ID] = true
		usedIgnition[p.IgnitionID], usedGeneric[p.GenericID] = true, true
	}
	for _, id := range sortedKeys(h.profiles) {
		p := h.profiles[id]
		if ownedName(id, cluster, clusters) && !usedProfiles[id] && CheckID(id) == nil {
			all = append(all, Change{Kind: KindProfile, ID: id, Action: Delete, Diff: diff(document(p), nil)})
			continue
		}
		if slices.ContainsFunc(wanted.Profiles, func(w Profile) bool { return w.ID == id }) {
			continue
		}
		usedIgnition[p.IgnitionID], usedGeneric[p.GenericID] = true, true
	}
	for _, configs := range []struct {
		kind   Kind
		held   map[string][]byte
		wanted map[string][]byte
		used   map[string]bool
	}{{KindGeneric, h.generic, wanted.Generic, usedGeneric}, {KindIgnition, h.ignition, wanted.Ignition, usedIgnition}} {
		for _, name := range sortedKeys(configs.held) {
			if _, ok := configs.wanted[name]; !ok && !configs.used[name] && ownedName(name, cluster, clusters) {
				all = append(all, Change{Kind: configs.kind, ID: name, Action: Delete, Diff: diff(readable(configs.held[name]), nil)})
			}
		}
	}
	return all
}

// warnings are about others' groups that match what ours match, and about default groups, of which matchbox takes any.
func warnings(wanted Wanted, h held, cluster string) []string {
	bySelector, byMAC := map[string]string{}, map[string]string{}
	for _, g := range wanted.Groups {
		bySelector[selectorKey(g.Selector)] = g.ID
		if mac := macOf(g); mac != "" {
			byMAC[mac] = g.ID
		}
	}
	var all, defaults []string
	for _, id := range sortedKeys(h.groups) {
		g := h.groups[id]
		if len(g.Selector) == 0 {
			defaults = append(defaults, quote(id))
			continue
		}
		// The cluster's own ones are updated, deleted or listed as orphans.
		if isClusters(g, cluster) {
			continue
		}
		key := selectorKey(g.Selector)
		if same := bySelector[key]; same != "" {
			all = append(all, fmt.Sprintf("group %s, which is not this cluster's, selects the same machines as %s (%s): matchbox takes either; delete it, or take the machine out of the cluster file", quote(id), quote(same), key))
		} else if same := byMAC[macOf(g)]; same != "" {
			all = append(all, fmt.Sprintf("group %s, which is not this cluster's, selects the machine of %s and more (%s): matchbox prefers it where a request has all of that; delete it if the machine is this cluster's", quote(id), quote(same), key))
		}
	}
	if len(defaults) > 1 {
		all = append(all, fmt.Sprintf("matchbox has %d default groups (%s): which one an unknown machine gets is chance; keep one", len(defaults), strings.Join(defaults, ", ")))
	}
	return all
}

func macOf(g Group) string {
	for key, value := range normalSelector(g.Selector) {
		if strings.EqualFold(key, "mac") {
			return value
		}
	}
	return ""
}
