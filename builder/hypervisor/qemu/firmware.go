package qemu

import (
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"rempart/builder/hypervisor"
)

// flashPair is a place where a distribution keeps UEFI firmware without Secure Boot: with it enforced our boot
// loader, which is not signed by Microsoft, would be refused.
type flashPair struct {
	code, vars string
	format     hypervisor.Format
}

// flashPairs are looked for in this order; paths are below /usr/share. The 2 MB builds come first where both exist:
// they leave a guest more of a small memory, and their variable store is enough.
var flashPairs = map[string][]flashPair{
	"amd64": {
		{"OVMF/OVMF_CODE.fd", "OVMF/OVMF_VARS.fd", hypervisor.Raw},                         // Debian 12, Ubuntu 22.04, Fedora
		{"OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd", hypervisor.Raw},                   // Debian 13, Ubuntu 24.04
		{"edk2/ovmf/OVMF_CODE.fd", "edk2/ovmf/OVMF_VARS.fd", hypervisor.Raw},               // Fedora, RHEL
		{"edk2/ovmf-4m/OVMF_CODE.fd", "edk2/ovmf-4m/OVMF_VARS.fd", hypervisor.Raw},         // Fedora
		{"edk2/ovmf/OVMF_CODE_4M.qcow2", "edk2/ovmf/OVMF_VARS_4M.qcow2", hypervisor.QCOW2}, // Fedora 40 and newer
		{"edk2/x64/OVMF_CODE.4m.fd", "edk2/x64/OVMF_VARS.4m.fd", hypervisor.Raw},           // Arch
		{"edk2-ovmf/x64/OVMF_CODE.fd", "edk2-ovmf/x64/OVMF_VARS.fd", hypervisor.Raw},       // Arch, older
		{"qemu/ovmf-x86_64-code.bin", "qemu/ovmf-x86_64-vars.bin", hypervisor.Raw},         // openSUSE
		{"edk2-ovmf/OVMF_CODE.fd", "edk2-ovmf/OVMF_VARS.fd", hypervisor.Raw},               // Gentoo, Alpine
		{"qemu/edk2-x86_64-code.fd", "qemu/edk2-i386-vars.fd", hypervisor.Raw},             // QEMU's
	},
	"arm64": {
		{"AAVMF/AAVMF_CODE.no-secboot.fd", "AAVMF/AAVMF_VARS.fd", hypervisor.Raw},                            // Debian 13
		{"AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd", hypervisor.Raw},                                       // Debian
		{"edk2/aarch64/QEMU_EFI-silent-pflash.raw", "edk2/aarch64/vars-template-pflash.raw", hypervisor.Raw}, // Fedora
		{"edk2/aarch64/QEMU_CODE.fd", "edk2/aarch64/QEMU_VARS.fd", hypervisor.Raw},                           // Arch
		{"qemu/edk2-aarch64-code.fd", "qemu/edk2-arm-vars.fd", hypervisor.Raw},                               // QEMU's
	},
}

// LeastUEFI is the least RAM, in bytes, in which a master starts by UEFI: measured with OVMF 2022.11 on q35, where 144
// MiB is enough and 136 is not. The kernel's EFI stub takes 52 MiB in one piece, 2 MiB aligned and above 16 MiB, to
// unpack itself, while the firmware still lives. OVMF unpacks its drivers to 9..21 MiB, so the piece lies from 22 to 74
// MiB; and it leaves its first stack 64 MiB below the end of RAM and 4 more for page tables (PublishPeiMemory in its
// PlatformPei), the last obstacle that moves with the RAM: 74 + 68.5 = 142.5 MiB. Above that stack there is never room
// enough. No device or option changes it, but gigabyte pages, which spare the 4 MiB. Short of the piece the stub
// unpacks to an address it was never given and crashes inside the firmware, which says nothing a person could act on.
const LeastUEFI = 144 << 20

// ShortOfMemory says what is wrong, and what to do, when a machine has too little RAM to get as far as its own kernel;
// else it is empty. It is no error: another firmware may do with less.
func ShortOfMemory(m hypervisor.Machine) string {
	if m.Firmware != hypervisor.UEFI || m.Arch != "amd64" || m.Memory >= LeastUEFI {
		return ""
	}
	return fmt.Sprintf("%d MiB of RAM are too little to start by UEFI: its firmware leaves the kernel no room to unpack "+
		"itself, and crashes; give it %d MiB or more (--memory), or boot by BIOS (--firmware bios)", m.Memory>>20,
		LeastUEFI>>20)
}

// FindFlash looks for UEFI firmware below share, the file system of /usr/share. The names it returns are relative to
// share; Vars is the template a guest's own copy is made from.
func FindFlash(share fs.FS, arch string) (hypervisor.Flash, error) {
	var tried []string
	for _, p := range flashPairs[arch] {
		if isFile(share, p.code) && isFile(share, p.vars) {
			return hypervisor.Flash{Code: p.code, Vars: p.vars, Format: p.format}, nil
		}
		tried = append(tried, p.code)
	}
	return hypervisor.Flash{}, fmt.Errorf("no UEFI firmware for %s below /usr/share (looked for %s); install it with "+
		"`apt install %s` (Debian, Ubuntu), `dnf install edk2-ovmf` (Fedora) or `pacman -S edk2-ovmf` (Arch), or use "+
		"--firmware bios", arch, strings.Join(tried, ", "), map[string]string{"amd64": "ovmf",
		"arm64": "qemu-efi-aarch64"}[arch])
}

func isFile(f fs.FS, name string) bool {
	info, err := fs.Stat(f, name)
	return err == nil && info.Mode().IsRegular()
}

// hostArch is the Debian architecture of this host; Go's names of the two we know are the same.
func hostArch() string { return runtime.GOARCH }

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
