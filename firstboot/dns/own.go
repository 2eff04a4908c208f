package dns

import (
	"fmt"
	"path/filepath"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/dnssec"
	"rempart/firstboot/dns/local"
	"rempart/firstboot/dns/override"
	"rempart/firstboot/dns/zone"
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
	h.local = local.New(c)
	if len(p.DHCP) > 0 {
		h.leases = filepath.Join(env.Root, contract.NamesSocket)
	}
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
func proven(d *profiles.DNS, next answer.Exchanger) (answer.Exchanger, error) {
	if !d.DNSSEC {
		return next, nil
	}
	var c dnssec.Config
	for _, s := range d.Domains {
		c.Unsigned = append(c.Unsigned, s.Domain+".")
	}
	return dnssec.New(next, c)
}
