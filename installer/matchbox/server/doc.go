// Package server answers what matchbox answers, over the same two APIs and from the same files: machines read over HTTP,
// operators write over gRPC. It owns the index of the data directory, the choice of a group for a machine's labels, and
// the flags and environment that matchbox has. It must not decide whether a machine may be installed: it asks a Gate,
// and without one it is matchbox and nothing more. It opens no ports of its own accord and keeps no state but the files.
package server
