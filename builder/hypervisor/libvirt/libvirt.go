// Package libvirt describes a machine to libvirt: the XML of a domain (https://libvirt.org/formatdomain.html), for
// `virsh define`. It is a pure function of the machine.
//
// What it deliberately does not do: talk to libvirt, describe microvms, or know of channels that libvirt makes itself.
package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"strings"

	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
)

type domain struct {
	XMLName  xml.Name `xml:"domain"`
	Type     string   `xml:"type,attr"`
	Name     string   `xml:"name"`
	Memory   bytes    `xml:"memory"`
	VCPU     int      `xml:"vcpu"`
	OS       system   `xml:"os"`
	ACPI     struct{} `xml:"features>acpi"`
	PowerOff string   `xml:"on_poweroff"`
	Reboot   string   `xml:"on_reboot"`
	Crash    string   `xml:"on_crash"`
	Devices  devices  `xml:"devices"`
}

type bytes struct {
	Unit  string `xml:"unit,attr"`
	Value int64  `xml:",chardata"`
}

type system struct {
	Type    osType  `xml:"type"`
	Loader  *loader `xml:"loader"`
	NVRAM   string  `xml:"nvram,omitempty"`
	Kernel  string  `xml:"kernel,omitempty"`
	Initrd  string  `xml:"initrd,omitempty"`
	Cmdline string  `xml:"cmdline,omitempty"`
	Boot    *device `xml:"boot"`
}

type osType struct {
	Arch    string `xml:"arch,attr"`
	Machine string `xml:"machine,attr"`
	Value   string `xml:",chardata"`
}

type loader struct {
	ReadOnly string `xml:"readonly,attr"`
	Type     string `xml:"type,attr"`
	Path     string `xml:",chardata"`
}

type device struct {
	Dev string `xml:"dev,attr"`
}

type devices struct {
	Disks      []disk    `xml:"disk"`
	Interfaces []nic     `xml:"interface"`
	Serial     typed     `xml:"serial"`
	Channels   []channel `xml:"channel"`
	RNG        rng       `xml:"rng"`
	Panic      *modelled `xml:"panic"`
	Balloon    modelled  `xml:"memballoon"`
}

type typed struct {
	Type string `xml:"type,attr"`
}

type modelled struct {
	Model string `xml:"model,attr"`
}

type rng struct {
	Model   string  `xml:"model,attr"`
	Backend backend `xml:"backend"`
}

type backend struct {
	Model string `xml:"model,attr"`
	Path  string `xml:",chardata"`
}

type disk struct {
	Type     string    `xml:"type,attr"`
	Device   string    `xml:"device,attr"`
	Driver   driver    `xml:"driver"`
	Source   source    `xml:"source"`
	Target   target    `xml:"target"`
	Base     *base     `xml:"backingStore"`
	ReadOnly *struct{} `xml:"readonly"`
	Shared   *struct{} `xml:"shareable"`
	Serial   string    `xml:"serial"`
}

// base is what an overlay lies on, which libvirt then does not read from the overlay.
type base struct {
	Type   string    `xml:"type,attr"`
	Format baseKind  `xml:"format"`
	Source source    `xml:"source"`
	End    *struct{} `xml:"backingStore"`
}

type baseKind struct {
	Type hypervisor.Format `xml:"type,attr"`
}

type driver struct {
	Name    string            `xml:"name,attr"`
	Type    hypervisor.Format `xml:"type,attr"`
	Discard string            `xml:"discard,attr,omitempty"`
}

type source struct {
	File    string `xml:"file,attr,omitempty"`
	Dev     string `xml:"dev,attr,omitempty"`
	Bridge  string `xml:"bridge,attr,omitempty"`
	Address string `xml:"address,attr,omitempty"`
	Port    string `xml:"port,attr,omitempty"`
}

type target struct {
	Dev     string `xml:"dev,attr,omitempty"`
	Bus     string `xml:"bus,attr,omitempty"`
	Managed string `xml:"managed,attr,omitempty"`
	Type    string `xml:"type,attr,omitempty"`
	Name    string `xml:"name,attr,omitempty"`
}

type nic struct {
	Type   string  `xml:"type,attr"`
	MAC    mac     `xml:"mac"`
	Source *source `xml:"source"`
	Target *target `xml:"target"`
	Model  typed   `xml:"model"`
	Link   *state  `xml:"link"`
}

type mac struct {
	Address string `xml:"address,attr"`
}

type state struct {
	State string `xml:"state,attr"`
}

type channel struct {
	Type   string `xml:"type,attr"`
	Target target `xml:"target"`
}

// Domain is the XML of a machine. bridges are the host's bridges that links are plugged into, by link, whatever the
// machine says of them.
func Domain(m hypervisor.Machine, bridges map[string]string) ([]byte, error) {
	if m.Firmware == hypervisor.MicroVM {
		return nil, fmt.Errorf("describe guest %q to libvirt: it has no microvms; make the guest with another firmware",
			m.Name)
	}
	kinds := map[string]osType{"amd64": {"x86_64", "q35", "hvm"}, "arm64": {"aarch64", "virt", "hvm"}}
	kind, known := kinds[m.Arch]
	if !known {
		return nil, fmt.Errorf("describe guest %q to libvirt: architecture %q: want amd64 or arm64", m.Name, m.Arch)
	}
	d := domain{Type: "kvm", Name: m.Name, Memory: bytes{"b", m.Memory}, VCPU: max(m.VCPUs, 1), OS: system{Type: kind},
		PowerOff: "destroy", Reboot: "restart", Crash: "destroy"}
	if m.Accel == hypervisor.TCG {
		d.Type = "qemu"
	}
	if f := m.Flash; f != nil {
		d.OS.Loader, d.OS.NVRAM = &loader{"yes", "pflash", f.Code}, f.Vars
	}
	if k := m.Kernel; k != nil {
		d.OS.Kernel, d.OS.Initrd, d.OS.Cmdline = k.Image, k.Initrd, k.Cmdline
	} else {
		d.OS.Boot = &device{"hd"}
	}
	disks(&d.Devices, m)
	var failed []error
	for _, n := range m.NICs {
		one, err := plug(n, bridges[n.Link])
		failed = append(failed, err)
		d.Devices.Interfaces = append(d.Devices.Interfaces, one)
	}
	if err := errors.Join(failed...); err != nil {
		return nil, fmt.Errorf("describe guest %q to libvirt: %w", m.Name, err)
	}
	d.Devices.Serial = typed{"pty"}
	for _, name := range []string{contract.ControlPort, contract.CommandPort} {
		d.Devices.Channels = append(d.Devices.Channels, channel{"unix", target{Type: "virtio", Name: name}})
	}
	d.Devices.RNG = rng{"virtio", backend{"random", "/dev/urandom"}}
	if m.Arch == "amd64" {
		d.Devices.Panic = &modelled{"isa"}
	}
	d.Devices.Balloon = modelled{"none"}
	b, err := xml.MarshalIndent(d, "", "  ")
	return append(b, '\n'), err
}

// disks attaches them by the serials that a guest finds them by: what may not be written is read-only here already.
func disks(all *devices, m hypervisor.Machine) {
	add := func(d hypervisor.Disk, serial string, readOnly, shared bool) {
		one := disk{Type: "file", Device: "disk", Driver: driver{"qemu", d.Format, ""}, Source: source{File: d.Path},
			Target: target{Dev: "vd" + string(rune('a'+len(all.Disks))), Bus: "virtio"}, Serial: serial}
		if d.Device {
			one.Type, one.Source = "block", source{Dev: d.Path}
		}
		if readOnly {
			one.ReadOnly = &struct{}{}
		} else {
			one.Driver.Discard = "unmap" // what the guest frees, the host gets back
		}
		if shared {
			one.Shared = &struct{}{}
		}
		all.Disks = append(all.Disks, one)
	}
	add(m.System, contract.SystemSerial, m.Base == nil, m.Base == nil)
	if m.Base != nil {
		all.Disks[0].Base = &base{"file", baseKind{m.Base.Format}, source{File: m.Base.Path}, &struct{}{}}
	}
	if m.State != nil {
		add(*m.State, contract.StateSerial, false, false)
	}
	if m.Identity != nil {
		add(*m.Identity, identity.Serial, true, false)
	}
	for _, d := range m.Data {
		add(d.Disk, d.Serial(), d.ReadOnly, false)
	}
}

// plug describes one NIC.
func plug(n hypervisor.NIC, bridge string) (nic, error) {
	one := nic{MAC: mac{n.MAC.String()}, Model: typed{"virtio"}}
	switch b := n.Backend; {
	case bridge != "":
		one.Type, one.Source = "bridge", &source{Bridge: bridge}
	case b.Kind == hypervisor.User && !b.Internet:
		// libvirt's leads to the Internet and to the host, which this one was not to.
		return one, fmt.Errorf("link %s: libvirt has no user-mode network that leads nowhere; name a bridge: --bridge "+
			"%[1]s=BRIDGE", n.Link)
	case b.Kind == hypervisor.User:
		one.Type = "user"
	case b.Kind == hypervisor.Unplugged:
		one.Type, one.Link = "user", &state{"down"}
	case b.Kind == hypervisor.Tap:
		one.Type, one.Target = "ethernet", &target{Dev: b.Tap, Managed: "no"}
	case b.Kind == hypervisor.Socket:
		kind, where, _ := strings.Cut(b.Socket, "=")
		host, port, err := net.SplitHostPort(where)
		if err != nil {
			return one, fmt.Errorf("link %s: %w", n.Link, err)
		}
		one.Type = map[string]string{"listen": "server", "connect": "client", "mcast": "mcast"}[kind]
		one.Source = &source{Address: host, Port: port}
	default:
		return one, fmt.Errorf("link %s: libvirt has no network %q; name a bridge: --bridge %[1]s=BRIDGE", n.Link, b.Kind)
	}
	return one, nil
}
