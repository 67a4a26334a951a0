// Package agent says what a worker must look like, makes the host so, and puts
// it back. It owns the plan (the ordered list of resources), the ledger of what
// this project changed, and the checks a host must pass. It must not touch
// D-Bus, run programs or speak to the API server itself: that is what the
// packages below it, firewall and agent/node are for.
package agent
