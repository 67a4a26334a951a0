package agent

import "time"

// Health is the answer of status in one word.
type Health string

const (
	Healthy   Health = "healthy"
	Degraded  Health = "degraded"
	NotJoined Health = "not-joined"
)

// WorkerStatus is what status shows. Its JSON is the document of
// "status -o json"; names are stable within an apiVersion, and docs/status.md
// has them all. What could not be found out is left out, and Problems or Notes
// say why.
type WorkerStatus struct {
	APIVersion  string            `json:"apiVersion"`
	Time        time.Time         `json:"time"`
	Health      Health            `json:"health"`
	Problems    []string          `json:"problems"`
	Notes       []string          `json:"notes"`
	Node        NodeStatus        `json:"node"`
	Kubelet     KubeletStatus     `json:"kubelet"`
	Credential  CredentialStatus  `json:"credential"`
	Certificate CertificateStatus `json:"certificate"`
	Firewall    FirewallStatus    `json:"firewall"`
	SELinux     SELinuxStatus     `json:"selinux"`
	Drift       []DriftStatus     `json:"drift"`
	Restart     RestartStatus     `json:"restart"`
	Agent       AgentSeen         `json:"agent"`
	Changes     []ChangeStatus    `json:"changes"` // what this project changed on the host
}

// NodeStatus is the Node as the API server has it.
type NodeStatus struct {
	Name             string `json:"name"`
	Registered       bool   `json:"registered"`
	Ready            bool   `json:"ready"`
	Since            string `json:"since,omitempty"` // RFC 3339: when Ready last changed
	Why              string `json:"why,omitempty"`   // why not Ready, or why it is not known
	Unschedulable    bool   `json:"unschedulable"`   // cordoned
	KubeletVersion   string `json:"kubeletVersion,omitempty"`
	ContainerRuntime string `json:"containerRuntime,omitempty"` // of the pods
}

// KubeletStatus is kubelet.service and the image it runs.
type KubeletStatus struct {
	Active   string `json:"active"` // systemd's ActiveState
	Enabled  bool   `json:"enabled"`
	Healthy  bool   `json:"healthy"` // 127.0.0.1:10248/healthz
	Image    string `json:"image,omitempty"`
	Runtime  string `json:"runtime,omitempty"` // of the kubelet itself: rkt or podman
	Since    string `json:"since,omitempty"`   // RFC 3339
	Restarts int    `json:"restarts"`          // by systemd, since it was started by hand
	Says     string `json:"says,omitempty"`    // the unit's status line
}

// CredentialStatus is the kubeconfig.
type CredentialStatus struct {
	Kind     string     `json:"kind,omitempty"`
	Subject  string     `json:"subject,omitempty"`
	Shared   bool       `json:"shared"`
	Server   string     `json:"server,omitempty"`
	NotAfter *time.Time `json:"notAfter,omitempty"`
}

// CertificateStatus is what the kubelet shows the API server: the certificate
// that it got for itself where it has one, else the kubeconfig's.
type CertificateStatus struct {
	Subject  string     `json:"subject,omitempty"`
	Source   string     `json:"source,omitempty"` // the file
	NotAfter *time.Time `json:"notAfter,omitempty"`
	Days     *int       `json:"days,omitempty"` // left; negative after the end
	Severity Severity   `json:"severity,omitempty"`
}

// FirewallStatus is firewalld, and the ports that the worker needs.
type FirewallStatus struct {
	State   string       `json:"state"` // "running", "stopped", "not-installed" …
	Version string       `json:"version,omitempty"`
	Zone    string       `json:"zone,omitempty"`
	Panic   bool         `json:"panic"`
	Ports   []PortStatus `json:"ports,omitempty"`
}

// PortStatus is one port in both of firewalld's layers.
type PortStatus struct {
	Port      string `json:"port"`
	Runtime   bool   `json:"runtime"`
	Permanent bool   `json:"permanent"`
	Ours      bool   `json:"ours"` // opened by this project in either layer
}

// SELinuxStatus is the mode now and at the next boot.
type SELinuxStatus struct {
	Runtime string `json:"runtime,omitempty"`
	Boot    string `json:"boot,omitempty"`
	Ours    bool   `json:"ours"` // this project set the mode of now
}

// DriftStatus is one thing on the host that is not as the worker needs it.
type DriftStatus struct {
	Key
	What string `json:"what"` // what join, or the agent, would do about it
}

// RestartStatus says whether the kubelet that runs is older than what it is
// made from.
type RestartStatus struct {
	Pending bool     `json:"pending"`
	Reasons []string `json:"reasons"`
}

// AgentSeen is what the agent says of itself over its socket.
type AgentSeen struct {
	Running       bool         `json:"running"`
	Why           string       `json:"why,omitempty"` // why it could not be asked
	LastReconcile *time.Time   `json:"lastReconcile,omitempty"`
	Reloads       int          `json:"reloads"` // of firewalld, seen since the agent's start
	Repairs       []RepairSeen `json:"repairs,omitempty"`
}

// RepairSeen is a repair that the agent made, the last ones.
type RepairSeen struct {
	Time time.Time `json:"time"`
	What string    `json:"what"`
}

// ChangeStatus is an entry of the ledger.
type ChangeStatus struct {
	Key
	Since time.Time `json:"since"`
}
