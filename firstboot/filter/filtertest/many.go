package filtertest

import (
	"net/netip"

	"rempart/profiles"
)

// Merged has just so many lines in a row that sets take their place: single hosts, prefixes with ranges of ports, one
// that overlaps them in part, and what is dropped between what is accepted.
func Merged() *profiles.Profile {
	p := Guarded()
	p.Name, p.Sets, p.Policy = "merged", nil, nil
	const lines = 17
	source := func(n int, action profiles.Action, proto profiles.Protocol, first, last uint16, from netip.Prefix) {
		p.Policy = append(p.Policy, profiles.Rule{From: "net", To: "servers", Action: action, At: line(n),
			Matches: []profiles.Match{{Protocol: proto, Ports: []profiles.PortRange{{First: first, Last: last}},
				Sources: []netip.Prefix{from}}}})
	}
	v4 := func(net string, host, bits int) netip.Prefix {
		a := netip.MustParseAddr(net).As4()
		a[3] = byte(host)
		return netip.PrefixFrom(netip.AddrFrom4(a), bits)
	}
	v6 := func(n int) netip.Prefix {
		a := netip.MustParseAddr("2001:db8:9::").As16()
		a[15] = byte(n)
		return netip.PrefixFrom(netip.AddrFrom16(a), 128)
	}
	for i := range lines {
		source(100+i, profiles.Accept, profiles.TCP, 8443, 8443, v4("198.51.100.0", 20+i, 32))
		source(120+i, profiles.Accept, profiles.TCP, 9000, 9010, v4("192.0.2.0", i*8, 29))
	}
	source(140, profiles.Accept, profiles.TCP, 9005, 9020, v4("192.0.2.0", 0, 26))
	for i := range lines {
		source(150+i, profiles.Drop, profiles.UDP, 53, 53, v6(20+i))
	}
	p.Policy = append(p.Policy, allow(170, "net", "servers", profiles.Match{Protocol: profiles.UDP, Ports: ports(53)}))
	return p
}

// Many is a policy of so many lines between two zones, of every shape that is worth a set: single sources and
// destinations, prefixes, ranges of ports, overlapping ones, in both families, with a block that is dropped between
// two that are accepted.
func Many(lines int) *profiles.Profile {
	p := Guarded()
	p.Name, p.Sets, p.Policy = "many", nil, nil
	v4 := func(net byte, i, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{net, byte(i >> 12), byte(i >> 4), byte(i << 4)}), bits).Masked()
	}
	v6 := func(i, bits int) netip.Prefix {
		a := netip.MustParseAddr("2001:db8:c::").As16()
		a[6], a[7] = byte(i>>8), byte(i)
		return netip.PrefixFrom(netip.AddrFrom16(a), bits).Masked()
	}
	for i := range lines {
		m := profiles.Match{Protocol: profiles.TCP, Ports: ports(8443)}
		switch i % 6 {
		case 0:
			m.Sources = []netip.Prefix{v4(12, i, 32)}
		case 1:
			m.Sources = []netip.Prefix{v6(i, 128)}
		case 2:
			m.Sources, m.Ports = []netip.Prefix{v4(13, i, 28)}, []profiles.PortRange{{First: 9000, Last: 9000 + uint16(i%7)}}
		case 3:
			m.Sources, m.Destinations = []netip.Prefix{v6(i, 64)}, prefixes("fd00:2::10/128")
		case 4:
			m.Protocol, m.Ports = profiles.UDP, []profiles.PortRange{{First: uint16(1000 + 2*i), Last: uint16(1001 + 2*i)}}
		case 5: // meets its neighbours in part
			m.Sources = []netip.Prefix{v4(14, i*16, 23+i%3)}
			m.Ports = []profiles.PortRange{{First: uint16(100 + i%50), Last: uint16(160 + i%50)}}
		}
		r := allow(100+i, "net", "servers", m)
		if i >= lines/3 && i < lines/2 {
			r.Action = profiles.Drop
		}
		p.Policy = append(p.Policy, r)
	}
	return p
}

// Forwarding is so many forwards of every kind from a zone to the hosts behind: single ports and short ranges, moved
// and as they are, in both families and protocols, to the machine's second address, with the machine as the source,
// and among them those that are for some sources only or shared by several hosts. They are so many that maps and sets
// take the place of most of their rules.
func Forwarding(n int) *profiles.Profile {
	p := Guarded()
	p.Name, p.Sets, p.Policy, p.Logging = "forwarding", nil, nil, profiles.Logging{}
	p.Links[0].Addresses = prefixes("203.0.113.2/24", "203.0.113.3/24", "2001:db8:1::2/64")
	for i := range n {
		port := uint16(1000 + 4*i)
		f := profiles.Forward{From: "net", Protocol: profiles.TCP, Ports: ports(port), At: line(100 + i),
			To: netip.AddrFrom4([4]byte{10, 2, 0, byte(10 + i%6)})}
		switch i % 8 {
		case 0:
			f.Protocol = profiles.UDP
		case 1:
			f.ToPort = 80
		case 2, 3:
			f.To = prefixes("fd00:2::/64")[0].Addr()
			a := f.To.As16()
			a[15] = byte(10 + i%6)
			f.To = netip.AddrFrom16(a)
		case 4:
			f.Ports, f.ToPort = []profiles.PortRange{{First: port, Last: port + 3}}, 8080
		case 5:
			f.Address = netip.MustParseAddr("203.0.113.3")
		case 6:
			f.SNAT = true
			f.To = netip.AddrFrom4([4]byte{10, 2, 0, byte(210 + i%3)})
		}
		if i%8 == 7 && i%40 != 39 { // hosts beside the server use it by the guest's address
			f.From, f.Address = "servers", netip.MustParseAddr("203.0.113.2")
		}
		if i%40 == 39 { // some sources get another host, and of the others each his own
			narrow := f
			narrow.Sources, narrow.To = prefixes("198.51.100.64/26"), netip.MustParseAddr("10.2.0.250")
			p.Forwards = append(p.Forwards, narrow)
			f.Others = []netip.Addr{netip.MustParseAddr("10.2.0.251")}
		}
		p.Forwards = append(p.Forwards, f)
	}
	return p
}
