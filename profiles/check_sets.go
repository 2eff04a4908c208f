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

// What ranges take of a guest's memory, in bytes, as test/boot TestLists tells: of a range the kernel holds about 110,
// and the child that loads it 70 for the moment. So much of the memory of a machine beyond the least is the policy
// child's to have.
const (
	bytesPerRange = 288
	besideRanges  = 60 * mebibyte
	alwaysRanges  = 16 << 10 // fit any machine that starts
)

// RangesIn is how many ranges all sets of a machine may have together that has so many bytes of memory for programs. A
// list that is renewed while the guest runs counts twice: its successor is complete before it goes.
func RangesIn(memory int64) int {
	return int(min(alwaysRanges+max(0, memory-besideRanges)/bytesPerRange, 2*maxSetRanges))
}

// forPrograms is what the kernel leaves of a guest's memory: it and its pages' descriptors take the rest.
func forPrograms(memory int64) int64 {
	const kernel, perPage = 34 * mebibyte, 64
	return memory - kernel - memory/perPage
}

// roomForSets checks that the guest has memory for its sets.
func (v *validator) roomForSets(total int, at Pos) {
	if v.places.spoilt("memory") || total <= RangesIn(forPrograms(v.p.Memory)) {
		return
	}
	enough := v.p.Memory
	for enough < maxMemory && total > RangesIn(forPrograms(enough)) {
		enough += 16 * mebibyte
	}
	v.reject(at, "memory: "+sizeText(enough), "sets: %d ranges, and a guest with %s of memory has room for %d", total,
		sizeText(v.p.Memory), RangesIn(forPrograms(v.p.Memory)))
}

// sets checks each set by itself, and that all fit.
func (v *validator) sets() {
	total := 0
	var largest *Set
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
		if largest == nil || s.Len() > largest.Len() {
			largest = s
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
	if largest != nil {
		v.roomForSets(total, largest.At)
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
