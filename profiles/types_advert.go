package profiles

import "net/netip"

// Advert is what router advertisements on one link say (RFC 4861, section 4.2). The prefixes in them are those of the
// link's own addresses of 64 bits, static and delegated, as they come and go; a delegated one never for longer than it
// is delegated.
type Advert struct {
	Link string `json:"link"`
	// Lifetime is how long, in seconds, hosts keep the guest as a default router after they heard it, up to 9000 (RFC
	// 4861, section 6.2.1); 0: they never take it for one.
	Lifetime int64 `json:"lifetime"`
	// Always: the guest is a default router also while it has no IPv6 default route itself.
	Always     bool            `json:"always,omitempty"`
	Preference RoutePreference `json:"preference,omitempty"`
	Interval   int64           `json:"interval"`  // seconds between advertisements nobody asked for, at most; 4 to 1800
	Valid      int64           `json:"valid"`     // seconds a prefix is valid, at most
	Preferred  int64           `json:"preferred"` // seconds its addresses are used for new connections, at most
	// NoAuto: hosts make no addresses by themselves (RFC 4862).
	NoAuto  bool `json:"no_auto,omitempty"`
	Managed bool `json:"managed,omitempty"` // addresses are to be had by DHCPv6 too
	Other   bool `json:"other,omitempty"`   // other things are to be had by DHCPv6
	MTU     int  `json:"mtu,omitempty"`     // bytes; 0: nothing is said
	// DNSSelf: the guest itself is a name server; DNS are further ones, asked after it.
	DNSSelf bool          `json:"dns_self,omitempty"`
	DNS     []netip.Addr  `json:"dns,omitempty"`
	Search  []string      `json:"search,omitempty"` // domains that short names are looked for in
	Routes  []AdvertRoute `json:"routes,omitempty"` // what else is behind the guest
	At      Pos           `json:"at"`
}

// RoutePreference is how a route stands among those of other routers, RFC 4191 section 2.1; empty: medium.
type RoutePreference string

// The preferences.
const (
	PreferLow    RoutePreference = "low"
	PreferMedium RoutePreference = ""
	PreferHigh   RoutePreference = "high"
)

// AdvertRoute is a prefix that hosts reach by the guest, RFC 4191 section 2.3.
type AdvertRoute struct {
	To         netip.Prefix    `json:"to"`
	Preference RoutePreference `json:"preference,omitempty"`
	Lifetime   int64           `json:"lifetime"` // seconds
}

// AdvertOf is what is advertised on a link; nil: nothing is.
func (p *Profile) AdvertOf(link string) *Advert {
	for i := range p.RA {
		if p.RA[i].Link == link {
			return &p.RA[i]
		}
	}
	return nil
}
