package profiles

import (
	"fmt"
	"net/netip"
	"strings"
)

// checkZoneName tells what is wrong with a name for a zone.
func checkZoneName(name string) (problem, hint string) {
	switch {
	case name == "":
		return "the name of a zone is empty", ""
	case name == Self || name == Any || name == "none" || name == "rest" || name == "all":
		return "zone " + quote(name) + ": the word has a meaning of its own", "choose another name"
	case len(name) > maxZone:
		return fmt.Sprintf("zone %s: the name has %d bytes, expected at most %d", quote(name), len(name), maxZone), ""
	case !isLower(name[0]) || !allOf(name, isZoneByte):
		return "zone " + quote(name) + ": expected a lower-case letter, then such letters, digits, _ and -", ""
	}
	return "", ""
}

// zones checks each zone by itself.
func (v *validator) zones() {
	if len(v.p.Zones) == 0 && !v.places.spoilt("zones") {
		v.reject(Pos{}, "", "there are no zones")
	}
	if n := len(v.p.Zones); n > maxZones {
		v.reject(v.p.Zones[maxZones].At, "", "%d zones, expected at most %d", n, maxZones)
	}
	if at, yes := v.zonesTooLarge(); yes {
		v.reject(at, "", "zones: more than %d prefixes in all", maxZonePrefixes)
		return
	}
	names := map[string]Pos{}
	for _, z := range v.p.Zones {
		if problem, hint := checkZoneName(z.Name); problem != "" {
			v.reject(z.At, hint, "%s", problem)
		}
		if first, twice := names[z.Name]; twice {
			v.reject(z.At, "", "zone %s is declared twice, first at %s", quote(z.Name), first)
		}
		names[z.Name] = z.At
		if len(z.Members) == 0 && !v.places.spoilt("zones.%s.link", z.Name) {
			v.reject(z.At, "", "zones.%s: no link", clip(z.Name))
		}
		seen := map[string]bool{}
		for i, m := range z.Members {
			at := v.places.find(z.At, "zones.%s.members[%d]", z.Name, i)
			if seen[m.Link] {
				v.reject(at, "remove one", "zones.%s: link %s comes twice", clip(z.Name), quote(m.Link))
			}
			seen[m.Link] = true
			if m.Rest && len(m.Prefixes) > 0 {
				v.reject(at, "", "zones.%s: both rest and prefixes on link %s", clip(z.Name), quote(m.Link))
			}
			l := v.link(m.Link)
			if l == nil {
				if !v.places.spoilt("links") || len(v.p.Links) > 0 {
					v.reject(at, suggest(m.Link, v.linkNames()), "zones.%s: unknown link %s", clip(z.Name), quote(m.Link))
				}
				continue
			}
			v.memberPrefixes(z, m, l, i == 0)
		}
	}
	for _, l := range v.p.Links {
		if len(v.membersOn(l.Name)) == 0 && !v.places.spoilt("zones") && (l.addressed() || !v.silent(&l)) {
			v.warn(l.At, "", "link %s is in no zone: all its traffic is dropped", quote(l.Name))
		}
	}
}

// maxZonePrefixes bounds the prefixes of all zones, each counted on each of its links: all are compared with all.
const maxZonePrefixes = 4096

// zonesTooLarge is the place of the first zone that has too many prefixes together with those before it.
func (v *validator) zonesTooLarge() (Pos, bool) {
	n := 0
	for _, z := range v.p.Zones {
		for _, m := range z.Members {
			n += len(m.Prefixes)
		}
		if n > maxZonePrefixes {
			return z.At, true
		}
	}
	return Pos{}, false
}

// memberPrefixes checks the prefixes of a zone's share of a link; by themselves only on the first link they are for.
func (v *validator) memberPrefixes(z Zone, m Member, l *Link, first bool) {
	if len(m.Prefixes) > maxPrefixes {
		v.reject(z.At, "", "zones.%s: %d prefixes, expected at most %d", clip(z.Name), len(m.Prefixes), maxPrefixes)
		return
	}
	for j, p := range m.Prefixes {
		at := v.places.find(z.At, "zones.%s.prefixes[%d]", z.Name, j)
		if problem, hint := checkNetwork(p); problem != "" {
			if first {
				v.reject(at, hint, "zones.%s.prefix: %s", clip(z.Name), problem)
			}
			continue
		}
		if first && p.Bits() == 0 {
			v.reject(at, "write `prefix: rest`, or leave prefix out", "zones.%s.prefix: %s is every address", clip(z.Name), p)
			continue
		}
		for _, other := range m.Prefixes[:j] {
			if first && other.Overlaps(p) {
				v.reject(at, "remove the narrower", "zones.%s.prefix: %s overlaps %s of the same zone", clip(z.Name), p, other)
				break
			}
		}
		if !l.reaches(p) && !v.delegated(l, p) && !v.places.spoilt("links.%s.address", l.Name) &&
			!v.places.spoilt("links.%s.gateway", l.Name) {
			v.warn(at, "", "zones.%s.prefix: nothing in %s can be on link %s, which has neither such a subnet nor a gateway",
				clip(z.Name), p, clip(l.Name))
		}
	}
}

// checkNetwork tells what is wrong with the prefix of a network of hosts.
func checkNetwork(p netip.Prefix) (problem, hint string) {
	a := p.Addr()
	switch {
	case !p.IsValid() || a.Zone() != "" || a.Is4In6():
		return fmt.Sprintf("%s is no prefix", p), ""
	case p.Masked() != p:
		return fmt.Sprintf("the prefix %s has bits set beyond its length", p), "write " + p.Masked().String()
	case a.IsMulticast():
		return fmt.Sprintf("%s is multicast, no packet comes from there", p), ""
	case a.IsLoopback():
		return fmt.Sprintf("%s is loopback, no packet on a link comes from there", p), ""
	case p.IsSingleIP() && a.IsUnspecified():
		return fmt.Sprintf("%s stands for no host", a), ""
	}
	return "", ""
}

// share is a zone's member and where it stands.
type share struct {
	zone   Zone
	member Member
	at     Pos
}

func (v *validator) membersOn(link string) []share {
	var all []share
	for _, z := range v.p.Zones {
		for i, m := range z.Members {
			if m.Link == link {
				all = append(all, share{z, m, v.places.find(z.At, "zones.%s.members[%d]", z.Name, i)})
			}
		}
	}
	return all
}

func (s share) whole() bool { return len(s.member.Prefixes) == 0 && !s.member.Rest }

// zoneOverlaps compares the zones that share a link.
func (v *validator) zoneOverlaps() {
	if _, yes := v.zonesTooLarge(); yes {
		return
	}
	for _, l := range v.p.Links {
		shares := v.membersOn(l.Name)
		for i, s := range shares {
			for _, other := range shares[:i] {
				if s.zone.Name == other.zone.Name || v.places.spoilt("zones.%s.prefix", s.zone.Name) ||
					v.places.spoilt("zones.%s.prefix", other.zone.Name) {
					continue
				}
				if v.overlap(l, s, other) {
					break // one is enough to say of each
				}
			}
		}
		v.uncovered(&l, shares)
	}
}

func (v *validator) overlap(l Link, s, other share) bool {
	names := fmt.Sprintf("zones %s and %s", clip(other.zone.Name), clip(s.zone.Name))
	switch {
	case s.whole() && other.whole():
		v.reject(s.at, "give each a prefix, one of them `prefix: rest`", "%s both are all of link %s", names, clip(l.Name))
	case s.whole() || other.whole():
		whole := s
		if other.whole() {
			whole = other
		}
		v.reject(whole.at, fmt.Sprintf("write %s: {link: %s, prefix: rest}", clip(whole.zone.Name), clip(l.Name)),
			"%s overlap: %s is all of link %s", names, clip(whole.zone.Name), clip(l.Name))
	case s.member.Rest && other.member.Rest:
		v.reject(s.at, "only one zone can have the rest of a link", "%s both are the rest of link %s", names, clip(l.Name))
	default:
		for j, p := range s.member.Prefixes {
			for _, q := range other.member.Prefixes {
				if p.Overlaps(q) {
					v.reject(v.places.find(s.zone.At, "zones.%s.prefixes[%d]", s.zone.Name, j),
						"an address can be in one zone only", "%s overlap on link %s: %s and %s", names, clip(l.Name), q, p)
					return true
				}
			}
		}
		return false
	}
	return true
}

// uncovered warns of a subnet of the link that no prefix names while another subnet of it is named: most likely the
// other address family was forgotten, and its neighbours are taken for strangers.
func (v *validator) uncovered(l *Link, shares []share) {
	var missing []string
	named := false
	rest := ""
	for _, s := range shares {
		if s.whole() {
			return
		}
		if s.member.Rest {
			rest = s.zone.Name
		}
	}
	seen := map[netip.Prefix]bool{}
	for _, own := range l.Addresses {
		subnet := own.Masked()
		if seen[subnet] {
			continue
		}
		seen[subnet] = true
		covered := false
		for _, s := range shares {
			for _, p := range s.member.Prefixes {
				covered = covered || p.Overlaps(subnet)
			}
		}
		if covered {
			named = true
		} else {
			missing = append(missing, subnet.String())
		}
	}
	if !named || len(missing) == 0 {
		return
	}
	what := "its traffic is dropped"
	if rest != "" {
		what = "its hosts count as zone " + clip(rest)
	}
	v.warn(l.At, "add it to the prefix of a zone", "link %s: no zone names the subnet %s, so %s",
		clip(l.Name), strings.Join(missing, ", "), what)
}

// admin checks the way in.
func (v *validator) admin() {
	a := v.p.Admin
	if a.None {
		if len(a.Zones)+len(a.Prefixes) > 0 {
			v.reject(a.At, "", "admin: both none and from")
		}
		return
	}
	if len(a.Zones)+len(a.Prefixes) == 0 && !v.places.spoilt("admin") {
		v.reject(a.At, "write `admin: none` if the console is enough", "admin: nobody may reach the guest")
	}
	for i, name := range a.Zones {
		at := v.places.find(a.At, "admin.zones[%d]", i)
		z := v.zone(name)
		switch {
		case z == nil && v.places.spoilt("zones") && len(v.p.Zones) == 0:
		case z == nil:
			v.reject(at, suggest(name, v.zoneNames()), "admin.from: unknown zone %s", quote(name))
		case z.External:
			v.reject(at, "name the addresses that administer it, such as 203.0.113.7",
				"admin.from: zone %s is external, strangers would reach the admin path", clip(name))
		default:
			v.adminZone(z, at)
		}
	}
	for i, p := range a.Prefixes {
		v.adminPrefix(p, v.places.find(a.At, "admin.prefixes[%d]", i))
	}
}

// adminZone looks for the Internet in a zone that does not say it is external.
func (v *validator) adminZone(z *Zone, at Pos) {
	for _, m := range z.Members {
		l := v.link(m.Link)
		if l == nil || !l.leadsOut() || len(m.Prefixes) > 0 || v.places.spoilt("zones.%s.prefix", z.Name) {
			continue
		}
		hint := fmt.Sprintf("give the zone the prefix of its own hosts: {link: %s, prefix: ...}", clip(l.Name))
		if m.Rest {
			v.reject(at, hint, "admin.from: zone %s is the rest of link %s, where the gateway is: strangers would reach "+
				"the admin path", clip(z.Name), clip(l.Name))
			continue
		}
		v.warn(at, hint, "admin.from: zone %s is all of link %s, where the gateway is: whatever comes by the gateway "+
			"reaches the admin path", clip(z.Name), clip(l.Name))
	}
}

func (v *validator) adminPrefix(p netip.Prefix, at Pos) {
	if problem, hint := checkNetwork(p); problem != "" {
		v.reject(at, hint, "admin.from: %s", problem)
		return
	}
	if least := leastBits(p.Addr()); p.Bits() < least {
		v.reject(at, "name the addresses that administer it", "admin.from: %s is nearly everybody, expected /%d or longer",
			p, least)
		return
	}
	for _, l := range v.p.Links {
		if v.places.spoilt("links.%s.address", l.Name) || v.places.spoilt("links.%s.gateway", l.Name) || l.reaches(p) {
			return
		}
	}
	if !v.places.spoilt("links") || len(v.p.Links) > 0 {
		v.reject(at, "name an address on a subnet of a link, or give a link a gateway",
			"admin.from: no link reaches %s", p)
	}
}
