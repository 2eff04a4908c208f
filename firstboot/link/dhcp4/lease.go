package dhcp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Lease is what a server gave, after everything in it that could harm the guest was refused or bounded. Times are on
// CLOCK_BOOTTIME, which goes on while the guest sleeps.
type Lease struct {
	Address  netip.Prefix  `json:"address"`
	Server   netip.Addr    `json:"server"`
	MAC      string        `json:"mac"` // whose it is, lower case with colons: another NIC must not use it
	Routes   []Route       `json:"routes,omitempty"`
	DNS      []netip.Addr  `json:"dns,omitempty"`
	Domain   string        `json:"domain,omitempty"` // option 15; empty unless a clean DNS name
	MTU      int           `json:"mtu,omitempty"`    // bytes; 0: the server said nothing sensible
	Obtained time.Duration `json:"obtained"`         // when the request for it was sent
	Renew    time.Duration `json:"renew"`            // T1
	Rebind   time.Duration `json:"rebind"`           // T2
	Expires  time.Duration `json:"expires"`
	Notes    []string      `json:"-"` // what was left out of the answer and why
}

// Route is a route a server gave, with option 3 or 121.
type Route struct {
	Dst     netip.Prefix `json:"dst"`
	Gateway netip.Addr   `json:"gateway,omitzero"` // zero: directly on the link
}

// Check reports whether a lease that was kept in a file can still be one: IPv4 and not longer than any lease.
func (l Lease) Check(now time.Duration) error {
	switch {
	case !l.Address.IsValid() || !l.Address.Addr().Is4() || !unicast(l.Address.Addr()):
		return fmt.Errorf("kept lease: address %s", l.Address)
	case !l.Server.Is4(), len(l.Routes) > maxRoutes, len(l.DNS) > maxDNS:
		return fmt.Errorf("kept lease: server %s, %d routes, %d name servers", l.Server, len(l.Routes), len(l.DNS))
	case l.Expires <= now, l.Expires > now+maxLease, l.Obtained > now, l.Renew > l.Rebind, l.Rebind > l.Expires:
		return errors.New("kept lease: it has ended, or its times make no sense")
	}
	return nil
}

// Bounds on what a server may say.
const (
	// DefaultMinLease is the shortest lease taken at its word. A shorter one is held this long all the same: a server
	// that gives leases of a second would keep the guest renewing and its routes flapping.
	DefaultMinLease = 20 * time.Second
	// maxLease bounds long and endless (0xffffffff) leases: the address is asked for again after at most half of it.
	maxLease  = 30 * 24 * time.Hour
	maxRoutes = 32
	maxDNS    = 3 // resolv.conf(5): MAXNS
	minMTU    = 576
	maxMTU    = 9216
	minBits   = 8 // a subnet larger than a class A is nonsense, and would draw in half the Internet
)

// ErrRefused is in the chain of every error about an answer that is not taken.
var ErrRefused = errors.New("refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// parseLease reads an offer or acknowledgement. inside are the subnets of the guest's other links, which no answer
// may touch; sent is when the request was sent.
func parseLease(m *dhcpv4.DHCPv4, inside []netip.Prefix, minLease, sent time.Duration) (Lease, error) {
	var l Lease
	var err error
	if l.Server, err = serverID(m); err != nil {
		return l, err
	}
	if l.Address, err = leasedAddress(m); err != nil {
		return l, err
	}
	for _, p := range inside {
		if p.Overlaps(l.Address) {
			return l, refuse("address %s overlaps %s of another link; give that link another subnet", l.Address, p)
		}
	}
	if err := l.times(m, minLease, sent); err != nil {
		return l, err
	}
	l.routes(m, inside)
	l.servers(m)
	l.Domain = Domain(m.Options.Get(dhcpv4.OptionDomainName))
	if b := m.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if mtu := int(binary.BigEndian.Uint16(b)); mtu >= minMTU && mtu <= maxMTU {
			l.MTU = mtu
		} else {
			l.note("MTU %d is not between %d and %d", mtu, minMTU, maxMTU)
		}
	}
	return l, nil
}

func (l *Lease) note(format string, args ...any) {
	l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
}

func serverID(m *dhcpv4.DHCPv4) (netip.Addr, error) {
	b := m.Options.Get(dhcpv4.OptionServerIdentifier)
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Is4() || !unicast(a) {
		return netip.Addr{}, refuse("server identifier %x is no unicast address", b)
	}
	return a, nil
}

func leasedAddress(m *dhcpv4.DHCPv4) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	if !ok || !unicast(a) || a.IsLinkLocalUnicast() {
		return netip.Prefix{}, refuse("address %v cannot be a host's", m.YourIPAddr)
	}
	b := m.Options.Get(dhcpv4.OptionSubnetMask)
	if len(b) == 0 {
		// Without a mask the class would be a guess that may draw in too much: the address alone, and the gateway
		// on-link, work everywhere.
		return netip.PrefixFrom(a, 32), nil
	}
	if len(b) != 4 {
		return netip.Prefix{}, refuse("subnet mask of %d bytes", len(b))
	}
	mask := binary.BigEndian.Uint32(b)
	bits := 0
	for mask<<bits != 0 {
		bits++
	}
	if mask != ^uint32(0)<<(32-bits) || bits < minBits {
		return netip.Prefix{}, refuse("subnet mask %d.%d.%d.%d", b[0], b[1], b[2], b[3])
	}
	p := netip.PrefixFrom(a, bits)
	host := binary.BigEndian.Uint32(a.AsSlice()) &^ mask
	if bits < 31 && (host == 0 || host == ^mask) { // RFC 3021: a /31 has neither
		return netip.Prefix{}, refuse("%s is the network or broadcast address of its subnet", p)
	}
	return p, nil
}

// unicast reports whether a can be one host on some network: no 0/8, loopback, multicast, class E or broadcast.
func unicast(a netip.Addr) bool {
	b := a.As4()
	return b[0] != 0 && b[0] != 127 && b[0] < 224
}

// times reads the lease time and T1, T2, whose defaults are a half and seven eighths of it (RFC 2131 section 4.4.5).
func (l *Lease) times(m *dhcpv4.DHCPv4, minLease, sent time.Duration) error {
	length, ok := seconds(m, dhcpv4.OptionIPAddressLeaseTime)
	if !ok {
		return refuse("no lease time")
	}
	if length < minLease {
		l.note("lease of %s is held for %s", length, minLease)
	}
	length = min(max(length, minLease), maxLease)
	t1, ok1 := seconds(m, dhcpv4.OptionRenewTimeValue)
	t2, ok2 := seconds(m, dhcpv4.OptionRebindingTimeValue)
	if !ok1 || !ok2 || t1 < minLease/4 || t1 >= t2 || t2 >= length {
		t1, t2 = length/2, length/8*7
	}
	l.Obtained, l.Renew, l.Rebind, l.Expires = sent, sent+t1, sent+t2, sent+length
	return nil
}

func seconds(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) (time.Duration, bool) {
	b := m.Options.Get(code)
	if len(b) != 4 {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Second, true
}

// routes takes option 121 and, only where that is missing or broken, option 3 (RFC 3442).
func (l *Lease) routes(m *dhcpv4.DHCPv4, inside []netip.Prefix) {
	if b := m.Options.Get(dhcpv4.OptionClasslessStaticRoute); len(b) > 0 {
		list, err := classless(b)
		if err == nil {
			for _, r := range list {
				l.route(r, inside)
			}
			return
		}
		l.note("classless routes: %v", err)
	}
	for b := m.Options.Get(dhcpv4.OptionRouter); len(b) >= 4 && len(l.Routes) == 0; b = b[4:] {
		l.route(Route{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.AddrFrom4([4]byte(b))}, inside)
	}
}

func (l *Lease) route(r Route, inside []netip.Prefix) {
	if err := l.checkRoute(r, inside); err != nil {
		l.note("route %s via %s: %v", r.Dst, r.Gateway, err)
		return
	}
	if r.Gateway.IsUnspecified() {
		r.Gateway = netip.Addr{}
	}
	l.Routes = append(l.Routes, r)
}

func (l *Lease) checkRoute(r Route, inside []netip.Prefix) error {
	switch {
	case len(l.Routes) >= maxRoutes:
		return fmt.Errorf("more than %d routes", maxRoutes)
	case !r.Gateway.IsUnspecified() && !unicast(r.Gateway):
		return errors.New("the gateway is no unicast address")
	case r.Gateway.IsUnspecified() && r.Dst.Bits() == 0:
		return errors.New("a default route needs a gateway")
	case r.Gateway == l.Address.Addr():
		return errors.New("the gateway is the address itself")
	case r.Dst.Bits() > 0 && !unicast(r.Dst.Addr()):
		return errors.New("not a unicast destination")
	case r.Dst == l.Address.Masked():
		return errors.New("the subnet itself")
	case slices.ContainsFunc(l.Routes, func(have Route) bool { return have.Dst == r.Dst }):
		return errors.New("a second route to the same destination")
	}
	for _, p := range inside {
		if p.Contains(r.Gateway) {
			return fmt.Errorf("the gateway is in %s of another link", p)
		}
		if r.Dst.Bits() > 0 && p.Overlaps(r.Dst) {
			return fmt.Errorf("it overlaps %s of another link", p)
		}
	}
	return nil
}

// classless reads option 121 (RFC 3442): width of the destination in bits, its significant bytes, gateway.
func classless(b []byte) ([]Route, error) {
	var out []Route
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 32 || len(b) < 1+n+4 {
			return nil, fmt.Errorf("destination of %d bits in %d bytes", bits, len(b))
		}
		var dst [4]byte
		copy(dst[:], b[1:1+n])
		gateway := netip.AddrFrom4([4]byte(b[1+n:]))
		out = append(out, Route{netip.PrefixFrom(netip.AddrFrom4(dst), bits).Masked(), gateway})
		b = b[1+n+4:]
	}
	return out, nil
}

func (l *Lease) servers(m *dhcpv4.DHCPv4) {
	for b := m.Options.Get(dhcpv4.OptionDomainNameServer); len(b) >= 4; b = b[4:] {
		a := netip.AddrFrom4([4]byte(b))
		switch {
		case !unicast(a):
			l.note("name server %s is no unicast address", a)
		case len(l.DNS) == maxDNS:
			return
		case !slices.Contains(l.DNS, a):
			l.DNS = append(l.DNS, a)
		}
	}
}

// Limits of a domain name and its labels (RFC 1035 section 2.3.4).
const (
	maxDomain = 253
	maxLabel  = 63
)

// Domain is b if it is a plain host-style DNS name, else nothing: it ends up in a file others read.
func Domain(b []byte) string {
	s := strings.ToLower(strings.TrimRight(strings.TrimRight(string(b), "\x00"), "."))
	if len(s) > maxDomain {
		return ""
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return ""
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return ""
			}
		}
	}
	return s
}
