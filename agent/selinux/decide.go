package selinux

// The settings of SELINUX_MODE in /etc/sysconfig/tectonic-worker.
const (
	settingAuto       = "auto"
	settingPermissive = "permissive"
	settingEnforcing  = "enforcing"
)

// Want is the mode the worker wants, now and at the next boot. An empty mode means: leave it as it is.
type Want struct {
	Runtime, Config Mode
	Why             string // for the operator
}

// Decide says what SELinux should be. Setting is SELINUX_MODE, runtime and config are the modes found, runtimeName is the
// container runtime, policy is what PolicyLoaded says for it.
//
// Nothing is ever made stricter unless the setting is "enforcing", and nothing is ever disabled or taken out of
// Disabled: coming back from it needs a relabel of every file, which is the administrator's decision.
func Decide(setting string, runtime, config Mode, runtimeName string, policy bool) Want {
	var target Mode
	var why string
	switch {
	case setting != settingAuto && setting != settingPermissive && setting != settingEnforcing:
		return Want{Why: "SELINUX_MODE=" + setting + ": left as it is"}
	case runtime == Disabled && setting == settingEnforcing:
		return Want{Why: "SELinux is disabled, so SELINUX_MODE=enforcing cannot be had; enable it at boot and relabel the files"}
	case runtime == Disabled:
		return Want{Why: "SELinux is disabled: left as it is"}
	case setting == settingAuto && policy:
		return Want{Why: "a policy for the worker under " + runtimeName + " is installed: left as it is"}
	case setting == settingAuto:
		target, why = Permissive, "no policy lets the worker run enforcing under "+runtimeName
	case setting == settingPermissive:
		target, why = Permissive, "SELINUX_MODE=permissive"
	case setting == settingEnforcing:
		target, why = Enforcing, "SELINUX_MODE=enforcing"
		if !policy {
			why += ", though no policy for the worker under " + runtimeName + " is installed"
		}
	}
	want := Want{Runtime: target, Config: target, Why: why}
	if config == Disabled {
		want.Config = Unset
		want.Why += "; the next boot stays disabled, as " + ConfigPath + " says"
	}
	return want
}
