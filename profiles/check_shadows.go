package profiles

import (
	"cmp"
	"net/netip"
	"slices"
)

// Shadow is a rule of the policy that never decides.
type Shadow struct {
	Rule int // its index
	By   int // the index of a rule before it that decides (some of) what it matches
}

// shadows warns of rules that never decide because earlier ones decide all they match.
func (v *validator) shadows() {
	if _, yes := v.policyTooLarge(); yes || v.places.spoilt("policy") || v.places.spoilt("sets") {
		return
	}
	for _, s := range v.p.Shadowed() {
		rule, by := &v.p.Policy[s.Rule], &v.p.Policy[s.By]
		v.warn(rule.At, "remove it, or move it up", "policy: this rule never decides, %s -> %s at %s decides before it",
			clip(by.From), clip(by.To), by.At)
	}
}

// maxShadowWork bounds what looking for shadows costs, in things looked up: about two seconds, and several times what
// 20,000 ordinary lines take. What is beyond is not looked at, so a rule that never decides may not be told of; one
// that does is never told to be such.
const (
	maxShadowWork = 1 << 22
	memoryWork    = 16 // what remembering one counts for: 400 bytes
)

// Shadowed are the rules that never decide, in their order. A rule is one when each kind of flow it matches, by family,
// protocol, port, source and destination, lies within what a single earlier rule matches; rules that only together
// match all of it are not put together. What lists of elsewhere hold nobody knows: they are only known to hold
// themselves.
func (p *Profile) Shadowed() []Shadow {
	s := &shadowIndex{cells: map[cellKey]*cell{}, sides: map[bucket]*[2]side{}, sets: map[string]*Set{}}
	for i := range p.Sets {
		s.sets[p.Sets[i].Name] = &p.Sets[i]
	}
	var out []Shadow
	for i := range p.Policy {
		r := &p.Policy[i]
		boxes := s.boxes(r)
		by, hidden := -1, len(boxes) > 0
		for k := range boxes {
			earlier, ok := s.find(r, &boxes[k])
			if !ok {
				hidden = false
				break
			}
			if by < 0 {
				by = earlier
			}
		}
		if s.work > maxShadowWork {
			return out
		}
		if hidden {
			out = append(out, Shadow{i, by})
			continue // what hides it hides what it would
		}
		if s.work += len(boxes) * memoryWork; s.work > maxShadowWork {
			return out
		}
		for k := range boxes {
			s.add(r, &boxes[k], i)
		}
	}
	return out
}

// atom is one way in which an address may be: a prefix, 0.0.0.0/0 and ::/0 being any, or the members of a set in one
// family.
type atom struct {
	prefix netip.Prefix
	set    string
}

// flowBox is flows of one family that a rule matches: of a protocol, between atoms, and with ports or ICMP types of one
// range.
type flowBox struct {
	v6       bool
	protocol Protocol
	src, dst atom
	ports    PortRange
}

// bucket is what has to be equal, or wider, before the rest is compared.
type bucket struct {
	from, to string
	protocol Protocol
	v6       bool
}

type cellKey struct {
	bucket
	src, dst atom
}

// cell holds ranges of ports, none within another, in their order: their ends are in order too.
type cell struct {
	ports []PortRange
	rules []int
}

// side is what sources or destinations of a bucket there are.
type side struct {
	bits [129]bool // lengths of prefixes
	sets []string
}

type shadowIndex struct {
	cells map[cellKey]*cell
	sides map[bucket]*[2]side
	sets  map[string]*Set
	work  int
}

// icmpEcho and icmp6Echo are the types of echo requests: RFC 792, and RFC 4443, section 4.1.
const (
	icmpEcho  = 8
	icmp6Echo = 128
)

// boxes are the flows a rule matches. Those that cannot be, such as from an IPv4 to an IPv6 address, are left out.
func (s *shadowIndex) boxes(r *Rule) []flowBox {
	matches := r.Matches
	if len(matches) == 0 {
		matches = []Match{{}}
	}
	var out []flowBox
	for _, m := range matches {
		for _, v6 := range []bool{false, true} {
			protocol, numbers := m.Protocol, m.numbers()
			switch {
			case protocol == Ping && v6:
				protocol, numbers = ICMP6, []PortRange{{icmp6Echo, icmp6Echo}}
			case protocol == Ping:
				protocol, numbers = ICMP, []PortRange{{icmpEcho, icmpEcho}}
			}
			if !protocol.Speaks(v6) {
				continue
			}
			sources, destinations := s.atoms(m.Sources, m.SourceSets, m.DelegatedSources, v6),
				s.atoms(m.Destinations, m.DestinationSets, m.DelegatedDestinations, v6)
			if s.work += len(sources) * len(destinations) * len(numbers); s.work > maxShadowWork {
				return nil
			}
			for _, src := range sources {
				for _, dst := range destinations {
					for _, ports := range numbers {
						out = append(out, flowBox{v6, protocol, src, dst, ports})
					}
				}
			}
		}
	}
	return out
}

// numbers are the ports or ICMP types of a match, joined where they touch.
func (m Match) numbers() []PortRange {
	list := slices.Clone(m.Ports)
	for _, n := range m.Types {
		list = append(list, PortRange{n, n})
	}
	if len(list) == 0 {
		return []PortRange{{0, maxPort}}
	}
	slices.SortFunc(list, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	out := list[:1]
	for _, p := range list[1:] {
		if last := &out[len(out)-1]; int(p.First) <= int(last.Last)+1 {
			last.Last = max(last.Last, p.Last)
		} else {
			out = append(out, p)
		}
	}
	return out
}

var everyAddress = map[bool]netip.Prefix{false: netip.PrefixFrom(netip.IPv4Unspecified(), 0),
	true: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// atoms are the ways in which an address of a family may be as a line says.
func (s *shadowIndex) atoms(prefixes []netip.Prefix, sets []string, hosts []Delegated, v6 bool) []atom {
	if len(prefixes)+len(sets)+len(hosts) == 0 {
		return []atom{{prefix: everyAddress[v6]}}
	}
	var out []atom
	for _, p := range prefixes {
		if p.Addr().Is6() == v6 {
			out = append(out, atom{prefix: p.Masked()})
		}
	}
	for _, name := range sets {
		if set := s.sets[name]; set != nil && (set.unknown() || len(set.Ranges.Of(v6)) > 0) {
			out = append(out, atom{set: name})
		}
	}
	for _, d := range hosts {
		if v6 { // which address that is nobody knows, as with a list
			name := d.String()
			s.sets[name] = &Set{Name: name, Source: &ListSource{}}
			out = append(out, atom{set: name})
		}
	}
	return out
}

// holders are the atoms of a side that hold all of another, itself among them.
func (s *shadowIndex) holders(of *side, a atom, v6 bool) []atom {
	hull := a.prefix
	var out []atom
	if a.set != "" {
		set := s.sets[a.set]
		if slices.Contains(of.sets, a.set) {
			out = append(out, a)
		}
		hull = everyAddress[v6] // of a list that may hold anything
		if !set.unknown() {
			hull = hullOf(set.Ranges.Of(v6))
		}
	}
	for bits := range hull.Bits() + 1 {
		if of.bits[bits] {
			p, _ := hull.Addr().Prefix(bits) // no error: bits are not more than the address has
			out = append(out, atom{prefix: p})
		}
	}
	for _, name := range of.sets {
		if name == a.set || s.sets[name].unknown() {
			continue
		}
		if s.work++; s.inSet(s.sets[name].Ranges.Of(v6), a, v6) {
			out = append(out, atom{set: name})
		}
	}
	return out
}

// inSet tells whether all of an atom is in the ranges.
func (s *shadowIndex) inSet(ranges Ranges, a atom, v6 bool) bool {
	if a.set == "" {
		return ranges.holds(rangeOf(a.prefix))
	}
	set := s.sets[a.set]
	list := set.Ranges.Of(v6)
	s.work += len(list)
	return !set.unknown() && s.work <= maxShadowWork &&
		!slices.ContainsFunc(list, func(r AddrRange) bool { return !ranges.holds(r) })
}

// holds tells whether a range is within one of the ranges.
func (r Ranges) holds(one AddrRange) bool {
	i, _ := slices.BinarySearchFunc(r, one.First, func(x AddrRange, a netip.Addr) int { return x.Last.Compare(a) })
	return i < len(r) && r[i].First.Compare(one.First) <= 0 && one.Last.Compare(r[i].Last) <= 0
}

// hullOf is the longest prefix that all ranges are in.
func hullOf(list Ranges) netip.Prefix {
	first, last := list[0].First, list[len(list)-1].Last
	for bits := first.BitLen(); ; bits-- {
		if p, _ := first.Prefix(bits); p.Contains(last) {
			return p
		}
	}
}

// find is an earlier rule that matches all of a box.
func (s *shadowIndex) find(r *Rule, b *flowBox) (rule int, ok bool) {
	froms, tos := []string{r.From, Any}, []string{r.To, Any}
	protocols := []Protocol{b.protocol, AnyProtocol}
	for _, from := range wider(froms) {
		for _, to := range wider(tos) {
			for _, protocol := range wider(protocols) {
				k := bucket{from, to, protocol, b.v6}
				sides := s.sides[k]
				if s.work++; sides == nil {
					continue
				}
				destinations := s.holders(&sides[1], b.dst, b.v6)
				for _, src := range s.holders(&sides[0], b.src, b.v6) {
					for _, dst := range destinations {
						if s.work++; s.work > maxShadowWork {
							return 0, false
						}
						if c := s.cells[cellKey{k, src, dst}]; c != nil {
							if rule, ok = c.find(b.ports); ok {
								return rule, true
							}
						}
					}
				}
			}
		}
	}
	return 0, false
}

// wider are a name and the one that stands for all, which self is none of.
func wider[T ~string](names []T) []T {
	if names[0] == names[1] || names[0] == Self {
		return names[:1]
	}
	return names
}

// begins is where the range that begins with a port is, or would be.
func (c *cell) begins(first uint16) (i int, exact bool) {
	return slices.BinarySearchFunc(c.ports, first, func(x PortRange, n uint16) int { return cmp.Compare(x.First, n) })
}

// find is a rule whose ports hold all of a range.
func (c *cell) find(p PortRange) (rule int, ok bool) {
	i, exact := c.begins(p.First)
	if !exact {
		i--
	}
	// Of those that begin before it, the last ends last.
	if i >= 0 && c.ports[i].covers(p) {
		return c.rules[i], true
	}
	return 0, false
}

// add notes that a rule matches a box.
func (s *shadowIndex) add(r *Rule, b *flowBox, rule int) {
	k := bucket{r.From, r.To, b.protocol, b.v6}
	sides := s.sides[k]
	if sides == nil {
		sides = &[2]side{}
		s.sides[k] = sides
	}
	for i, a := range []atom{b.src, b.dst} {
		if a.set == "" {
			sides[i].bits[a.prefix.Bits()] = true
		} else if !slices.Contains(sides[i].sets, a.set) {
			sides[i].sets = append(sides[i].sets, a.set)
		}
	}
	key := cellKey{k, b.src, b.dst}
	c := s.cells[key]
	if c == nil {
		c = &cell{}
		s.cells[key] = c
	}
	if _, ok := c.find(b.ports); ok {
		return
	}
	// Those that lie within it begin where it does or later.
	i, _ := c.begins(b.ports.First)
	end := i
	for end < len(c.ports) && b.ports.covers(c.ports[end]) {
		end++
	}
	c.ports = slices.Replace(c.ports, i, end, b.ports)
	c.rules = slices.Replace(c.rules, i, end, rule)
}
