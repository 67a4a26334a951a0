package assets

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// prefix of all that is a cluster's own in matchbox.
func prefix(c *cluster.Cluster) string { return c.Name + "-install" }

// IgnitionID names the install system's Ignition. The ending makes matchbox serve it as it is.
func IgnitionID(c *cluster.Cluster, arch string) string { return prefix(c) + "-" + arch + ".ign" }

// KickstartID names the Kickstart.
func KickstartID(c *cluster.Cluster, arch string) string { return c.Name + "-kickstart-" + arch }

// profileID names an install profile; a machine with kernel arguments of its own has one of its own. A dot stands
// before the machine's name because no name has one.
func profileID(c *cluster.Cluster, m cluster.Machine) string {
	id := prefix(c) + "-" + m.Arch
	if len(m.KernelArgs) > 0 {
		id += "." + m.Name
	}
	return id
}

// imageDir is where "images sync" puts a version, below os.images.
func imageDir(os cluster.OS, arch string) string {
	if os.Name == cluster.RHEL {
		return path.Join("/", os.Name, os.Version, arch)
	}
	return path.Join("/", os.Name, os.Version)
}

func kernelArgs(c *cluster.Cluster, m cluster.Machine) []string {
	return slices.Concat(c.OS.KernelArgs, m.KernelArgs)
}

// installProfile is the operating system's own live system, which runs in memory. Without the token, which is added
// for an armed machine alone, it does nothing.
func installProfile(c *cluster.Cluster, m cluster.Machine) matchbox.Profile {
	dir := imageURL(c) + imageDir(c.OS, m.Arch)
	ignition := c.Matchbox.HTTP + "/ignition?mac=${mac:hexhyp}"
	p := matchbox.Profile{
		ID:         profileID(c, m),
		Name:       fmt.Sprintf("%s: install %s %s on %s", c.Name, c.OS.Name, c.OS.Version, m.Arch),
		IgnitionID: IgnitionID(c, m.Arch),
	}
	switch c.OS.Name {
	case cluster.Flatcar:
		p.Boot.Kernel = dir + "/flatcar_production_pxe.vmlinuz"
		p.Boot.Initrd = []string{dir + "/flatcar_production_pxe_image.cpio.gz"}
		p.Boot.Args = []string{"flatcar.first_boot=1", "ignition.config.url=" + ignition}
	case cluster.FedoraCoreOS:
		file := func(what, end string) string {
			return fmt.Sprintf("%s/fedora-coreos-%s-live-%s.%s%s", dir, c.OS.Version, what, m.Arch, end)
		}
		p.Boot.Kernel = file("kernel", "")
		p.Boot.Initrd = []string{file("initramfs", ".img")}
		rootfs := file("rootfs", ".img")
		if strings.HasPrefix(rootfs, "/") {
			rootfs = c.Matchbox.HTTP + rootfs // the kernel does not know where it was loaded from
		}
		p.Boot.Args = []string{
			"coreos.live.rootfs_url=" + rootfs,
			"ignition.firstboot", "ignition.platform.id=metal", "ignition.config.url=" + ignition,
		}
	case cluster.RHEL:
		p.IgnitionID, p.GenericID = "", KickstartID(c, m.Arch)
		p.Boot.Kernel = dir + "/images/pxeboot/vmlinuz"
		p.Boot.Initrd = []string{dir + "/images/pxeboot/initrd.img"}
		p.Boot.Args = []string{
			"inst.ks=" + c.Matchbox.HTTP + "/generic?mac=${mac:hexhyp}",
			"inst.repo=" + c.OS.Images + imageDir(c.OS, m.Arch),
			"BOOTIF=01-${mac:hexhyp}", "ip=dhcp",
		}
	}
	// A kernel that UEFI started finds its initrd by this name alone; elsewhere it has no effect.
	p.Boot.Args = append([]string{"initrd=" + path.Base(p.Boot.Initrd[0])}, p.Boot.Args...)
	p.Boot.Args = append(p.Boot.Args, kernelArgs(c, m)...)
	return p
}

// imageURL is a path where the images are matchbox's own assets: iPXE and GRUB both know where they got their script.
func imageURL(c *cluster.Cluster) string {
	if c.OS.Images == c.Matchbox.HTTP+"/assets" {
		return "/assets"
	}
	return c.OS.Images
}

func installGroups(c *cluster.Cluster, m cluster.Machine, profile string) []matchbox.Group {
	data, err := json.Marshal(metadata{c.Name, m.Name, Managed, m.DNSName})
	if err != nil {
		panic(err) // four strings
	}
	var groups []matchbox.Group
	for n, mac := range m.MACs {
		groups = append(groups, matchbox.Group{
			ID:       fmt.Sprintf("%s-%s-%d", prefix(c), m.Name, n),
			Name:     fmt.Sprintf("%s: install %s", c.Name, m.Name),
			Profile:  profile,
			Selector: map[string]string{"mac": string(mac)},
			Metadata: data,
		})
	}
	return groups
}

// InstallGroup is what an external matchbox holds while m is armed, and only then: a profile with the arguments that
// arm it, and a group for each card. The arguments hold the one-time token.
func InstallGroup(c *cluster.Cluster, m cluster.Machine, armArgs []string) (matchbox.Profile, []matchbox.Group) {
	p := installProfile(c, m)
	p.ID = prefix(c) + "-" + m.Arch + "." + m.Name + ".armed"
	p.Name = fmt.Sprintf("%s: install %s %s on %s", c.Name, c.OS.Name, c.OS.Version, m.Name)
	p.Boot.Args = slices.Concat(p.Boot.Args, armArgs)
	return p, installGroups(c, m, p.ID)
}
