package machine

import "time"

// How long each step may take before it is overdue. Nothing ends by being overdue: it is what an operator is shown.
const (
	dueBoot      = 10 * time.Minute // from arming to the network boot
	dueHello     = 10 * time.Minute // kernel and initrd are loaded, perhaps hundreds of megabytes through TFTP-era firmware
	dueClaim     = 3 * time.Minute  // from the hello to the claim
	dueProgress  = 5 * time.Minute  // between two reports of an installer
	dueFirstBoot = 15 * time.Minute // POST of a big server, then the installed system's first boot
)

// expect says what comes next for a machine, and until when it should have come; the zero time: it has no hurry.
func expect(e entry) (what string, due time.Time) {
	switch e.State {
	case Discovered:
		return "an operator accepts it", time.Time{}
	case Accepted:
		return "an operator arms it", time.Time{}
	case Armed:
		return "it boots from the network", e.Since.Add(dueBoot)
	case Booting:
		switch {
		case e.Fit:
			return "its installer claims the disk", e.Heard.Add(dueClaim)
		case e.Greeted:
			return "its installer reports its checks", e.Heard.Add(dueClaim)
		}
		return "its installer says hello", e.Since.Add(dueHello)
	case Installing:
		what = "its installer reports progress"
		if e.Percent >= 100 {
			what = "its installer reports the end"
		}
		return what, e.Heard.Add(dueProgress)
	case Installed:
		return "it boots from disk and reports", e.Since.Add(dueFirstBoot)
	case Failed:
		return "an operator arms or accepts it", time.Time{}
	}
	return "", time.Time{}
}
