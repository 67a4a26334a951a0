// Package machine owns what is known of each machine: what it shall become, its state on the way there, its one-time
// tokens, and its timeline. The state decides what a machine that boots from the network is served: only an armed one
// gets an installer, once. It does not know matchbox, DHCP or BMCs.
package machine

import (
	"encoding/json"
	"time"
)

// State is where a machine is on its way.
type State string

// The states in their order. Failed can follow any of the last five.
const (
	Discovered State = "discovered" // it booted from the network and nobody knows it; its disks are not touched
	Accepted   State = "accepted"   // an operator declared it
	Armed      State = "armed"      // its next network boot is served the install profile, once
	Booting    State = "booting"    // it was served that profile
	Installing State = "installing" // its installer claimed the disk: from here on it is written
	Installed  State = "installed"  // the disk holds a system that has not yet reported
	Ready      State = "ready"      // that system reported in
	Failed     State = "failed"
)

// Action is what an armed machine is armed for.
type Action string

const (
	ActionInstall Action = "install"
	ActionWipe    Action = "wipe" // erase the disk's signatures; the machine is Accepted afterwards
)

// Definition is what an operator declared of a machine. It is kept by the provisioner, mode 0600: Files and Config
// may hold secrets.
type Definition struct {
	Name    string            `json:"name"`
	Cluster string            `json:"cluster"`
	MACs    []string          `json:"macs"` // lower-case colon form
	DNSName string            `json:"dnsName,omitempty"`
	Role    string            `json:"role"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Exit is how "boot from disk" is said to its firmware: auto, exit, http-404, sanboot.
	Exit string `json:"exit,omitempty"`
	// Minimum and Disk guard the disk: bytes, and hints as in the cluster file.
	Minimum Minimum `json:"minimum"`
	Disk    Disk    `json:"disk"`
	Image   Image   `json:"image"`
	// Config is the installed system's Ignition (flatcar, fedora-coreos); empty for rhel.
	Config json.RawMessage `json:"config,omitempty"`
	Files  []File          `json:"files,omitempty"`
}

// Minimum is what the machine must have. Memory and Disk in bytes.
type Minimum struct {
	Memory int64 `json:"memory"`
	Cores  int   `json:"cores"`
	Disk   int64 `json:"disk"`
}

// Disk are the hints that choose a disk; sizes in bytes.
type Disk struct {
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Model      string `json:"model,omitempty"`
	MinSize    int64  `json:"minSize,omitempty"`
	MaxSize    int64  `json:"maxSize,omitempty"`
	Rotational *bool  `json:"rotational,omitempty"`
}

// Image is what is written to the disk.
type Image struct {
	OS      string `json:"os"` // flatcar, fedora-coreos, rhel
	Channel string `json:"channel,omitempty"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	BaseURL string `json:"baseURL"` // the directory that "images sync" publishes, with the version in it
	// KernelArgs for the installed system.
	KernelArgs []string `json:"kernelArgs,omitempty"`
}

// File is put on the machine's disk by its installer.
type File struct {
	Path    string `json:"path"`
	Mode    uint32 `json:"mode"`
	Content []byte `json:"content"`
}

// Status is a machine as an operator sees it: no token, no secret.
type Status struct {
	Name    string   `json:"name,omitempty"`    // empty while Discovered
	Cluster string   `json:"cluster,omitempty"` // empty while Discovered
	MACs    []string `json:"macs"`
	Role    string   `json:"role,omitempty"`
	// Definition is the digest of what was declared (Definition.Digest).
	Definition string `json:"definition,omitempty"`
	State      State  `json:"state"`
	Action     Action `json:"action,omitempty"`
	// Reason is why it is Failed, or what holds it.
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Last   *Event    `json:"last,omitempty"`
	// Stage and Percent are the installer's progress; Percent is 0 to 100.
	Stage   string `json:"stage,omitempty"`
	Percent int    `json:"percent,omitempty"`
	// Next is what is expected now, and Overdue since when it is late.
	Next    string     `json:"next,omitempty"`
	Overdue *time.Time `json:"overdue,omitempty"`
	// Inventory is what its installer found.
	Inventory *Inventory `json:"inventory,omitempty"`
}

// Sources of events.
const (
	SourceDHCP      = "dhcp"
	SourceTFTP      = "tftp"
	SourceIPXE      = "ipxe"
	SourceHTTP      = "http"
	SourceInstaller = "installer"
	SourcePower     = "power"
	SourceOperator  = "operator"
	SourceState     = "state"
)

// Event is a line of a machine's timeline.
type Event struct {
	Seq     uint64    `json:"seq"` // orders all events of a provisioner
	Time    time.Time `json:"time"`
	Machine string    `json:"machine,omitempty"`
	MAC     string    `json:"mac,omitempty"`
	Source  string    `json:"source"`
	// Kind is a short word: request, offer, ack, file, boot, ignition, hello, check, claim, progress, installed, …
	Kind    string `json:"kind"`
	Message string `json:"message"` // one line, control characters escaped, at most 500 bytes
}

// Inventory is what a machine's installer found on it. Sizes in bytes.
type Inventory struct {
	Memory   int64             `json:"memory"`
	Cores    int               `json:"cores"`
	Firmware string            `json:"firmware"` // bios or uefi
	Arch     string            `json:"arch"`
	Disks    []InventoryDisk   `json:"disks"`
	NICs     map[string]string `json:"nics"` // name to MAC
}

// InventoryDisk is a disk as the kernel shows it (/sys/block).
type InventoryDisk struct {
	Name       string `json:"name"` // as in /dev
	Size       int64  `json:"size"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Model      string `json:"model,omitempty"`
	Rotational bool   `json:"rotational"`
	Removable  bool   `json:"removable"`
	ReadOnly   bool   `json:"readOnly"`
	// InUse says what holds it (a mount, a RAID, LVM), empty when nothing does.
	InUse string `json:"inUse,omitempty"`
}
