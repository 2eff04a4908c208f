package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

func checkForward(p *profiles.Profile, f *profiles.Forward, bad func(profiles.Pos, string, ...any)) {
	if f.Protocol != profiles.TCP && f.Protocol != profiles.UDP {
		bad(f.At, "forward: protocol %q: want tcp or udp", f.Protocol)
	}
	for _, a := range f.Targets() {
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" ||
			isV6(a) != isV6(f.To) {
			bad(f.At, "forward: %v is no address a connection can be sent to", a)
		}
		if isOwn(p, a) {
			bad(f.At, "forward: %v is this machine's own address; allow the port to self instead", a)
		}
	}
	if len(f.Ports) == 0 {
		bad(f.At, "forward: no ports given")
	}
	for _, ports := range f.Ports {
		switch {
		case ports.First == 0 || ports.First > ports.Last:
			bad(f.At, "forward: ports %d-%d: want 1 to 65535, the first not above the last", ports.First, ports.Last)
		case f.ToPort != 0 && int(f.ToPort)+int(ports.Last-ports.First) > 65535:
			bad(f.At, "forward: ports %d-%d to %d: would end above 65535", ports.First, ports.Last, f.ToPort)
		}
	}
	if f.Helper != "" {
		if proto, ok := f.Helper.Protocol(); !ok || f.Protocol != proto {
			bad(f.At, "forward: the helper %q is for ports of %s", f.Helper, proto)
		}
	}
	if a := f.Address; a.IsValid() && (isV6(a) != isV6(f.To) || !isOwn(p, a)) {
		bad(f.At, "forward: %v is no address of this machine in the family of %v", a, f.To)
	}
	for _, prefix := range f.Sources {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			bad(f.At, "forward: %v is not a prefix", prefix)
		}
	}
	for _, name := range f.SourceSets {
		if !p.HasSet(name) {
			bad(f.At, "forward: there is no set %q", name)
		}
	}
}

// isOwn tells whether the profile gives an address to this machine.
func isOwn(p *profiles.Profile, a netip.Addr) bool {
	return slices.ContainsFunc(p.Links, func(l profiles.Link) bool {
		return slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool { return own.Addr() == a })
	})
}

// checkNAT checks the translations but for the forwards.
func checkNAT(p *profiles.Profile, named func(pos profiles.Pos, what, name string, special ...string),
	bad func(profiles.Pos, string, ...any)) {
	for i := range p.NAT.Sources {
		s := &p.NAT.Sources[i]
		named(s.At, "nat", s.From)
		named(s.At, "nat", s.To)
		if !s.First.IsValid() || s.First.BitLen() != s.Last.BitLen() || s.Last.Less(s.First) || s.First.Is4In6() ||
			s.First.Zone()+s.Last.Zone() != "" {
			bad(s.At, "nat: %v to %v is no range of addresses", s.First, s.Last)
			continue
		}
		for _, c := range s.Clients {
			if !c.IsValid() || isV6(c.Addr()) != isV6(s.First) || c.Addr().Is4In6() {
				bad(s.At, "nat: %v is no prefix that can leave under %v", c, s.First)
			}
		}
	}
	for i := range p.NAT.Mappings {
		m := &p.NAT.Mappings[i]
		named(m.At, "nat", m.Zone)
		for _, x := range []netip.Prefix{m.Outside, m.Inside} {
			if !x.IsValid() || x.Masked() != x || x.Addr().Is4In6() || x.Bits() == 0 {
				bad(m.At, "nat: %v is no prefix that can be mapped", x)
			}
		}
		if isV6(m.Outside.Addr()) != isV6(m.Inside.Addr()) || m.Outside.Bits() != m.Inside.Bits() ||
			m.Outside.Overlaps(m.Inside) {
			bad(m.At, "nat: %v and %v cannot be mapped to each other", m.Outside, m.Inside)
		}
		for k := range p.Forwards {
			if f := &p.Forwards[k]; slices.ContainsFunc(f.Targets(), m.Inside.Contains) {
				bad(m.At, "nat: %v has the target of a forward too%s", m.Inside, at(f.At))
			}
		}
	}
}
