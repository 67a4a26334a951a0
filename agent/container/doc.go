// Package container turns the kubelet's arguments and what is known of the
// host into the command line of rkt or podman that runs the kubelet.
//
// It owns which host directories the kubelet sees and how, where the original
// wrapper's environment (KUBELET_IMAGE_ARGS, RKT_RUN_ARGS, RKT_OPTS,
// RKT_GLOBAL_ARGS, RKT_STAGE1_ARG) goes on the command line, and the identity
// of the key that signs Quay's images.
//
// It must not do I/O: it runs nothing, creates no directory and looks at no
// file. What a Volume asks to be created or skipped, the caller does.
package container
