package filter

import (
	"errors"
	"net/netip"
	"slices"

	"rempart/profiles"
)

// compiler gathers one table.
type compiler struct {
	profile *profiles.Profile
	space   *space
	table   Table
	ports   int               // elements of port maps so far
	lasting map[string]string // family and name of a set of the profile -> its name in the table
	work    mergeWork
}

// newCompiler checks what the rest relies on and computes the zones.
func newCompiler(p *profiles.Profile) (*compiler, error) {
	if p == nil {
		return nil, errors.New("filter: no profile given")
	}
	if err := check(p); err != nil {
		return nil, err
	}
	return &compiler{profile: p, space: newSpace(p), table: Table{Family: FamilyInet, Name: TableName}}, nil
}

// check returns every reason for which the profile cannot be compiled, or nil.
func check(p *profiles.Profile) error {
	translations := len(p.Masquerade) + len(p.NAT.Sources) + len(p.NAT.Mappings)
	if len(p.Links) > maxLinks || len(p.Zones) > maxZones || len(p.Policy) > maxRules || len(p.Forwards) > maxForwards ||
		translations > maxTranslations {
		return errorAt(profiles.Pos{}, "the profile is too large: %d links, %d zones, %d policy lines, %d forwards, "+
			"%d translations; at most %d, %d, %d, %d, %d", len(p.Links), len(p.Zones), len(p.Policy), len(p.Forwards),
			translations, maxLinks, maxZones, maxRules, maxForwards, maxTranslations)
	}
	var errs []error
	bad := func(pos profiles.Pos, format string, args ...any) { errs = append(errs, errorAt(pos, format, args...)) }
	links := map[string]bool{}
	for _, l := range p.Links {
		if !plainName(l.Name, ".") || len(l.Name) >= IfNameSize || l.Name == "lo" {
			bad(l.At, "link %q: want a name of 1 to %d letters, digits, '.', '_' or '-' that is not lo",
				l.Name, IfNameSize-1)
		}
		if links[l.Name] {
			bad(l.At, "link %q is declared twice", l.Name)
		}
		links[l.Name] = true
		for _, a := range l.Addresses {
			if !a.IsValid() || a.Addr().Zone() != "" || a.Addr().Is4In6() {
				bad(l.At, "link %q: address %v is not an address with a prefix length", l.Name, a)
			}
		}
	}
	zones := map[string]*profiles.Zone{}
	for i := range p.Zones {
		z := &p.Zones[i]
		if !plainName(z.Name, "") || len(z.Name) > 63 || z.Name == profiles.Self || z.Name == profiles.Any {
			bad(z.At, "zone %q: want a name of 1 to 63 letters, digits, '_' or '-' that is not self or any", z.Name)
		}
		if zones[z.Name] != nil {
			bad(z.At, "zone %q is declared twice", z.Name)
		}
		zones[z.Name] = z
		for _, m := range z.Members {
			if !links[m.Link] {
				bad(z.At, "zone %q: there is no link %q", z.Name, m.Link)
			}
		}
	}
	checkOpenings(p, links, bad)
	for _, s := range p.Sets {
		if !plainName(s.Name, "") || len(s.Name) > 63 {
			bad(s.At, "set %q: want a name of 1 to 63 letters, digits, '_' or '-'", s.Name)
		}
	}
	named := func(pos profiles.Pos, what, name string, special ...string) {
		if zones[name] == nil && !slices.Contains(special, name) {
			bad(pos, "%s: there is no zone %q", what, name)
		}
	}
	for _, name := range p.Admin.Zones {
		named(p.Admin.At, "admin", name)
		if z := zones[name]; z != nil && z.External {
			bad(p.Admin.At, "admin: zone %q is external and must not be given the admin path; name addresses instead", name)
		}
	}
	for i := range p.Policy {
		r := &p.Policy[i]
		named(r.At, "policy", r.From, profiles.Any, profiles.Self)
		named(r.At, "policy", r.To, profiles.Any, profiles.Self)
		if r.From == profiles.Self && r.To == profiles.Self {
			bad(r.At, "policy: self -> self never meets a filter; remove the line")
		}
		checkRule(r, bad)
		for _, m := range r.Matches {
			for _, name := range slices.Concat(m.SourceSets, m.DestinationSets) {
				if !p.HasSet(name) {
					bad(r.At, "policy: there is no set %q", name)
				}
			}
		}
	}
	for _, m := range p.Masquerade {
		named(m.At, "masquerade", m.From)
		named(m.At, "masquerade", m.To)
	}
	checkNAT(p, named, bad)
	for i := range p.Forwards {
		f := &p.Forwards[i]
		named(f.At, "forward", f.From)
		checkForward(p, f, bad)
		for k := range p.Forwards[:i] {
			if g := &p.Forwards[k]; g.From == f.From && g.Protocol == f.Protocol && g.SNAT != f.SNAT &&
				slices.ContainsFunc(f.Targets(), func(a netip.Addr) bool { return slices.Contains(g.Targets(), a) }) {
				bad(f.At, "forward: %s to %v is forwarded with and without snat; write it the same way in both", f.From, f.To)
			}
		}
	}
	checkDynamic(p, bad)
	if len(errs) == 0 {
		checkOverlap(p, bad)
		checkBridged(p, bad)
	}
	return errors.Join(errs...)
}

// checkOverlap finds addresses of one link that are in two zones: the kernel would refuse the map of zones.
func checkOverlap(p *profiles.Profile, bad func(profiles.Pos, string, ...any)) {
	s := newSpace(p)
	for i, a := range p.Zones {
		for _, b := range p.Zones[i+1:] {
			for _, x := range s.zones[a.Name] {
				for _, y := range s.zones[b.Name] {
					for f := range x.ranges {
						if both := x.ranges[f].and(y.ranges[f]); x.link == y.link && len(both) > 0 {
							bad(b.At, "zone %q: %v on link %s is in zone %q too", b.Name, both[0], x.link, a.Name)
						}
					}
				}
			}
		}
	}
}

func checkRule(r *profiles.Rule, bad func(profiles.Pos, string, ...any)) {
	switch r.Action {
	case profiles.Accept, profiles.Drop, profiles.Reject:
	default:
		bad(r.At, "policy: action %q: want accept, drop or reject", r.Action)
	}
	checkExtras(r, bad)
	for _, m := range r.Matches {
		if _, ok := m.Protocol.Number(); !ok && m.Protocol != profiles.AnyProtocol && m.Protocol != profiles.Ping {
			bad(r.At, "policy: protocol %q is not known", m.Protocol)
		}
		if len(m.Ports) > 0 && !m.Protocol.HasPorts() {
			bad(r.At, "policy: ports can be given for tcp, udp and sctp only")
		}
		for _, n := range m.Types {
			if m.Protocol != profiles.ICMP && m.Protocol != profiles.ICMP6 || n > 255 {
				bad(r.At, "policy: %d is no ICMP type of protocol %q", n, m.Protocol)
			}
		}
		for _, ports := range m.Ports {
			if ports.First > ports.Last {
				bad(r.At, "policy: ports %d-%d: the first is above the last", ports.First, ports.Last)
			}
		}
		for _, prefix := range slices.Concat(m.Sources, m.Destinations) {
			if !prefix.IsValid() || prefix.Addr().Is4In6() {
				bad(r.At, "policy: %v is not a prefix", prefix)
			}
		}
	}
}

// plainName tells whether a name is made of letters, digits, '_', '-' and the extra bytes: what nft reads without
// quotes after one of our prefixes.
func plainName(s, extra string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			if !slices.Contains([]byte(extra), c) {
				return false
			}
		}
	}
	return s != "" && s != "." && s != ".."
}

// chain adds a chain and returns it. The pointer is good until the next call.
func (c *compiler) chain(name string, base *Base) *Chain {
	c.table.Chains = append(c.table.Chains, Chain{Name: name, Base: base})
	return &c.table.Chains[len(c.table.Chains)-1]
}

// set adds a set.
func (c *compiler) set(s Set) { c.table.Sets = append(c.table.Sets, s) }

// counter declares a named counter, once, and returns the expression that counts.
func (c *compiler) counter(name string) Count {
	if !slices.Contains(c.table.Counters, name) {
		c.table.Counters = append(c.table.Counters, name)
	}
	return Count{name}
}

// add appends a rule to a chain.
func (ch *Chain) add(comment string, do ...Expr) {
	ch.Rules = append(ch.Rules, Rule{Do: do, Comment: comment})
}

var (
	accept = Verdict{Kind: VerdictAccept}
	drop   = Verdict{Kind: VerdictDrop}
)

// finish names the table after its content and returns it, with the one of the bridges if there is any that filters.
func (c *compiler) finish(closed bool) (Ruleset, error) {
	if c.ports > maxPortMap {
		return Ruleset{}, errorAt(profiles.Pos{}, "the forwards change %d ports one by one; at most %d", c.ports, maxPortMap)
	}
	c.table.Chains = append(c.table.Chains, Chain{Name: fingerprint(&c.table)})
	rs := Ruleset{Tables: []Table{c.table}}
	if bridges, any := c.bridged(closed); any {
		rs.Tables = append(rs.Tables, bridges)
	}
	return rs, nil
}

// families are the two halves of an inet table.
var families = []bool{false, true}

func srcField(v6 bool) Field {
	if v6 {
		return IP6SAddr
	}
	return IPSAddr
}

func dstField(v6 bool) Field {
	if v6 {
		return IP6DAddr
	}
	return IPDAddr
}

// isV6 tells the family of an address.
func isV6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }
