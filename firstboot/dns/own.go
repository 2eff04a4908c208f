package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/dnssec"
	"rempart/firstboot/dns/local"
	"rempart/firstboot/dns/override"
	"rempart/firstboot/dns/zone"
	"rempart/firstboot/names"
	"rempart/profiles"
	"rempart/profiles/zonefile"
)

// names are the sources of what the guest knows itself: hosts and leases, then its zones. Leases join a zone whose name
// is that of their domain, but never take a name of it.
func (h *house) names(env *child.Env) ([]answer.Source, error) {
	p := env.Profile
	zones, err := zonesOf(p.DNS)
	if err != nil {
		return nil, err
	}
	c := local.Config{Self: p.Name, Zones: zones.Origins()}
	for _, host := range p.Hosts {
		c.Hosts = append(c.Hosts, local.Host{Name: host.Name, Addresses: host.Addresses})
	}
	for _, d := range p.DHCP { // who is always given the same address goes by its name, lease or not
		for _, host := range d.Hosts {
			if host.Address.IsValid() && local.Label(host.Name) == host.Name {
				c.Hosts = append(c.Hosts, local.Host{Name: host.Name, Addresses: []netip.Addr{host.Address}})
			}
		}
	}
	for _, served := range p.DNS.Links {
		l := local.Link{Name: served.Link}
		if served.Domain != "" {
			l.Domain = served.Domain + "."
		}
		for _, link := range p.Links {
			if link.Name == served.Link {
				l.Addresses = link.Addresses
			}
		}
		c.Links = append(c.Links, l)
	}
	overridden := override.NewNames(p.DNS.Names)
	c.Taken = func(name string) bool { return overridden.Has(name) || zones.Has(name) }
	if c.Fed = len(p.DHCP)+len(p.DHCP6) > 0; c.Fed {
		h.leases = filepath.Join(env.Root, contract.NamesSocket)
	}
	h.local = local.New(c)
	h.zones = zones
	return []answer.Source{h.local, zones}, nil
}

// zonesOf makes the zones of a profile.
func zonesOf(d *profiles.DNS) (*zone.Zones, error) {
	var all []zone.Config
	for _, z := range d.Zones {
		records, findings := zonefile.ReadText(z.Records, z.Name+".")
		for _, f := range findings {
			if !f.Warning {
				return nil, fmt.Errorf("zone %s of the profile: %v", z.Name, f)
			}
		}
		all = append(all, zone.Config{Origin: z.Name, Records: records, Query: z.Query, Transfer: z.Transfer})
	}
	return zone.New(all)
}

// proven has what an upstream answers validated, where the profile says so. The names of domains are left out: their
// servers are the profile's own, and the root knows nothing of many a one.
func (h *house) proven(d *profiles.DNS, next answer.Exchanger) (answer.Exchanger, error) {
	if !d.DNSSEC {
		return next, nil
	}
	var c dnssec.Config
	for _, s := range d.Domains {
		c.Unsigned = append(c.Unsigned, s.Domain+".")
	}
	v, err := dnssec.New(next, c)
	if err == nil {
		h.validators = append(h.validators, v)
	}
	return v, err
}

// zoneFactor is how many times the bytes of its text a zone takes in memory, about (TestZoneMemory).
const zoneFactor = 12

// ownMemory is what the names that the guest knows itself take, in bytes: its zones, and twice what the leases of all
// pools would, for what the collector has not given back yet.
func ownMemory(p *profiles.Profile) (bytes int64) {
	for _, z := range p.DNS.Zones {
		bytes += zoneFactor * int64(len(z.Records))
	}
	leases := int64(0)
	for _, d := range p.DHCP {
		for _, s := range d.Subnets {
			for _, r := range s.Pools.Of(false) {
				first, last := r.First.As4(), r.Last.As4()
				leases += int64(binary.BigEndian.Uint32(last[:])) - int64(binary.BigEndian.Uint32(first[:])) + 1
			}
		}
	}
	if len(p.DHCP6) > 0 {
		leases += names.MaxBindings / 4 // as many addresses as their leases may have, at one prefix a link
	}
	return bytes + 2*local.Bytes*min(leases, names.MaxBindings)
}
