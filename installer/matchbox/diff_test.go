package matchbox

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	long := strings.Repeat("a line\n", 1000)
	tests := []struct {
		name         string
		old, wanted  string
		want, hidden string
	}{
		{"created", "", "a\nb\n", "+a\n+b\n", ""},
		{"deleted", "a\n", "", "-a\n", ""},
		{"changed", "a\nb\nc\n", "a\nx\nc\n", "-b\n+x\n", ""},
		{"a kernel argument", "x tectonic.token=AbC-_9 y\n", "", "-x tectonic.token=(hidden) y\n", "AbC"},
		{"JSON", `"password": "geheim", "n": 1`, "", `"password": "(hidden)", "n": 1`, "geheim"},
		{"Kickstart", "rootpw --password=geheim\n", "", "--password=(hidden)\n", "geheim"},
		{"nothing but what is hidden", "token=1", "token=2", "differs in what is hidden", "token=1"},
		{"a terminal's orders", "\x1b[2J\u009bx\n", "", "-?[2J?x\n", "\x1b"},
		{"not text", "\xff\xfe", "", "(not text)", "\xff"},
		{"a long line", strings.Repeat("d", 5000), "", " …\n", strings.Repeat("d", 201)},
		{"many lines", "", long, "…\n", strings.Repeat("+a line\n", 401)},
	}
	for _, tt := range tests {
		got := diff([]byte(tt.old), []byte(tt.wanted))
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: no %q in %q", tt.name, tt.want, got)
		}
		if tt.hidden != "" && strings.Contains(got, tt.hidden) {
			t.Errorf("%s: %q shows", tt.name, tt.hidden)
		}
	}
}

func TestReadable(t *testing.T) {
	for _, same := range [][2]string{{`{"b":1,"a":[1.50,1e6]}`, "{\n \"a\": [1.50, 1e6], \"b\": 1}"}, {`"<&>"`, ` "<&>"`}} {
		if a, b := string(readable([]byte(same[0]))), string(readable([]byte(same[1]))); a != b {
			t.Errorf("%q and %q", a, b)
		}
	}
	for _, other := range []string{"", "text", "{} {}", `{"a":`} {
		if got := string(readable([]byte(other))); got != other {
			t.Errorf("%q became %q", other, got)
		}
	}
}

// What the other side says cannot reach a terminal as an order, nor fill it.
func TestClean(t *testing.T) {
	if got := clean(" a\x1b[31m\nb\u2028\xff\u0085c "); got != "a [31m b ? c" {
		t.Errorf("%q", got)
	}
	if got := clean(strings.Repeat("é", 10000)); len(got) > 900 {
		t.Errorf("%d bytes", len(got))
	}
}

// Whose a profile or config is, where one cluster's name begins as another's.
func TestOwnedName(t *testing.T) {
	tests := []struct {
		name, cluster string
		clusters      []string
		want          bool
	}{
		{"c-install-x86_64", "c", []string{"c"}, true},
		{"c-install.ign", "c", []string{"c"}, true},
		{"c-kickstart", "c", []string{"c"}, true},
		{"c-kickstart-2", "c", []string{"c"}, true},
		{"c-kickstarter", "c", []string{"c"}, false},
		{"c-worker", "c", []string{"c"}, false},
		{"cc-install", "c", []string{"c"}, false},
		{"", "c", []string{"c"}, false},
		{"c-install-install-x86_64", "c", []string{"c", "c-install"}, false},
		{"c-install-install-x86_64", "c-install", []string{"c", "c-install"}, true},
		{"c-install-install-x86_64", "c-install", []string{"c-install", "c"}, true},
		{"c-install-x86_64", "c", []string{"c", "c-install"}, true},
	}
	for _, tt := range tests {
		if got := ownedName(tt.name, tt.cluster, tt.clusters); got != tt.want {
			t.Errorf("ownedName(%q, %q, %q) = %v", tt.name, tt.cluster, tt.clusters, got)
		}
	}
}
