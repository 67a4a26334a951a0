// Package selinux reads and sets the SELinux mode: of the running kernel, and in the file that decides at the next boot.
//
// It owns what the modes mean, how libselinux reads /etc/selinux/config, and the decision which mode the worker wants.
// It must not run setenforce, must not disable SELinux (unlabelled files then need a full relabel), must not load or
// remove policy, and writes no file: it edits the bytes, and the agent writes them.
package selinux
