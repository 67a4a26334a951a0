package live

import (
	"fmt"
	"path"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// Operating systems, as in the cluster file.
const (
	flatcar      = "flatcar"
	fedoraCoreOS = "fedora-coreos"
	rhel         = "rhel"
)

// anaconda is the installer of RHEL's live system, which is running already.
const anaconda = "anaconda"

// installerOf is the program that writes the system to the disk, of the live system.
func installerOf(os string) string {
	switch os {
	case flatcar:
		return "flatcar-install"
	case fedoraCoreOS:
		return "coreos-installer"
	case rhel:
		return anaconda
	}
	return "an installer of " + os
}

// imageURLs are what installerOf's program will download.
func imageURLs(i machine.Image) ([]string, error) {
	base := strings.TrimRight(i.BaseURL, "/")
	switch i.OS {
	case flatcar:
		if path.Base(base) != i.Version {
			return nil, fmt.Errorf("the image's URL %s does not end with the version %s, as flatcar-install wants it", base, i.Version)
		}
		image := base + "/flatcar_production_image.bin.bz2"
		return []string{image, image + ".sig"}, nil
	case fedoraCoreOS:
		image := fmt.Sprintf("%s/fedora-coreos-%s-metal.%s.raw.xz", base, i.Version, i.Arch)
		return []string{image, image + ".sig"}, nil
	case rhel:
		return nil, nil
	}
	return nil, fmt.Errorf("cannot install %q: this program knows flatcar, fedora-coreos and rhel", i.OS)
}

// installerCommand is the command line of the operating system's installer: flatcar-install -h, and coreos-installer's
// command line reference for "install". Both verify the image's OpenPGP signature with the keys that they carry.
func installerCommand(i machine.Image, device, ignition string) ([]string, error) {
	urls, err := imageURLs(i)
	if err != nil {
		return nil, err
	}
	switch i.OS {
	case flatcar:
		// It appends the version to the URL itself.
		base := strings.TrimSuffix(strings.TrimRight(i.BaseURL, "/"), "/"+i.Version)
		argv := []string{"flatcar-install", "-d", device, "-V", i.Version}
		if i.Channel != "" {
			argv = append(argv, "-C", i.Channel)
		}
		return append(argv, "-b", base, "-i", ignition), nil
	case fedoraCoreOS:
		argv := []string{"coreos-installer", "install", "--image-url", urls[0], "--ignition-file", ignition}
		for _, a := range i.KernelArgs {
			argv = append(argv, "--append-karg", a)
		}
		return append(argv, device), nil
	}
	return nil, fmt.Errorf("cannot install %s from its live system: it is installed by its Kickstart", i.OS)
}
