package machine

// verb is what happens to a machine. A verb that can end in two ways is two verbs, so that the table below is complete.
type verb string

const (
	verbArm       verb = "arm"
	verbArmForced verb = "arm, forced"
	verbDisarm    verb = "disarm"
	verbStop      verb = "disarm, forced"
	verbAccept    verb = "accept"
	verbBoot      verb = "network boot"
	verbHello     verb = "hello"
	verbFit       verb = "checks passed"
	verbUnfit     verb = "checks failed"
	verbClaim     verb = "claim"
	verbReclaim   verb = "claim, repeated"
	verbProgress  verb = "progress"
	verbInstalled verb = "installed"
	verbWiped     verb = "wiped"
	verbFailed    verb = "failed"
	verbReady     verb = "ready"
	verbExpire    verb = "time is up"
	verbRemove    verb = "delete"
	verbDiscard   verb = "delete, forced"
)

// Outcomes that are no state.
const (
	no   State = ""     // refused, nothing changes
	back State = "back" // to the state that it had before it was armed
	gone State = "gone"
)

// transitions is the whole state machine: what is not in it is refused. Tokens are looked at before: a verb of an
// installer or of an installed system gets here only with a token that is valid for it.
var transitions = map[State]map[verb]State{
	Discovered: {
		verbBoot: Discovered, verbRemove: gone, verbDiscard: gone,
	},
	Accepted: {
		verbArm: Armed, verbArmForced: Armed, verbDisarm: Accepted, verbStop: Accepted, verbAccept: Accepted,
		verbBoot: Accepted, verbRemove: gone, verbDiscard: gone,
	},
	Armed: {
		verbArm: Armed, verbArmForced: Armed, verbDisarm: back, verbStop: back,
		verbBoot: Booting,
		// With an external matchbox nobody asks us about the boot: the installer's hello is the first that is heard.
		verbHello: Booting, verbFailed: Failed,
		verbExpire: back, verbRemove: gone, verbDiscard: gone,
	},
	Booting: {
		verbArmForced: Armed, verbDisarm: back, verbStop: back,
		verbBoot:  Failed,
		verbHello: Booting, verbFit: Booting, verbUnfit: Failed, verbClaim: Installing, verbFailed: Failed,
		verbExpire: Failed, verbDiscard: gone,
	},
	Installing: {
		verbArmForced: Armed, verbStop: Failed,
		verbBoot:    Failed,
		verbReclaim: Installing, verbProgress: Installing, verbInstalled: Installed, verbWiped: Accepted, verbFailed: Failed,
		// The report "installed" was lost: the system that speaks from the disk proves it.
		verbReady:   Ready,
		verbDiscard: gone,
	},
	Installed: {
		verbArmForced: Armed, verbDisarm: Installed, verbStop: Installed,
		verbBoot: Installed, verbInstalled: Installed, verbReady: Ready, verbRemove: gone, verbDiscard: gone,
	},
	Ready: {
		verbArmForced: Armed, verbDisarm: Ready, verbStop: Ready,
		verbBoot: Ready, verbReady: Ready, verbRemove: gone, verbDiscard: gone,
	},
	Failed: {
		verbArm: Armed, verbArmForced: Armed, verbDisarm: Failed, verbStop: Failed, verbAccept: Accepted,
		verbBoot: Failed, verbFailed: Failed,
		// It failed by our clock or by a network boot, and the disk holds a system all the same.
		verbReady: Ready, verbRemove: gone, verbDiscard: gone,
	},
}

// next is the state after a verb; ok is false when the verb is refused.
func next(from State, v verb, before State) (to State, ok bool) {
	to = transitions[from][v]
	if to == back {
		to = before
	}
	return to, to != no
}
