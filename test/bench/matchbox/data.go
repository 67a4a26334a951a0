package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mac is the address of machine i, in the notation that iPXE sends.
func mac(i int) string {
	return fmt.Sprintf("52-54-%02x-%02x-%02x-%02x", i>>24&0xff, i>>16&0xff, i>>8&0xff, i&0xff)
}

// writeData makes a data directory with n machines: a group each, and what they share.
func writeData(dir string, n int) error {
	for _, d := range []string{"groups", "profiles", "ignition", "generic", "cloud", "assets"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	var files strings.Builder
	for i := range 8 {
		fmt.Fprintf(&files, `%s{"path":"/etc/tectonic/%d","mode":420,"contents":{"source":"data:;base64,%s"}}`, comma(i), i, strings.Repeat("QUFB", 64))
	}
	shared := map[string]string{
		"profiles/install.json": `{"id":"install","boot":{"kernel":"/assets/flatcar/4230.2.0/flatcar_production_pxe.vmlinuz",
			"initrd":["/assets/flatcar/4230.2.0/flatcar_production_pxe_image.cpio.gz"],
			"args":["initrd=flatcar_production_pxe_image.cpio.gz","flatcar.first_boot=yes","ignition.config.url=http://matchbox.example.com:8080/ignition?uuid=${uuid}&mac=${mac:hexhyp}","console=tty0","console=ttyS0"]},
			"ignition_id":"install.ign"}`,
		"ignition/install.ign": `{"ignition":{"version":"3.3.0"},"storage":{"files":[` + files.String() + `]}}`,
	}
	for name, content := range shared {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for i := range n {
		group := fmt.Sprintf(`{"id":"node%d","name":"node%d","profile":"install","selector":{"mac":%q},"metadata":{"domain_name":"node%d.example.com","etcd_name":"node%d","ssh_authorized_keys":["ssh-ed25519 AAAA"],"network":{"gateway":"172.18.0.1","dns":"172.18.0.2"}}}`,
			i, i, mac(i), i, i)
		if err := os.WriteFile(filepath.Join(dir, "groups", fmt.Sprintf("node%d.json", i)), []byte(group), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}
