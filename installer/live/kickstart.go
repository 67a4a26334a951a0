package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tectonic-worker/tectonic-worker/installer/machine"
)

// ErrWiped is what ends a Kickstart on a machine that was wiped.
var ErrWiped = errors.New("wiped")

// kickstartState is what KickstartPre leaves for KickstartPost, in memory, mode 0600.
type kickstartState struct {
	Arguments Arguments
	Order     machine.Instruction
	Inventory machine.Inventory
	Disk      machine.InventoryDisk
	Claimed   machine.Claimed
}

const kickstartStateFile = runDir + "/kickstart.json"

// KickstartPre is Install up to the claim, for a %pre section with --erroronfail: Anaconda does the rest, with the
// disk part at PathKickstartDisk. A machine that is armed to be wiped is wiped and switched off, and the error is
// ErrWiped: Anaconda must not go on meanwhile.
func (l *Live) KickstartPre(ctx context.Context) error {
	s, err := l.begin(ctx)
	if err != nil {
		return err
	}
	s.anaconda = true
	if s.order.Action == machine.ActionWipe {
		if err := s.wipe(ctx); err != nil {
			return err
		}
		return fmt.Errorf("%s was %w and is being switched off: nothing is installed", s.order.Machine, ErrWiped)
	}
	if err := s.claim(ctx); err != nil {
		return err
	}
	part, err := kickstartDisk(s.disk, s.order.Image.KernelArgs)
	if err != nil {
		return s.fail(ctx, "configure", err)
	}
	if err := s.writePrivate(PathKickstartDisk, part); err != nil {
		return s.fail(ctx, "configure", err)
	}
	state := encode(kickstartState{s.args, s.order, s.inventory, s.disk, s.claimed})
	if err := s.writePrivate(kickstartStateFile, state); err != nil {
		return s.fail(ctx, "configure", err)
	}
	s.report(ctx, machine.Progress{Stage: "write", Message: "Anaconda has begun"})
	return nil
}

// KickstartPost puts the machine's files onto the new system at sysroot (/mnt/sysroot for Anaconda) and reports; for a
// %post section with --nochroot and --erroronfail. Anaconda restarts the machine itself.
func (l *Live) KickstartPost(ctx context.Context, sysroot string) error {
	data, err := os.ReadFile(l.path(kickstartStateFile))
	if err != nil {
		return fmt.Errorf("cannot finish the installation: %w; \"tectonic-machine kickstart-pre\" must have run in %%pre", err)
	}
	var state kickstartState
	if err := json.Unmarshal(data, &state); err != nil {
		return fmt.Errorf("cannot finish the installation: %s is damaged", kickstartStateFile)
	}
	ca, err := os.ReadFile(l.path(PathCA))
	if err != nil {
		return fmt.Errorf("cannot read the certificate authority: %w", err)
	}
	api, err := newProvisioner(state.Arguments.Server, ca, l.say, l.patience)
	if err != nil {
		return err
	}
	s := &session{Live: l, args: state.Arguments, api: api, inventory: state.Inventory, order: state.Order, disk: state.Disk, claimed: state.Claimed}
	root, err := os.OpenRoot(l.path(sysroot))
	if err != nil {
		return s.fail(ctx, "configure", fmt.Errorf("cannot open the new system at %s: %w", sysroot, err))
	}
	defer root.Close()
	for _, f := range append(append([]machine.File{}, s.claimed.Files...), readyFile(s.claimed)...) {
		if err := putFile(root, f); err != nil {
			return s.fail(ctx, "configure", err)
		}
		s.say("wrote %s", f.Path)
	}
	if err := s.finish(ctx, ""); err != nil {
		return err
	}
	return os.Remove(l.path(kickstartStateFile))
}

// putFile writes a file below root; a link on the new system cannot lead out of it.
func putFile(root *os.Root, f machine.File) error {
	if err := validFile(f); err != nil {
		return err
	}
	name := strings.TrimPrefix(f.Path, "/")
	if dir := filepath.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make /%s on the new system: %w", dir, err)
		}
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot replace %s on the new system: %w", f.Path, err)
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write %s on the new system: %w", f.Path, err)
	}
	_, err = file.Write(f.Content)
	err = errors.Join(err, file.Chmod(os.FileMode(f.Mode&0o777)), file.Sync(), file.Close())
	if err != nil {
		return fmt.Errorf("cannot write %s on the new system: %w", f.Path, err)
	}
	return nil
}

// kickstartDisk is the part of a Kickstart that names the disk (pykickstart's command reference): nothing but it is
// used, and everything on it is replaced.
func kickstartDisk(d machine.InventoryDisk, kernelArgs []string) ([]byte, error) {
	boot := "bootloader --boot-drive=" + d.Name
	if len(kernelArgs) > 0 {
		line := strings.Join(kernelArgs, " ")
		if strings.ContainsAny(line, "\"\\\n\r\x00") {
			return nil, fmt.Errorf("cannot use the kernel arguments %q in a Kickstart: no quotes, backslashes or line ends", printable(line, 300))
		}
		boot += ` --append="` + line + `"`
	}
	return []byte(strings.Join([]string{
		"ignoredisk --only-use=" + d.Name,
		"zerombr",
		"clearpart --all --initlabel --drives=" + d.Name,
		boot,
		"reqpart --add-boot",
		"part / --fstype=xfs --grow --size=8192 --ondisk=" + d.Name,
		"",
	}, "\n")), nil
}
