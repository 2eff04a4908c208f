package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Serving gives out addresses: on a link that is also the way to the Internet, and on one behind which there are a
// relay agent and routers that are delegated prefixes. Its policy shuts the guest off from everybody; what its services
// need is open all the same.
func Serving() *profiles.Profile {
	p := OneArmed()
	p.Name = "serving"
	p.Policy = append(p.Policy, profiles.Rule{From: profiles.Any, To: profiles.Self, Action: profiles.Drop, At: line(14)})
	pool := func(first, last string) profiles.Ranges {
		return profiles.Ranges{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}
	}
	p.DHCP = []profiles.DHCP{
		{Link: "lan0", At: line(20), Subnets: []profiles.DHCPSubnet{{Prefix: netip.MustParsePrefix("192.168.0.0/24"),
			Server: netip.MustParseAddr("192.168.0.101"), Pools: pool("192.168.0.150", "192.168.0.199"), Lease: 3600,
			At: line(20)}}},
		{Link: "dmz0", At: line(21), Subnets: []profiles.DHCPSubnet{
			{Prefix: netip.MustParsePrefix("10.9.0.0/24"), Server: netip.MustParseAddr("10.9.0.1"), Lease: 3600, At: line(21)},
			{Prefix: netip.MustParsePrefix("10.20.0.0/24"), Pools: pool("10.20.0.100", "10.20.0.199"), Lease: 3600,
				Relays: prefixes("10.9.0.2/32"), At: line(22)},
		}},
	}
	p.DHCP6 = []profiles.DHCP6{{Link: "dmz0", At: line(23), Delegate: &profiles.PrefixPool{
		PrefixBlock: profiles.PrefixBlock{Prefix: netip.MustParsePrefix("2001:db8:f::/48")}, Shortest: 56, Longest: 56},
		Relayed: []profiles.DHCP6Relayed{{Prefix: netip.MustParsePrefix("fd00:20::/64"), At: line(24),
			From: prefixes("fe80::2/128", "fd00:10:9::2/128")}}}}
	return p
}
