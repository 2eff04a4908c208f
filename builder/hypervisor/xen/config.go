package xen

import (
	"cmp"
	"fmt"
	"strings"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
)

// disk is one of a guest's disks.
type disk struct {
	target, vdev string
	readOnly     bool
	why          string
}

// scsi is the system disk of a guest whose BIOS boots it: the emulated machine has it too, on a SCSI controller, the
// one kind of emulated disk that libxl lets be read-only (libxl_dm.c, libxl__build_device_model_args_new: QEMU opens it
// with readonly=on; of IDE and AHCI disks it says "qemu-xen doesn't support read-only"). The kernel has that controller
// taken away before it looks for disks (arch/x86/xen/platform-pci-unplug.c), and xen-blkfront calls the disk xvda
// (xen_translate_vdev).
const scsi = "sda"

// disks are those of a guest in the order of their names. A HVM guest's are from xvde on: the first four it would see
// twice, the second time as IDE disks of the emulated machine, and those cannot be read-only
// (libxl_dm.c, libxl__build_device_model_args_new).
func (g Guest) disks() []disk {
	system, state, ident := "xvda", contract.StateXenVdevs()[0], identity.XenVdevs()[0]
	if g.Layout == Partitions {
		system, state, ident = "xvda1", contract.StateXenVdevs()[1], identity.XenVdevs()[1]
	}
	if g.Mode == HVM {
		system, state, ident = "xvde", contract.StateXenVdevs()[2], identity.XenVdevs()[2]
	}
	if g.Loader == BIOS {
		system = scsi
	}
	all := []disk{{g.System, system, true, "the system disk: nothing a guest does can change it"},
		{g.State, state, false, "what the guest may write"}, {g.Identity, ident, true, "what makes it this guest"}}
	for _, d := range g.Data {
		all = append(all, disk{d.Path, contract.DataXenVdev(d.Number), d.ReadOnly, "data disk " + d.Name})
	}
	var there []disk
	for _, d := range all {
		if d.target != "" {
			there = append(there, d)
		}
	}
	return there
}

const mebibyte = 1 << 20

// Config is the configuration of a guest as xl reads it. It is a pure function.
func Config(g Guest) ([]byte, error) {
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("describe guest %q to xl: %w", g.Name, err)
	}
	var b strings.Builder
	line := func(key, format string, args ...any) { fmt.Fprintf(&b, "%s = %s\n", key, fmt.Sprintf(format, args...)) }
	fmt.Fprintf(&b, "# A guest of Xen, written by rempart: xl create FILE.\n\n")
	line("name", "%q", g.Name)
	line("type", "%q", g.Mode)
	line("vcpus", "%d", max(g.VCPUs, 1))
	if g.Weight > 0 {
		line("cpu_weight", "%d", g.Weight)
	}
	memory := (g.Memory + mebibyte - 1) / mebibyte
	fmt.Fprintf(&b, "# All memory from the start: a guest in a balloon starts with less than it was promised.\n")
	line("memory", "%d", memory)
	line("maxmem", "%d", memory)
	b.WriteString("\n")
	switch g.Loader {
	case Direct:
		line("kernel", "%q", g.Kernel.Image)
		if g.Kernel.Initrd != "" {
			line("ramdisk", "%q", g.Kernel.Initrd)
		}
		line("cmdline", "%q", g.Kernel.Cmdline)
	case Pygrub:
		fmt.Fprintf(&b, "# The menu inside the disk is read in dom0, by a program that a guest's disk could attack.\n")
		line("bootloader", "%q", "pygrub")
		line("bootloader_args", "[%q]", "--quiet")
	case GRUB:
		fmt.Fprintf(&b, "# A GRUB of the host, which runs in the guest and reads the menu inside the disk.\n")
		line("kernel", "%q", g.GRUB)
	case BIOS:
		fmt.Fprintf(&b, "# The emulated machine's BIOS starts the GRUB that the disk itself has.\n")
		line("firmware", "%q", "bios")
		line("boot", "%q", "c")
	}
	b.WriteString("\n")
	b.WriteString("disk = [\n")
	for _, d := range g.disks() {
		access := "rw"
		if d.readOnly {
			access = "ro"
		}
		// target comes last: all that follows it is the path, commas included (xl-disk-configuration(5)).
		fmt.Fprintf(&b, "    'format=raw, vdev=%s, access=%s, target=%s', # %s\n", d.vdev, access, d.target, d.why)
	}
	b.WriteString("]\n")
	if g.Layout == Partitions {
		// What has been swapped out lies on the host's disk in clear: keys, secrets of leases, parts of connections. And a
		// child that grows is meant to meet its bound of memory, not to slow the machine down (firstboot/init/cgroup).
		b.WriteString("# There is no disk to swap on: a guest uses none, not even one that it is given.\n")
	}
	b.WriteString("vif = [\n")
	for _, v := range g.VIFs {
		// type=vif: no emulated NIC beside it, which a HVM guest would have.
		words := []string{"type=vif", "mac=" + v.MAC.String()}
		if v.Name != "" {
			words = append(words, "vifname="+v.Name)
		}
		if v.Bridge != "" {
			words = append(words, "bridge="+v.Bridge)
		}
		if v.Script != "" {
			words = append(words, "script="+v.Script)
		}
		fmt.Fprintf(&b, "    '%s', # %s\n", strings.Join(words, ","), printableLink(v.Link))
	}
	b.WriteString("]\n\n")
	if g.Mode == HVM {
		b.WriteString("# No screen, no legacy devices; the first serial port is there for what comes before the kernel.\n")
		line("serial", "%q", "pty")
		line("vga", "%q", "none")
		line("vnc", "0")
		line("sdl", "0")
		line("nographic", "1")
		line("usb", "0")
	}
	line("on_poweroff", "%q", Destroy)
	line("on_reboot", "%q", cmp.Or(g.OnReboot, Restart))
	line("on_watchdog", "%q", cmp.Or(g.OnWatchdog, Restart))
	line("on_crash", "%q", cmp.Or(g.OnCrash, Restart))
	return []byte(b.String()), nil
}

// printableLink keeps a name from ending the comment it stands in.
func printableLink(s string) string {
	return strings.Map(func(c rune) rune {
		if unquotable(c) {
			return '?'
		}
		return c
	}, s)
}
