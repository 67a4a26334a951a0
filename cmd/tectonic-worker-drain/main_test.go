package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "--kubeconfig and --node are needed"},
		{[]string{"--kubeconfig", "/x"}, 2, "--kubeconfig and --node are needed"},
		{[]string{"--kubeconfig", "/x", "--node", "w1", "--timeout", "0s"}, 2, "--timeout above nothing"},
		{[]string{"--kubeconfig", "/x", "--node", "w1", "more"}, 2, "no words"},
		{[]string{"--nonsense"}, 2, "not defined"},
		{[]string{"--kubeconfig", "/nonexistent", "--node", "w1"}, 78, "cannot use the kubeconfig /nonexistent"},
	} {
		var out, err bytes.Buffer
		if code := run(t.Context(), c.args, &out, &err); code != c.code || !strings.Contains(err.String(), c.says) || out.Len() > 0 {
			t.Errorf("%q: exit %d, says %q, want %d and %q", c.args, code, err.String(), c.code, c.says)
		}
	}
}
