package profiles

import (
	"fmt"
	"net/netip"
)

// validator finds what is wrong with the meaning of a profile, all of it, and tells each at its place. It works on
// the typed Profile, so that the same rules hold for a profile read from YAML and for one read from JSON.
type validator struct {
	file     string
	p        *Profile
	places   places
	findings []Finding
	warnings []Finding
	adminsIn map[string]netip.Prefix // by zone: see adminWithin

	firstRoutes map[routeSlot]Pos
}

func (v *validator) reject(at Pos, hint, format string, args ...any) {
	v.findings = append(v.findings, Finding{File: v.file, Pos: at, What: fmt.Sprintf(format, args...), Hint: hint})
}

func (v *validator) warn(at Pos, hint, format string, args ...any) {
	v.warnings = append(v.warnings, Finding{File: v.file, Pos: at, What: fmt.Sprintf(format, args...), Hint: hint})
}

// profile checks everything.
func (v *validator) profile() {
	v.machine()
	v.disks()
	v.links()
	v.matches()
	v.devices()
	v.ports()
	v.subnets()
	v.delegation()
	v.gateways()
	v.learning()
	v.routes()
	v.routingRules()
	v.zones()
	v.tunnels()
	v.zoneOverlaps()
	v.bridgedZones()
	v.hosts()
	v.sets()
	v.dynamicSets()
	v.admin()
	v.logging()
	v.adverts()
	v.dhcp6()
	v.ntp()
	v.dns()
	v.dhcp()
	v.policy()
	v.shadows()
	v.sources()
	v.bans()
	v.forwards()
	v.forwardOverlaps()
	v.sourceNAT()
	v.masquerade()
	v.mappings()
	v.shares()
}

func (v *validator) link(name string) *Link {
	for i := range v.p.Links {
		if v.p.Links[i].Name == name {
			return &v.p.Links[i]
		}
	}
	return nil
}

func (v *validator) zone(name string) *Zone {
	for i := range v.p.Zones {
		if v.p.Zones[i].Name == name {
			return &v.p.Zones[i]
		}
	}
	return nil
}

func (v *validator) linkNames() []string {
	var all []string
	for _, l := range v.p.Links {
		all = append(all, l.Name)
	}
	return all
}

func (v *validator) zoneNames() []string {
	var all []string
	for _, z := range v.p.Zones {
		all = append(all, z.Name)
	}
	return all
}

// has tells whether a link has an address of the family of a, of its own or learnt.
func (l *Link) has(a netip.Addr) bool {
	if l.Learns(!a.Is4()) {
		return true
	}
	for _, own := range l.Addresses {
		if own.Addr().Is4() == a.Is4() {
			return true
		}
	}
	return false
}

// subnetOf is the subnet of the link that an address is in.
func (l *Link) subnetOf(a netip.Addr) (netip.Prefix, bool) {
	for _, own := range l.Addresses {
		if own.Contains(a) {
			return own.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// leadsOut tells whether traffic from anywhere may arrive by the link: it has a gateway, for a family or any.
func (l *Link) leadsOut() bool {
	for _, route := range l.Routes {
		if route.To.Bits() == 0 {
			return true
		}
	}
	return (l.DHCP || l.Auto) && !l.Accept.NoDefault || l.InstanceGateway || len(l.Gateways) > 0
}

// reaches tells whether hosts in a prefix can be on the link or behind its gateway.
func (l *Link) reaches(p netip.Prefix) bool {
	for _, own := range l.Addresses {
		if own.Masked().Overlaps(p) {
			return true
		}
	}
	if l.Learns(!p.Addr().Is4()) || l.InstanceGateway {
		return true
	}
	for _, route := range l.Routes {
		if route.To.Overlaps(p) {
			return true
		}
	}
	for _, g := range l.Gateways {
		if g.Addr.Is4() == p.Addr().Is4() {
			return true
		}
	}
	return false
}
