package assets

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox"
)

// served is a Kickstart as matchbox serves it to a machine: rendered with the metadata of its group.
func served(t *testing.T, kickstart []byte, group json.RawMessage) string {
	t.Helper()
	data := map[string]any{}
	if err := json.Unmarshal(group, &data); err != nil {
		t.Fatal(err)
	}
	tmpl, err := template.New("").Option("missingkey=error").Parse(string(kickstart))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, data); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sections splits a Kickstart: the commands, and the text of each section by the line that begins it.
func sections(t *testing.T, text string) (commands []string, bodies map[string]string) {
	t.Helper()
	bodies = map[string]string{}
	open := ""
	for _, line := range strings.Split(text, "\n") {
		switch {
		case open == "" && regexp.MustCompile(`^%(packages|pre|post)`).MatchString(line):
			open = line
			bodies[open] = ""
		case open != "" && line == "%end":
			open = ""
		case open != "":
			bodies[open] += line + "\n"
		case line != "" && !strings.HasPrefix(line, "#"):
			commands = append(commands, line)
		}
	}
	if open != "" {
		t.Fatalf("%s has no %%end", open)
	}
	return commands, bodies
}

// kickstartCommands of pykickstart's reference that are used, which RHEL 7 to 10 all have but for timesource.
var kickstartCommands = []string{
	"text", "skipx", "reboot", "eula", "firstboot", "lang", "keyboard", "timezone", "timesource", "url", "network", "firewall", "selinux", "services", "rootpw", "user", "sshkey", "%include",
}

func TestKickstart(t *testing.T) {
	needTool(t, "shellcheck", "shellcheck")
	dir := t.TempDir()
	for _, s := range systems {
		if s.os != cluster.RHEL {
			continue
		}
		c, r := render(t, system(s.text, s.os, s.version))
		for _, d := range r.Machines {
			group := r.Groups[slices.IndexFunc(r.Groups, func(g matchbox.Group) bool { return g.Selector["mac"] == d.MACs[0] })]
			text := served(t, r.Generic[KickstartID(c, d.Image.Arch)], group.Metadata)
			commands, bodies := sections(t, text)
			for _, line := range commands {
				word, _, _ := strings.Cut(line, " ")
				if !slices.Contains(kickstartCommands, word) {
					t.Errorf("%s: the command %q", s.name, line)
				}
				if word == "timesource" && major(s.version) < 9 || word == "timezone" && strings.Contains(line, "ntpservers") && major(s.version) >= 9 {
					t.Errorf("%s: %q is not for this release", s.name, line)
				}
			}
			if want := "network --bootproto=dhcp --device=bootif --hostname=" + d.DNSName; !slices.Contains(commands, want) {
				t.Errorf("%s: no %q", s.name, want)
			}
			if len(bodies) != 4 {
				t.Errorf("%s: %d sections", s.name, len(bodies))
			}
			for first, body := range bodies {
				if strings.HasPrefix(first, "%packages") {
					continue
				}
				if !strings.Contains(first, "--erroronfail") {
					t.Errorf("%s: %s goes on after an error", s.name, first)
				}
				file := filepath.Join(dir, "section.sh")
				if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
					t.Fatal(err)
				}
				if out, err := exec.CommandContext(t.Context(), "shellcheck", "--shell=sh", file).CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v\n%s", s.name, first, err, out)
				}
			}
			// Nothing but the part that the claim allowed names a disk.
			for _, line := range commands {
				for _, word := range []string{"clearpart", "part", "autopart", "zerombr", "bootloader", "ignoredisk"} {
					if strings.HasPrefix(line, word) {
						t.Errorf("%s: %q would write a disk that was not claimed", s.name, line)
					}
				}
			}
		}
	}
}

// What an operator writes stays one word of one command, whatever it holds: Kickstart splits as a shell does, and matchbox
// renders the whole once more.
func TestKickstartQuotes(t *testing.T) {
	comment := `O'Brien "the {{.operator}}" \o/ %end $(reboot) {{"{{"}} #`
	text := strings.Replace(system(small, cluster.RHEL, "9.4"), sshKey, strings.ReplaceAll(strings.ReplaceAll(sshKey+" "+comment, `\`, `\\`), `"`, `\"`), 1)
	c, r := render(t, text)
	commands, _ := sections(t, served(t, r.Generic[KickstartID(c, "x86_64")], r.Groups[0].Metadata))
	i := slices.IndexFunc(commands, func(line string) bool { return strings.HasPrefix(line, "sshkey ") })
	if i < 0 {
		t.Fatal("there is no sshkey")
	}
	// sh splits double-quoted text as shlex does, once $ and ` stand for themselves.
	line := strings.NewReplacer("$", `\$`, "`", "\\`").Replace(strings.TrimPrefix(commands[i], "sshkey --username=core "))
	out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", "printf %s "+line).CombinedOutput()
	if err != nil || string(out) != sshKey+" "+comment {
		t.Errorf("%v\n got %s\nwant %s", err, out, sshKey+" "+comment)
	}
}

// The program is checked before it is run: the digest's line really fails on another file.
func TestKickstartVerifiesTheProgram(t *testing.T) {
	c, r := render(t, system(small, cluster.RHEL, "9.4"))
	_, bodies := sections(t, served(t, r.Generic[KickstartID(c, "x86_64")], r.Groups[0].Metadata))
	dir := t.TempDir()
	for first, body := range bodies {
		if !strings.HasPrefix(first, "%pre") {
			continue
		}
		// Instead of the download, a program that says that it was run.
		lines := strings.Split(body, "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, "curl ") {
				lines[i] = "printf '#!/bin/sh\\necho ran >" + dir + "/ran\\n' >/tmp/tectonic-machine"
			}
		}
		body = strings.NewReplacer("/tmp/tectonic-machine", dir+"/tectonic-machine", "/etc/tectonic-machine", dir+"/etc").Replace(strings.Join(lines, "\n"))
		out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", body).CombinedOutput()
		if _, ran := os.Stat(dir + "/ran"); err == nil || ran == nil || !strings.Contains(string(out), "FAILED") {
			t.Errorf("a program of another digest: %v, ran: %v\n%s", err, ran == nil, out)
		}
		return
	}
	t.Error("no section runs before the installation")
}
