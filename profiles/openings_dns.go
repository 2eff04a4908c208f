package profiles

import (
	"net/netip"
	"slices"
)

// dnsOpenings are for those who are answered at all, by UDP and by TCP.
func (p *Profile) dnsOpenings() (out []Opening) {
	if p.DNS == nil {
		return nil
	}
	for _, l := range p.DNS.Links {
		sources := l.From
		if len(sources) == 0 {
			sources = p.subnetsOn(l.Link)
		}
		o := Opening{Service: "DNS", Link: l.Link, Ports: []PortRange{{PortDNS, PortDNS}}, Sources: sources, At: l.At}
		o.IPv4 = len(sources) == 0 || slices.ContainsFunc(sources, func(s netip.Prefix) bool { return s.Addr().Is4() })
		o.IPv6 = len(sources) == 0 || slices.ContainsFunc(sources, func(s netip.Prefix) bool { return s.Addr().Is6() })
		for _, protocol := range []Protocol{UDP, TCP} {
			o.Protocol = protocol
			out = append(out, o)
		}
		if l.TLS {
			o.Service, o.Ports = "DNS over TLS", []PortRange{{PortDNSTLS, PortDNSTLS}}
			out = append(out, o)
		}
	}
	return out
}

// linkLocalPrefix is where hosts of a link are that have no other IPv6 address, or prefer this one (RFC 4291 2.5.6).
var linkLocalPrefix = netip.MustParsePrefix("fe80::/10")

// subnetsOn are the addresses that hosts on a link have; empty: only the running guest knows them.
func (p *Profile) subnetsOn(name string) (all []netip.Prefix) {
	i := slices.IndexFunc(p.Links, func(l Link) bool { return l.Name == name })
	if i < 0 || p.Links[i].DHCP || p.Links[i].Auto || len(p.Links[i].Delegated) > 0 {
		return nil
	}
	six := false
	for _, a := range p.Links[i].Addresses {
		all = append(all, a.Masked())
		six = six || a.Addr().Is6()
	}
	if six {
		all = append(all, linkLocalPrefix)
	}
	return all
}
