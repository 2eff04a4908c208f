package filtertest

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"rempart/firstboot/filter"
)

// Mutant is rules with one mistake: some of a chain left out, or two neighbours in each other's place.
type Mutant struct {
	Name         string // "CHAIN: COMMENT"
	Table, Chain int
	Rules        []filter.Rule // of the chain, mistake and all
	Of           []RuleID      // those the mistake is about
	First, Then  []filter.Rule // of two in each other's place: which were which
}

// In is a Ruleset with the mistake in it.
func (m *Mutant) In(rs filter.Ruleset) filter.Ruleset {
	out := filter.Ruleset{Tables: slices.Clone(rs.Tables)}
	t := &out.Tables[m.Table]
	t.Chains = slices.Clone(t.Chains)
	t.Chains[m.Chain].Rules = m.Rules
	return out
}

// unit is rules of a chain, one after the other, that are one thing: the ranges that together are one zone's share of a
// link.
type unit struct {
	name  string
	rules []int
}

func units(chain *filter.Chain) []unit {
	var out []unit
	last := ""
	for r, rule := range chain.Rules {
		name := chain.Name + ": " + rule.Comment
		if rule.Comment == "" {
			name = chain.Name + ": " + rule.Text()
		}
		v6 := strings.Contains(rule.Text(), "ip6 ") || strings.Contains(rule.Text(), "icmpv6")
		key := fmt.Sprint(name, v6, rule.Do[len(rule.Do)-1])
		if key == last {
			u := &out[len(out)-1]
			u.rules = append(u.rules, r)
			continue
		}
		last = key
		out = append(out, unit{name, []int{r}})
	}
	return out
}

// Missing are a Ruleset's rules, each left out once.
func Missing(rs filter.Ruleset) []Mutant { return mutants(rs, false) }

// Swapped are a Ruleset's rules, each in the place of the next one once.
func Swapped(rs filter.Ruleset) []Mutant { return mutants(rs, true) }

func mutants(rs filter.Ruleset, swapped bool) []Mutant {
	var out []Mutant
	for t := range rs.Tables {
		for c := range rs.Tables[t].Chains {
			chain := &rs.Tables[t].Chains[c]
			all := units(chain)
			for i, u := range all {
				m := Mutant{Name: u.name, Table: t, Chain: c}
				first, end := u.rules[0], u.rules[len(u.rules)-1]+1
				middle := end
				if swapped {
					if i+1 == len(all) {
						continue
					}
					next := all[i+1]
					m.Name += " <-> " + strings.TrimPrefix(next.name, chain.Name+": ")
					end = next.rules[len(next.rules)-1] + 1
					m.First, m.Then = chain.Rules[first:middle], chain.Rules[middle:end]
				}
				m.Rules = slices.Concat(chain.Rules[:first], chain.Rules[middle:end], m.First, chain.Rules[end:])
				for r := first; r < end; r++ {
					m.Of = append(m.Of, RuleID{t, c, r})
				}
				out = append(out, m)
			}
		}
	}
	return out
}

// Commute tells whether the two that a mutant puts in each other's place do the same in either order: no packet meets a
// rule of each, or those it meets do the same.
func (m *Mutant) Commute(rs filter.Ruleset) bool {
	t := &rs.Tables[m.Table]
	for i := range m.First {
		for k := range m.Then {
			a, b := conditions(t, m.First[i].Do), conditions(t, m.Then[k].Do)
			if !apart(a, b) && !reflect.DeepEqual(acts(m.First[i].Do), acts(m.Then[k].Do)) {
				return false
			}
		}
	}
	return true
}

// acts are a rule's expressions from the first one that is no condition.
func acts(do []filter.Expr) []filter.Expr {
	i := slices.IndexFunc(do, func(e filter.Expr) bool {
		switch e.(type) {
		case filter.Match, filter.Bits, filter.HostPart, filter.Lookup, filter.Share, filter.HasMark, filter.Begins:
			return false
		}
		return true
	})
	return do[max(i, 0):]
}

// conditions are those of a rule, and what its action asks for: a set is all of its elements, a translation a family.
func conditions(t *filter.Table, do []filter.Expr) []filter.Expr {
	var out []filter.Expr
	family := func(v6 bool) {
		version := uint8(filter.VersionIPv4)
		if v6 {
			version = filter.VersionIPv6
		}
		out = append(out, filter.Match{Field: filter.Version, Ranges: []filter.Range{{First: []byte{version},
			Last: []byte{version}}}})
	}
	for _, e := range do {
		switch e := e.(type) {
		case filter.Lookup:
			for i, f := range e.Fields {
				m := filter.Match{Field: f}
				for k, set := 0, t.Set(e.Set); k < set.Len(); k++ {
					m.Ranges = append(m.Ranges, set.At(k).Key[i])
				}
				out = append(out, m)
			}
		case filter.DestinationNAT:
			family(e.IPv6)
		case filter.SourceNAT:
			family(e.IPv6)
		case filter.MapPrefix:
			family(e.IPv6)
		case filter.SetDSCP:
			family(e.IPv6)
		case filter.SetHops:
			family(e.IPv6)
		default:
			out = append(out, e)
		}
	}
	return out
}

// apart tells whether two conditions are plainly never met by one packet.
func apart(a, b []filter.Expr) bool {
	for _, x := range a {
		for _, y := range b {
			switch x := x.(type) {
			case filter.Match:
				if y, ok := y.(filter.Match); ok && differ(x, y) {
					return true
				}
			case filter.Bits: // a connection is in one state
				if y, ok := y.(filter.Bits); ok && x.Field == filter.CTState && y.Field == x.Field && x.Mask&y.Mask == 0 {
					return true
				}
			case filter.HasMark:
				if y, ok := y.(filter.HasMark); ok && (x.Value^y.Value)&x.Mask&y.Mask != 0 {
					return true
				}
			case filter.Share:
				if y, ok := y.(filter.Share); ok && x.Of == y.Of && x.Part != y.Part {
					return true
				}
			}
		}
	}
	return false
}

func differ(x, y filter.Match) bool {
	if x.Field == y.Field {
		return !slices.ContainsFunc(x.Ranges, func(r filter.Range) bool {
			return slices.ContainsFunc(y.Ranges, func(s filter.Range) bool {
				return bytes.Compare(r.First, s.Last) <= 0 && bytes.Compare(s.First, r.Last) <= 0
			})
		})
	}
	version, proto := needs(x)
	otherVersion, otherProto := needs(y)
	return version*otherVersion != 0 && version != otherVersion || proto*otherProto != 0 && proto != otherProto
}

// needs is what a packet must be for a condition to be met at all: IP version and protocol, 0 for any.
func needs(m filter.Match) (version, proto uint8) {
	version, proto = m.Field.Needs()
	if len(m.Ranges) != 1 || !m.Ranges[0].Single() {
		return version, proto
	}
	switch value := m.Ranges[0].First[0]; {
	case m.Field == filter.L4Proto:
		proto = value
	case m.Field == filter.Version && value == filter.VersionIPv4:
		version = 4
	case m.Field == filter.Version:
		version = 6
	}
	return version, proto
}
