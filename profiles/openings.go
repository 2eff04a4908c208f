package profiles

import "net/netip"

// Opening is what a service of the guest itself needs to be asked by its clients. The policy opens it by itself, after
// the admin path and before the lines of the profile, and no more than it says.
type Opening struct {
	Service  string      // what it is for, as people call it: "DHCP"
	Link     string      // the clients are on it, or send by it
	Protocol Protocol    // TCP, UDP or ICMP6
	Ports    []PortRange // of TCP and UDP; at least one
	Types    []uint8     // of ICMP6; at least one
	IPv4     bool        // at least one of the two; ICMP6 is IPv6 in any case
	IPv6     bool
	// Sources are the addresses clients may have; empty: all that may come by the link.
	Sources []netip.Prefix
	// Unaddressed lets clients in too that have no IPv4 address yet and send from 0.0.0.0 (RFC 2131, section 4.1).
	Unaddressed bool
	At          Pos
}

// portDHCPServer is where DHCP servers listen (RFC 2131, section 4.1).
const portDHCPServer = 67

// Openings are what the guest's own services need, in a fixed order. Their rules and probes follow from it.
func (p *Profile) Openings() []Opening {
	var out []Opening
	for i := range p.DHCP {
		out = append(out, p.DHCP[i].opening())
	}
	if p.NTP != nil {
		out = append(out, p.NTP.openings()...)
	}
	for i := range p.DHCP6 {
		out = append(out, p.DHCP6[i].opening())
	}
	out = append(out, p.dnsOpenings()...)
	return out
}

// opening is for clients without an address, for those that renew theirs, and for the relay agents.
func (d *DHCP) opening() Opening {
	o := Opening{Service: "DHCP", Link: d.Link, Protocol: UDP, Ports: []PortRange{{portDHCPServer, portDHCPServer}},
		IPv4: true, Unaddressed: true, At: d.At}
	for _, s := range d.Subnets {
		if s.Server.IsValid() {
			o.Sources = append(o.Sources, s.Prefix)
		}
		o.Sources = append(o.Sources, s.Relays...)
	}
	return o
}
