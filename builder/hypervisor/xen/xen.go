// Package xen describes a guest to Xen's toolstack, as the configuration file of `xl` (xl.cfg(5)), and has `xl` start,
// list and stop it.
//
// The file is a pure function of a Guest; what the host must have for it (volumes, bridges, a loader) is checked
// beforehand by Check, which looks and changes nothing. What it deliberately does not do: make volumes or bridges, or
// speak with the hypervisor itself: that is what xl is for.
package xen

import (
	"errors"
	"fmt"
	"strings"

	"rempart/builder/hypervisor"
)

// Mode is how Xen virtualises a guest.
type Mode string

// The modes.
const (
	PV  Mode = "pv"  // paravirtualised: needs nothing of the processor
	PVH Mode = "pvh" // hardware virtualisation, without an emulated machine
	HVM Mode = "hvm" // hardware virtualisation, with an emulated machine, which QEMU in dom0 is
)

// Modes are all modes.
func Modes() []Mode { return []Mode{PV, PVH, HVM} }

// Loader is where a guest's kernel comes from.
type Loader string

// The loaders.
const (
	Direct Loader = "direct" // kernel and initrd are files of the host
	Pygrub Loader = "pygrub" // PV: the host reads the menu inside the disk, and the kernel it names
	GRUB   Loader = "grub"   // PVH: a GRUB of the host starts in the guest and reads the disk
	BIOS   Loader = "bios"   // HVM: the BIOS of the emulated machine starts the disk's own GRUB
)

// uefi is a loader that there is not, for people who ask for it: Validate says why. The build of OVMF with drivers for
// Xen, OvmfPkg/OvmfXen.dsc, is in neither Debian 12 nor 13. Where a host has it, nothing here could show that it works:
// the emulated host of test/xen ends when an OVMF begins in a guest, for its own QEMU 7.2 aborts (tcg_handle_interrupt:
// "assertion failed: (qemu_mutex_iothread_locked())").
const uefi Loader = "uefi"

// Loaders are all loaders.
func Loaders() []Loader { return []Loader{Direct, Pygrub, GRUB, BIOS} }

// Layout is what the volumes of a guest hold.
type Layout string

// The layouts.
const (
	Whole      Layout = "whole"      // xvda: the system disk of the master, partitions and all
	Partitions Layout = "partitions" // xvda1: the root of the master alone; there is no partition table
)

// Layouts are all layouts.
func Layouts() []Layout { return []Layout{Whole, Partitions} }

// Action is what Xen does when a guest ends (xl.cfg(5), "Event Actions").
type Action string

// Actions are all that make sense for a guest of ours.
func Actions() []Action { return []Action{Destroy, Restart, Preserve} }

// The actions.
const (
	Destroy  Action = "destroy"  // it is gone
	Restart  Action = "restart"  // a new one is made of the same configuration
	Preserve Action = "preserve" // its memory is kept, for somebody to look at
)

// Guest is a guest of Xen.
type Guest struct {
	Name   string
	Mode   Mode
	Loader Loader
	Layout Layout
	Memory int64 // bytes, rounded up to whole MiB; all of it from the start: it does not balloon
	VCPUs  int   // 0: 1
	Weight int   // share of the processors against other guests, 1 to 65535; 0: Xen's own, 256

	Kernel *hypervisor.Kernel // Direct
	GRUB   string             // GRUB: a file such as DebianGRUB

	System   string // block device or raw file, attached read-only
	State    string // block device or raw file; empty: none
	Identity string // block device or raw file, attached read-only; empty: none
	Data     []DataDisk
	VIFs     []VIF // in the order of the profile's NICs

	OnReboot, OnCrash, OnWatchdog Action // empty: Restart
}

// DataDisk is one of a guest's data disks. The guest knows it by its place in the profile.
type DataDisk struct {
	Name     string
	Number   int    // place among those of the profile, from 0
	Path     string // block device or raw file
	ReadOnly bool
}

// VIF is a virtual NIC.
type VIF struct {
	hypervisor.NIC        // Backend is not looked at
	Name           string // of the interface in dom0; empty: Xen's own, vifDOMAIN.NUMBER
	Bridge         string // of dom0; empty: xl's default, xenbr0
	Script         string // hotplug script of dom0; empty: xl's default, vif-bridge
}

// Planned is a guest whose files, volumes and memory are not known yet: others stand for them, so that Validate tells
// what is wrong with the way it is to start.
func Planned(name string, mode Mode, loader Loader, layout Layout) Guest {
	g := Guest{Name: name, Mode: mode, Loader: loader, Layout: layout, Memory: 1, System: "/system",
		State: "/state", Identity: "/identity"}
	switch loader {
	case Direct:
		g.Kernel = &hypervisor.Kernel{}
	case GRUB:
		g.GRUB = DebianGRUB
	}
	return g
}

// DebianGRUB is the GRUB for PVH of Debian's grub-xen-host.
const DebianGRUB = "/usr/lib/grub-xen/grub-i386-xen_pvh.bin"

// Limits.
const (
	maxName      = 63 // of a host name's label (RFC 1123, section 2.1); it is part of paths in xenstore and of log files
	maxInterface = 15 // IFNAMSIZ-1 of <linux/if.h>
	maxVCPUs     = 64
	maxWeight    = 65535 // CSCHED2 and CSCHED: xl.cfg(5), cpu_weight
)

// Grants a guest may give: 64 frames of 4 KiB by default (xen-command-line, gnttab_max_frames), with 512 entries of 8
// bytes (xen/include/public/grant_table.h, version 1), the first 8 of which are reserved.
const (
	grants = 64*512 - 8
	// Each queue of a NIC has rings of 256 requests each way, which name a page each, and the pages of the rings
	// (drivers/net/xen-netfront.c: NET_TX_RING_SIZE, NET_RX_RING_SIZE). It opens as many queues as there are VCPUs, up to
	// MAX_QUEUES_DEFAULT.
	grantsOfQueue  = 256 + 256 + 2
	maxQueuesOfVIF = 8
	// Each queue of a disk keeps 32 requests of 32 segments, and as many pages for indirect ones; its queues are as many
	// as the VCPUs, up to xen_blkif_max_queues (drivers/block/xen-blkfront.c).
	grantsOfDisk    = 32*(32+1) + 1
	maxQueuesOfDisk = 4
)

// MaxVIFs is the number of NICs a guest with so many VCPUs, 0: 1, and disks can have.
func MaxVIFs(vcpus, disks int) int {
	vcpus = max(vcpus, 1)
	left := grants - disks*min(vcpus, maxQueuesOfDisk)*grantsOfDisk
	return max(left, 0) / (min(vcpus, maxQueuesOfVIF) * grantsOfQueue)
}

// Validate tells everything that makes a guest impossible on any host, at once.
func (g Guest) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	g.validateName(bad)
	if g.Memory <= 0 {
		bad("memory is %d bytes; want more than none", g.Memory)
	}
	if g.VCPUs < 0 || g.VCPUs > maxVCPUs {
		bad("%d virtual processors; want 1 to %d", g.VCPUs, maxVCPUs)
	}
	if g.Weight < 0 || g.Weight > maxWeight {
		bad("cpu weight %d; want 1 to %d, or 0 for Xen's own", g.Weight, maxWeight)
	}
	one(bad, "mode", g.Mode, Modes())
	if g.Loader == uefi {
		bad("loader uefi: of the disks that Xen lets be read-only its UEFI firmware, OVMF as Debian builds it, has no " +
			"driver for one, and to IDE and AHCI disks, which it reads, libxl gives write access or nothing; " +
			"bios boots the same disk")
	} else {
		one(bad, "loader", g.Loader, Loaders())
	}
	one(bad, "layout", g.Layout, Layouts())
	for what, a := range map[string]Action{"reboot": g.OnReboot, "crash": g.OnCrash, "watchdog": g.OnWatchdog} {
		if a != "" {
			one(bad, "action on "+what, a, Actions())
		}
	}
	switch {
	case g.Loader == Pygrub && g.Mode != PV:
		bad("pygrub boots PV guests; a %s guest takes its kernel from the host (direct), or PVH from its own GRUB", g.Mode)
	case g.Loader == GRUB && g.Mode == HVM:
		bad("GRUB in the guest is for PVH; a hvm guest takes its kernel from the host (direct) or its disk (bios)")
	case g.Loader == GRUB && g.Mode != PVH:
		bad("GRUB in the guest is for PVH; a %s guest takes its kernel from the host (direct), or PV by pygrub", g.Mode)
	case g.Loader == BIOS && g.Mode != HVM:
		bad("a BIOS is part of an emulated machine, which a hvm guest has and a %s guest has not: there the loader that "+
			"reads the disk is pygrub with pv, grub with pvh", g.Mode)
	}
	if g.Layout == Partitions && g.Loader != Direct {
		bad("a volume with nothing but the root holds no kernel: layout %s needs loader %s", Partitions, Direct)
	}
	if (g.Loader == Direct) != (g.Kernel != nil) {
		bad("loader %s and a kernel of the host: want both or neither", g.Loader)
	}
	if (g.Loader == GRUB) != (g.GRUB != "") {
		bad("loader %s and the file of a GRUB: want both or neither", g.Loader)
	}
	if g.System == "" {
		bad("there is no system disk")
	}
	g.validateData(bad)
	if g.Loader == BIOS && strings.Contains(g.System, ",") {
		bad("system disk %q: with loader bios QEMU opens it too, as one word of a list that commas part "+
			"(libxl_dm.c, qemu_disk_scsi_drive_string): want a path without a comma", g.System)
	}
	for what, text := range g.texts() {
		if strings.ContainsFunc(text, unquotable) {
			bad("%s %q: quotes, backslashes and control characters cannot be written in a configuration of xl", what, text)
		}
	}
	g.validateVIFs(bad)
	return errors.Join(errs...)
}

func one[S ~string](bad func(string, ...any), what string, got S, want []S) {
	words := make([]string, len(want))
	for i, w := range want {
		if words[i] = string(w); w == got {
			return
		}
	}
	bad("%s %q: want one of %s", what, got, strings.Join(words, ", "))
}

// validateName: xl takes a name of digits for the number of a guest.
func (g Guest) validateName(bad func(string, ...any)) {
	odd := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
	}
	switch {
	case g.Name == "" || len(g.Name) > maxName || strings.ContainsFunc(g.Name, odd):
		bad("name %q: want 1 to %d letters, digits, dots, hyphens and underscores", g.Name, maxName)
	case strings.Trim(g.Name, "0123456789") == "":
		bad("name %q: xl would take it for the number of a guest; want a letter in it", g.Name)
	}
}

func (g Guest) validateData(bad func(string, ...any)) {
	places := map[int]string{}
	for _, d := range g.Data {
		if err := hypervisor.CheckDataName(d.Name); err != nil {
			bad("%w", err)
		}
		if d.Path == "" {
			bad("data disk %s is nowhere", d.Name)
		}
		if d.Number < 0 || d.Number >= hypervisor.MaxData {
			bad("data disk %s is number %d; want 0 to %d", d.Name, d.Number, hypervisor.MaxData-1)
		} else if other, taken := places[d.Number]; taken {
			bad("data disks %s and %s are both number %d", other, d.Name, d.Number)
		}
		places[d.Number] = d.Name
	}
}

// texts are what becomes part of quoted strings.
func (g Guest) texts() map[string]string {
	texts := map[string]string{"system disk": g.System, "state disk": g.State, "identity disk": g.Identity, "GRUB": g.GRUB}
	for _, d := range g.Data {
		texts["data disk "+d.Name] = d.Path
	}
	if k := g.Kernel; k != nil {
		texts["kernel"], texts["initrd"], texts["command line"] = k.Image, k.Initrd, k.Cmdline
	}
	return texts
}

func unquotable(c rune) bool { return c < ' ' || c == 0x7f || strings.ContainsRune(`"'\`, c) }

func (g Guest) validateVIFs(bad func(string, ...any)) {
	if most := MaxVIFs(g.VCPUs, len(g.disks())); len(g.VIFs) > most {
		bad("%d NICs; with %d virtual processors and %d disks the %d grants of a guest are enough for %d", len(g.VIFs),
			max(g.VCPUs, 1), len(g.disks()), grants, most)
	}
	macs, names := map[string]string{}, map[string]string{}
	for _, v := range g.VIFs {
		mac := v.MAC.String()
		if len(v.MAC) != 6 || v.MAC[0]&1 == 1 {
			bad("link %s: %q is no unicast MAC address", v.Link, mac)
		} else if other, taken := macs[mac]; taken {
			bad("links %s and %s have the same MAC address %s", other, v.Link, mac)
		}
		macs[mac] = v.Link
		for what, name := range map[string]string{"interface": v.Name, "bridge": v.Bridge} {
			if name != "" && !validInterface(name) {
				bad("link %s: %s %q: want 1 to %d characters that name an interface of Linux", v.Link, what, name, maxInterface)
			}
		}
		if strings.ContainsFunc(v.Script, func(c rune) bool { return unquotable(c) || strings.ContainsRune(", =", c) }) {
			bad("link %s: script %q: want a path, or a name below /etc/xen/scripts", v.Link, v.Script)
		}
		if other, taken := names[v.Name]; taken && v.Name != "" {
			bad("links %s and %s have the same interface %s in dom0", other, v.Link, v.Name)
		}
		names[v.Name] = v.Link
	}
}

// validInterface: what Linux takes (dev_valid_name of net/core/dev.c) and a list of xl does not end at.
func validInterface(s string) bool {
	return s != "" && len(s) <= maxInterface && s != "." && s != ".." &&
		!strings.ContainsFunc(s, func(c rune) bool { return unquotable(c) || c >= 0x7f || strings.ContainsRune("/:, =", c) })
}
