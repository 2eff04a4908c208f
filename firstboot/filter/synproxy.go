package filter

import (
	"cmp"
	"fmt"
	"slices"

	"rempart/profiles"
)

// # The SYN proxy
//
// A SYN that a proxy stands before is kept from connection tracking, and answered by a cookie where its line or its
// forward would accept it. The client's answer fits no connection: connection tracking, told to know none whose
// beginning it has not seen (nf_conntrack_tcp_loose), calls it invalid, and it is judged at the same place. With a good
// cookie the kernel then opens the connection to the server, in the client's name: that SYN is this machine's own
// packet, whose destination the output hook translates. Sequence numbers are shifted ever after by the kernel.
//
// So invalid packets to such ports are not dropped with the others but go to the chain that judges them, where lines
// above may drop them. What a forward takes elsewhere arrives in the input hook, untranslated because untracked.

// handshakes are the packets a SYN proxy looks at.
var handshakes = Bits{Field: CTState, Mask: ctInvalid | ctUntracked}

// Largest segments in packets of 1,500 bytes: less 40 and 60 bytes of headers, RFC 9293, section 3.7.1.
const (
	proxyMSS4 = 1460
	proxyMSS6 = 1440
)

func synProxy(s *profiles.SynProxy, v6 bool) SynProxy {
	mss := uint16(proxyMSS4)
	if v6 {
		mss = proxyMSS6
	}
	return SynProxy{MSS: cmp.Or(s.MSS, mss), WScale: s.WScale}
}

// proxied leads packets of handshakes to where they are judged, before what fits no connection is dropped.
func (c *compiler) proxied(ch *Chain, chainOf func(zone string) string) {
	if !c.profile.SynProxies() {
		return
	}
	rules := Chain{Name: "synproxy." + ch.Name}
	for _, z := range c.profile.Zones {
		if len(c.space.zones[z.Name]) == 0 {
			continue
		}
		from := Chain{Name: rules.Name + "/" + z.Name}
		if ch.Base.Hook == Input {
			c.proxiedForwards(&from, z.Name)
		}
		for i := range c.profile.Policy {
			r := &c.profile.Policy[i]
			if r.SynProxy == nil || !covers(r.From, z.Name) || (r.To == profiles.Self) != (ch.Base.Hook == Input) {
				continue
			}
			for _, m := range r.Matches {
				for _, v6 := range families {
					if c.space.has(z.Name, v6) {
						from.add(lineComment(r), version(v6), Match{TCPDPort, portRanges(m.Ports)},
							Verdict{VerdictGoto, chainOf(z.Name)})
					}
				}
			}
		}
		c.fromZone(&rules, from, z.Name)
	}
	if len(rules.Rules) > 0 {
		*c.chain(rules.Name, nil) = rules
		ch.add("handshakes of proxied connections", handshakes, Verdict{VerdictJump, rules.Name})
	}
}

// proxiedForwards has the proxy look at packets to the forwards of a zone that have one; what it does not take is
// dropped.
func (c *compiler) proxiedForwards(ch *Chain, zone string) {
	for i := range c.profile.Forwards {
		f := &c.profile.Forwards[i]
		v6 := isV6(f.To)
		if f.SynProxy == nil || f.From != zone || !c.space.has(zone, v6) {
			continue
		}
		for _, match := range c.arrivals(f) {
			ch.add(forwardComment(f), append(slices.Clone(match), synProxy(f.SynProxy, v6))...)
			ch.add(forwardComment(f), append(match, c.counter("input"+counterInvalid), drop)...)
		}
	}
}

// untrackedForwards keeps what begins a connection to a forward with a proxy from connection tracking; but not what is
// translated before a proxy is asked, in the order of destinationNAT.
func (c *compiler) untrackedForwards(ch *Chain, z *profiles.Zone) {
	for _, addressed := range []bool{true, false} {
		for i := range c.profile.NAT.Mappings {
			m := &c.profile.NAT.Mappings[i]
			v6 := isV6(m.Inside.Addr())
			if !addressed && mapsFor(m, z) && c.space.has(z.Name, v6) && c.proxiesOwn(z.Name, v6) {
				ch.add(mapComment(m), Match{dstField(v6), []Range{addrRange(prefixSpan(m.Outside))}}, accept)
			}
		}
		for i := range c.profile.Forwards {
			f := &c.profile.Forwards[i]
			if f.From != z.Name || f.Protocol != profiles.TCP || f.Address.IsValid() != addressed ||
				!c.space.has(z.Name, isV6(f.To)) {
				continue
			}
			do := Expr(NoTrack{})
			if f.SynProxy == nil {
				if !c.beforeProxied(i) {
					continue
				}
				do = accept
			}
			for _, match := range c.arrivals(f) {
				ch.add(forwardComment(f), append(match, do)...)
			}
		}
	}
}

// proxiesOwn tells whether a proxy stands before ports of whatever address of this machine is asked from a zone.
func (c *compiler) proxiesOwn(zone string, v6 bool) bool {
	return slices.ContainsFunc(c.profile.Forwards, func(f profiles.Forward) bool {
		return f.SynProxy != nil && f.From == zone && !f.Address.IsValid() && isV6(f.To) == v6
	}) || slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool {
		return r.SynProxy != nil && r.To == profiles.Self && covers(r.From, zone)
	})
}

// beforeProxied tells whether the n-th forward takes something first that would be of one with a proxy otherwise, or of
// a line with a proxy.
func (c *compiler) beforeProxied(n int) bool {
	f := &c.profile.Forwards[n]
	for i := range c.profile.Forwards {
		g := &c.profile.Forwards[i]
		first := f.Address.IsValid() && !g.Address.IsValid() || f.Address == g.Address && n < i
		if first && g.SynProxy != nil && g.From == f.From && isV6(g.To) == isV6(f.To) && portsMeet(g.Ports, f.Ports) {
			return true
		}
	}
	return slices.ContainsFunc(c.profile.Policy, func(r profiles.Rule) bool {
		return r.SynProxy != nil && r.To == profiles.Self && covers(r.From, f.From) &&
			slices.ContainsFunc(r.Matches, func(m profiles.Match) bool { return portsMeet(m.Ports, f.Ports) })
	})
}

// arrivals are the alternatives of what a forward takes, before it is translated.
func (c *compiler) arrivals(f *profiles.Forward) (out [][]Expr) {
	v6 := isV6(f.To)
	for _, from := range c.addresses(srcField(v6), f.Sources, f.SourceSets, v6) {
		match := append([]Expr{version(v6), Match{c.ownField(f.From), []Range{local()}}}, from...)
		if f.Address.IsValid() {
			match = append(match, Match{dstField(v6), []Range{addrRange(span{f.Address, f.Address})}})
		}
		out = append(out, append(match, Match{portOf(f), portRanges(f.Ports)}))
	}
	return out
}

// ownField asks whether a destination is this machine's, as forwards from a zone do.
func (c *compiler) ownField(zone string) Field {
	if slices.ContainsFunc(c.profile.Zones, func(z profiles.Zone) bool { return z.Name == zone && z.External }) {
		return DAddrTypeOnLink
	}
	return DAddrType
}

// proxiedNAT translates the SYN that the proxy sends in a client's name to the target of a forward.
func (c *compiler) proxiedNAT() {
	rules := Chain{Name: "dstnat.proxied",
		Base: &Base{Type: "nat", Hook: Output, Priority: priorityDstNAT, Policy: VerdictAccept}}
	for _, z := range c.profile.Zones {
		ch := Chain{Name: "dstnat.proxied/" + z.Name}
		for _, addressed := range []bool{true, false} {
			for i := range c.profile.Forwards {
				f := &c.profile.Forwards[i]
				if f.SynProxy != nil && f.From == z.Name && f.Address.IsValid() == addressed && c.space.has(z.Name, isV6(f.To)) {
					c.translate(&ch, f, i+1, DAddrType)
				}
			}
		}
		if len(ch.Rules) == 0 {
			continue
		}
		*c.chain(ch.Name, nil) = ch
		c.clients(&rules, z.Name, Verdict{VerdictJump, ch.Name})
	}
	if len(rules.Rules) > 0 {
		*c.chain(rules.Name, nil) = rules
	}
}

// proxyAnswers lets the proxy send what it says to clients and, in their names, to servers. Its cookies come from the
// ports it stands before and fit no connection.
func (c *compiler) proxyAnswers(ch *Chain) {
	var ports []profiles.PortRange
	for i := range c.profile.Policy {
		if r := &c.profile.Policy[i]; r.SynProxy != nil {
			for _, m := range r.Matches {
				ports = append(ports, m.Ports...)
			}
		}
	}
	for i := range c.profile.Forwards {
		if f := &c.profile.Forwards[i]; f.SynProxy != nil {
			ports = append(ports, f.Ports...)
		}
	}
	if len(ports) > 0 {
		ch.add("cookies of the SYN proxy", handshakes, Match{TCPSPort, portRanges(ports)}, accept)
		ch.add("for a client that has answered the SYN proxy", Match{SAddrType, []Range{somebodyElse()}}, accept)
	}
}

// clients adds a rule for what the proxy sends in the name of clients of a zone.
func (c *compiler) clients(ch *Chain, zone string, do ...Expr) {
	for _, sh := range c.space.zones[zone] {
		for _, v6 := range families {
			for _, r := range sh.ranges[family(v6)] {
				ch.add("for clients of "+zone, append([]Expr{Match{srcField(v6), []Range{addrRange(r)}},
					Match{SAddrType, []Range{somebodyElse()}}}, do...)...)
			}
		}
	}
}

// Begins continues with the first packet of a TCP connection: SYN, and none of FIN, RST and ACK.
type Begins struct{}

// SynProxy answers a SYN by a cookie, and opens the connection to the server when the client returns it. It continues
// with packets that are neither.
type SynProxy struct {
	MSS    uint16
	WScale uint8
}

func (Begins) text() string { return "tcp flags & (fin|syn|rst|ack) == syn" }

func (s SynProxy) text() string {
	return fmt.Sprintf("synproxy mss %d wscale %d timestamp sack-perm", s.MSS, s.WScale)
}
