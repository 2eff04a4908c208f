package link

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// deviceOf is what the kernel says an interface is made as. What does not matter in its mode is left out.
func deviceOf(l netlink.Link) Device {
	switch d := l.(type) {
	case *netlink.Vlan:
		return Device{Kind: KindVLAN, ID: d.VlanId, Protocol: uint16(d.VlanProtocol)}
	case *netlink.Bond:
		out := Device{Kind: KindBond, Mode: int(d.Mode), Miimon: d.Miimon}
		if d.Mode == netlink.BOND_MODE_802_3AD {
			out.LACPFast = d.LacpRate == netlink.BOND_LACP_RATE_FAST
		}
		if hashes(out.Mode) {
			out.Hash = int(d.XmitHashPolicy)
		}
		return out
	case *netlink.Macvlan:
		return Device{Kind: KindMacvlan, Mode: macvlanNumber[d.Mode]}
	case *netlink.Bridge:
		out := Device{Kind: KindBridge}
		if d.VlanDefaultPVID != nil {
			out.ID = int(*d.VlanDefaultPVID)
		}
		return out
	case *netlink.Dummy:
		return Device{Kind: KindDummy}
	case *netlink.Wireguard:
		return Device{Kind: KindTunnel}
	}
	return Device{}
}

// primaryOf is the member a bond prefers; 0: none, or it is no member yet.
func primaryOf(l netlink.Link) int {
	if b, ok := l.(*netlink.Bond); ok && b.Primary > 0 {
		return b.Primary
	}
	return 0
}

// tellKind changes one attribute that only interfaces of a kind have.
func tellKind(kind string, index, attribute int, value []byte) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(attribute, value)
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// macvlanNumber are the kernel's numbers for the library's.
var macvlanNumber = map[netlink.MacvlanMode]int{netlink.MACVLAN_MODE_PRIVATE: 1, netlink.MACVLAN_MODE_VEPA: 2,
	netlink.MACVLAN_MODE_BRIDGE: macvlanBridge, netlink.MACVLAN_MODE_PASSTHRU: 8, netlink.MACVLAN_MODE_SOURCE: 16}

// permanent is the hardware address a NIC came with. A bond gives its members its own, a profile may give another.
func permanent(a *netlink.LinkAttrs) net.HardwareAddr {
	if len(a.PermHWAddr) == macLen {
		return a.PermHWAddr
	}
	if s, ok := a.Slave.(*netlink.BondSlave); ok && len(s.PermHardwareAddr) == macLen {
		return s.PermHardwareAddr
	}
	return a.HardwareAddr
}

// create makes an interface. What it is made on is looked up by name: it may just have been made or renamed itself.
func (k *kernel) create(c Change) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.Link
	if c.On != "" {
		parent, err := k.handle.LinkByName(c.On)
		if err != nil {
			return fmt.Errorf("link %s: %w", c.On, err)
		}
		attrs.ParentIndex = parent.Attrs().Index
	}
	if mac, err := net.ParseMAC(c.MAC); err == nil {
		attrs.HardwareAddr = mac
	}
	// Of a bond or bridge without an address of its own, that of its first member: the kernel would take whichever comes
	// first, and a bridge's would change with its members.
	for _, name := range c.Like {
		if len(attrs.HardwareAddr) > 0 {
			break
		}
		if l, err := k.handle.LinkByName(name); err == nil {
			attrs.HardwareAddr = permanent(l.Attrs())
		}
	}
	var l netlink.Link
	switch d := c.Device; d.Kind {
	case KindVLAN:
		attrs.HardwareAddr = nil // always its parent's
		l = &netlink.Vlan{LinkAttrs: attrs, VlanId: d.ID, VlanProtocol: netlink.VlanProtocol(d.Protocol)}
	case KindBond:
		b := netlink.NewLinkBond(attrs)
		b.Mode, b.Miimon = netlink.BondMode(d.Mode), d.Miimon
		if b.Mode == netlink.BOND_MODE_802_3AD {
			b.LacpRate = netlink.BOND_LACP_RATE_SLOW
			if d.LACPFast {
				b.LacpRate = netlink.BOND_LACP_RATE_FAST
			}
		}
		if hashes(d.Mode) {
			b.XmitHashPolicy = netlink.BondXmitHashPolicy(d.Hash)
		}
		l = b
	case KindBridge:
		b := &netlink.Bridge{LinkAttrs: attrs, VlanDefaultPVID: new(uint16)} // no VLAN that every port has by itself
		if c.Bridging.VLANs {                                                // from its first moment
			b.VlanFiltering = &c.Bridging.VLANs
		}
		l = b
	case KindMacvlan:
		l = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	case KindDummy:
		l = &netlink.Dummy{LinkAttrs: attrs}
	case KindTunnel:
		l = &netlink.Wireguard{LinkAttrs: attrs}
	default:
		return fmt.Errorf("nobody makes a %q", d.Kind)
	}
	if err := k.handle.LinkAdd(l); err != nil {
		return err
	}
	// Claimed at once: a program killed here finds it as its own.
	made, err := k.handle.LinkByName(c.Link)
	if err != nil {
		return err
	}
	return k.handle.LinkSetAlias(made, claimAlias+c.Link)
}
