package power

import (
	"context"
	"errors"
	"fmt"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"
)

var selectors = map[Device]types.BootDeviceSelector{
	PXE: types.BootDeviceSelectorForcePXE, Disk: types.BootDeviceSelectorForceHardDrive, Default: types.BootDeviceSelectorNoOverride,
}

// SetBoot writes the boot flags for the next boot (IPMI 2.0 specification, table 28-14, parameter 5) and reads them
// back. A BMC drops them 60 s later unless the machine is switched meanwhile, so this comes right before it.
func (m *ipmi) SetBoot(ctx context.Context, b Boot) (Boot, error) {
	doing := "request a boot from " + string(b.Device)
	selector, ok := selectors[b.Device]
	if !ok {
		return Boot{}, fmt.Errorf("cannot %s: there is no such boot device", doing)
	}
	flags := &types.BootOptionParam_BootFlags{BootFlagsValid: selector != 0, BIOSBootType: types.BIOSBootType(b.UEFI), BootDeviceSelector: selector}
	var back types.BootOptionParam_BootFlags
	for range tries {
		err := m.do(ctx, doing, func(ctx context.Context, c *client.Client) error { return setBootFlags(ctx, c, flags) })
		if err != nil {
			return Boot{}, err
		}
		if err = m.do(ctx, "read back the boot device", func(ctx context.Context, c *client.Client) error {
			return c.GetSystemBootOptionsParamFor(ctx, &back)
		}); err != nil {
			return Boot{}, err
		}
		if back.BootDeviceSelector == selector {
			return Boot{b.Device, bool(back.BIOSBootType)}, nil
		}
	}
	return Boot{}, &Error{Address: m.o.Address, Doing: doing,
		Why: fmt.Sprintf("it acknowledged the request %d times, but reads back %q", tries, back.BootDeviceSelector),
		Do:  "set the boot order in the machine's firmware to network first, or choose the network boot by hand"}
}

// setBootFlags does as the specification's 28.12 wants: claim the parameters, clear the firmware's acknowledgement so
// that it takes the flags for new, write them, let go. Not all BMCs have the first and the second; those go on without.
func setBootFlags(ctx context.Context, c *client.Client, flags *types.BootOptionParam_BootFlags) error {
	claimErr := c.SetBootParamSetInProgress(ctx, types.SetInProgress_SetInProgress)
	if claimErr != nil && !isAnswer(claimErr) {
		return claimErr
	}
	if err := c.SetBootParamClearAck(ctx, types.BootInfoAcknowledgeByBIOSPOST); err != nil && !isAnswer(err) {
		return err
	}
	if err := c.SetSystemBootOptionsParamFor(ctx, flags); err != nil {
		return err
	}
	if claimErr == nil {
		if err := c.SetBootParamSetInProgress(ctx, types.SetInProgress_SetComplete); err != nil && !isAnswer(err) {
			return err
		}
	}
	return nil
}

// isAnswer tells a refusal from silence.
func isAnswer(err error) bool {
	var completion *types.ResponseError
	return errors.As(err, &completion)
}
