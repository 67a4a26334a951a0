//go:build !linux

package netboot

import (
	"context"
	"errors"
)

// Run needs Linux.
func Run(context.Context, Config, func(Event), func(line string)) error {
	return errors.New("cannot run dnsmasq here: the machines' network is served from Linux; run this on the provisioner, or give \"tectonic-installer netboot print\" to a dnsmasq of your own")
}
