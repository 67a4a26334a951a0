package assets

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// secretForms are what a secret looks like, besides the ones that this test's input holds.
var secretForms = []*regexp.Regexp{
	regexp.MustCompile(`PRIVATE KEY`),
	regexp.MustCompile(`(?i)client-key-data|client-certificate-data|kind: *Config\b`),
	regexp.MustCompile(`(?i)\b(password|passphrase|secret)\b["']?\s*[:=]\s*["']?[^\s"'$<]`),
	regexp.MustCompile(`(?i)rootpw (--iscrypted|--plaintext|[^-])|--password`),
	regexp.MustCompile(`\$(1|2[aby]|5|6|y)\$[./A-Za-z0-9$]{8}`), // crypt(5)
	regexp.MustCompile(`(?i)tectonic\.token=.`),
	regexp.MustCompile(`tectonic-(once|session|ready)-[A-Za-z0-9_-]{20}`), // ours
	regexp.MustCompile(`(?i)bearer +[A-Za-z0-9_-]{8}`),
	regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.eyJ`),    // a JSON web token
	regexp.MustCompile(`\b[a-z0-9]{6}\.[a-z0-9]{16}\b`), // a bootstrap token
	regexp.MustCompile(`://[^/\s"']*:[^/\s"']*@`),
}

var long = regexp.MustCompile(`[A-Za-z0-9+/_=-]{32,}`)

// random says that a long word is none: capitals, small letters and digits take turns in it as in no name or path.
func random(word string) bool {
	turns, last := 0, ' '
	for _, r := range word {
		kind := ' '
		switch {
		case r >= '0' && r <= '9':
			kind = '0'
		case r >= 'a' && r <= 'z':
			kind = 'a'
		case r >= 'A' && r <= 'Z':
			kind = 'A'
		default:
			continue
		}
		if kind != last {
			turns++
		}
		last = kind
	}
	return turns >= 10
}

// findSecrets looks through a text, and through what is encoded in it.
func findSecrets(text string, known []string) (found []string) {
	for _, s := range []string{pullSecret, kubeconfig, caKey} {
		if strings.Contains(text, s) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(s))) {
			found = append(found, s)
		}
	}
	for _, k := range known {
		text = strings.ReplaceAll(text, k, "")
	}
	for _, form := range secretForms {
		found = append(found, form.FindAllString(text, -1)...)
	}
	for _, data := range regexp.MustCompile(`data:;base64,([A-Za-z0-9+/=]*)`).FindAllStringSubmatch(text, -1) {
		content, err := base64.StdEncoding.DecodeString(data[1])
		if err != nil {
			found = append(found, "what does not decode: "+data[1])
		}
		found = append(found, findSecrets(string(content), known)...)
		text = strings.ReplaceAll(text, data[0], "")
	}
	for _, word := range long.FindAllString(text, -1) {
		if random(word) {
			found = append(found, word)
		}
	}
	return found
}

// Whatever matchbox serves is read by anyone on the machines' network: no key, token, password or kubeconfig is in it.
// Nor is one in the installed system's own configuration, whose secrets are the definition's files alone.
func TestNoSecretIsRendered(t *testing.T) {
	in := input()
	known := []string{
		in.MachineProgram["x86_64"], in.MachineProgram["aarch64"], // digests
		"AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl", "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJm", // public keys
		"MIIBdDCCARugAwIBAgIUeW91IGNhbm5vdCByZWFkIHRoaXMwCgYIKoZIzj0EAwIw", // a certificate
	}
	places := 0
	for _, s := range systems {
		c, r := render(t, system(s.text, s.os, s.version))
		all := map[string]string{}
		for name, text := range r.Ignition {
			all["Ignition "+name] = string(text)
		}
		for name, text := range r.Generic {
			all["generic "+name] = string(text)
		}
		for _, p := range r.Profiles {
			all["profile "+p.ID] = string(indent(t, p))
		}
		for _, g := range r.Groups {
			all["group "+g.ID] = string(indent(t, g))
		}
		for _, d := range r.Machines {
			all["config of "+d.Name] = string(d.Config)
			d.Config, d.Files = nil, nil
			text, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			all["definition of "+d.Name] = string(text)
		}
		for place, text := range all {
			places++
			if found := findSecrets(text, known); len(found) > 0 {
				t.Errorf("%s: %s holds %q", s.name, place, found)
			}
		}
		for _, m := range c.Machines {
			if text := string(indent(t, r)); m.Power.Address != "" && (strings.Contains(text, m.Power.Address) || strings.Contains(text, "bmc.yaml")) {
				t.Errorf("%s: where the BMC of %s is, is rendered", s.name, m.Name)
			}
		}
	}
	if places < 60 {
		t.Errorf("looked at %d places only", places)
	}
}

// The search finds what it is for.
func TestFindSecrets(t *testing.T) {
	for _, text := range []string{
		"-----BEGIN RSA PRIVATE KEY-----", "client-key-data: LS0t", `"password": "x"`, "password=x", "rootpw --plaintext x", "rootpw x", "$6$abcdefghijk$xyz",
		"tectonic.token=x", "Authorization: Bearer abcdefgh", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ", "abcdef.0123456789abcdef", "http://u:p@h", pullSecret,
		"tectonic-once-9tQ2Xb7Lr0uVmYd3Kc8Zn5Ws1Ge6Hf4Jp-AoTiEqNvU", "x 9tQ2Xb7Lr0uVmYd3Kc8Zn5Ws1Ge6Hf4Jp-AoTiEqNvU", "0f3a9c1b7e2d4f6a8b0c1d2e3f4a5b6c", "x Zm9vYmFyIGJheiBxdXggZm9vYmFyIGJheiBxdXg= y", "data:;base64," + base64.StdEncoding.EncodeToString([]byte("x password: hunter2")),
		base64.StdEncoding.EncodeToString([]byte(kubeconfig)),
	} {
		if found := findSecrets(text, nil); len(found) == 0 {
			t.Errorf("%q was not found", text)
		}
	}
	for _, text := range []string{"rootpw --lock", "tectonic.token", "a well-known-name-that-is-longer-than-32-letters", "ready.token", "http://h:8080/a@b"} {
		if found := findSecrets(text, nil); len(found) > 0 {
			t.Errorf("%q was found in %q", found, text)
		}
	}
}
