package filter

import (
	"slices"

	"rempart/profiles"
)

// tunnels lets the peers of WireGuard links in that may begin: exactly the port, from exactly the zones the profile
// names. The kernel answers nobody there who does not know a key. Peers that the guest itself begins with need no rule:
// theirs are answers.
func (c *compiler) tunnels(rules *Chain) {
	for i := range c.profile.Links {
		l := &c.profile.Links[i]
		if l.WireGuard == nil || l.WireGuard.Port == 0 {
			continue
		}
		port := uint16(l.WireGuard.Port)
		for _, zone := range l.WireGuard.From {
			for _, sh := range c.space.zones[zone] {
				for _, v6 := range families {
					for _, r := range sh.ranges[family(v6)] {
						rules.add("the tunnel "+l.Name+": "+zone+at(l.At), Match{IIfName, []Range{ifName(sh.link)}},
							Match{srcField(v6), []Range{addrRange(r)}}, Match{UDPDPort, []Range{portRange(port, port)}}, accept)
					}
				}
			}
		}
	}
}

// tunnelAt is the tunnel that a flow wants to begin, and may.
func tunnelAt(p *profiles.Profile, f flow) *profiles.Link {
	if f.to != profiles.Self || f.protocol != profiles.UDP || f.port == 0 {
		return nil
	}
	for i := range p.Links {
		if w := p.Links[i].WireGuard; w != nil && w.Port == int(f.port) && slices.Contains(w.From, f.from) {
			return &p.Links[i]
		}
	}
	return nil
}
