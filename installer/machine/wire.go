package machine

import "encoding/json"

// What travels between a machine and the provisioner: JSON over HTTPS, "Authorization: Bearer <token>", below
// APIPath. An error is {"error": "..."} with 400 (bad input), 401 (no such token), 409 (not now), 410 (token spent).
const (
	APIPath = "/v1alpha1/"

	PathHello     = APIPath + "machine/hello"     // Hello -> Instruction; one-time token
	PathChecks    = APIPath + "machine/checks"    // Checks -> Answer; one-time token
	PathClaim     = APIPath + "machine/claim"     // Claim -> Claimed; spends the one-time token
	PathProgress  = APIPath + "machine/progress"  // Progress -> Answer; session token
	PathInstalled = APIPath + "machine/installed" // Answer -> Answer; session token
	PathFailed    = APIPath + "machine/failed"    // Failure -> Answer; one-time or session token
	PathReady     = APIPath + "machine/ready"     // Answer -> Answer; ready token
)

// Kernel arguments that the install profile is served with; the machine's installer reads them from /proc/cmdline.
const (
	ArgServer = "tectonic.server" // https://host:8443
	ArgToken  = "tectonic.token"
	ArgMAC    = "tectonic.mac" // the card that booted
)

// KernelArgs are appended to the install profile's arguments for a machine that is armed. server is
// https://host:port of the machines' API.
func KernelArgs(server, token, mac string) []string {
	return []string{ArgServer + "=" + server, ArgToken + "=" + token, ArgMAC + "=" + mac}
}

// Answer is an empty object.
type Answer struct{}

// Hello is the first call of a machine's installer.
type Hello struct {
	MAC       string    `json:"mac"`
	Inventory Inventory `json:"inventory"`
}

// Instruction is what the installer shall do.
type Instruction struct {
	Machine string  `json:"machine"`
	DNSName string  `json:"dnsName,omitempty"`
	Action  Action  `json:"action"`
	Minimum Minimum `json:"minimum"`
	Disk    Disk    `json:"disk"`
	Image   Image   `json:"image"`
}

// Check is one named requirement.
type Check struct {
	Name   string `json:"name"` // memory, cores, disk, firmware …
	OK     bool   `json:"ok"`
	Wanted string `json:"wanted"`
	Found  string `json:"found"`
}

// Checks reports all of them, before anything is written.
type Checks struct {
	Checks []Check `json:"checks"`
}

// Claim asks for the disk. After it, and only after it, the installer may write.
type Claim struct {
	Disk InventoryDisk `json:"disk"`
	// Run is a random word that the installer makes once per boot. A claim with the same token and the same Run, before
	// any progress, is answered again (with new tokens): its first answer was lost on the way.
	Run string `json:"run,omitempty"`
}

// Claimed allows the write. All tokens and secrets of the machine are in here and nowhere else.
type Claimed struct {
	Session string          `json:"session"` // for progress, installed, failed
	Ready   string          `json:"ready"`   // for the installed system's first boot
	Config  json.RawMessage `json:"config,omitempty"`
	Files   []File          `json:"files,omitempty"`
}

// Progress is a step of the installation.
type Progress struct {
	Stage   string `json:"stage"` // download, write, configure …
	Percent int    `json:"percent"`
	Message string `json:"message,omitempty"`
}

// Failure ends an installation.
type Failure struct {
	Stage  string `json:"stage"`
	Reason string `json:"reason"`
}
