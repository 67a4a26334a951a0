package live

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// installedConfig is the installed system's Ignition (specification 3.x) with the machine's files and its ready token
// in it as data URLs (RFC 2397), so that none of them is ever fetched.
func installedConfig(c machine.Claimed) ([]byte, error) {
	config := map[string]any{}
	text := c.Config
	if len(text) == 0 || string(text) == "null" {
		text = json.RawMessage(`{"ignition":{"version":"3.0.0"}}`)
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("cannot read the installed system's Ignition as JSON; run \"tectonic-installer apply\" and arm the machine again")
	}
	ignition, _ := config["ignition"].(map[string]any)
	if version, _ := ignition["version"].(string); !strings.HasPrefix(version, "3.") {
		return nil, fmt.Errorf("cannot use the installed system's Ignition: its version is %q and must be 3.x", printable(version, 20))
	}
	storage, ok := config["storage"].(map[string]any)
	if !ok {
		storage = map[string]any{}
		config["storage"] = storage
	}
	files, _ := storage["files"].([]any)
	for _, f := range append(append([]machine.File{}, c.Files...), readyFile(c)...) {
		if err := validFile(f); err != nil {
			return nil, err
		}
		// The last of two with one path wins, and Ignition refuses both.
		kept := files[:0]
		for _, old := range files {
			if m, ok := old.(map[string]any); !ok || m["path"] != f.Path {
				kept = append(kept, old)
			}
		}
		files = append(kept, map[string]any{
			"path": f.Path, "mode": f.Mode & 0o7777, "overwrite": true,
			"contents": map[string]any{"source": "data:;base64," + base64.StdEncoding.EncodeToString(f.Content)},
		})
	}
	storage["files"] = files
	return encode(config), nil
}

func readyFile(c machine.Claimed) []machine.File {
	if c.Ready == "" {
		return nil
	}
	return []machine.File{{Path: PathReady, Mode: 0o600, Content: []byte(c.Ready + "\n")}}
}

func validFile(f machine.File) error {
	if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" || strings.ContainsRune(f.Path, 0) {
		return fmt.Errorf("cannot put %q on the disk: it is not the absolute path of a file", printable(f.Path, 200))
	}
	return nil
}
