package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
)

// Binary is the name of the QEMU program for a Debian architecture.
func Binary(arch string) (string, error) {
	switch arch {
	case "amd64":
		return "qemu-system-x86_64", nil
	case "arm64":
		return "qemu-system-aarch64", nil
	}
	return "", fmt.Errorf("architecture %q: want amd64 or arm64", arch)
}

// PCI slots on the root bus, the same on q35, pc (slot 1 is its ISA bridge), and arm64 virt. Slots are written
// down, not left to QEMU, so that link order is bus order and adding a disk moves no link.
const (
	slotSystem  = 0x02
	slotState   = 0x03
	slotControl = 0x04
	slotRandom  = 0x05 // and the identity and data disks, as its other functions: all slots above are links
	slotPanic   = 0x06
	slotLinks   = 0x07 // the first link
	slotLast    = 0x1e // q35 keeps 0x1f for itself
)

// virtio-mmio transports of microvm. It always has 8 of them (hw/i386/microvm.c); more only with a second IOAPIC. Its
// ACPI tables name them from the last to the first, and that is the order Linux finds the devices in: so the first
// link takes a higher transport than the second. Left alone QEMU happens to do the same, but would move the links
// when a disk is added.
const (
	mmioSystem  = 7
	mmioState   = 6
	mmioControl = 5
	mmioRandom  = 4
	mmioLinks   = 3 // the first link; the next one below
)

// MaxLinks is the number of links a machine can have.
func MaxLinks(f hypervisor.Firmware) int {
	if f == hypervisor.MicroVM {
		return mmioLinks + 1
	}
	return slotLast - slotLinks + 1
}

// builder collects the command line of one machine.
type builder struct {
	m    hypervisor.Machine
	args []string
}

// Args is the command line, without the program's name, that makes QEMU run m. It is a pure function. Every
// descriptor m names must be open in the process under that number.
func Args(m hypervisor.Machine) ([]string, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("describe guest %q to QEMU: %w", m.Name, err)
	}
	if limit := MaxLinks(m.Firmware); len(m.NICs) > limit {
		return nil, fmt.Errorf("describe guest %q to QEMU: %d links; firmware %s has room for %d", m.Name, len(m.NICs),
			m.Firmware, limit)
	}
	if m.Arch == "arm64" && (m.Firmware == hypervisor.BIOS || m.Firmware == hypervisor.MicroVM) {
		return nil, fmt.Errorf("describe guest %q to QEMU: arm64 has no firmware %s; use uefi or direct", m.Name, m.Firmware)
	}
	b := &builder{m: m}
	b.machine()
	b.boot()
	b.disks()
	b.channels()
	b.links()
	return b.args, nil
}

func (b *builder) add(args ...string) { b.args = append(b.args, args...) }

// mebibyte is QEMU's unit of -m.
const mebibyte = 1 << 20

func (b *builder) machine() {
	m := b.m
	b.add("-name", "guest="+escape(m.Name))
	// Nothing that is not asked for: no default NIC, no VGA, no floppy, no configuration file of the host.
	b.add("-nodefaults", "-no-user-config", "-display", "none")
	b.add("-machine", b.machineType(), "-accel", string(m.Accel), "-cpu", b.processor())
	b.add("-m", strconv.FormatInt((m.Memory+mebibyte-1)/mebibyte, 10), "-smp", strconv.Itoa(max(m.VCPUs, 1)))
	// A panic must be seen by the host and not become a loop of restarts.
	reboot := "reset"
	if m.RebootEnds {
		reboot = "shutdown"
	}
	b.add("-action", "panic=shutdown,shutdown=poweroff,reboot="+reboot)
	if m.Sandbox {
		b.add("-sandbox", sandbox)
	}
}

// sandbox is the strictest seccomp filter QEMU has; we need no helper it could start.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

func (b *builder) machineType() string {
	switch {
	case b.m.Arch == "arm64":
		return "virt,gic-version=max"
	case b.m.Firmware == hypervisor.MicroVM:
		// ACPI tells the kernel where the transports are (Debian's does not take them from the command line) and
		// carries the power button.
		return "microvm,acpi=on,rtc=on,isa-serial=on,auto-kernel-cmdline=off"
	case b.m.Chipset == "pc":
		return "pc,vmport=off,usb=off"
	default:
		return "q35,vmport=off,usb=off,sata=off"
	}
}

func (b *builder) processor() string {
	if b.m.Accel == hypervisor.KVM {
		return "host"
	}
	if b.m.Arch == "arm64" {
		return "cortex-a57"
	}
	// The plain x86-64 our binaries are built for: with "max" the translator emulates much that no guest asks for.
	return "qemu64"
}

func (b *builder) boot() {
	if f := b.m.Flash; f != nil {
		b.add("-blockdev", fmt.Sprintf("driver=%s,node-name=uefi-code,read-only=on,file.driver=file,file.filename=%s",
			f.Format, escape(f.Code)))
		b.add("-blockdev", fmt.Sprintf("driver=%s,node-name=uefi-vars,file.driver=file,file.filename=%s", f.Format,
			escape(f.Vars)))
		b.args[b.index("-machine")+1] += ",pflash0=uefi-code,pflash1=uefi-vars"
	}
	if k := b.m.Kernel; k != nil {
		b.add("-kernel", k.Image)
		if k.Initrd != "" {
			b.add("-initrd", k.Initrd)
		}
		b.add("-append", k.Cmdline)
	}
}

func (b *builder) index(option string) int {
	for i, a := range b.args {
		if a == option {
			return i
		}
	}
	return -1
}

func (b *builder) disks() {
	if b.m.Base == nil {
		b.readOnly("system", b.m.System)
	} else {
		// What it lies on is said here, whatever the overlay says: nobody who writes to it names files of the host.
		b.readOnly("base", *b.m.Base)
		b.add("-blockdev", fmt.Sprintf("driver=%s,node-name=system,discard=unmap,backing=base,file.driver=file,"+
			"file.filename=%s,file.discard=unmap", b.m.System.Format, escape(b.m.System.Path)))
	}
	b.device("virtio-blk", slotSystem, mmioSystem, "drive=system", "id=system-disk",
		"serial="+contract.SystemSerial, b.bootIndex())
	if s := b.m.State; s != nil {
		// discard=unmap: what the guest frees, the host gets back.
		b.add("-blockdev", fmt.Sprintf("driver=%s,node-name=state,discard=unmap,file.driver=%s,file.filename=%s,"+
			"file.discard=unmap", s.Format, protocol(*s), escape(s.Path)))
		b.device("virtio-blk", slotState, mmioState, "drive=state", "id=state-disk", "serial="+contract.StateSerial)
	}
	if i := b.m.Identity; i != nil {
		b.readOnly("identity", *i)
		b.function(1, "virtio-blk", slotRandom, 0, "drive=identity", "id=identity-disk",
			"serial="+identity.Serial)
	}
	for i, d := range b.m.Data {
		node := "data" + strconv.Itoa(i)
		mode := "discard=unmap"
		if d.ReadOnly {
			mode = "read-only=on,auto-read-only=off"
		}
		b.add("-blockdev", fmt.Sprintf("driver=%s,node-name=%s,%s,file.driver=%s,file.filename=%s", d.Disk.Format, node,
			mode, protocol(d.Disk), escape(d.Disk.Path)))
		b.function(2+i, "virtio-blk", slotRandom, 0, "drive="+node, "id="+node+"-disk", "serial="+d.Serial())
	}
}

// readOnly adds an image that nobody writes to: read-only at the file, at the format and so at the device: principle 1
// of the whole design. file.locking stays on: any number of guests may share a system disk, no writer may.
func (b *builder) readOnly(node string, d hypervisor.Disk) {
	b.add("-blockdev", fmt.Sprintf("driver=%s,node-name=%s,read-only=on,auto-read-only=off,"+
		"file.driver=%s,file.filename=%s,file.read-only=on", d.Format, node, protocol(d), escape(d.Path)))
}

// protocol is how QEMU reads and writes what lies at a disk's path: "file" takes nothing but regular files.
func protocol(d hypervisor.Disk) string {
	if d.Device {
		return "host_device"
	}
	return "file"
}

func (b *builder) channels() {
	if c := b.m.Monitor; !c.IsZero() {
		b.chardev("monitor", c)
		b.add("-mon", "chardev=monitor,mode=control")
	}
	if c := b.m.Serial; !c.IsZero() {
		b.chardev("console", c)
		b.add("-serial", "chardev:console")
	}
	if c := b.m.Control; !c.IsZero() {
		b.chardev("control", c)
		b.device("virtio-serial", slotControl, mmioControl, "id=control-bus", "max_ports=3") // the first is a console's
		b.add("-device", "virtserialport,bus=control-bus.0,nr=1,chardev=control,name="+contract.ControlPort)
	}
	if c := b.m.Commands; !c.IsZero() {
		b.chardev("commands", c)
		b.add("-device", "virtserialport,bus=control-bus.0,nr=2,chardev=commands,name="+contract.CommandPort)
	}
	b.add("-object", "rng-random,id=random,filename=/dev/urandom")
	several := ""
	if b.m.Identity != nil || len(b.m.Data) > 0 {
		several = "multifunction=on"
	}
	b.device("virtio-rng", slotRandom, mmioRandom, "rng=random", "id=random-device", several)
	if !b.isMicroVM() { // microvm's ACPI tables do not name a pvpanic, so there its console has to be watched
		b.device("pvpanic", slotPanic, 0, "id=panic")
	}
}

func (b *builder) chardev(id string, c hypervisor.Channel) {
	if c.FD != 0 {
		b.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, c.FD))
		return
	}
	b.add("-chardev", fmt.Sprintf("socket,id=%s,path=%s,server=on,wait=off", id, escape(c.Path)))
}

func (b *builder) links() {
	for i, n := range b.m.NICs {
		id := "link" + strconv.Itoa(i)
		b.add("-netdev", netdev(id, n.Backend))
		// romfile: the network boot code of a disk that boots by itself only costs time. Offloads are off by what
		// the backends here can do; a tap could, and gains less than it confuses.
		b.device("virtio-net", slotLinks+i, mmioLinks-i, "netdev="+id, "id="+id+"-device", "mac="+n.MAC.String(),
			b.unlessMicroVM("romfile="))
	}
}

// userPrefix is the IPv6 network of QEMU's user mode (RFC 4193).
const userPrefix = "fd72:6d70:7173::/64"

func netdev(id string, b hypervisor.Backend) string {
	switch b.Kind {
	case hypervisor.User:
		restrict := "on"
		if b.Internet {
			restrict = "off"
		}
		// QEMU's own IPv6 prefix is a site-local one, which RFC 3879 took out of use; this is a unique local one.
		s := "user,id=" + id + ",restrict=" + restrict + ",ipv6-net=" + userPrefix
		if b.Subnet.IsValid() && b.Gateway.IsValid() {
			s += ",net=" + b.Subnet.String() + ",host=" + b.Gateway.String()
		}
		if f := b.Forward; f.From.IsValid() && f.To.IsValid() {
			s += ",hostfwd=tcp:" + f.From.String() + "-" + f.To.String()
		}
		return s
	case hypervisor.Tap:
		return "tap,id=" + id + ",ifname=" + escape(b.Tap) + ",script=no,downscript=no"
	case hypervisor.Socket:
		return "socket,id=" + id + "," + b.Socket
	case hypervisor.Wire:
		return fmt.Sprintf("socket,id=%s,fd=%d", id, b.FD)
	}
	return "hubport,id=" + id + ",hubid=" + strings.TrimPrefix(id, "link")
}

// device adds a virtio (or pvpanic) device at its fixed place.
func (b *builder) device(kind string, slot, mmio int, options ...string) {
	b.function(0, kind, slot, mmio, options...)
}

// function is device for another function of a PCI slot than the first.
func (b *builder) function(function int, kind string, slot, mmio int, options ...string) {
	words := []string{kind + "-pci", fmt.Sprintf("bus=%s,addr=0x%x", b.rootBus(), slot)}
	if function > 0 {
		words[1] += "." + strconv.Itoa(function)
	}
	if b.isMicroVM() {
		words = []string{kind + "-device", fmt.Sprintf("bus=virtio-mmio-bus.%d", mmio)}
	}
	for _, o := range options {
		if o != "" {
			words = append(words, o)
		}
	}
	b.add("-device", strings.Join(words, ","))
}

func (b *builder) rootBus() string {
	if b.m.Chipset == "pc" {
		return "pci.0"
	}
	return "pcie.0"
}

func (b *builder) isMicroVM() bool { return b.m.Firmware == hypervisor.MicroVM }

// bootIndex makes the firmware boot the system disk. A kernel from the host is itself the first thing to boot.
func (b *builder) bootIndex() string {
	if b.m.Firmware.ReadsKernelFromHost() {
		return ""
	}
	return "bootindex=0"
}

func (b *builder) unlessMicroVM(option string) string {
	if b.isMicroVM() {
		return ""
	}
	return option
}

// escape doubles the commas of a value, as QEMU's option syntax asks.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
