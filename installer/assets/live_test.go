//go:build linux

package assets

import (
	"strings"
	"testing"

	"github.com/tectonic-worker/tectonic-worker/installer/live"
)

// What is rendered and the program that runs on the machine mean the same files.
func TestAgreesWithTheProgram(t *testing.T) {
	if kickstartDisk != live.PathKickstartDisk {
		t.Errorf("the Kickstart includes %s, kickstart-pre writes %s", kickstartDisk, live.PathKickstartDisk)
	}
	for text, path := range map[string]string{readyScript: live.PathReady, readyUnit: live.PathReady, readyScript + " ": live.PathCA, kickstartText: live.PathCA} {
		if !strings.Contains(text, path) {
			t.Errorf("%s is not in\n%s", path, text)
		}
	}
	for name, text := range ignitions(t) {
		if files, _ := contentsOf(t, text); files[live.PathCA] == "" {
			t.Errorf("%s has no %s", name, live.PathCA)
		}
	}
}
