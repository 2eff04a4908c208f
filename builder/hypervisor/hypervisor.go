// Package hypervisor describes a guest the way every hypervisor can understand it: a pure value of memory, disks,
// links and channels. The packages below it turn that value into something that runs.
//
// Three things hold whatever the driver: the system disk is attached read-only (a guest cannot write what it runs;
// other people's systems, which must, write to an overlay and never to what that lies on), disks are found by their
// serial and never by position, and links appear on the bus in the order of the profile.
//
// What it deliberately does not do: start anything, look at the machine it runs on, or know one hypervisor's options.
package hypervisor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Firmware is the way a guest finds its kernel.
type Firmware string

// The ways to boot. BIOS and UEFI read the system disk; Direct and MicroVM take the kernel from the host.
const (
	BIOS    Firmware = "bios"
	UEFI    Firmware = "uefi"
	Direct  Firmware = "direct"
	MicroVM Firmware = "microvm"
)

// Firmwares are all ways to boot, so that a test meets a new one without anyone remembering.
func Firmwares() []Firmware { return []Firmware{BIOS, UEFI, Direct, MicroVM} }

// MaxVCPUs is how many processors a machine may have, on any hypervisor: as many as package xen gives a guest, and
// fewer than QEMU takes (288 of pc-q35-6.2, hw/i386/pc_q35.c).
const MaxVCPUs = 64

// ReadsKernelFromHost tells whether Machine.Kernel is needed.
func (f Firmware) ReadsKernelFromHost() bool { return f == Direct || f == MicroVM }

// TakesIdentity tells whether Machine.Identity can be attached. A microvm has places for two disks: with a third one
// Linux 6.1 finds all of them and then no longer answers.
func (f Firmware) TakesIdentity() bool { return f != MicroVM }

// ParseFirmware reads the name of a way to boot.
func ParseFirmware(s string) (Firmware, error) {
	for _, f := range Firmwares() {
		if s == string(f) {
			return f, nil
		}
	}
	return "", fmt.Errorf("firmware %q: want one of %s", s, join(Firmwares()))
}

// Format is how a disk image is laid out in its file.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// Formats are all formats.
func Formats() []Format { return []Format{Raw, QCOW2} }

// ParseFormat reads the name of a format.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if s == string(f) {
			return f, nil
		}
	}
	return "", fmt.Errorf("format %q: want one of %s", s, join(Formats()))
}

// Accel is how guest code is executed.
type Accel string

// The accelerators. A Machine never holds Auto: it is resolved on the machine that runs the guest.
const (
	Auto Accel = "auto" // KVM where a guest really runs on it, else TCG
	KVM  Accel = "kvm"  // the processor's own virtualisation
	TCG  Accel = "tcg"  // translation in software: works everywhere, ten times slower
)

// ParseAccel reads the name of an accelerator.
func ParseAccel(s string) (Accel, error) {
	for _, a := range []Accel{Auto, KVM, TCG} {
		if s == string(a) {
			return a, nil
		}
	}
	return "", fmt.Errorf("accelerator %q: want auto, kvm or tcg", s)
}

// Machine is a guest.
type Machine struct {
	Name     string
	Arch     string   // Debian architecture: amd64, arm64
	Memory   int64    // bytes, rounded up to whole MiB by the driver
	VCPUs    int      // 0: 1
	Chipset  string   // amd64: "q35" or "pc"; empty: q35. Ignored by MicroVM and arm64
	Firmware Firmware // how it boots
	Flash    *Flash   // UEFI only
	Kernel   *Kernel  // Direct and MicroVM only
	System   Disk     // attached read-only unless there is a Base
	Base     *Disk    // what System, then a qcow2 overlay that the guest writes to, lies on; always read-only
	State    *Disk    // nil: none
	Identity *Disk    // always attached read-only; nil: none
	Data     []DataDisk
	NICs     []NIC   // in bus order
	Serial   Channel // the console
	Control  Channel // where the guest writes its report
	Commands Channel // where the guest takes commands
	Monitor  Channel // the hypervisor's own control channel
	Accel    Accel   // KVM or TCG
	// Sandbox confines the hypervisor process (seccomp): no new processes, no new privileges.
	Sandbox bool
	// RebootEnds ends the guest when it resets itself instead of starting it again.
	RebootEnds bool
}

// Flash is UEFI firmware: its code, shared and read-only, and this guest's own copy of its variables.
type Flash struct {
	Code, Vars string
	Format     Format
}

// Kernel is what the host supplies for a boot without firmware.
type Kernel struct {
	Image, Initrd string // files
	Cmdline       string
}

// Disk is an image in a file or on a volume.
type Disk struct {
	Path   string
	Format Format
	Device bool // Path is a block device, not a file
}

// Channel is one end of a byte stream to the guest or to its hypervisor: a socket the hypervisor listens on, or a
// connected file descriptor it inherits. The zero value is no channel.
type Channel struct {
	Path string // Unix socket to listen on
	FD   int    // number in the hypervisor process; 0: none
}

// IsZero tells whether there is no channel.
func (c Channel) IsZero() bool { return c == Channel{} }

// NIC is a link as the host sees it.
type NIC struct {
	Link    string // the profile's name of it
	MAC     net.HardwareAddr
	Backend Backend
}

// Kind is what a NIC is plugged into.
type Kind string

// What a NIC can be plugged into.
const (
	Unplugged Kind = "none"   // a hub with nothing else on it: carrier, and silence
	User      Kind = "user"   // the hypervisor's own user-mode network: no privileges needed
	Tap       Kind = "tap"    // an existing tap interface
	Socket    Kind = "socket" // another hypervisor process
	Wire      Kind = "wire"   // Ethernet frames over an inherited stream socket; see builder/virtualnet
)

// Backend is what one NIC is plugged into.
type Backend struct {
	Kind Kind
	// Internet lets a User network reach beyond the host; without it the guest meets only the user-mode network.
	Internet bool
	Subnet   netip.Prefix // User: the network's IPv4 subnet; zero: QEMU's own, 10.0.2.0/24
	Gateway  netip.Addr   // User: its gateway in Subnet
	Forward  Forward      // User: a port of the host that leads to the guest
	Tap      string       // Tap: name of the interface
	Socket   string       // Socket: "listen=HOST:PORT", "connect=HOST:PORT" or "mcast=GROUP:PORT"
	FD       int          // Wire: number in the hypervisor process
}

// Forward leads TCP connections to an address of the host on to one of the guest. The zero value leads nowhere.
type Forward struct{ From, To netip.AddrPort }

// ParseBackend reads what a person writes for a link: none, user, user,internet, tap:NAME or socket:KEY=VALUE.
func ParseBackend(s string) (Backend, error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch {
	case s == string(Unplugged):
		return Backend{Kind: Unplugged}, nil
	case s == string(User):
		return Backend{Kind: User}, nil
	case s == "user,internet":
		return Backend{Kind: User, Internet: true}, nil
	case kind == string(Tap) && validInterface(rest):
		return Backend{Kind: Tap, Tap: rest}, nil
	case kind == string(Socket):
		key, value, ok := strings.Cut(rest, "=")
		if _, _, err := net.SplitHostPort(value); ok && err == nil && !strings.Contains(value, ",") &&
			(key == "listen" || key == "connect" || key == "mcast") {
			return Backend{Kind: Socket, Socket: rest}, nil
		}
		return Backend{}, fmt.Errorf("network %q: want socket:listen=HOST:PORT, socket:connect=HOST:PORT or "+
			"socket:mcast=GROUP:PORT", s)
	}
	return Backend{}, fmt.Errorf("network %q: want none, user, user,internet, tap:NAME or socket:KEY=ADDRESS:PORT", s)
}

// maxInterface is IFNAMSIZ-1 of the kernel's <linux/if.h>.
const maxInterface = 15

func validInterface(s string) bool {
	return s != "" && len(s) <= maxInterface && !strings.ContainsAny(s, "/, \t\n")
}

// Validate tells everything that makes m impossible to run, at once.
func (m Machine) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if m.Name == "" {
		bad("the guest has no name")
	}
	if m.Memory <= 0 {
		bad("memory is %d bytes; want more than none", m.Memory)
	}
	if m.VCPUs < 0 || m.VCPUs > MaxVCPUs {
		bad("%d virtual processors; want 1 to %d", m.VCPUs, MaxVCPUs)
	}
	if m.System.Path == "" {
		bad("there is no system disk")
	}
	if m.Base != nil && m.System.Format != QCOW2 {
		bad("a system disk of format %q lies on another image; want a qcow2 overlay", m.System.Format)
	}
	if m.Base != nil && m.Firmware.ReadsKernelFromHost() {
		bad("firmware %s boots a kernel of this machine; a system of its own boots by bios or uefi", m.Firmware)
	}
	if _, err := ParseFirmware(string(m.Firmware)); err != nil {
		bad("%w", err)
	}
	if m.Firmware.ReadsKernelFromHost() != (m.Kernel != nil) {
		bad("firmware %s and a kernel from the host: want both or neither", m.Firmware)
	}
	if (m.Firmware == UEFI) != (m.Flash != nil) {
		bad("firmware %s and UEFI flash images: want both or neither", m.Firmware)
	}
	if m.Control.IsZero() && !m.Commands.IsZero() {
		bad("a channel for commands goes beside the one for reports; want both")
	}
	if m.Identity != nil && m.Identity.Format != Raw {
		bad("the identity disk has format %q; want raw", m.Identity.Format)
	}
	if m.Identity != nil && !m.Firmware.TakesIdentity() {
		bad("firmware %s has no place for an identity disk", m.Firmware)
	}
	if len(m.Data) > MaxData {
		bad("%d data disks, at most %d", len(m.Data), MaxData)
	}
	if len(m.Data) > 0 && !m.Firmware.TakesIdentity() {
		bad("firmware %s has no place for data disks", m.Firmware)
	}
	for _, d := range m.Data {
		if err := CheckDataName(d.Name); err != nil {
			errs = append(errs, err)
		}
	}
	if m.Accel != KVM && m.Accel != TCG {
		bad("accelerator %q: want kvm or tcg", m.Accel)
	}
	macs := map[string]string{}
	for _, n := range m.NICs {
		if len(n.MAC) != 6 || n.MAC[0]&1 == 1 {
			bad("link %s: %q is no unicast MAC address", n.Link, n.MAC)
			continue
		}
		if other, taken := macs[n.MAC.String()]; taken {
			bad("links %s and %s have the same MAC address %s", other, n.Link, n.MAC)
		}
		macs[n.MAC.String()] = n.Link
		if n.Backend.Kind == Wire && n.Backend.FD < 3 {
			bad("link %s: a wire needs an inherited descriptor, got %d", n.Link, n.Backend.FD)
		}
	}
	return errors.Join(errs...)
}

func join[S ~string](all []S) string {
	words := make([]string, len(all))
	for i, s := range all {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}
