package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"rempart/profiles"
)

// Question is a flow whose fate somebody wants to know. Src and Dst may be left out.
type Question struct {
	From, To string            // zones, or profiles.Self
	Src, Dst netip.Addr        // zero: every kind of host the policy tells apart
	Protocol profiles.Protocol // TCP, UDP or Ping
	Port     uint16            // destination port; 0 for Ping
}

// Explain tells what becomes of a flow and which words of the profile say so. Where the question leaves addresses out
// there is an answer for each ruling that different hosts would meet, with an example; SeenSrc, SeenDst and SeenPort
// tell how the flow is translated. The answers are judged from the profile itself, as the probes are.
func Explain(p *profiles.Profile, q Question) ([]Probe, error) {
	if p == nil {
		return nil, fmt.Errorf("filter: no profile given")
	}
	if err := check(p); err != nil {
		return nil, err
	}
	if absent := p.Absent(); len(absent) > 0 {
		return nil, fmt.Errorf("the %d ranges of set %s are not here, so nobody can tell", absent[0].Len(), absent[0].Name)
	}
	p = p.Supposed()
	b := &prober{p: p, space: newSpace(p), seen: map[Probe]bool{}, explains: true}
	for _, end := range []string{q.From, q.To} {
		if !slices.ContainsFunc(p.Zones, func(z profiles.Zone) bool { return z.Name == end }) && end != profiles.Self {
			var known []string
			for _, z := range p.Zones {
				known = append(known, z.Name)
			}
			return nil, fmt.Errorf("there is no zone %q; known: %s, %s", end, strings.Join(known, ", "), profiles.Self)
		}
	}
	if q.From == profiles.Self && q.To == profiles.Self {
		return nil, fmt.Errorf("the guest always reaches itself; no rule decides")
	}
	if q.Src.IsValid() && q.Dst.IsValid() && isV6(q.Src) != isV6(q.Dst) {
		return nil, fmt.Errorf("%v and %v are of two families", q.Src, q.Dst)
	}
	for _, end := range []string{q.From, q.To} {
		if end != profiles.Self && len(b.space.zones[end]) == 0 {
			err := b.explainBridged(q)
			return b.out, err
		}
	}
	for _, v6 := range families {
		if q.Src.IsValid() && isV6(q.Src) != v6 || q.Dst.IsValid() && isV6(q.Dst) != v6 {
			continue
		}
		if err := b.answer(q, v6); err != nil {
			return nil, err
		}
	}
	if len(b.out) == 0 {
		return nil, fmt.Errorf("no host of %s can send this to %s: they share no address family", q.From, q.To)
	}
	return b.out, nil
}

// answer adds the answers for one family.
func (b *prober) answer(q Question, v6 bool) error {
	k := knock{q.Protocol, q.Port}
	if q.From == profiles.Self {
		dsts, err := b.ends(q.To, q.Dst, v6, b.targets(profiles.Self, q.To))
		for _, dst := range dsts {
			b.distinct(b.fromSelf(dst, k))
		}
		return err
	}
	srcs, err := b.ends(q.From, q.Src, v6, b.special(q.From))
	if err != nil {
		return err
	}
	for _, src := range srcs {
		if m, _ := mappingOf(b.p, src.zone, q.Dst); q.To == profiles.Self || m != nil {
			if err := b.explainSelf(src, q.Dst, k); err != nil {
				return err
			}
			continue
		}
		dsts, err := b.ends(q.To, q.Dst, v6, b.targets(q.From, q.To))
		if err != nil {
			return err
		}
		for _, dst := range dsts {
			if dst.addr == src.addr && !q.Dst.IsValid() {
				dst.addr = b.another(dst)
			}
			if dst.addr.IsValid() {
				r := decide(b.p, flow{src.zone, q.To, src.addr, dst.addr, k.protocol, k.port, src.link})
				b.distinct(b.between(src, dst, k, r))
			}
		}
	}
	return nil
}

// ends are the hosts of a zone that a question means: the one it names, or one of each kind.
func (b *prober) ends(zone string, named netip.Addr, v6 bool, singled []netip.Prefix) ([]host, error) {
	if !named.IsValid() {
		return b.hosts(zone, v6, singled), nil
	}
	for _, sh := range b.space.zones[zone] {
		if sh.ranges[family(v6)].contains(named) {
			return []host{{zone, sh.link, named}}, nil
		}
	}
	for _, z := range b.p.Zones {
		for _, sh := range b.space.zones[z.Name] {
			if sh.ranges[family(v6)].contains(named) {
				return nil, fmt.Errorf("%v is not in zone %s; it is in zone %s", named, zone, z.Name)
			}
		}
	}
	return nil, fmt.Errorf("%v is in no zone: such packets are dropped", named)
}

// explainSelf adds what a host may ask of the guest itself.
func (b *prober) explainSelf(src host, dst netip.Addr, k knock) error {
	own, ok := ownAddress(b.space.links[src.link].link, src.addr)
	if !ok {
		return nil
	}
	if dst.IsValid() {
		if m, _ := mappingOf(b.p, src.zone, dst); m == nil && !isOwn(b.p, dst) {
			return fmt.Errorf("%v is no address of the guest", dst)
		}
		own = dst
	}
	f := flow{src.zone, profiles.Self, src.addr, own, k.protocol, k.port, src.link}
	probe := Probe{From: src.zone, To: profiles.Self, Link: src.link, Src: src.addr, Dst: own,
		Protocol: k.protocol, Port: k.port, SeenSrc: src.addr, SeenDst: own, SeenPort: k.port}
	if fw, port := forwardOf(b.p, f); fw != nil && b.meets(src, own, fw) {
		if probe, ok := b.through(probe, fw, port); ok {
			b.distinct(probe)
			return nil
		}
	}
	if m, inside := mappingOf(b.p, src.zone, own); m != nil {
		if probe, ok := b.byMapping(probe, src, inside); ok {
			b.distinct(probe)
		}
		return nil
	}
	r := decide(b.p, f)
	probe.Pass, probe.Proves = r.pass, r.why
	b.distinct(probe)
	return nil
}

// meets tells whether a forward takes what is sent to an address: one of the guest's, and from an external zone only
// one of the link it arrives by.
func (b *prober) meets(src host, own netip.Addr, fw *profiles.Forward) bool {
	if own.IsValid() && !isOwn(b.p, own) {
		return false
	}
	external := slices.ContainsFunc(b.p.Zones, func(z profiles.Zone) bool { return z.Name == fw.From && z.External })
	return !external || !own.IsValid() || slices.ContainsFunc(b.space.links[src.link].link.Addresses,
		func(a netip.Prefix) bool { return a.Addr() == own })
}

// fromSelf is what becomes of the guest's own packets.
func (b *prober) fromSelf(dst host, k knock) Probe {
	own, _ := ownAddress(b.space.links[dst.link].link, b.nextHop(dst))
	r := decide(b.p, flow{profiles.Self, dst.zone, own, dst.addr, k.protocol, k.port, ""})
	return Probe{Proves: r.why, From: profiles.Self, To: dst.zone, OutLink: dst.link, Src: own, Dst: dst.addr,
		Protocol: k.protocol, Port: k.port, Pass: r.pass, SeenSrc: own, SeenDst: dst.addr, SeenPort: k.port}
}

// distinct adds an answer unless an earlier one says the same.
func (b *prober) distinct(p Probe) {
	if !slices.ContainsFunc(b.out, func(o Probe) bool {
		return o.Proves == p.Proves && o.Pass == p.Pass && (o.SeenSrc == o.Src) == (p.SeenSrc == p.Src)
	}) {
		b.out = append(b.out, p)
	}
}
