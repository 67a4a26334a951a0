// Package host is the machine as files, processes and one lock: atomic writes
// below a root directory, programs run with a deadline, and the lock that
// keeps two of ours from changing the machine at once. It must not know what
// a kubelet is.
package host
