package profiles

import (
	"net/netip"
	"slices"
)

// Bounds of sets. A list of all announced IPv4 prefixes of a large country has 50,000.
const (
	maxSets      = 256
	maxSetRanges = 1 << 18 // in all
)

// sets checks each set by itself.
func (v *validator) sets() {
	total := 0
	names := map[string]Pos{}
	for i := range v.p.Sets {
		s := &v.p.Sets[i]
		if s.Stored != nil {
			v.stored(s)
		}
		if total += max(len(s.Ranges), s.Len()); total > maxSetRanges || i >= maxSets {
			v.reject(s.At, "", "sets: more than %d, or %d ranges in all", maxSets, maxSetRanges)
			return
		}
		if problem, hint := checkZoneName(s.Name); problem != "" {
			v.reject(s.At, hint, "sets: not a name for a set: %s", problem)
		}
		if first, twice := names[s.Name]; twice {
			v.reject(s.At, "", "set %s is declared twice, first at %s", quote(s.Name), first)
		}
		names[s.Name] = s.At
		if slices.ContainsFunc(v.p.Hosts, func(h Host) bool { return h.Name == s.Name }) {
			v.reject(s.At, "choose another name", "set %s: a host has the same name", quote(s.Name))
		}
		if !s.Ranges.Ordered() {
			v.reject(s.At, "", "set %s: the ranges are not in order", quote(s.Name))
		}
		if len(s.Ranges) == 0 && s.Stored == nil && s.Source == nil && !v.places.spoilt("sets.%s", s.Name) {
			v.warn(s.At, "", "set %s is empty: no line that names it ever matches", quote(s.Name))
		}
	}
}

// Set is the set of that name, or nil.
func (p *Profile) Set(name string) *Set {
	for i := range p.Sets {
		if p.Sets[i].Name == name {
			return &p.Sets[i]
		}
	}
	return nil
}

// coversSets tells whether addresses and sets a line is limited to hold all that another line is limited to.
func coversSets(wide, narrow []string, wideAddrs, narrowAddrs bool) bool {
	if len(wide) == 0 && !wideAddrs {
		return true // not limited
	}
	if len(narrow) == 0 && !narrowAddrs {
		return false
	}
	return !slices.ContainsFunc(narrow, func(name string) bool { return !slices.Contains(wide, name) })
}

// coversEither is coversAddresses of lines that may name sets too: a line limited to sets only covers no addresses, and
// one limited by sets only needs none covered.
func coversEither(wide, narrow []netip.Prefix, wideSets, narrowSets []string) bool {
	if len(wide) == 0 && len(wideSets) > 0 {
		return len(narrow) == 0
	}
	if len(narrow) == 0 && len(narrowSets) > 0 {
		return true
	}
	return coversAddresses(wide, narrow)
}
