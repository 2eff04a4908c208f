package profiles

import "net/netip"

// DHCP6 is the DHCPv6 server on one link (RFC 8415). Clients have the same end of an address in each of the link's
// prefixes of 64 bits, static and delegated, whatever these are at the time.
type DHCP6 struct {
	Link string `json:"link"`
	DHCP6Scope
	Rapid bool `json:"rapid,omitempty"` // rapid commit: for a link that has no other server
	// Delegate is what routers on the link are delegated prefixes of; nil: nothing.
	Delegate *PrefixPool `json:"delegate,omitempty"`
	// Relayed are subnets behind relay agents that send by the link.
	Relayed []DHCP6Relayed `json:"relayed,omitempty"`
	At      Pos            `json:"at"`
}

// DHCP6Relayed is a subnet behind relay agents (RFC 8415, section 19).
type DHCP6Relayed struct {
	Prefix netip.Prefix   `json:"prefix"` // of 64 bits, masked: where the agents say that their clients are
	From   []netip.Prefix `json:"from"`   // where the agents send from
	// Delegate: routers there are delegated prefixes of what the link delegates, too. The way to these is that to the
	// subnet, where the agents lead on to the routers (RFC 8987).
	Delegate bool `json:"delegate,omitempty"`
	DHCP6Scope
	At Pos `json:"at"`
}

// DHCP6Scope is what clients of a subnet are given and told.
type DHCP6Scope struct {
	// Pools are the ends of addresses given to whoever asks. With neither pools nor hosts clients are told of name
	// servers only (stateless DHCPv6).
	Pools []SuffixRange `json:"pools,omitempty"`
	Hosts []DHCP6Host   `json:"hosts,omitempty"`
	Lease int64         `json:"lease"` // seconds an address or a prefix is valid after it was last asked for
	// DNSSelf: the guest itself is a name server; DNS are further ones, asked after it.
	DNSSelf bool         `json:"dns_self,omitempty"`
	DNS     []netip.Addr `json:"dns,omitempty"`
	Search  []string     `json:"search,omitempty"` // domains that short names are looked for in
}

// SuffixRange are the ends of addresses from First to Last, both included: 64 bits, those above are zero.
type SuffixRange struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// DHCP6Host is a client the profile names. It is known by its DUID, or by the hardware address in that, in its
// link-local address or in what a relay agent says (RFC 6939).
type DHCP6Host struct {
	Name string     `json:"name"`
	MAC  string     `json:"mac,omitempty"`  // lower case with colons
	DUID string     `json:"duid,omitempty"` // lower case hex, RFC 8415 section 11
	Host netip.Addr `json:"host,omitzero"`  // the end of its addresses; zero: one of the pools
	// Delegate is the prefix it is delegated, in the link's PrefixPool; nil: one from there as anybody's.
	Delegate *PrefixBlock `json:"delegate,omitempty"`
	At       Pos          `json:"at"`
}

// Way is the router on the link by which its routes lead to a subnet; zero: there is none, or it is not said.
func (l *Link) Way(to netip.Prefix) (via netip.Addr) {
	longest := -1
	for _, r := range l.Routes {
		if r.To.Bits() <= to.Bits() && r.To.Contains(to.Addr()) && r.To.Bits() > longest {
			longest, via = r.To.Bits(), r.Via
		}
	}
	return via
}

// Gives tells whether the server gives addresses or prefixes at all.
func (d *DHCP6) Gives() bool { return len(d.Pools)+len(d.Hosts) > 0 || d.Delegate != nil }

// portDHCPv6Server is where servers and relay agents listen, RFC 8415 section 7.2.
const portDHCPv6Server = 547

// opening is for clients on the link and relay agents, which send from link-local addresses or those of the link.
func (d *DHCP6) opening() Opening {
	o := Opening{Service: "DHCPv6", Link: d.Link, Protocol: UDP, IPv6: true,
		Ports:   []PortRange{{portDHCPv6Server, portDHCPv6Server}},
		Sources: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}, At: d.At}
	for _, s := range d.Relayed {
		for _, from := range s.From {
			if !from.Addr().IsLinkLocalUnicast() {
				o.Sources = append(o.Sources, from)
			}
		}
	}
	return o
}
