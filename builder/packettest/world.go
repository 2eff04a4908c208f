package packettest

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract/hardware"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// leases are the subnets a provider's DHCP may give an address from: carrier-grade NAT's (RFC 6598), which no profile
// should use itself; the first that this one does not.
var leases = []netip.Prefix{
	netip.MustParsePrefix("100.64.7.0/24"), netip.MustParsePrefix("100.100.7.0/24"),
	netip.MustParsePrefix("100.127.7.0/24"),
}

// routerLinkLocal is what routers call themselves on their link.
var routerLinkLocal = netip.MustParseAddr("fe80::1")

const (
	leaseHost = 101 // the address a guest is given in its subnet
	leaseTime = time.Hour
)

// addSegment builds what link i is plugged into: the segment and, where there is one, the router on it.
func (b *Bench) addSegment(i int, l profiles.Link) (*segment, error) {
	s := &segment{Segment: b.wires[l.Name], link: l, index: i, own: l.Addresses,
		gateways: map[bool]netip.Addr{}, hosts: map[netip.Addr]*virtualnet.Host{}}
	var addresses []netip.Prefix
	for _, g := range l.Gateways {
		s.gateways[g.Addr.Is6()] = g.Addr
		addresses = append(addresses, s.onLink(g.Addr))
	}
	mac := s.nextMAC()
	if l.DHCP6 && !l.Auto {
		return nil, fmt.Errorf("packet test of %s: link %s has its IPv6 address by DHCPv6, which tells of no router; "+
			"test it with address: [auto, dhcp6]", b.profile.Name, l.Name)
	}
	given := virtualnet.Delegation{Server: routerLinkLocal, Time: leaseTime}
	if l.Auto {
		own := b.macs[l.Name]
		if own == nil {
			return nil, fmt.Errorf("packet test of %s: link %s makes its address from a hardware address that its kernel "+
				"chooses; give it a mac", b.profile.Name, l.Name)
		}
		prefix, router := b.advertised(i, l)
		s.own = append(slices.Clip(s.own), netip.PrefixFrom(hardware.Address(prefix, own), prefix.Bits()))
		s.gateways[true] = prefix.Addr().Next()
		addresses = append(addresses, netip.PrefixFrom(s.gateways[true], prefix.Bits()),
			netip.PrefixFrom(router, router.BitLen()))
		given.Server = router
		if l.DHCP6 {
			last := prefix.Addr().As16()
			last[15] = leaseHost
			given.Address = netip.AddrFrom16(last)
			s.own = append(s.own, netip.PrefixFrom(given.Address, given.Address.BitLen()))
		}
		s.ServeRA(virtualnet.Advertisement{Router: router, Prefix: prefix, Time: leaseTime}, mac)
	}
	if l.Delegation != nil {
		given.Prefix = b.delegated
	}
	if l.DHCP6 || l.Delegation != nil {
		s.ServeDHCP6(given, mac)
	}
	if l.DHCP {
		subnet, err := b.leaseSubnet(i)
		if err != nil {
			return nil, err
		}
		base := subnet.Addr().As4()
		base[3] = leaseHost
		lease := netip.PrefixFrom(netip.AddrFrom4(base), subnet.Bits())
		server := subnet.Addr().Next()
		s.own = append([]netip.Prefix{lease}, s.own...)
		s.gateways[false] = server
		addresses = append(addresses, netip.PrefixFrom(server, subnet.Bits()))
		if len(l.Accept.Servers) > 0 {
			return nil, fmt.Errorf("packet test of %s: link %s takes leases from %s only, which is not here; remove "+
				"accept.servers for the test", b.profile.Name, l.Name, l.Accept.Servers[0])
		}
		s.ServeDHCP(virtualnet.Lease{Address: lease, Server: server, Time: leaseTime}, mac)
	}
	if len(addresses) > 0 {
		return s, b.addRouter(s, mac, addresses)
	}
	s.injector = s.NewInjector()
	return s, nil
}

func (b *Bench) addRouter(s *segment, mac net.HardwareAddr, addresses []netip.Prefix) error {
	s.injector = s.NewInjector()
	var err error
	if s.router, err = s.NewHost("gateway of "+s.link.Name, mac, addresses); err != nil {
		return err
	}
	for _, a := range addresses {
		s.hosts[a.Addr()] = s.router
	}
	for _, own := range s.own {
		if own.IsSingleIP() { // in no subnet of the router either: it finds the guest on the link all the same
			if err := s.router.AddRoute(virtualnet.Route{Prefix: own}); err != nil {
				return err
			}
		}
	}
	return b.routesBehind(s, s.router)
}

// routesBehind tells a host on s which networks lie behind the guest.
func (b *Bench) routesBehind(s *segment, h *virtualnet.Host) error {
	for _, other := range b.profile.Links {
		if other.Name == s.link.Name {
			continue
		}
		for _, a := range other.Addresses {
			if via, ok := s.guest(a.Addr()); ok {
				if err := h.AddRoute(virtualnet.Route{Prefix: a.Masked(), Via: via}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// advertised is what the router of a link that configures itself says: its address, and a prefix that no other link has
// (unique local, RFC 4193, unless the profile names what it must be in).
func (b *Bench) advertised(link int, l profiles.Link) (prefix netip.Prefix, router netip.Addr) {
	base := netip.MustParseAddr("fd72:6d70:7465:7374::").As16()
	base[6], base[7] = 0xa0, byte(link)
	router = routerLinkLocal
	if len(l.Accept.Routers) > 0 {
		router = l.Accept.Routers[0]
	}
	prefix = netip.PrefixFrom(netip.AddrFrom16(base), 64)
	if len(l.Accept.Prefixes) > 0 {
		prefix = netip.PrefixFrom(l.Accept.Prefixes[0].Addr(), 64)
	}
	return prefix, router
}

// leaseSubnet picks the subnet of a DHCP link; two of them never share one.
func (b *Bench) leaseSubnet(link int) (netip.Prefix, error) {
	skip := 0
	for _, l := range b.profile.Links[:link] {
		if l.DHCP {
			skip++
		}
	}
next:
	for _, candidate := range leases {
		for _, l := range b.profile.Links {
			for _, a := range l.Addresses {
				if a.Overlaps(candidate) {
					continue next
				}
			}
		}
		if skip--; skip < 0 {
			return candidate, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("packet test of %s: no subnet is free for the DHCP of link %s", b.profile.Name,
		b.profile.Links[link].Name)
}

// guest is the guest's own address on the segment that a host with address peer meets.
func (s *segment) guest(peer netip.Addr) (netip.Addr, bool) {
	for _, a := range s.own {
		if a.Contains(peer) {
			return a.Addr(), true
		}
	}
	for _, a := range s.own {
		if a.Addr().Is6() == peer.Is6() {
			return a.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// onLink is an address with the length of the link's subnet it is in, or alone.
func (s *segment) onLink(a netip.Addr) netip.Prefix {
	for _, own := range s.own {
		if own.Contains(a) {
			return netip.PrefixFrom(a, own.Bits())
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// hostMAC begins the hardware addresses of all hosts: locally administered (IEEE 802, second bit of the first byte).
var hostMAC = net.HardwareAddr{0x02, 0x52, 0x4d, 0x50}

// nextMAC is an address nobody else here has.
func (s *segment) nextMAC() net.HardwareAddr {
	s.macs++
	return append(bytes.Clone(hostMAC), byte(s.index), s.macs)
}

// complete fills in the addresses a link gets by DHCP.
func (b *Bench) complete(p *filter.Probe) {
	fill := func(a *netip.Addr, link string) {
		if s := b.links[link]; s != nil && !a.IsValid() {
			*a, _ = s.guest(p.Src)
		}
	}
	fill(&p.Dst, p.Link)
	if p.OutLink == "" {
		fill(&p.SeenDst, p.Link)
	} else {
		fill(&p.SeenSrc, p.OutLink)
	}
}

// target is where a probe must arrive, or where it would if it were let through: link and address; ok is false when
// that is the guest itself.
func target(p filter.Probe) (link string, at netip.AddrPort, ok bool) {
	if p.OutLink == "" {
		return "", netip.AddrPort{}, false
	}
	return p.OutLink, netip.AddrPortFrom(p.SeenDst, p.SeenPort), true
}

// populate makes sure that both ends of a probe exist, and that the sender's packets take the way by the guest.
func (b *Bench) populate(p filter.Probe) error {
	sender, err := b.host(p.Link, p.Src)
	if err != nil {
		return err
	}
	if err := b.receive(p); err != nil {
		return err
	}
	if p.Bridge != "" {
		return b.introduce(p, sender)
	}
	if err := b.routeBack(p); err != nil {
		return err
	}
	s := b.links[p.Link]
	via, ok := s.guest(p.Src)
	if !ok || p.OutLink == "" || via == p.Dst {
		return nil
	}
	// Not what this host would do by itself, where its own gateway is another or the receiver is on its own link: an
	// attacker would.
	return sender.AddRoute(virtualnet.Route{Prefix: netip.PrefixFrom(p.Dst, p.Dst.BitLen()), Via: via})
}

// routeBack makes the receiver of a probe answer by way of the guest to a source that the guest gave it and that is on
// nobody's link: such addresses are routed to the guest.
func (b *Bench) routeBack(p filter.Probe) error {
	s := b.links[p.OutLink]
	if s == nil || p.SeenSrc == p.Src {
		return nil
	}
	receiver, err := b.host(p.OutLink, p.SeenDst)
	if err != nil {
		return err
	}
	last := p.SeenLast
	if !last.IsValid() {
		last = p.SeenSrc
	}
	const most = 256 // of a pool: a profile with a larger one is not tried in full
	for a, n := p.SeenSrc, 0; a.IsValid() && !last.Less(a) && n < most; a, n = a.Next(), n+1 {
		if via, ok := s.guest(p.SeenDst); ok && !s.onLinkOf(a) && !b.routed[[2]netip.Addr{p.SeenDst, a}] {
			b.routed[[2]netip.Addr{p.SeenDst, a}] = true
			if err := receiver.AddRoute(virtualnet.Route{Prefix: netip.PrefixFrom(a, a.BitLen()), Via: via}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *segment) onLinkOf(a netip.Addr) bool { return !s.onLink(a).IsSingleIP() }

// receive opens the receiver's end of a probe, which sends everything back. A flow to the guest itself and an echo
// request need none.
func (b *Bench) receive(p filter.Probe) error {
	link, at, ok := target(p)
	if !ok {
		return nil
	}
	h, err := b.host(link, at.Addr())
	if err != nil || p.Protocol == profiles.Ping {
		return err
	}
	key := flowKey{link: link, dst: at.Addr(), port: at.Port(), protocol: p.Protocol}
	if b.receivers[key] != nil {
		return nil
	}
	if p.Protocol == profiles.UDP {
		b.receivers[key], err = h.EchoUDP(at)
	} else {
		b.receivers[key], err = h.EchoTCP(at)
	}
	return err
}

// host is the host with an address on a link; it is made when there is none yet. An address outside the link's
// subnets is one of the internet's, behind the link's router if it has one.
func (b *Bench) host(link string, a netip.Addr) (*virtualnet.Host, error) {
	s := b.links[link]
	if s == nil {
		return nil, fmt.Errorf("packet test of %s: a probe names link %q, which is not in the profile", b.profile.Name, link)
	}
	if h := s.hosts[a]; h != nil {
		return h, nil
	}
	if b.bridgeOf(link) != "" {
		var err error
		s.hosts[a], err = s.NewHost(a.String(), s.nextMAC(), []netip.Prefix{b.neighbourhood(link, a)})
		return s.hosts[a], err
	}
	if s.router != nil && s.gateways[a.Is6()].IsValid() && !s.onLinkOf(a) {
		s.hosts[a] = s.router
		return s.router, s.router.AddAddress(netip.PrefixFrom(a, a.BitLen()))
	}
	h, err := s.NewHost(a.String(), s.nextMAC(), []netip.Prefix{s.onLink(a)})
	if err != nil {
		return nil, err
	}
	s.hosts[a] = h
	// A host's gateway is the router where the link has one, and the guest where it has not: in a one-armed
	// deployment answers to the internet really do go past the guest.
	via, ok := s.gateways[a.Is6()]
	if !ok {
		if via, ok = s.guest(a); !ok {
			return h, nil
		}
	}
	routes := []virtualnet.Route{{Prefix: netip.PrefixFrom(zero(a), 0), Via: via}}
	if !s.onLinkOf(a) {
		routes = append(routes, virtualnet.Route{Prefix: netip.PrefixFrom(via, via.BitLen())})
	}
	for _, r := range routes {
		if err := h.AddRoute(r); err != nil {
			return nil, err
		}
	}
	return h, b.routesBehind(s, h)
}

// zero is the unspecified address of a's family.
func zero(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
