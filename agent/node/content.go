package node

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"
)

// notKubeconfig recognises what is put in a kubeconfig's place by mistake, so that the message can name it.
func notKubeconfig(data []byte) (Problem, bool) {
	malformed := func(what, remedy string) (Problem, bool) {
		return Problem{Cause: Malformed, What: what, Remedy: remedy}, true
	}
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	head := strings.ToLower(string(text[:min(len(text), 64)]))
	switch {
	case len(data) > MaxSize:
		return malformed(fmt.Sprintf("the file has %d bytes, a kubeconfig has at most %d", len(data), MaxSize), "check that it is the right file")
	case len(text) == 0:
		return malformed("the kubeconfig is empty", "if it is still being copied, wait; else copy it again")
	case strings.HasPrefix(head, "<!doctype html"), strings.HasPrefix(head, "<html"):
		return malformed("the file is an HTML page, perhaps a login page, and not a kubeconfig", "log in, download it again and look at its first line")
	case strings.HasPrefix(head, "<"):
		return malformed("the file is XML or HTML and not a kubeconfig", "download it again and look at its first line")
	case bytes.HasPrefix(data, []byte("PK\x03\x04")), bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return malformed("the file is an archive and not a kubeconfig", "hand the installer's archive over with --assets")
	case strings.HasPrefix(head, "-----begin "):
		return malformed("the file is a PEM file and not a kubeconfig", "its content belongs into a kubeconfig, base64 encoded")
	case bytes.IndexByte(data, 0) >= 0, !utf8.Valid(data):
		return malformed("the file is not UTF-8 text", "save the kubeconfig as UTF-8")
	}
	return Problem{}, false
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// load decodes YAML. The decoders' own messages can quote the file, and with it a secret, so none of them is passed on.
func load(data []byte) (*api.Config, *Problem) {
	const copying = "the copy may be incomplete: copy it again"
	raw, err := yaml.YAMLToJSON(data)
	if err != nil {
		at := ""
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			at = " at line " + m[1]
		}
		return nil, &Problem{Cause: Malformed, What: "the kubeconfig is not valid YAML" + at, Remedy: copying}
	}
	var head struct {
		Kind       string
		APIVersion string `json:"apiVersion"`
		Clusters   []struct {
			Name    string
			Cluster map[string]any
		}
		Users []struct {
			Name string
			User map[string]any
		}
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, &Problem{Cause: Malformed, What: "the file is YAML, but it has not the structure of a kubeconfig", Remedy: "check that it is the right file"}
	}
	if head.Kind != "" && head.Kind != "Config" || head.APIVersion != "" && head.APIVersion != "v1" {
		return nil, &Problem{Cause: Malformed, What: fmt.Sprintf("the file is of kind %q, version %q, and not a kubeconfig (Config, v1)", clean(head.Kind), clean(head.APIVersion)),
			Remedy: "check that it is the right file"}
	}
	badData := func(where string, fields map[string]any) *Problem {
		for key, value := range fields {
			if !strings.HasSuffix(key, "-data") {
				continue
			}
			s, ok := value.(string)
			if _, err := base64.StdEncoding.DecodeString(s); !ok || err != nil {
				return &Problem{Cause: Malformed, What: fmt.Sprintf("%s of %s is not complete base64", clean(key), where), Remedy: copying}
			}
		}
		return nil
	}
	for _, c := range head.Clusters {
		if p := badData(named("cluster", c.Name), c.Cluster); p != nil {
			return nil, p
		}
	}
	for _, u := range head.Users {
		if p := badData(named("user", u.Name), u.User); p != nil {
			return nil, p
		}
	}
	config, err := clientcmd.Load(raw)
	if err != nil {
		return nil, &Problem{Cause: Malformed, What: "the file is YAML, but it has not the structure of a kubeconfig", Remedy: "check that it is the right file"}
	}
	return config, nil
}

// named is for entries whose name may come after the place where a copy was cut.
func named(what, name string) string {
	if name == "" {
		return "a " + what
	}
	return fmt.Sprintf("%s %q", what, clean(name))
}
