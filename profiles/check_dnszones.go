package profiles

import "strings"

// dnsZones checks the zones by themselves and beside the others. That their records make zones is checked where they
// are read: a guest does not do it again.
func (v *validator) dnsZones(d *DNS) {
	if len(d.Zones) > maxDNSZones {
		v.reject(d.Zones[maxDNSZones].At, "", "dns.zones: more than %d zones, those of reverse included", maxDNSZones)
		return
	}
	bytes := 0
	first := map[string]Pos{}
	for _, z := range d.Zones {
		if bytes += len(z.Records); bytes > maxZoneBytes && bytes-len(z.Records) <= maxZoneBytes {
			v.reject(z.At, "", "dns.zones: all zones together are larger than %d KiB", maxZoneBytes>>10)
		}
		v.dnsName(z.At, "dns.zones", z.Name)
		if at, twice := first[z.Name]; twice {
			v.reject(z.At, "remove one", "dns.zones: zone %s comes twice, first at %s", quote(z.Name), at)
		} else {
			first[z.Name] = z.At
		}
		if strings.TrimSpace(z.Records) == "" {
			v.reject(z.At, "", "dns.zones: zone %s has no records", quote(z.Name))
		}
		for _, p := range append(append(z.Query[:0:0], z.Query...), z.Transfer...) {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				v.reject(z.At, "", "dns.zones: zone %s: %s is no prefix", quote(z.Name), p)
			}
		}
		if len(z.Query) > maxPrefixes || len(z.Transfer) > maxPrefixes {
			v.reject(z.At, "", "dns.zones: zone %s: more than %d prefixes", quote(z.Name), maxPrefixes)
		}
		for _, s := range d.Domains {
			if s.Domain == z.Name {
				v.reject(z.At, "remove one", "dns.zones: others are asked for %s, at %s", quote(z.Name), s.At)
			}
		}
	}
}
