package profiles

import (
	"fmt"
	"net/netip"
	"strings"
)

// sshPort is where the admin path arrives (RFC 4253, 4.1).
const sshPort = 22

// hosts checks the names and addresses of hosts.
func (v *validator) hosts() {
	if n := len(v.p.Hosts); n > maxHosts {
		v.reject(v.p.Hosts[maxHosts].At, "", "hosts: %d entries, expected at most %d", n, maxHosts)
		return
	}
	names := map[string]Pos{}
	for _, h := range v.p.Hosts {
		if problem, hint := checkHostName(h.Name); problem != "" {
			v.reject(h.At, hint, "hosts: %s", problem)
		}
		if first, twice := names[h.Name]; twice {
			v.reject(h.At, "", "host %s is declared twice, first at %s", quote(h.Name), first)
		}
		names[h.Name] = h.At
		if len(h.Addresses) == 0 && !v.places.spoilt("hosts.%s", h.Name) {
			v.reject(h.At, "", "hosts.%s: no address", clip(h.Name))
		}
		for i, a := range h.Addresses {
			at := v.places.find(h.At, "hosts.%s.addresses[%d]", h.Name, i)
			if problem, hint := v.checkNeighbour(a); problem != "" {
				v.reject(at, hint, "hosts.%s: %s", clip(h.Name), problem)
			}
			for _, other := range h.Addresses[:i] {
				if other == a {
					v.reject(at, "remove one", "hosts.%s: %s comes twice", clip(h.Name), a)
					break
				}
			}
		}
	}
}

// checkHostName tells what is wrong with a name of one label or several.
func checkHostName(name string) (problem, hint string) {
	if len(name) > maxHost {
		return fmt.Sprintf("the host name has %d bytes, expected at most %d", len(name), maxHost), ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if problem, hint := checkLabel(label); problem != "" {
			if label == "" {
				return "the host name " + quote(name) + " has an empty label", ""
			}
			return problem, hint
		}
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; allOf(last, isDigit) {
		// RFC 1123, 2.1: a name whose last label is a number cannot be told from an address.
		return "the host name " + quote(name) + " ends in a number", ""
	}
	if name == Self || name == Any {
		return "the host name " + quote(name) + " has a meaning of its own", "choose another name"
	}
	return "", ""
}

// checkNeighbour tells what is wrong with the address of a host that should be reached.
func (v *validator) checkNeighbour(a netip.Addr) (problem, hint string) {
	if a.Zone() != "" || a.Is4In6() {
		return fmt.Sprintf("%s is no plain address", a), ""
	}
	if problem := checkUnicast(a); problem != "" {
		return problem, ""
	}
	for i := range v.p.Links {
		if subnet, ok := v.p.Links[i].subnetOf(a); ok {
			if problem, hint := checkHostPart(a, subnet); problem != "" {
				return problem, hint
			}
		}
	}
	return "", ""
}

// forwards checks each forward by itself.
func (v *validator) forwards() {
	if at, yes := v.forwardsTooLarge(); yes {
		v.reject(at, "", "forwards: more than %d, or %d ports or %d sources, in all", maxForwardRules, maxForwardPorts,
			maxForwardSources)
		return
	}
	for i, f := range v.p.Forwards {
		known := v.end("forwards", f.From, v.places.find(f.At, "forwards[%d].from", i))
		if f.Protocol != TCP && f.Protocol != UDP {
			v.reject(f.At, "", "forwards: expected tcp or udp, found %s", quote(string(f.Protocol)))
		}
		v.forwardPorts(f, i)
		v.arrival(f, i, known)
		v.targets(f, i, known)
	}
}

// Bounds of all forwards of a profile, which are compared with each other.
const (
	maxForwardRules = maxForwards * 4 // an entry means up to four, by protocol and family
	maxForwardPorts = 8192            // a range is one
	// maxForwardSources are prefixes and sets.
	maxForwardSources = 8192
)

// forwardsTooLarge is the place of the first forward too many.
func (v *validator) forwardsTooLarge() (Pos, bool) {
	ports, sources := 0, 0
	for i, f := range v.p.Forwards {
		ports += len(f.Ports)
		sources += len(f.Sources) + len(f.SourceSets)
		if ports > maxForwardPorts || sources > maxForwardSources || i >= maxForwardRules {
			return f.At, true
		}
	}
	return Pos{}, false
}

func (v *validator) forwardPorts(f Forward, i int) {
	if len(f.Ports) == 0 || len(f.Ports) > maxPorts {
		v.reject(f.At, "", "forwards: %d ports, expected 1 to %d", len(f.Ports), maxPorts)
		return
	}
	holdsSSH := false
	for j, p := range f.Ports {
		at := v.places.find(f.At, "forwards[%d].ports[%d]", i, j)
		if p.First == 0 || p.First > p.Last {
			v.reject(at, "", "forwards: %s is no range of ports", p)
			continue
		}
		for _, other := range f.Ports[:j] {
			if other.overlaps(p) {
				v.reject(at, "remove one", "forwards: port %s comes twice, also in %s", p, other)
				break
			}
		}
		if f.ToPort != 0 && int(f.ToPort)+int(p.Last-p.First) > maxPort {
			v.reject(v.places.find(f.At, "forwards[%d].to", i), fmt.Sprintf("begin at %d or below", maxPort-int(p.Last-p.First)),
				"forwards: the ports %s moved to %d and up pass %d", p, f.ToPort, maxPort)
		}
		if !holdsSSH && p.First <= sshPort && sshPort <= p.Last {
			holdsSSH = true
			v.adminPort(f, at)
		}
	}
	if f.ToPort != 0 && len(f.Ports) > 1 {
		v.reject(f.At, "write one forward for each port", "forwards: %d ports lead to the one port %d",
			len(f.Ports), f.ToPort)
	}
}

// adminPort looks for a forward that takes the admin's own way in.
func (v *validator) adminPort(f Forward, at Pos) {
	if _, yes := v.zonesTooLarge(); yes || f.Protocol != TCP || v.places.spoilt("admin") || v.leavesAddress(f) {
		return
	}
	const hint = "forward another port, such as 2222, to port 22 of the target"
	for _, name := range v.p.Admin.Zones {
		if name == f.From {
			v.reject(at, hint, "forwards: tcp port %d from zone %s is the admin's way in", sshPort, clip(name))
			return
		}
	}
	if admin, yes := v.adminWithin(f.From); yes {
		v.reject(at, hint, "forwards: tcp port %d from zone %s is the way in of the admin %s", sshPort, clip(f.From), admin)
	}
}

// adminWithin finds an admin's address that packets from a zone may have. Each zone is looked through once.
func (v *validator) adminWithin(zone string) (netip.Prefix, bool) {
	found, known := v.adminsIn[zone]
	if !known {
		if z := v.zone(zone); z != nil {
			for _, admin := range v.p.Admin.Prefixes {
				if admin.IsValid() && v.mayHold(z, admin) {
					found = admin
					break
				}
			}
		}
		if v.adminsIn == nil {
			v.adminsIn = map[string]netip.Prefix{}
		}
		v.adminsIn[zone] = found
	}
	return found, found.IsValid()
}

// mayHold tells whether packets from a prefix may arrive from a zone.
func (v *validator) mayHold(z *Zone, p netip.Prefix) bool {
	if v.p.Bridged(z) {
		return true // on one segment everybody can have any address
	}
	for _, m := range z.Members {
		l := v.link(m.Link)
		if l == nil || !l.reaches(p) {
			continue
		}
		if len(m.Prefixes) == 0 && !m.Rest {
			return true
		}
		for _, own := range m.Prefixes {
			if own.Overlaps(p) {
				return true
			}
		}
		if m.Rest && !v.claimed(m.Link, p) {
			return true
		}
	}
	return false
}

// claimed tells whether a zone names all of a prefix on a link.
func (v *validator) claimed(link string, p netip.Prefix) bool {
	for _, s := range v.membersOn(link) {
		if len(s.member.Prefixes) > 0 && coversAddresses(s.member.Prefixes, []netip.Prefix{p}) {
			return true
		}
	}
	return false
}

// maxMoved is how many ports the forwards of a profile may move to another port: each is an element of a kernel map.
const maxMoved = 65536

// forwardOverlaps looks for forwards of which one would never be reached.
func (v *validator) forwardOverlaps() {
	if _, yes := v.forwardsTooLarge(); yes {
		return // told by forwards
	}
	moved := 0
	for i, f := range v.p.Forwards {
		for _, p := range f.Ports {
			if f.ToPort != 0 {
				moved += int(p.Last) - int(p.First) + 1
			}
		}
		if moved > maxMoved {
			v.reject(f.At, "keep the ports as they are where ranges are large",
				"forwards: more than %d ports move to another port", maxMoved)
			return
		}
		for _, g := range v.p.Forwards[:i] {
			if f.From == g.From && f.Protocol == g.Protocol && f.SNAT != g.SNAT && shareTarget(f, g) {
				v.reject(f.At, "write it the same way in both",
					"forwards: %s from zone %s leads to %s with and without snat, see %s",
					f.Protocol, clip(f.From), f.To, g.At)
				break
			}
			if f.From != g.From || f.Protocol != g.Protocol || f.To.Is4() != g.To.Is4() || !g.takesAll(&f) {
				continue
			}
			if j, q, overlap := portOverlap(f.Ports, g.Ports); overlap {
				v.reject(v.places.find(f.At, "forwards[%d].ports[%d]", i, j), "each port can lead to one host only",
					"forwards: %s port %s from zone %s is forwarded already, to %s at %s", f.Protocol, q, clip(f.From), g.To, g.At)
				break
			}
		}
	}
}

// portOverlap finds the first of a that meets one of b.
func portOverlap(a, b []PortRange) (int, PortRange, bool) {
	for i, p := range a {
		for _, q := range b {
			if p.overlaps(q) {
				return i, p, true
			}
		}
	}
	return 0, PortRange{}, false
}
