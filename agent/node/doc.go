// Package node owns the kubeconfig of this host and everything that the worker says to or hears from the API server: whether
// it can be reached and with which credential, the address of the cluster's DNS Service, this host's own Node object and its
// certificate signing requests.
//
// It is the only package that links client-go, and of that only the REST client with the core/v1 types: the typed clientset
// registers every API group and more than doubles the binary's memory. It reads no file and no environment variable on its
// own: kubeconfigs come as bytes, proxies as values. It never prints a secret, never sends a credential to a server that
// did not prove itself with the kubeconfig's CA, and never polls where a watch exists.
package node
