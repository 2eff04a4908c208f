package qemu

import (
	"fmt"

	"rempart/builder/hypervisor"
)

// Steady returns m with what its kernel needs to find the time on this host. A microvm has no timer but the PIT's
// counter to calibrate its time stamp counter with; on a busy host the translator is interrupted, the kernel gives
// the calibration up ("tsc: Unable to calibrate against PIT"), and with ACPI's reduced hardware there is nothing else
// that could tick: it hangs for good, about once in five starts. Under TCG the guest sees the host's own counter, so
// its frequency is measured here and put on the command line (Documentation/admin-guide/kernel-parameters.txt,
// tsc_early_khz). KVM guests are told theirs by KVM.
func Steady(m hypervisor.Machine) hypervisor.Machine {
	if m.Firmware != hypervisor.MicroVM || m.Accel != hypervisor.TCG || m.Kernel == nil || m.Arch != hostArch() {
		return m
	}
	if khz := tscKHz(); khz != 0 {
		k := *m.Kernel
		k.Cmdline = fmt.Sprintf("%s tsc_early_khz=%d", k.Cmdline, khz)
		m.Kernel = &k
	}
	return m
}
