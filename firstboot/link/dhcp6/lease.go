package dhcp6

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/firstboot/link/dhcp4"
)

// State is what a server gave, after everything in it that could harm the guest was refused or bounded. Times are on
// CLOCK_BOOTTIME, as of package dhcp4.
type State struct {
	MAC       string        `json:"mac"`              // of the NIC that asked, lower case with colons
	Server    []byte        `json:"server,omitempty"` // DUID of the server that gave it
	Renew     time.Duration `json:"renew,omitempty"`  // T1: when that server is asked to extend it
	Rebind    time.Duration `json:"rebind,omitempty"` // T2: when any is
	Prefixes  []Prefix      `json:"prefixes,omitempty"`
	Addresses []Address     `json:"addresses,omitempty"`
	DNS       []netip.Addr  `json:"dns,omitempty"`
	Search    string        `json:"search,omitempty"`
}

// Prefix is a delegated prefix. One that was replaced stays, deprecated, for a while: hosts have addresses in it.
type Prefix struct {
	Prefix    netip.Prefix  `json:"prefix"`
	Valid     time.Duration `json:"valid"`
	Preferred time.Duration `json:"preferred"` // past: it is deprecated
}

// Address is an address of the link itself.
type Address struct {
	Addr      netip.Addr    `json:"addr"`
	Valid     time.Duration `json:"valid"`
	Preferred time.Duration `json:"preferred"`
}

// Bounds on what servers may say.
const (
	maxPrefixes  = 4
	maxAddresses = 4
	maxDNS       = 3 // resolv.conf(5): MAXNS
	minBits      = 32
	maxBits      = 64
	// minLife is the shortest time something is taken for: shorter ones would have the guest ask without end.
	minLife = 30 * time.Second
	// maxLife bounds long and endless lifetimes: a server forgets, and then asking again is what helps.
	maxLife = 30 * 24 * time.Hour
	// replaced bounds how long a prefix that was replaced is kept (RFC 7084, L-13; RFC 9096, section 3.5).
	replaced = 2 * time.Hour
)

// Check reports whether a state that was kept in a file can still be one.
func (s State) Check(now time.Duration) error {
	late := now + maxLife
	bad := len(s.Prefixes) > maxPrefixes || len(s.Addresses) > maxAddresses || len(s.DNS) > maxDNS ||
		s.Renew > late || s.Rebind > late || len(s.Server) > maxDUID
	for _, p := range s.Prefixes {
		bad = bad || checkPrefix(p.Prefix) != nil || p.Valid > late || p.Preferred > p.Valid
	}
	for _, a := range s.Addresses {
		bad = bad || !assigned(netip.PrefixFrom(a.Addr, 128)) || a.Valid > late || a.Preferred > a.Valid
	}
	for _, a := range s.DNS {
		bad = bad || !assigned(netip.PrefixFrom(a, 128))
	}
	if bad {
		return errors.New("kept DHCPv6 lease: it is none")
	}
	return nil
}

// maxDUID is the length of a DUID, RFC 8415, section 11.1, with its type.
const maxDUID = 130

// checkPrefix tells why a prefix cannot be delegated.
func checkPrefix(p netip.Prefix) error {
	switch {
	case !assigned(p) || p != p.Masked():
		return errors.New("hosts have no such addresses")
	case p.Bits() < minBits:
		return errors.New("it is larger than what one network is given")
	case p.Bits() > maxBits:
		return errors.New("no subnet of 64 bits is in it")
	}
	return nil
}

// assigned tells whether hosts are given such addresses at all: global unicast ones (RFC 4291) and unique local ones
// (RFC 4193).
func assigned(p netip.Prefix) bool {
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
		return false
	}
	return slices.ContainsFunc(everything, func(o netip.Prefix) bool {
		return p.Bits() >= o.Bits() && o.Contains(p.Addr())
	})
}

var everything = []netip.Prefix{netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7")}

// offer is what a message of a server says, judged.
type offer struct {
	server      []byte
	preference  uint8
	renew       time.Duration // after now; 0: not said
	rebind      time.Duration
	prefixes    []lifetimes
	addresses   []lifetimes // prefixes of 128 bits
	dns         []netip.Addr
	search      string
	noBinding   bool // for something we hold
	notOnLink   bool
	failed      string // why the whole is of no use
	complaints  []string
	maxInterval time.Duration // SOL_MAX_RT; 0: not said
}

// lifetimes are relative; a valid one of 0 takes back.
type lifetimes struct {
	prefix           netip.Prefix
	valid, preferred time.Duration
}

// useful tells whether there is anything of what is asked for in an offer.
func (o *offer) useful(cfg *Config) bool {
	lives := func(l lifetimes) bool { return l.valid > 0 }
	return cfg.Prefix && slices.ContainsFunc(o.prefixes, lives) || cfg.Address && slices.ContainsFunc(o.addresses, lives)
}

func (o *offer) complain(format string, args ...any) {
	if len(o.complaints) < maxPrefixes {
		o.complaints = append(o.complaints, fmt.Sprintf(format, args...))
	}
}

// judge reads what a server says about what we ask for. inside are subnets no prefix may touch.
func judge(m *dhcpv6.Message, inside []netip.Prefix) *offer {
	o := &offer{preference: m.Options.Preference()}
	if id := m.Options.ServerID(); id != nil {
		o.server = id.ToBytes()
	}
	if s := m.Options.Status(); s != nil {
		o.status(uint16(s.StatusCode), s.StatusMessage)
	}
	for _, ia := range m.Options.IAPD() {
		if ia.IaId != iaid {
			continue
		}
		if s := ia.Options.Status(); s != nil {
			o.ofOne(uint16(s.StatusCode), s.StatusMessage)
		}
		if ia.T1 > ia.T2 && ia.T2 > 0 {
			continue // RFC 8415, section 21.21
		}
		o.times(ia.T1, ia.T2)
		for _, p := range ia.Options.Prefixes() {
			if p.Prefix == nil || len(o.prefixes) == maxPrefixes {
				continue
			}
			o.take(&o.prefixes, p.Prefix.IP, onesOf(p.Prefix.Mask), p.ValidLifetime, p.PreferredLifetime, inside)
		}
	}
	for _, ia := range m.Options.IANA() {
		if ia.IaId != iaid {
			continue
		}
		if s := ia.Options.Status(); s != nil {
			o.ofOne(uint16(s.StatusCode), s.StatusMessage)
		}
		if ia.T1 > ia.T2 && ia.T2 > 0 {
			continue
		}
		o.times(ia.T1, ia.T2)
		for _, a := range ia.Options.Addresses() {
			if len(o.addresses) < maxAddresses {
				o.take(&o.addresses, a.IPv6Addr, 128, a.ValidLifetime, a.PreferredLifetime, inside)
			}
		}
	}
	o.naming(m)
	if b := m.GetOneOption(dhcpv6.OptionSolMaxRT); b != nil {
		if raw := b.ToBytes(); len(raw) == 4 {
			seconds := uint32(raw[0])<<24 | uint32(raw[1])<<16 | uint32(raw[2])<<8 | uint32(raw[3])
			if seconds >= 60 && seconds <= 86400 { // RFC 8415, section 21.24
				o.maxInterval = time.Duration(seconds) * time.Second
			}
		}
	}
	return o
}

func onesOf(mask []byte) int {
	n := 0
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			n++
		}
	}
	return n
}

// Status codes, RFC 8415, section 21.13.
const (
	statusSuccess   = 0
	statusNoBinding = 3
	statusNotOnLink = 4
)

func (o *offer) status(code uint16, text string) {
	switch code {
	case statusSuccess:
	case statusNotOnLink:
		o.notOnLink = true
	default:
		o.failed = fmt.Sprintf("it says status %d, %.80q", code, text)
	}
}

func (o *offer) ofOne(code uint16, text string) {
	switch code {
	case statusSuccess:
	case statusNoBinding:
		o.noBinding = true
	case statusNotOnLink:
		o.notOnLink = true
	default:
		o.complain("it says status %d, %.80q", code, text)
	}
}

// times keeps the shortest of what several identity associations say.
func (o *offer) times(t1, t2 time.Duration) {
	shorter := func(into *time.Duration, t time.Duration) {
		if t > 0 && (*into == 0 || t < *into) {
			*into = t
		}
	}
	shorter(&o.renew, t1)
	shorter(&o.rebind, t2)
}

func (o *offer) take(into *[]lifetimes, ip []byte, bits int, valid, preferred time.Duration, inside []netip.Prefix) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return
	}
	p := netip.PrefixFrom(a, bits)
	what := "prefix"
	err := error(nil)
	if bits == 128 {
		what = "address"
		if !assigned(p) {
			err = errors.New("hosts have no such addresses")
		}
	} else {
		p = p.Masked()
		err = checkPrefix(p)
	}
	valid, preferred = min(valid, maxLife), min(preferred, maxLife)
	switch {
	case err != nil:
	case preferred > valid:
		err = errors.New("it is preferred for longer than it is valid")
	case valid > 0 && valid < minLife:
		err = fmt.Errorf("it is valid for %s, less than %s", valid, minLife)
	default:
		for _, i := range inside {
			if i.Overlaps(p) {
				err = fmt.Errorf("it overlaps %s of another link", i)
			}
		}
	}
	if err != nil {
		o.complain("%s %s is not taken: %v", what, p, err)
		return
	}
	*into = append(*into, lifetimes{p, valid, preferred})
}

func (o *offer) naming(m *dhcpv6.Message) {
	for _, ip := range m.Options.DNS() {
		if a, ok := netip.AddrFromSlice(ip); ok && assigned(netip.PrefixFrom(a, 128)) && len(o.dns) < maxDNS {
			o.dns = append(o.dns, a)
		}
	}
	if l := m.Options.DomainSearchList(); l != nil {
		for _, name := range l.Labels {
			if name = dhcp4.Domain([]byte(strings.TrimSuffix(name, "."))); name != "" {
				o.search = name
				break
			}
		}
	}
}

// merge is a state after an answer to what was asked about it. What was replaced is deprecated; what the answer does
// not mention, and gives nothing in place of, stays as it was (RFC 8415, section 18.2.10.1).
func (s State) merge(now time.Duration, o *offer) State {
	out := State{MAC: s.MAC, Server: o.server, DNS: o.dns, Search: o.search}
	for _, p := range o.prefixes {
		if p.valid > 0 {
			out.Prefixes = append(out.Prefixes, Prefix{p.prefix, now + p.valid, now + p.preferred})
		}
	}
	fresh := len(out.Prefixes) > 0
	for _, old := range s.Prefixes {
		said := slices.ContainsFunc(o.prefixes, func(l lifetimes) bool { return l.prefix == old.Prefix })
		if said || old.Valid <= now || len(out.Prefixes) == maxPrefixes {
			continue
		}
		if fresh {
			old.Preferred, old.Valid = min(old.Preferred, now), min(old.Valid, now+replaced)
		}
		out.Prefixes = append(out.Prefixes, old)
	}
	for _, a := range o.addresses {
		if a.valid > 0 {
			out.Addresses = append(out.Addresses, Address{a.prefix.Addr(), now + a.valid, now + a.preferred})
		}
	}
	if len(o.addresses) == 0 {
		out.Addresses = slices.Clone(s.Addresses)
	}
	out.schedule(now, o)
	return out
}

// schedule sets when to extend: as the server says, else at a half and four fifths of the shortest preferred lifetime
// (RFC 8415, section 21.21).
func (s *State) schedule(now time.Duration, o *offer) {
	shortest := maxLife
	for _, l := range slices.Concat(o.prefixes, o.addresses) {
		if l.preferred > 0 {
			shortest = min(shortest, l.preferred)
		}
	}
	renew, rebind := o.renew, o.rebind
	if renew == 0 || renew > shortest {
		renew = shortest / 2
	}
	if rebind == 0 || rebind < renew || rebind > shortest {
		rebind = max(shortest*4/5, renew)
	}
	s.Renew, s.Rebind = now+max(renew, minLife/3), now+max(rebind, minLife/2)
}

// Current is the state without what has ended.
func (s State) Current(now time.Duration) State {
	s.Prefixes = slices.DeleteFunc(slices.Clone(s.Prefixes), func(p Prefix) bool { return p.Valid <= now })
	s.Addresses = slices.DeleteFunc(slices.Clone(s.Addresses), func(a Address) bool { return a.Valid <= now })
	return s
}

// holds tells whether there is anything in it that a server may extend.
func (s State) holds(now time.Duration) bool {
	return slices.ContainsFunc(s.Prefixes, func(p Prefix) bool { return p.Valid > now && p.Preferred > now }) ||
		slices.ContainsFunc(s.Addresses, func(a Address) bool { return a.Valid > now })
}

// next is when something of it ends or is deprecated; 0: never.
func (s State) next(now time.Duration) (at time.Duration) {
	look := func(t time.Duration) {
		if t > now && (at == 0 || t < at) {
			at = t
		}
	}
	for _, p := range s.Prefixes {
		look(p.Valid)
		look(p.Preferred)
	}
	for _, a := range s.Addresses {
		look(a.Valid)
		look(a.Preferred)
	}
	return at
}
