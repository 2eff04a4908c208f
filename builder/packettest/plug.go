package packettest

import (
	"bytes"
	"fmt"
	"net"
	"slices"

	"rempart/builder/virtualnet"
	"rempart/profiles"
)

// wire is the far end of what a link's packets go by: a segment of its own for each NIC, each VLAN and each bond, and
// for links that share one with another that other's.
func (b *Bench) wire(l *profiles.Link) (*virtualnet.Segment, error) {
	if s := b.wires[l.Name]; s != nil {
		return s, nil
	}
	s, err := b.newWire(l)
	if err != nil {
		return nil, err
	}
	b.wires[l.Name] = s
	return s, nil
}

func (b *Bench) newWire(l *profiles.Link) (*virtualnet.Segment, error) {
	switch {
	case l.VLAN != nil:
		parent, err := b.wireOf(l.VLAN.Parent)
		if err != nil {
			return nil, err
		}
		etherType := uint16(virtualnet.Ether8021Q)
		if l.VLAN.Protocol == profiles.Tag8021AD {
			etherType = virtualnet.Ether8021AD
		}
		s := virtualnet.NewSegment(l.Name, b.log)
		parent.CarryVLAN(s, etherType, uint16(l.VLAN.ID))
		return s, nil
	case l.Bond != nil:
		var members []*virtualnet.Segment
		for _, name := range l.Bond.Members {
			m, err := b.wireOf(name)
			if err != nil {
				return nil, err
			}
			members = append(members, m)
		}
		s := virtualnet.NewSegment(l.Name, b.log)
		virtualnet.NewBond(s, members, l.Bond.Mode == profiles.BondLACP, l.Bond.Mode == profiles.BondActiveBackup)
		return s, nil
	case l.Bridge != nil && len(l.Bridge.Ports) > 0:
		return nil, fmt.Errorf("packet test of %s: link %s sorts by VLAN, and this version plugs only into bridges that do "+
			"not", b.profile.Name, l.Name)
	case l.Bridge != nil:
		// The hosts of the bridge itself are on its first member; the others are wires of their own.
		return b.wireOf(l.Bridge.Members[0])
	case l.Macvlan != nil:
		return b.wireOf(l.Macvlan.Parent)
	case l.Dummy, l.NIC():
		return virtualnet.NewSegment(l.Name, b.log), nil
	}
	return nil, fmt.Errorf("packet test of %s: link %s is of a kind that this version cannot plug into", b.profile.Name,
		l.Name)
}

func (b *Bench) wireOf(name string) (*virtualnet.Segment, error) {
	l := b.link(name)
	if l == nil {
		return nil, fmt.Errorf("packet test of %s: there is no link %s", b.profile.Name, name)
	}
	return b.wire(l)
}

func (b *Bench) link(name string) *profiles.Link {
	for i := range b.profile.Links {
		if b.profile.Links[i].Name == name {
			return &b.profile.Links[i]
		}
	}
	return nil
}

// bridgeOf is the bridge that a link is a member of, or empty.
func (b *Bench) bridgeOf(link string) string {
	if m := b.profile.MasterOf(link); m != nil && m.Bridge != nil {
		return m.Name
	}
	return ""
}

// hardware is the hardware address the guest uses on a link, as package link makes it; nil where the kernel chooses.
// lent tells whether it is asked for by what is made of the link: that takes what the NIC was born with.
func (b *Bench) hardware(l *profiles.Link, lent bool) (net.HardwareAddr, error) {
	switch {
	case l.NIC() && (lent || l.VirtualMAC == ""):
		return b.born[l.Name], nil
	case l.NIC():
		return net.ParseMAC(l.VirtualMAC)
	case l.VLAN != nil:
		return b.hardware(b.link(l.VLAN.Parent), false)
	case l.MAC != "":
		return net.ParseMAC(l.MAC)
	case len(l.Members()) > 0:
		return b.hardware(b.link(l.Members()[0]), true)
	}
	return nil, nil
}

// addWires makes the far ends of all links and watches those that packets can be seen on.
func (b *Bench) addWires() error {
	for i := range b.profile.Links {
		l := &b.profile.Links[i]
		if _, err := b.wire(l); err != nil {
			return err
		}
		var err error
		if b.macs[l.Name], err = b.hardware(l, false); err != nil {
			return fmt.Errorf("packet test of %s: link %s: %w", b.profile.Name, l.Name, err)
		}
	}
	for i := range b.profile.Links {
		l := &b.profile.Links[i]
		// What passes by a bridge is seen at its members, what passes by a bond behind them.
		if master := b.profile.MasterOf(l.Name); l.Bridge == nil && (master == nil || master.Bond == nil) {
			b.wires[l.Name].Observe(b.watch.observe(l.Name, b.bridgeOf(l.Name), b.ownerOf(l)))
		}
	}
	for _, l := range b.profile.NICs() {
		if err := b.capture(b.wires[l.Name], l.Name); err != nil {
			return err
		}
	}
	return nil
}

// owner tells the guest's frames on a wire from others, by hardware address.
type owner struct {
	own    net.HardwareAddr   // the guest's; nil: its kernel's choice
	others []net.HardwareAddr // the guest's too, but of other links on the same wire
}

// sent tells whether a frame that came out of the guest is the link's.
func (o owner) sent(src net.HardwareAddr) bool {
	if len(o.others) > 0 && o.own != nil {
		return bytes.Equal(src, o.own)
	}
	return !o.isOther(src)
}

// gets tells whether a frame from a host is for the link.
func (o owner) gets(dst net.HardwareAddr) bool {
	if o.own != nil {
		return bytes.Equal(dst, o.own)
	}
	return !o.isOther(dst) && !bytes.HasPrefix(dst, hostMAC)
}

func (o owner) isOther(mac net.HardwareAddr) bool {
	return slices.ContainsFunc(o.others, func(x net.HardwareAddr) bool { return bytes.Equal(x, mac) })
}

// ownerOf is the owner of a link's frames: macvlans are on their parent's wire, and what is routed goes to the address
// of the bridge, not of its member.
func (b *Bench) ownerOf(l *profiles.Link) owner {
	o := owner{own: b.macs[l.Name]}
	if bridge := b.bridgeOf(l.Name); bridge != "" {
		o.own = b.macs[bridge]
	}
	for i := range b.profile.Links {
		if x := &b.profile.Links[i]; x.Name != l.Name && (x.Macvlan != nil || l.Macvlan != nil) &&
			b.wires[x.Name] == b.wires[l.Name] && b.macs[x.Name] != nil {
			o.others = append(o.others, b.macs[x.Name])
		}
	}
	return o
}
