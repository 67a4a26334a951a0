// Package faults breaks what a worker stands on while the worker's commands run (system calls, disks, firewalld, D-Bus, the
// API server, the commands themselves) and looks at what is left; of provisioning, it breaks what several packages bear
// together. It owns the list of faults with the test of each, the injection, and the invariants that hold after every
// fault. It must not know how a command does its work: it sees what an administrator sees, from outside.
package faults
