package packettest

import (
	"fmt"
	"net/netip"
	"slices"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
)

// Lengths of the subnets that hosts on a bridge without an address of its own are in.
const (
	bridgedBits4 = 24
	bridgedBits6 = 64
)

// neighbourhood is an address of a host on a member of a bridge, with the length of the subnet that all hosts of the
// bridge share.
func (b *Bench) neighbourhood(link string, a netip.Addr) netip.Prefix {
	for _, own := range b.link(b.bridgeOf(link)).Addresses {
		if own.Contains(a) {
			return netip.PrefixFrom(a, own.Bits())
		}
	}
	if a.Is6() {
		return netip.PrefixFrom(a, bridgedBits6)
	}
	return netip.PrefixFrom(a, bridgedBits4)
}

// introduce tells the sender of a probe that must not pass where its receiver is, unless something else passes between
// the two: the guest keeps apart even the questions for hardware addresses, and a packet that nobody sends proves
// nothing.
func (b *Bench) introduce(p filter.Probe, sender *virtualnet.Host) error {
	if p.Pass || slices.ContainsFunc(b.probes, func(o filter.Probe) bool {
		return o.Pass && o.Bridge == p.Bridge && o.Src.Is6() == p.Src.Is6() &&
			(o.Link == p.Link && o.OutLink == p.OutLink || o.Link == p.OutLink && o.OutLink == p.Link)
	}) {
		return nil
	}
	receiver, err := b.host(p.OutLink, p.Dst)
	if err != nil {
		return err
	}
	if err := sender.AddNeighbour(p.Dst, receiver.MAC); err != nil {
		return fmt.Errorf("packet test of %s: %w", b.profile.Name, err)
	}
	return nil
}
