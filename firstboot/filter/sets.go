package filter

import (
	"net/netip"

	"rempart/profiles"
)

// lastingSet is the name of the set of the table that holds one family of a set of the profile, or empty when it has no
// such addresses and never will. It is added to the table when it is first asked for, and named after its content.
func (c *compiler) lastingSet(name string, v6 bool) string {
	set := c.profile.Set(name)
	if set.Count(v6) == 0 && set.Source == nil {
		return ""
	}
	key, version := TypeIPv4, "4"
	if v6 {
		key, version = TypeIPv6, "6"
	}
	if c.lasting == nil {
		c.lasting = map[string]string{}
	}
	id := version + "/" + name
	if made := c.lasting[id]; made != "" {
		return made
	}
	s := Set{Key: []Type{key}, Interval: true, Lasting: true}
	var digest string
	if set.Absent() {
		s.Absent, digest = set.Count(v6), set.Stored.Of(v6).Digest
	} else {
		s.Ranges = set.Ranges.Of(v6)
	}
	if digest == "" {
		digest = s.Ranges.Digest()
	}
	const shown = 16 // digits: sets of one name in one table are few
	stem := "set/" + name + "/" + version
	s.Name = stem + "/" + digest[:shown]
	if set.Source != nil {
		s.List = stem
	}
	c.set(s)
	c.lasting[id] = s.Name
	return s.Name
}

// setPrefixes are the first and the last member of each set, as prefixes: what the probes try of it.
func setPrefixes(p *profiles.Profile, names []string) []netip.Prefix {
	var out []netip.Prefix
	for _, name := range names {
		if p.Set(name) == nil {
			continue // a dynamic one, which is empty as far as anybody knows
		}
		for _, v6 := range families {
			if ranges := p.Set(name).Ranges.Of(v6); len(ranges) > 0 {
				for _, a := range []netip.Addr{ranges[0].First, ranges[len(ranges)-1].Last} {
					out = append(out, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
	}
	return out
}

// inSets tells whether an address is a member of one of the sets.
func inSets(p *profiles.Profile, names []string, a netip.Addr) bool {
	for _, name := range names {
		if s := p.Set(name); s != nil && s.Ranges.Contains(a) {
			return true
		}
	}
	return false
}
