// Package test holds the rules that the whole repository has to keep, as tests. It owns no code; the lab, the rkt double
// and the end-to-end tests below it are packages of their own. It must not test what a package can test itself.
package test
