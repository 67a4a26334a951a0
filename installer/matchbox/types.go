// Package matchbox speaks matchbox's gRPC API as its client: it owns what a group and a profile are, on the wire and in
// matchbox's files, and makes what a matchbox holds equal to what a cluster wants, in an order that is safe to
// interrupt. It decides nothing about machines and serves nothing; the server of the same protocol is the package below.
package matchbox

//go:generate ./generate.sh

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/storagepb"
)

// Group gives the machines whose labels match Selector the profile named Profile. The JSON form is that of matchbox's
// files, groups/<id>.json.
type Group struct {
	ID      string `json:"id,omitempty"`
	Name    string `json:"name,omitempty"`
	Profile string `json:"profile,omitempty"`
	// Selector is what a machine's labels must be, all of them; none: the default group. A key that is "mac" in any
	// case is compared as a MAC address.
	Selector map[string]string `json:"selector,omitempty"`
	// Metadata is a JSON object, for templates and /metadata.
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// Profile names what a machine boots and which configs it is served. The JSON form is that of profiles/<id>.json.
type Profile struct {
	ID         string  `json:"id,omitempty"`
	Name       string  `json:"name,omitempty"`
	IgnitionID string  `json:"ignition_id,omitempty"` // a file name below ignition/
	CloudID    string  `json:"cloud_id,omitempty"`    // a file name below cloud/
	GenericID  string  `json:"generic_id,omitempty"`  // a file name below generic/
	Boot       NetBoot `json:"boot"`
}

// NetBoot is what iPXE or GRUB loads. Args are joined by spaces and may hold iPXE variables such as ${mac:hexhyp}.
type NetBoot struct {
	Kernel string   `json:"kernel,omitempty"` // URL, or path below the HTTP endpoint
	Initrd []string `json:"initrd,omitempty"`
	Args   []string `json:"args,omitempty"`
}

// Proto is the group on the wire.
func (g Group) Proto() *storagepb.Group {
	return &storagepb.Group{Id: g.ID, Name: g.Name, Profile: g.Profile, Selector: g.Selector, Metadata: g.Metadata}
}

// GroupFromProto reads a group from the wire. It fails when the metadata is not a JSON object.
func GroupFromProto(p *storagepb.Group) (Group, error) {
	g := Group{ID: p.GetId(), Name: p.GetName(), Profile: p.GetProfile(), Selector: p.GetSelector()}
	metadata := bytes.TrimSpace(p.GetMetadata())
	// matchbox sends "null" for a group that has none.
	if len(metadata) == 0 || bytes.Equal(metadata, []byte("null")) {
		return g, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(metadata, &object); err != nil {
		return Group{}, fmt.Errorf("the metadata of group %q is not a JSON object: %w", g.ID, err)
	}
	g.Metadata = metadata
	return g, nil
}

// Proto is the profile on the wire. Boot is never nil there: matchbox's Terraform provider reads it unasked.
func (p Profile) Proto() *storagepb.Profile {
	return &storagepb.Profile{
		Id: p.ID, Name: p.Name, IgnitionId: p.IgnitionID, CloudId: p.CloudID, GenericId: p.GenericID,
		Boot: &storagepb.NetBoot{Kernel: p.Boot.Kernel, Initrd: p.Boot.Initrd, Args: p.Boot.Args},
	}
}

// ProfileFromProto reads a profile from the wire.
func ProfileFromProto(p *storagepb.Profile) Profile {
	return Profile{
		ID: p.GetId(), Name: p.GetName(), IgnitionID: p.GetIgnitionId(), CloudID: p.GetCloudId(), GenericID: p.GetGenericId(),
		Boot: NetBoot{Kernel: p.GetBoot().GetKernel(), Initrd: p.GetBoot().GetInitrd(), Args: p.GetBoot().GetArgs()},
	}
}
