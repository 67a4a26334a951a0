// Package lab boots real parts on one Linux machine for the tests and the demo: worker hosts (a systemd-nspawn machine
// with its own systemd, firewalld, rpm, podman and containerd), a control plane (etcd, kube-apiserver,
// kube-controller-manager), computers that boot over the network (QEMU, and an operating system for their disks), their
// BMCs and their provisioner, and the bridge between all of them.
//
// It owns the cache those parts are built into, the network they share, and their end: every process dies with the
// process that opened the lab, even by SIGKILL, and mounts and network namespaces are never visible to the machine
// underneath. It must not import anything of this project, must not touch the machine's own network, and must not
// know what join does: what a kubelet needs only because it runs in a lab is written here, everything else is the
// product's business.
package lab
