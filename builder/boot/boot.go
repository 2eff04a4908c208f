// Package boot makes what starts a master before its kernel does: the kernel command line, the menu each boot
// loader reads, GRUB's core image for BIOS and the place of systemd-boot for UEFI. It is a step from value to value:
// bytes of Debian's packages in, bytes for the boot partition out.
//
// What it deliberately does not do: write disks (package disk does), choose a kernel, or offer a menu to anyone: a
// master has one entry and starts it at once.
package boot

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"rempart/builder/disk/gpt"
	"rempart/firstboot/contract"
)

// Paths inside the boot partition. The kernel and initrd are stored once and serve GRUB, systemd-boot, pygrub (which
// copies real files out, so there must be files) and PVH GRUB.
const (
	KernelPath      = "boot/vmlinuz"
	InitrdPath      = "boot/initrd"
	GrubConfigPath  = "boot/grub/grub.cfg"
	LoaderConfig    = "loader/loader.conf"
	LoaderEntry     = "loader/entries/rempart.conf"
	loaderEntryName = "rempart.conf"
)

// Arch is what differs between architectures before the kernel runs.
type Arch struct {
	Name     string   // Debian architecture
	Serial   string   // console= argument of the first serial port
	BIOS     bool     // has a BIOS that GRUB's core image starts from
	EFIFile  string   // the removable-media path of the boot loader (UEFI 2.10, section 3.5.1.1)
	EFIStub  string   // where Debian's systemd-boot-efi keeps the loader
	RootType gpt.GUID // GPT type of the root partition
	Timer    []string // what the kernel is told of the timer; empty: nothing
}

// ErrArch is returned for an architecture that masters are not made for.
var ErrArch = errors.New("unknown architecture")

// ArchOf returns the boot facts of a Debian architecture, or ErrArch.
func ArchOf(name string) (Arch, error) {
	switch name {
	case "amd64":
		return Arch{
			Name: name, Serial: "ttyS0,115200", BIOS: true,
			EFIFile:  "EFI/BOOT/BOOTX64.EFI",
			EFIStub:  "usr/lib/systemd/boot/efi/systemd-bootx64.efi",
			RootType: gpt.TypeRootAMD64,
			// The kernel looks for a timer by counting ten ticks in the time of ten, and panics where four or fewer came
			// ("IO-APIC + timer doesn't work!"): on a busy host a translated guest is away for as long. KVM's, Hyper-V's and
			// VMware's guests leave the test out by themselves (kernel-parameters.txt, no_timer_check).
			Timer: []string{"no_timer_check"},
		}, nil
	case "arm64":
		return Arch{
			Name: name, Serial: "ttyAMA0,115200",
			EFIFile:  "EFI/BOOT/BOOTAA64.EFI",
			EFIStub:  "usr/lib/systemd/boot/efi/systemd-bootaa64.efi",
			RootType: gpt.TypeRootARM64,
		}, nil
	}
	return Arch{}, fmt.Errorf("%w %q: rempart builds amd64 and arm64", ErrArch, name)
}

// Cmdline returns the kernel command line of a master.
//
// The last console that exists becomes /dev/console: hvc0 under Xen, else the serial port. The screen (tty0) is left
// out: where hvc0 is named but absent the kernel would take it for /dev/console, and the serial port would fall
// silent. quiet because full logging makes a paravirtualised start three times slower. The kernel's panic timeout stays
// 0: a panicked guest stops and the host's crash policy decides, it never restarts by itself.
func Cmdline(a Arch, v contract.Verity) string {
	return strings.Join(slices.Concat([]string{
		"console=" + a.Serial, "console=hvc0", "quiet",
		// Security modules the guest uses, and none that waits for a policy nobody loads.
		"lsm=landlock,lockdown,yama",
		// Root in the guest is not the kernel: only modules that Debian signed, no kexec, no raw memory or ports, and no
		// reading the kernel's memory either. That includes tracing, whose files, in no need of being mounted, are 10,000
		// inodes and 8 MiB a guest of 96 MiB can do more with.
		"lockdown=confidentiality",
		// From the first instruction on, where sysctl comes late: a kernel that stumbled must not go on filtering.
		"oops=panic",
		"debugfs=off",
		// Left to Debian's configuration, which has them: init_on_alloc, vsyscall=none, freelist randomisation, KASLR.
		// Left out: slab_nomerge, which costs 0.9 MB of a guest that lives in 96.
	}, a.Timer, []string{contract.KeyVerity + "=" + v.String()}), " ")
}

// GrubConfig returns grub.cfg. It is written for two readers: GRUB, and Xen's pygrub, which understands no variables,
// no conditions inside an entry and no unquoted title.
func GrubConfig(title, cmdline string) []byte {
	return fmt.Appendf(nil, `set default=0
set timeout=0
menuentry "%s" {
	linux /%s %s
	initrd /%s
}
`, title, KernelPath, cmdline, InitrdPath)
}

// LoaderFiles returns systemd-boot's configuration by path: one entry, no waiting, no editing.
func LoaderFiles(title, cmdline string) map[string][]byte {
	return map[string][]byte{
		LoaderConfig: fmt.Appendf(nil, "default %s\ntimeout 0\neditor no\n", loaderEntryName),
		LoaderEntry: fmt.Appendf(nil, "title %s\nlinux /%s\ninitrd /%s\noptions %s\n",
			title, KernelPath, InitrdPath, cmdline),
	}
}
