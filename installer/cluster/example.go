package cluster

import (
	_ "embed"
	"slices"
)

//go:embed example.yaml
var example []byte

// Example is a commented cluster file to begin with. It is valid once what it marks "fill in" is filled in.
func Example() []byte { return slices.Clone(example) }
