package filter

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"rempart/profiles"
)

// Sets that rules fill. When one is full, sources it does not know are over their limit: a limit that an attacker
// could lift by coming from many addresses would be none.
const (
	maxSources    = 65_536
	minRemembered = time.Minute // at least this long after its last packet a source's rate is known
)

// How often a rule may write to the log: a flood must not fill it. What is not written is counted all the same.
const (
	logsPerMinute = 10
	logBurst      = 10
)

// checkExtras checks what a line says beyond what it matches.
func checkExtras(r *profiles.Rule, bad func(profiles.Pos, string, ...any)) {
	if r.Helper != "" {
		if r.Action != profiles.Accept || r.From == profiles.Self || r.To == profiles.Self || len(r.Matches) == 0 {
			bad(r.At, "policy: the helper %q is for ports that a line accepts between zones", r.Helper)
		}
		for _, m := range r.Matches {
			if proto, ok := r.Helper.Protocol(); !ok || m.Protocol != proto || len(m.Ports) == 0 {
				bad(r.At, "policy: the helper %q is for ports of %s", r.Helper, proto)
			}
		}
	}
	if l := r.Limit; l != nil {
		if _, ok := l.Seconds(); !ok || l.Count == 0 || l.Burst == 0 {
			bad(r.At, "policy: %v is no rate", *l)
		}
	}
	if r.DSCP != nil && *r.DSCP > maxDSCP {
		bad(r.At, "policy: dscp %d: want 0 to %d", *r.DSCP, maxDSCP)
	}
	checkUntracked(r, bad)
	if (r.Limit != nil || r.Connections > 0) && (r.Action != profiles.Accept || r.From == profiles.Self) {
		bad(r.At, "policy: only what is accepted from others can be limited")
	}
	if _, ok := unreachable(r.With); !ok || r.With != "" && r.Action != profiles.Reject {
		bad(r.At, "policy: %s with %q means nothing", r.Action, r.With)
	}
	if !plainLog(r.Log) {
		bad(r.At, "policy: the log text %q has more than letters, digits, blanks and _ . : > -", r.Log)
	}
}

// plainLog tells whether nft can quote a text and a log reader can trust it.
func plainLog(text string) bool {
	for i := range len(text) {
		if !plainName(text[i:i+1], "_:> ") && text[i] != '.' {
			return false
		}
	}
	return len(text) <= 64
}

// unreachable is the error a line rejects with.
func unreachable(with profiles.RejectWith) (Unreachable, bool) {
	switch with {
	case "", profiles.AdminProhibited:
		return AdminProhibited, true
	case profiles.PortUnreachable:
		return PortUnreachable, true
	case profiles.HostUnreachable:
		return HostUnreachable, true
	case profiles.NoRoute:
		return NoRoute, true
	}
	return 0, false
}

// policyLine adds the rules of the n-th line and tells whether it decides every packet.
func (c *compiler) policyLine(ch *Chain, n int, from, to string) (final bool) {
	r := &c.profile.Policy[n]
	matches := r.Matches
	if len(matches) == 0 {
		matches = []profiles.Match{{}}
	}
	for _, m := range matches {
		everything := m.Protocol == profiles.AnyProtocol && !narrowed(m)
		if !c.byFamily(r, m) {
			c.act(ch, n, m.Protocol, false, protocol(m, false))
		} else {
			for _, v6 := range families {
				if c.speaks(from, to, v6) && m.Protocol.Speaks(v6) {
					c.matchFamily(ch, n, m, v6)
				}
			}
		}
		if everything {
			return true
		}
	}
	return false
}

// byFamily tells whether a match of a line needs rules for each family by itself.
func (c *compiler) byFamily(r *profiles.Rule, m profiles.Match) bool {
	return narrowed(m) || r.Limit != nil || r.Connections > 0 || r.SynProxy != nil || r.Add != "" ||
		r.NoTrack && settingsOf(r) != 0 ||
		m.Protocol == profiles.Ping || !m.Protocol.Speaks(true) || !m.Protocol.Speaks(false)
}

// narrowed tells whether a match is limited to addresses.
func narrowed(m profiles.Match) bool {
	return len(m.Sources)+len(m.Destinations)+len(m.SourceSets)+len(m.DestinationSets)+len(m.DelegatedSources)+
		len(m.DelegatedDestinations) > 0
}

// matchFamily adds the rules of one match for one family.
func (c *compiler) matchFamily(ch *Chain, n int, m profiles.Match, v6 bool) {
	for _, src := range c.sources(m, srcField(v6), v6) {
		for _, dst := range c.destinations(m, dstField(v6), v6) {
			proto := protocol(m, v6)
			if len(src) == 0 && len(dst) == 0 && !showsFamily(proto) {
				proto = append([]Expr{version(v6)}, proto...)
			}
			c.act(ch, n, m.Protocol, v6, slices.Concat(src, dst, proto))
		}
	}
}

// showsFamily tells whether expressions look at something that only one family has.
func showsFamily(list []Expr) bool {
	return slices.ContainsFunc(list, func(e Expr) bool {
		m, ok := e.(Match)
		if !ok {
			return false
		}
		version, _ := m.Field.Needs()
		return version != 0
	})
}

// sources are the ways in which a field may be as a line says of the source.
func (c *compiler) sources(m profiles.Match, field Field, v6 bool) [][]Expr {
	if hosts := c.delegatedHosts(field, m.DelegatedSources, v6); len(m.DelegatedSources) > 0 {
		return append(hosts, c.listed(field, m.Sources, m.SourceSets, v6)...)
	}
	return c.addresses(field, m.Sources, m.SourceSets, v6)
}

// destinations are the ways in which a field may be as a line says of the destination.
func (c *compiler) destinations(m profiles.Match, field Field, v6 bool) [][]Expr {
	if hosts := c.delegatedHosts(field, m.DelegatedDestinations, v6); len(m.DelegatedDestinations) > 0 {
		return append(hosts, c.listed(field, m.Destinations, m.DestinationSets, v6)...)
	}
	return c.addresses(field, m.Destinations, m.DestinationSets, v6)
}

// addresses are the ways in which an address may be as a line says: one without condition when it says nothing, none
// when no address of the family will do.
func (c *compiler) addresses(field Field, prefixes []netip.Prefix, sets []string, v6 bool) [][]Expr {
	if len(prefixes) == 0 && len(sets) == 0 {
		return [][]Expr{nil}
	}
	return c.listed(field, prefixes, sets, v6)
}

// listed are the ways in which an address is one of a list.
func (c *compiler) listed(field Field, prefixes []netip.Prefix, sets []string, v6 bool) (out [][]Expr) {
	if list := prefixSpans(prefixes, v6); len(list) > 0 {
		out = append(out, []Expr{Match{field, ranges(list)}})
	}
	for _, name := range sets {
		if d := c.profile.DynamicSet(name); d != nil {
			if c.table.Family == FamilyInet {
				out = append(out, []Expr{FromSource{c.dynamicSet(d, v6), v6}})
			}
			continue
		}
		if set := c.lastingSet(name, v6); set != "" {
			out = append(out, []Expr{Lookup{Fields: []Field{field}, Set: set}})
		}
	}
	return out
}

// protocol is the part of a match that speaks of protocol, ports and types in a family.
func protocol(m profiles.Match, v6 bool) []Expr {
	icmp := ICMPType
	if v6 {
		icmp = ICMP6Type
	}
	switch m.Protocol {
	case profiles.AnyProtocol:
		return nil
	case profiles.Ping:
		if v6 {
			return []Expr{Match{icmp, []Range{number(icmp6EchoRequest)}}}
		}
		return []Expr{Match{icmp, []Range{number(icmpEchoRequest)}}}
	case profiles.ICMP, profiles.ICMP6:
		if len(m.Types) > 0 {
			return []Expr{Match{icmp, numbers(m.Types)}}
		}
	}
	if len(m.Ports) > 0 {
		fields := map[profiles.Protocol]Field{profiles.TCP: TCPDPort, profiles.UDP: UDPDPort, profiles.SCTP: SCTPDPort}
		return []Expr{Match{fields[m.Protocol], portRanges(m.Ports)}}
	}
	n, _ := m.Protocol.Number() // check made sure that there is one
	return []Expr{Match{L4Proto, []Range{number(n)}}}
}

// numbers are ICMP types as the elements of a set.
func numbers(types []uint16) []Range {
	var out []Range
	for _, n := range slices.Compact(slices.Sorted(slices.Values(types))) {
		out = append(out, number(uint8(n)))
	}
	return out
}

// act adds what the n-th line does to what it matches.
func (c *compiler) act(ch *Chain, n int, proto profiles.Protocol, v6 bool, do []Expr) {
	r := &c.profile.Policy[n]
	comment := "policy: " + r.From + " -> " + r.To + at(r.At)
	add := func(more ...Expr) {
		ch.add(comment, slices.Concat(do, more)...)
		ch.Rules[len(ch.Rules)-1].At = r.At
	}
	if noting := c.adding(r, v6); noting != nil {
		add(noting...)
	}
	if r.Log != "" {
		add(c.counter(ch.Name+".log"), Rate{logsPerMinute, time.Minute, logBurst}, Log{r.Log + ": "})
	}
	switch r.Action {
	case profiles.Accept:
		if r.SynProxy != nil && c.table.Family == FamilyInet {
			add(handshakes, synProxy(r.SynProxy, v6))
			add(handshakes, c.counter(ch.Name+counterInvalid), drop)
			return
		}
		limits := c.limits(n, v6)
		add(slices.Concat(limits, c.helper(r.Helper), c.setting(r, v6), []Expr{accept})...)
		if len(limits) > 0 {
			add(c.counter(ch.Name+".limit"), drop)
		}
	case profiles.Drop:
		add(c.counter(ch.Name), drop)
	case profiles.Reject:
		with, _ := unreachable(r.With)
		icmp := Reject{With: with}
		if r.With != "" {
			add(icmp)
			return
		}
		if proto == profiles.TCP {
			add(Reject{TCPReset: true})
			return
		}
		if proto == profiles.AnyProtocol {
			add(Match{L4Proto, []Range{number(ProtoTCP)}}, Reject{TCPReset: true})
		}
		add(icmp)
	}
}

// limits are what a flow of the n-th line must keep to be accepted. One set of sources serves all pairs of zones the
// line speaks of.
func (c *compiler) limits(n int, v6 bool) []Expr {
	r := &c.profile.Policy[n]
	name, key := strconv.Itoa(n+1)+"/4", TypeIPv4
	if v6 {
		name, key = strconv.Itoa(n+1)+"/6", TypeIPv6
	}
	var out []Expr
	if l := r.Limit; l != nil {
		seconds, _ := l.Seconds()
		per := time.Duration(seconds) * time.Second
		refilled := (time.Duration(l.Burst)*per/time.Duration(l.Count) + time.Second - 1).Truncate(time.Second)
		c.sourceSet(Set{Name: "limit/" + name, Key: []Type{key}, Size: maxSources, Timeout: max(refilled, minRemembered)})
		out = append(out, LimitSource{"limit/" + name, v6, Rate{uint64(l.Count), per, l.Burst}})
	}
	if r.Connections > 0 {
		c.sourceSet(Set{Name: "connections/" + name, Key: []Type{key}, Size: maxSources})
		out = append(out, CountSource{"connections/" + name, v6, r.Connections})
	}
	return out
}

// sourceSet adds a set that rules fill, once.
func (c *compiler) sourceSet(s Set) {
	if c.table.Set(s.Name) == nil {
		c.set(s)
	}
}
