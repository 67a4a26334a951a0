// Package kubelet turns a Kubernetes version and the settings of a worker into
// the kubelet's command line and its KubeletConfiguration.
//
// It owns what is passed to which version, and why: one table for kubelets 1.8
// to 1.36 (table.go), the names that upstream's own sources know in each of
// them (flags.txt and fields.txt, see extract.go), the merge of the
// administrator's drop-ins, and the rules about images, version skew and
// labels.
//
// It must not do I/O: it reads no file, runs nothing and asks nobody. Data in,
// data out.
package kubelet
