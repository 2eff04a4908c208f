package filter

import (
	"net/netip"
	"slices"

	"rempart/profiles"
)

// unusedPort is what the probes of the silence between the lines knock at, or the next one no line speaks of. It is
// in the range IANA assigns to nobody's well-known service.
const unusedPort = 4444

// Where the probes' hosts on the far side of a default route live: RFC 5737 and RFC 3849, and which host of a subnet
// they take otherwise.
const hostNumber = 7

var documentation = []netip.Prefix{
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32"),
}

// host is one end of a probe.
type host struct {
	zone, link string
	addr       netip.Addr
}

// Probes returns the flows that prove a profile's policy, in a fixed order without duplicates: for every pair of
// zones, and every zone with the guest itself, in each family both speak, what the lines allow and forbid, and what
// no line mentions; every forward; the admin path and the same knock from everywhere else. Pairs inside one zone are
// probed between different links, or where a line speaks of them.
//
// A host of a prefix zone, or on a link without a default route, is in that prefix or subnet; one on the far side of
// a default route has an address from the documentation prefixes and is reached by the link's gateway. The answers of
// a host must come back by the guest. A profile that Compile refuses has no probes.
func Probes(p *profiles.Profile) []Probe {
	if p == nil || check(p) != nil {
		return nil
	}
	p = p.Supposed()
	b := &prober{p: p, space: newSpace(p), seen: map[Probe]bool{}}
	for _, from := range p.Zones {
		for _, v6 := range families {
			for _, src := range b.hosts(from.Name, v6, b.special(from.Name)) {
				b.toSelf(src)
				b.aroundForwards(src)
				for _, to := range p.Zones {
					b.toZone(src, to.Name)
				}
			}
		}
	}
	b.bridged()
	return b.out
}

// prober gathers probes.
type prober struct {
	p     *profiles.Profile
	space *space
	out   []Probe
	seen  map[Probe]bool
	// explains is set where flows are told of and not tried: then those that are noted in a dynamic set count too.
	explains bool
	// Of what passes by bridges: the members, and behind which each chosen address is. Otherwise nil.
	ports []bridgePort
	at    map[netip.Addr]string
}

// knock is a protocol and port to try.
type knock struct {
	protocol profiles.Protocol
	port     uint16
}

// knocks are what is worth trying between two ends: both ends of each range of ports a line names, what no line
// names, and to self the admin's port and all forwarded ones.
func (b *prober) knocks(from, to string) []knock {
	var list []knock
	both := func(proto profiles.Protocol, ranges []profiles.PortRange) {
		for _, r := range ranges {
			list = append(list, knock{proto, r.First}, knock{proto, r.Last})
		}
	}
	if to == profiles.Self {
		list = append(list, knock{profiles.TCP, PortSSH})
		for _, f := range b.p.Forwards {
			both(f.Protocol, f.Ports)
		}
		for _, o := range b.p.Openings() {
			both(o.Protocol, o.Ports)
		}
	}
	for _, r := range b.p.Policy {
		if covers(r.From, from) && covers(r.To, to) {
			for _, m := range r.Matches {
				if m.Protocol == profiles.TCP || m.Protocol == profiles.UDP { // what every prover can send
					both(m.Protocol, m.Ports)
				}
			}
		}
	}
	list = append(list, knock{profiles.TCP, b.unused(profiles.TCP)}, knock{profiles.UDP, b.unused(profiles.UDP)},
		knock{profiles.Ping, 0})
	var out []knock
	for _, k := range list {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// unused is a port that neither a line nor a forward names.
func (b *prober) unused(proto profiles.Protocol) uint16 {
	named := func(port uint16) bool {
		in := func(r profiles.PortRange) bool { return inRange(r, port) }
		for _, r := range b.p.Policy {
			for _, m := range r.Matches {
				if m.Protocol == proto && slices.ContainsFunc(m.Ports, in) {
					return true
				}
			}
		}
		for _, o := range b.p.Openings() {
			if o.Protocol == proto && slices.ContainsFunc(o.Ports, in) {
				return true
			}
		}
		return slices.ContainsFunc(b.p.Forwards, func(f profiles.Forward) bool {
			return f.Protocol == proto && (slices.ContainsFunc(f.Ports, in) ||
				slices.ContainsFunc(f.Ports, func(r profiles.PortRange) bool { return inRange(mapped(&f, r), port) }))
		})
	}
	for port := uint16(unusedPort); port < 65535; port++ {
		if !named(port) {
			return port
		}
	}
	return unusedPort
}

// ownAddress is the guest's address on a link as a host sees it: of the subnet the host is in if there is one, else
// the first; the zero Addr when only the link knows.
func ownAddress(l *profiles.Link, peer netip.Addr) (addr netip.Addr, ok bool) {
	for _, a := range l.Addresses {
		if a.Contains(peer) {
			return a.Addr(), true
		}
	}
	for _, a := range l.Addresses {
		if isV6(a.Addr()) == isV6(peer) {
			return a.Addr(), true
		}
	}
	unsaid := l.Instance && len(l.Addresses) == 0
	return netip.Addr{}, l.DHCP && !isV6(peer) || l.Auto && isV6(peer) || unsaid
}

func (b *prober) add(p Probe) {
	key := p
	key.Proves = ""
	if !b.seen[key] {
		b.seen[key] = true
		b.out = append(b.out, p)
	}
}

// toSelf adds what a host may ask of the guest itself, and the forwards that take some of it elsewhere.
func (b *prober) toSelf(src host) {
	for _, own := range b.ownAddresses(src) {
		b.toOwn(src, own)
	}
}

// ownAddresses are those of the guest's addresses that a host may find things at: its own side's, and those that
// forwards from its zone are about.
func (b *prober) ownAddresses(src host) []netip.Addr {
	var out []netip.Addr
	if own, ok := ownAddress(b.space.links[src.link].link, src.addr); ok {
		out = append(out, own)
	}
	for _, f := range b.p.Forwards {
		if f.From == src.zone && f.Address.IsValid() && isV6(f.Address) == isV6(src.addr) &&
			!slices.Contains(out, f.Address) {
			out = append(out, f.Address)
		}
	}
	for _, a := range b.standIns(src) {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// toOwn adds what a host may ask of one of the guest's addresses.
func (b *prober) toOwn(src host, own netip.Addr) {
	knocks := b.knocks(src.zone, profiles.Self)
	if m, inside := mappingOf(b.p, src.zone, own); m != nil {
		if out, _ := linkTo(b.p, inside); out != nil {
			knocks = append(knocks, b.knocks(src.zone, b.zoneOf(out.Name, inside))...)
		}
	}
	for _, k := range knocks {
		f := flow{src.zone, profiles.Self, src.addr, own, k.protocol, k.port, src.link}
		probe := Probe{From: src.zone, To: profiles.Self, Link: src.link, Src: src.addr, Dst: own,
			Protocol: k.protocol, Port: k.port, SeenSrc: src.addr, SeenDst: own, SeenPort: k.port}
		if fw, port := forwardOf(b.p, f); fw != nil && b.meets(src, own, fw) {
			b.forwarded(probe, fw, port)
			continue
		}
		if m, inside := mappingOf(b.p, src.zone, own); m != nil {
			if probe, ok := b.byMapping(probe, src, inside); ok {
				b.add(probe)
			}
			continue
		}
		r := decide(b.p, f)
		if r.notes {
			continue
		}
		probe.Pass, probe.Proves = r.pass, r.why
		b.add(probe)
	}
}

// forwarded completes a probe that a forward takes elsewhere.
func (b *prober) forwarded(probe Probe, fw *profiles.Forward, port uint16) {
	if probe, ok := b.through(probe, fw, port); ok {
		b.add(probe)
	}
}

// through is the probe as a forward takes it elsewhere; false where that cannot be tried.
func (b *prober) through(probe Probe, fw *profiles.Forward, port uint16) (Probe, bool) {
	out, subnet := linkTo(b.p, fw.To)
	if out == nil || fw.To == probe.Src {
		return probe, false
	}
	probe.Proves, probe.Pass = forwardComment(fw), true
	probe.OutLink, probe.SeenDst, probe.SeenPort = out.Name, fw.To, port
	probe.To = b.zoneOf(out.Name, fw.To)
	hairpin := probe.Link == out.Name && subnet.IsValid() && subnet.Contains(probe.Src)
	if fw.SNAT || hairpin {
		probe.SeenSrc, probe.SeenLast = masked(out, fw.To)
	}
	return probe, true
}

// aroundForwards adds what a host may ask of a forward's target without going through the forward.
func (b *prober) aroundForwards(src host) {
	for i := range b.p.Forwards {
		for _, fw := range b.p.Forwards[i].Single() {
			b.around(src, &fw)
		}
	}
}

func (b *prober) around(src host, fw *profiles.Forward) {
	out, _ := linkTo(b.p, fw.To)
	if fw.From != src.zone || isV6(fw.To) != isV6(src.addr) || out == nil || fw.To == src.addr {
		return
	}
	to := b.zoneOf(out.Name, fw.To)
	if to == "" || to == src.zone && out.Name == src.link {
		return
	}
	port := mapped(fw, fw.Ports[0]).First
	r := decide(b.p, flow{src.zone, to, src.addr, fw.To, fw.Protocol, port, src.link})
	if r.notes {
		return
	}
	b.add(b.between(src, host{to, out.Name, fw.To}, knock{fw.Protocol, port}, r))
}

// zoneOf is the zone an address of a link is in, or empty.
func (b *prober) zoneOf(link string, a netip.Addr) string {
	for _, z := range b.p.Zones {
		for _, sh := range b.space.zones[z.Name] {
			if sh.link == link && sh.ranges[family(isV6(a))].contains(a) {
				return z.Name
			}
		}
	}
	return ""
}

// toZone adds what a host may ask of the hosts of a zone.
func (b *prober) toZone(src host, to string) {
	spoken := slices.ContainsFunc(b.p.Policy, func(r profiles.Rule) bool { return r.From == to && r.To == to })
	for _, dst := range b.hosts(to, isV6(src.addr), b.targets(src.zone, to)) {
		if to == src.zone && dst.link == src.link && !spoken {
			continue
		}
		if dst.addr == src.addr {
			dst.addr = b.another(dst)
		}
		if !dst.addr.IsValid() {
			continue
		}
		for _, k := range b.knocks(src.zone, to) {
			r := decide(b.p, flow{src.zone, to, src.addr, dst.addr, k.protocol, k.port, src.link})
			if r.notes {
				continue
			}
			b.add(b.between(src, dst, k, r))
		}
	}
}

// between is the probe from one host to another, untranslated but for masquerading.
func (b *prober) between(src, dst host, k knock, r ruling) Probe {
	probe := Probe{Proves: r.why, From: src.zone, To: dst.zone, Link: src.link, OutLink: dst.link, Src: src.addr,
		Dst: dst.addr, Protocol: k.protocol, Port: k.port, Pass: r.pass,
		SeenSrc: src.addr, SeenDst: dst.addr, SeenPort: k.port}
	probe.SeenSrc, probe.SeenLast = b.leavesAs(src, dst)
	return probe
}

// another is a second host of the same zone, link and family.
func (b *prober) another(h host) netip.Addr {
	for _, sh := range b.space.zones[h.zone] {
		if sh.link == h.link {
			ranges := sh.ranges[family(isV6(h.addr))]
			return b.pick(h.link, ranges.minus(spans{{h.addr, h.addr}}))
		}
	}
	return netip.Addr{}
}

// nextHop is whom the guest hands a packet for a host to: the host itself, or the gateway of its link.
func (b *prober) nextHop(h host) netip.Addr {
	l := b.space.links[h.link].link
	for _, a := range l.Addresses {
		if a.Contains(h.addr) {
			return h.addr
		}
	}
	for _, g := range l.Gateways {
		if isV6(g.Addr) == isV6(h.addr) {
			return g.Addr
		}
	}
	return h.addr
}
