// Package serverpb is the requests and responses of matchbox's services, generated from installer/matchbox/proto. It must not
// be linked together with matchbox's own package of that name: both register the same message names.
package serverpb
