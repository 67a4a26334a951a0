// Package storagepb is the messages of matchbox's storage: groups and profiles, generated from installer/matchbox/proto. It must not
// be linked together with matchbox's own package of that name: both register the same message names.
package storagepb
