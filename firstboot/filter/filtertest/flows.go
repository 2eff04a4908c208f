package filtertest

import (
	"fmt"
	"net/netip"
	"slices"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Numbers of ICMP and ICMPv6 that a filter must know apart: RFC 792, RFC 4443, RFC 4861, RFC 3810.
const (
	echoRequest     = 8
	unreachable     = 3
	fragNeeded      = 4
	echoRequest6    = 128
	packetTooBig    = 2
	neighborSolicit = 135
	listenerReport2 = 143
	allHops         = 255 // RFC 4861, section 7.1
	usualHops       = 64
)

var (
	linkLocal   = netip.MustParseAddr("fe80::7")
	anyRouter   = netip.MustParseAddr("ff02::16") // RFC 3810: all MLDv2-capable routers
	solicited   = netip.MustParseAddr("ff02::1:ff00:7")
	unspecified = netip.MustParseAddr("::")
	broadcast   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	loopback    = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

// clientPort is what probes are sent from: dynamic (RFC 6335).
const clientPort = 51000

// PacketOf is the first packet of a probe's flow.
func PacketOf(p filter.Probe, w *Walker) Packet {
	out := Packet{What: p.From + " -> " + p.To + ": " + p.Proves, In: p.Link, Out: p.OutLink, Bridge: p.Bridge != "",
		Src: p.Src, Dst: p.Dst, SrcPort: clientPort, DstPort: p.Port, Hops: usualHops, State: CTNew, Ether: ether(p.Src)}
	if !out.Dst.IsValid() {
		out.Dst = w.ownOn(p.Link, p.Src.Is6())
	}
	if !out.Bridge {
		out.Out = ""
	}
	out.speak(p.Protocol)
	return out
}

func (p *Packet) speak(protocol profiles.Protocol) {
	switch {
	case protocol == profiles.Ping && p.Src.Is6():
		p.Protocol, p.Type = filter.ProtoICMP6, echoRequest6
	case protocol == profiles.Ping:
		p.Protocol, p.Type = filter.ProtoICMP, echoRequest
	case protocol == profiles.TCP:
		p.Protocol, p.Flags = filter.ProtoTCP, TCPSyn
	default:
		p.Protocol, _ = protocol.Number()
	}
}

// ownOn is an address that only a link knows: of its lease, or one got by advertisements.
func (w *Walker) ownOn(link string, v6 bool) netip.Addr {
	for _, a := range w.onLink[link] {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

// Judge says what of a packet's fate is not as its probe demands, or nothing.
func Judge(p filter.Probe, f Fate, w *Walker) string {
	if !p.Pass || !f.Passed {
		if p.Pass != f.Passed {
			return fmt.Sprintf("passed: %v; want %v", f.Passed, p.Pass)
		}
		return ""
	}
	if p.To == profiles.Self {
		if !f.Local {
			return "it did not stay here: " + f.String()
		}
		return ""
	}
	want := p.SeenDst
	switch first, last := p.SeenSrc, p.SeenLast; {
	case f.Local || f.Out != p.OutLink || f.Dst != want || f.DstPort != p.SeenPort:
		return fmt.Sprintf("%v; want it out by %s to %v port %d", f, p.OutLink, want, p.SeenPort)
	case f.Masked:
		if first.IsValid() && !slices.Contains(w.onLink[p.OutLink], first) {
			return fmt.Sprintf("%v; want it from %v", f, first)
		}
	case last.IsValid() && (f.First != first || f.Last != last), !last.IsValid() && f.First != first:
		return fmt.Sprintf("%v; want it from %v to %v", f, first, last)
	}
	return ""
}

// Flows are those of the probes, and all that rules know beside them: answers, errors, lies about the source,
// what fits no connection, what neighbours, DHCP servers and this machine itself send, and other protocols where the
// policy names one.
func Flows(p *profiles.Profile, w *Walker) ([]Packet, error) {
	p = p.Supposed()
	b := &packets{profile: p, walker: w, seen: map[Packet]bool{}}
	for _, probe := range filter.Probes(p) {
		first := PacketOf(probe, w)
		b.add(first)
		fate, err := w.Walk(first, nil)
		if err != nil {
			return nil, err
		}
		if err := b.around(probe, first, fate); err != nil {
			return nil, err
		}
	}
	for i := range p.Links {
		l := &p.Links[i]
		if b.neighbours(l); l.Bridge == nil {
			continue
		}
		for _, from := range l.Bridge.Members {
			for _, to := range l.Bridge.Members {
				if from != to {
					b.frames(l.Name, from, to)
				}
			}
		}
	}
	b.services()
	if err := b.own(); err != nil {
		return nil, err
	}
	return b.all, nil
}

type packets struct {
	profile *profiles.Profile
	walker  *Walker
	all     []Packet
	seen    map[Packet]bool // whatever they are called
}

func (b *packets) add(p Packet) {
	key := p
	key.What = ""
	if !b.seen[key] {
		b.seen[key] = true
		b.all = append(b.all, p)
	}
}

// around adds what goes with a flow.
func (b *packets) around(probe filter.Probe, first Packet, fate Fate) error {
	other := first
	other.What, other.State = "fits no connection: "+first.What, CTInvalid
	b.add(other)
	if err := b.foreign(probe, first); err != nil {
		return err
	}
	known := first
	known.What, known.State = "of a known connection: "+first.What, CTEstablished
	b.add(known)
	for _, many := range []Packet{first, known} {
		many.What, many.Over = "one too many: "+many.What, true
		b.add(many)
	}
	if !first.Bridge {
		for _, l := range b.profile.Links {
			if l.Name != first.In {
				lie := first
				lie.What, lie.In = "by another link: "+first.What, l.Name
				b.add(lie)
			}
		}
		if first.In != "" {
			lie := first
			lie.What, lie.Src = "in this machine's own name: "+first.What, b.walker.ownOn(first.In, first.Src.Is6())
			b.add(lie)
			lie.What, lie.State = "of a known connection: "+lie.What, CTEstablished
			b.add(lie)
		}
		beside := first
		beside.What, beside.Dst, beside.Out = "back by the same link: "+first.What, first.Src.Next(), first.In
		b.add(beside)
	}
	if first.Protocol == filter.ProtoTCP {
		late := other
		late.What, late.Flags = "the middle of nothing: "+first.What, TCPAck
		b.add(late)
		late.What, late.Flags = "the end of nothing: "+first.What, TCPRst
		b.add(late)
	}
	if fate.Passed {
		b.answer(first, fate)
	}
	return nil
}

// Answer is what comes back of a flow that passed.
func Answer(first Packet, fate Fate) Packet {
	answer := Packet{What: "the answer to " + first.What, In: fate.Out, Out: first.In, Bridge: first.Bridge, Src: fate.Dst,
		Dst: fate.First, SrcPort: fate.DstPort, DstPort: clientPort, Protocol: first.Protocol, Hops: usualHops,
		State: CTEstablished, Mark: fate.Mark, Client: first.Src, Ether: first.Ether}
	if fate.State == CTUntracked {
		answer.State = CTNew // unless the rules see to it
	}
	if fate.Local {
		answer.In, answer.Client, answer.Dst = "", netip.Addr{}, first.Src
	}
	return answer
}

// answer adds what comes back of a flow that passed.
func (b *packets) answer(first Packet, fate Fate) {
	if fate.Proxied {
		cookie := Packet{What: "the cookie for " + first.What, Out: first.In, Src: first.Dst, Dst: first.Src,
			SrcPort: first.DstPort, DstPort: clientPort, Protocol: filter.ProtoTCP, Flags: TCPSyn | TCPAck, Hops: usualHops,
			State: CTUntracked, Ether: first.Ether}
		b.add(cookie)
	}
	answer := Answer(first, fate)
	b.add(answer)
	answer.What, answer.State = "an error about "+first.What, CTRelated
	answer.Protocol, answer.Type = filter.ProtoICMP, unreachable
	if answer.Code = fragNeeded; first.Src.Is6() {
		answer.Protocol, answer.Type, answer.Code = filter.ProtoICMP6, packetTooBig, 0
	}
	b.add(answer)
	answer.What, answer.State = "an error about what nobody knows, "+first.What, CTInvalid
	b.add(answer)
}

// foreign adds the other protocols that lines name, between the ends of a probe, and their answers.
func (b *packets) foreign(probe filter.Probe, first Packet) error {
	var all []Packet
	for _, r := range b.profile.Policy {
		if r.From != probe.From && r.From != profiles.Any || r.To != probe.To && r.To != profiles.Any {
			continue
		}
		for _, m := range r.Matches {
			number, ok := m.Protocol.Number()
			if !ok || m.Protocol == profiles.TCP || m.Protocol == profiles.UDP {
				continue
			}
			other := first
			other.What = string(m.Protocol) + " of " + first.What
			other.Protocol, other.Flags, other.Type = number, 0, 0
			for _, ports := range m.Ports {
				other.DstPort = ports.First
				all = append(all, other)
			}
			for _, n := range m.Types {
				other.Type = uint8(n)
				all = append(all, other)
			}
			all = append(all, other)
		}
	}
	for _, p := range all {
		b.add(p)
		fate, err := b.walker.Walk(p, nil)
		if err != nil {
			return err
		}
		if fate.Passed {
			b.answer(p, fate)
		}
	}
	return nil
}

// frames adds what hosts behind two members of a bridge send beside their flows.
func (b *packets) frames(bridge, from, to string) {
	pair := Packet{In: from, Out: to, Bridge: true}
	arp := pair
	arp.What, arp.Ether = "ARP on "+bridge, EtherARP
	b.add(arp)
	strange := pair
	strange.What, strange.Ether = "a strange protocol on "+bridge, 0x88b5 // IEEE 802: for experiments
	b.add(strange)
	ask := pair
	ask.What, ask.Ether, ask.Src, ask.Dst = "neighbour discovery on "+bridge, EtherIPv6, linkLocal, solicited
	ask.Protocol, ask.Type, ask.Hops, ask.State = filter.ProtoICMP6, neighborSolicit, allHops, CTNew
	b.add(ask)
	ask.What, ask.Hops = "neighbour discovery from afar on "+bridge, usualHops
	b.add(ask)
	for _, src := range []netip.Addr{broadcast.Prev(), linkLocal} {
		plain := pair
		plain.What, plain.Src, plain.Dst, plain.State, plain.Hops = "a datagram on "+bridge, src, src.Prev(), CTNew, usualHops
		plain.Protocol, plain.Ether = filter.ProtoUDP, ether(src)
		b.add(plain)
		for _, tag := range []uint16{Ether8021Q, Ether8021AD} {
			for _, untagged := range []Packet{plain, arp} {
				tagged := untagged
				tagged.What, tagged.Ether, tagged.Behind = "a tag on "+bridge, tag, untagged.Ether
				b.add(tagged)
			}
		}
	}
}

// neighbours adds what the hosts of a link say to each other and to this machine to be a network at all.
func (b *packets) neighbours(l *profiles.Link) {
	v6 := Packet{In: l.Name, Src: linkLocal, Dst: solicited, Protocol: filter.ProtoICMP6, Type: neighborSolicit,
		Hops: allHops, State: CTNew, Ether: EtherIPv6}
	v6.What = "neighbour discovery on " + l.Name
	b.add(v6)
	v6.What, v6.Hops = "neighbour discovery from afar on "+l.Name, usualHops
	b.add(v6)
	v6.What, v6.Hops, v6.Src = "whose address is this, on "+l.Name, allHops, unspecified
	b.add(v6)
	v6.What, v6.Dst, v6.Type = "a report of a listener without an address, on "+l.Name, anyRouter, listenerReport2
	b.add(v6)
	v6.What, v6.Src = "a listener's report on "+l.Name, linkLocal
	b.add(v6)
	big := Packet{What: "fragmentation needed, on " + l.Name, In: l.Name, Dst: b.walker.ownOn(l.Name, false),
		Protocol: filter.ProtoICMP, Type: unreachable, Code: fragNeeded, Hops: usualHops, State: CTNew, Ether: EtherIPv4}
	for _, a := range addresses(l) {
		if big.Dst.IsValid() && a.Addr().Is4() {
			if big.Src = a.Addr().Next(); a.IsSingleIP() && len(l.Gateways) > 0 {
				big.Src = l.Gateways[0].Addr
			}
		}
	}
	if big.Src.IsValid() && big.Src.Is4() {
		b.add(big)
		big.What, big.State = big.What+", and fits no connection", CTInvalid
		b.add(big)
	}
	v6.What, v6.Type = "a packet was too big, on "+l.Name, packetTooBig
	v6.Src, v6.Dst = linkLocal, b.walker.ownOn(l.Name, true)
	if v6.Hops = usualHops; v6.Dst.IsValid() {
		b.add(v6)
		v6.What, v6.State = v6.What+", and fits no connection", CTInvalid
		b.add(v6)
	}
	if l.DHCP {
		offer := Packet{What: "a DHCP answer on " + l.Name, In: l.Name, Src: LeasedGateway, Dst: broadcast,
			Protocol: filter.ProtoUDP, SrcPort: 67, DstPort: 68, Hops: usualHops, State: CTNew, Ether: EtherIPv4}
		b.add(offer)
		offer.What, offer.SrcPort = "not a DHCP answer on "+l.Name, 6767
		b.add(offer)
	}
}

// services adds what clients of this machine's own services send before they have an address, or with one of the link
// only.
func (b *packets) services() {
	for _, o := range b.profile.Openings() {
		ask := Packet{What: "for " + o.Service + " on " + o.Link, In: o.Link, SrcPort: clientPort, Hops: allHops,
			State: CTNew}
		ask.speak(o.Protocol)
		var senders []netip.Addr
		if o.IPv4 {
			senders = append(senders, netip.IPv4Unspecified())
		}
		if o.IPv6 {
			senders = append(senders, unspecified, linkLocal)
		}
		for _, src := range senders {
			p := ask
			if p.Src, p.Dst, p.Ether = src, broadcast, ether(src); src.Is6() {
				p.Dst = anyRouter
			}
			for _, ports := range o.Ports {
				p.DstPort = ports.First
				b.add(p)
			}
			for _, n := range o.Types {
				p.Type = n
				b.add(p)
			}
		}
	}
}

// own adds what this machine sends, to itself and to others.
func (b *packets) own() error {
	self := Packet{What: "to itself", In: "lo", Src: loopback, Dst: loopback, Protocol: filter.ProtoTCP, Flags: TCPSyn,
		SrcPort: clientPort, DstPort: filter.PortSSH, Hops: usualHops, State: CTNew, Ether: EtherIPv4}
	b.add(self)
	lost := self
	lost.What, lost.State = "to itself, and fits no connection", CTInvalid
	b.add(lost)
	self.In, self.Out = "", "lo"
	b.add(self)
	ask := Packet{What: "its own neighbour discovery", Src: linkLocal.Next(), Dst: linkLocal, Protocol: filter.ProtoICMP6,
		Type: neighborSolicit, Hops: allHops, State: CTNew, Ether: EtherIPv6}
	report := ask
	report.What, report.Dst, report.Type = "its own listener's report", anyRouter, listenerReport2
	for _, l := range b.profile.Links {
		ask.Out, report.Out = l.Name, l.Name
		b.add(ask)
		b.add(report)
	}
	knocks := []filter.Question{{Protocol: profiles.TCP, Port: 4444}, {Protocol: profiles.UDP, Port: 4444},
		{Protocol: profiles.Ping}}
	for _, r := range b.profile.Policy {
		for _, m := range r.Matches {
			for _, ports := range m.Ports {
				if r.From == profiles.Self && (m.Protocol == profiles.TCP || m.Protocol == profiles.UDP) {
					knocks = append(knocks, filter.Question{Protocol: m.Protocol, Port: ports.First})
				}
			}
		}
	}
	seen := map[netip.Addr]bool{}
	for _, to := range filter.Probes(b.profile) {
		if seen[to.Src] || to.Bridge != "" {
			continue
		}
		seen[to.Src] = true
		if ask.Dst, ask.Out = to.Src, to.Link; to.Src.Is6() { // are you still there?
			b.add(ask)
		}
		for _, q := range knocks {
			q.From, q.To, q.Dst = profiles.Self, to.From, to.Src
			probes, err := filter.Explain(b.profile, q)
			if err != nil {
				return err
			}
			for _, probe := range probes {
				p := PacketOf(probe, b.walker)
				if p.Out = probe.OutLink; !p.Src.IsValid() {
					p.Src = b.walker.ownOn(probe.OutLink, p.Dst.Is6())
				}
				p.speak(q.Protocol)
				p.Ether = ether(p.Src)
				b.add(p)
				more := p
				more.What, more.State = "more of what goes "+p.What, CTEstablished
				b.add(more)
				back := Packet{What: "the answer to " + p.What, In: p.Out, Src: p.Dst, Dst: p.Src, SrcPort: p.DstPort,
					DstPort: p.SrcPort, Protocol: p.Protocol, Hops: usualHops, State: CTEstablished, Ether: p.Ether}
				if fate, err := b.walker.Walk(p, nil); err != nil {
					return err
				} else if fate.State == CTUntracked {
					back.State = CTNew
				}
				b.add(back)
			}
		}
	}
	return nil
}
