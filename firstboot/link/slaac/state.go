package slaac

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// State is what the routers of a link said, after everything in it that could harm the guest was refused or bounded.
// Times are on CLOCK_BOOTTIME, as of package dhcp4.
type State struct {
	MAC      string   `json:"mac"`               // of the NIC that heard it, lower case with colons
	Routers  []Router `json:"routers,omitempty"` // the best first
	Prefixes []Prefix `json:"prefixes,omitempty"`
	DNS      []Server `json:"dns,omitempty"`
	Search   []Domain `json:"search,omitempty"`
	MTU      int      `json:"mtu,omitempty"`     // bytes; 0: none said
	Managed  bool     `json:"managed,omitempty"` // the last advertisement says that addresses come by DHCPv6
}

// Router is a default router.
type Router struct {
	Addr       netip.Addr    `json:"addr"` // link-local
	Preference int           `json:"preference,omitempty"`
	Until      time.Duration `json:"until"`
	// Stale: it was not heard since the link had carrier again; perhaps it is another network.
	Stale bool `json:"stale,omitempty"`
}

// Prefix is a prefix of the link.
type Prefix struct {
	Prefix    netip.Prefix  `json:"prefix"`
	OnLink    bool          `json:"on_link,omitempty"` // its hosts are on the link
	Auto      bool          `json:"auto,omitempty"`    // the guest has an address in it
	Valid     time.Duration `json:"valid"`
	Preferred time.Duration `json:"preferred"` // from then on the address is not used for new connections
}

// Server is a name server.
type Server struct {
	Addr  netip.Addr    `json:"addr"`
	Until time.Duration `json:"until"`
}

// Domain is where short names are looked for.
type Domain struct {
	Name  string        `json:"name"`
	Until time.Duration `json:"until"`
}

// Bounds on what routers may say.
const (
	maxRouters  = 4
	maxPrefixes = 8 // the kernel's own client takes 16 addresses (ip-sysctl: max_addresses)
	maxDNS      = 3 // resolv.conf(5): MAXNS
	maxSearch   = 6 // resolv.conf(5): MAXDNSRCH once was
	minMTU      = 1280
	maxMTU      = 9216
	// maxLifetime bounds long and endless lifetimes: advertisements come every half hour at the latest (RFC 4861,
	// section 6.2.1), so this is long.
	maxLifetime = 30 * 24 * time.Hour
	// twoHours is below what no advertisement shortens the life of an address (RFC 4862, section 5.5.3 e): otherwise
	// one forged packet would take all of them.
	twoHours = 2 * time.Hour
	autoBits = 64 // of a prefix an address can be made in: the rest is the interface's (RFC 4291, section 2.5.4)
)

// Check reports whether a state that was kept in a file can still be one.
func (s State) Check(now time.Duration) error {
	late := now + maxLifetime
	bad := len(s.Routers) > maxRouters || len(s.Prefixes) > maxPrefixes || len(s.DNS) > maxDNS ||
		len(s.Search) > maxSearch || s.MTU != 0 && (s.MTU < minMTU || s.MTU > maxMTU)
	for _, r := range s.Routers {
		bad = bad || !r.Addr.IsLinkLocalUnicast() || !r.Addr.Is6() || r.Until > late
	}
	for _, p := range s.Prefixes {
		bad = bad || checkPrefix(p.Prefix, p.Auto) != nil || p.Valid > late || p.Preferred > p.Valid
	}
	for _, d := range s.DNS {
		bad = bad || !usable(d.Addr) || d.Until > late
	}
	if bad {
		return errors.New("kept advertisement: it is none")
	}
	return nil
}

// checkPrefix tells why a prefix cannot be a link's. Only what is assigned to hosts at all is taken: global unicast
// (RFC 4291) and unique local addresses (RFC 4193).
func checkPrefix(p netip.Prefix, auto bool) error {
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6():
		return errors.New("it is no prefix")
	case !within(p, "2000::/3") && !within(p, "fc00::/7"):
		return errors.New("hosts have no such addresses")
	case auto && p.Bits() != autoBits:
		return fmt.Errorf("an address needs a prefix of %d bits", autoBits)
	case p.Bits() < 32:
		return errors.New("it is larger than what one network is given")
	}
	return nil
}

func within(p netip.Prefix, outer string) bool {
	o := netip.MustParsePrefix(outer)
	return p.Bits() >= o.Bits() && o.Contains(p.Addr())
}

// usable tells whether an address can be a name server's.
func usable(a netip.Addr) bool {
	p := netip.PrefixFrom(a, 128)
	return p.IsValid() && a.Is6() && !a.Is4In6() && a.Zone() == "" &&
		(a.IsLinkLocalUnicast() || within(p, "2000::/3") || within(p, "fc00::/7"))
}

// current is the state without what has ended.
func (s State) current(now time.Duration) State {
	s.Routers = slices.DeleteFunc(slices.Clone(s.Routers), func(r Router) bool { return r.Until <= now })
	s.Prefixes = slices.DeleteFunc(slices.Clone(s.Prefixes), func(p Prefix) bool { return p.Valid <= now })
	s.DNS = slices.DeleteFunc(slices.Clone(s.DNS), func(d Server) bool { return d.Until <= now })
	s.Search = slices.DeleteFunc(slices.Clone(s.Search), func(d Domain) bool { return d.Until <= now })
	return s
}

// next is when something of the state ends or changes; 0: never.
func (s State) next(now time.Duration) time.Duration {
	var at time.Duration
	look := func(t time.Duration) {
		if t > now && (at == 0 || t < at) {
			at = t
		}
	}
	for _, r := range s.Routers {
		look(r.Until)
	}
	for _, p := range s.Prefixes {
		look(p.Valid)
		look(p.Preferred)
	}
	for _, d := range s.DNS {
		look(d.Until)
	}
	for _, d := range s.Search {
		look(d.Until)
	}
	return at
}

// lagging is how far, as a share of what is left, a lifetime may move before anybody is told: routers repeat the same
// every few minutes, some every few seconds.
const lagging = 8

// news tells whether s says something that told does not.
func (s State) news(told State, now time.Duration) bool {
	moved := func(a, b time.Duration) bool {
		return (a > now) != (b > now) || (a-b).Abs() > max(min(a, b)-now, 0)/lagging+time.Second
	}
	same := len(s.Routers) == len(told.Routers) && len(s.Prefixes) == len(told.Prefixes) &&
		len(s.DNS) == len(told.DNS) && len(s.Search) == len(told.Search) && s.MTU == told.MTU && s.Managed == told.Managed
	if !same {
		return true
	}
	for i, r := range s.Routers {
		o := told.Routers[i]
		if r.Addr != o.Addr || r.Preference != o.Preference || r.Stale != o.Stale || moved(r.Until, o.Until) {
			return true
		}
	}
	for i, p := range s.Prefixes {
		o := told.Prefixes[i]
		if p.Prefix != o.Prefix || p.OnLink != o.OnLink || p.Auto != o.Auto || moved(p.Valid, o.Valid) ||
			moved(p.Preferred, o.Preferred) {
			return true
		}
	}
	for i, d := range s.DNS {
		if o := told.DNS[i]; d.Addr != o.Addr || moved(d.Until, o.Until) {
			return true
		}
	}
	for i, d := range s.Search {
		if o := told.Search[i]; d.Name != o.Name || moved(d.Until, o.Until) {
			return true
		}
	}
	return false
}
