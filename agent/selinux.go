package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tectonic-worker/tectonic-worker/agent/selinux"
)

// KindSELinux is the running kernel's SELinux mode. The mode at the next boot
// is a KindFile: /etc/selinux/config.
const KindSELinux Kind = "selinux"

type selinuxState struct {
	Mode selinux.Mode `json:"mode"`
}

type selinuxMode struct {
	se   SELinux
	want selinux.Mode
}

func (m *selinuxMode) Key() Key { return Key{KindSELinux, "runtime"} }

func (m *selinuxMode) Check(context.Context) (Finding, error) {
	now, err := m.se.Runtime()
	if err != nil {
		return Finding{}, err
	}
	f := Finding{OK: now == m.want, Evidence: fmt.Sprintf("running %s", m.want), Before: selinuxState{now}, After: selinuxState{m.want}}
	if !f.OK {
		f.Diff = fmt.Sprintf("set the running SELinux mode from %s to %s\n", now, m.want)
	}
	return f, nil
}

func (m *selinuxMode) Apply(context.Context) (Applied, error) {
	return Applied{Changed: true}, m.se.SetRuntime(m.want)
}

// restoreSELinux puts the former mode back where the mode is still ours.
func restoreSELinux(se SELinux, e Entry) (string, error) {
	var before, after selinuxState
	if err := decode(e, &before, &after); err != nil {
		return "", err
	}
	now, err := se.Runtime()
	if err != nil {
		return "", err
	}
	if now != after.Mode {
		return fmt.Sprintf("kept %s: somebody changed it after us", now), nil
	}
	if err := se.SetRuntime(before.Mode); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s again", before.Mode), nil
}

// selinuxFacts reads both modes. A host without SELinux is Disabled in both.
func (s *System) selinuxFacts() (runtime, boot selinux.Mode, config []byte, err error) {
	if runtime, err = s.SELinux.Runtime(); err != nil {
		return "", "", nil, err
	}
	config, err = s.Root.ReadFile(selinux.ConfigPath)
	if errors.Is(err, fs.ErrNotExist) {
		return runtime, selinux.Disabled, nil, nil
	}
	if err != nil {
		return "", "", nil, err
	}
	boot, err = selinux.ParseConfig(config)
	return runtime, boot, config, err
}
