package host

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func resident(t *testing.T, what string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(l, what+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skipf("this kernel does not tell %s", what)
	return 0
}

// The program goes on after its pages were given back, and holds fewer.
func TestSlim(t *testing.T) {
	big := make([]byte, 32<<20)
	for i := range big {
		big[i] = byte(i)
	}
	sum := int(big[12345]) + len(strings.Repeat("x", int(big[7])))
	big = nil
	anon, file := resident(t, "RssAnon"), resident(t, "RssFile")
	Slim()
	if now := resident(t, "RssAnon"); now > anon-30<<10 {
		t.Errorf("RssAnon was %d KiB and is %d", anon, now)
	}
	if now := resident(t, "RssFile"); now >= file {
		t.Errorf("RssFile was %d KiB and is %d", file, now)
	}
	if sum == 0 {
		t.Error("unreachable, and keeps the work above from being left out")
	}
}
