package assets

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tectonic-worker/tectonic-worker/installer/cluster"
	"github.com/tectonic-worker/tectonic-worker/installer/matchbox/server"
)

// Every machine gets from our server, and from each real matchbox that this machine has ($MATCHBOX, a list as $PATH is,
// or the matchbox on $PATH), what was rendered for it.
func TestServed(t *testing.T) {
	for _, s := range systems {
		c, r := render(t, system(s.text, s.os, s.version))
		data := t.TempDir()
		write := func(dir, name string, text []byte) {
			if err := os.MkdirAll(filepath.Join(data, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(data, dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range r.Profiles {
			write("profiles", p.ID+".json", indent(t, p))
		}
		for _, g := range r.Groups {
			write("groups", g.ID+".json", indent(t, g))
		}
		for name, text := range r.Ignition {
			write("ignition", name, text)
		}
		for name, text := range r.Generic {
			write("generic", name, text)
		}

		ours, err := server.New(server.Options{DataPath: data})
		if err != nil {
			t.Fatal(err)
		}
		own := httptest.NewServer(ours.HTTP())
		servers := map[string]string{"ours": own.URL}
		for _, path := range realMatchboxes(t) {
			servers[filepath.Base(path)] = startMatchbox(t, path, data)
		}
		for name, at := range servers {
			for i, m := range c.Machines {
				for _, mac := range m.MACs {
					t.Run(s.name+"/"+name+"/"+string(mac), func(t *testing.T) { checkServed(t, at, c, r, i, string(mac)) })
				}
			}
		}
		own.Close()
		ours.Close()
	}
}

func checkServed(t *testing.T, at string, c *cluster.Cluster, r Rendered, i int, mac string) {
	m, d := c.Machines[i], r.Machines[i]
	query := "?mac=" + url.QueryEscape(strings.ToUpper(strings.ReplaceAll(mac, ":", "-")))
	p := installProfile(c, m)
	script := get(t, at+"/ipxe"+query)
	want := fmt.Sprintf("#!ipxe\nkernel %s %s\ninitrd %s\nboot\n", p.Boot.Kernel, strings.Join(p.Boot.Args, " "), p.Boot.Initrd[0])
	if diff := cmp.Diff(want, script); diff != "" {
		t.Errorf("/ipxe (-want +got):\n%s", diff)
	}
	if p.GenericID != "" {
		kickstart := get(t, at+"/generic"+query)
		if !strings.Contains(kickstart, "--hostname="+d.DNSName+"\n") || strings.Contains(kickstart, `{{"{{"}}`) {
			t.Errorf("/generic:\n%s", kickstart)
		}
		return
	}
	var wanted, got any
	if err := json.Unmarshal(r.Ignition[p.IgnitionID], &wanted); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(get(t, at+"/ignition"+query)), &got); err != nil {
		t.Fatal(err)
	}
	// matchbox from 0.10 on writes it anew, with its own version and with every field that is empty.
	delete(wanted.(map[string]any)["ignition"].(map[string]any), "version")
	delete(got.(map[string]any)["ignition"].(map[string]any), "version")
	if missing := lacks(wanted, got); missing != "" {
		t.Errorf("/ignition lacks %s", missing)
	}
}

// lacks names something of want that got does not have.
func lacks(want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		got, _ := got.(map[string]any)
		for key, value := range want {
			if why := lacks(value, got[key]); why != "" {
				return key + "." + why
			}
		}
		return ""
	case []any:
		got, _ := got.([]any)
		if len(got) != len(want) {
			return fmt.Sprintf("%d entries, has %d", len(want), len(got))
		}
		for i := range want {
			if why := lacks(want[i], got[i]); why != "" {
				return fmt.Sprintf("%d.%s", i, why)
			}
		}
		return ""
	}
	if !reflect.DeepEqual(want, got) {
		return fmt.Sprintf("= %v, has %v", want, got)
	}
	return ""
}

func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", url, response.Status, err, text)
	}
	return string(text)
}

func realMatchboxes(t *testing.T) []string {
	if named := os.Getenv("MATCHBOX"); named != "" {
		return filepath.SplitList(named)
	}
	if path, err := exec.LookPath("matchbox"); err == nil {
		return []string{path}
	}
	t.Log("no matchbox on $PATH or in $MATCHBOX: only our server is tried")
	return nil
}

// startMatchbox runs a matchbox until the test ends.
func startMatchbox(t *testing.T, path, data string) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cmd := exec.Command(path, "-address", address, "-data-path", data, "-assets-path", data)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	// It says nothing when it is ready.
	tick, end := time.NewTicker(20*time.Millisecond), time.NewTimer(20*time.Second)
	defer tick.Stop()
	defer end.Stop()
	for {
		if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			conn.Close()
			return "http://" + address
		}
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("%s does not listen on %s", path, address)
		}
	}
}
