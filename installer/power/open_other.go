//go:build !unix

package power

const openFlags = 0
