package profiles

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Bounds of dhcp. MaxLeases is how many addresses the pools and hosts of a guest have together: what its server keeps.
const (
	MaxLeases      = 1 << 16
	EndlessLease   = 1<<32 - 1 // of DHCPSubnet.Lease: RFC 2131 section 3.3
	minDHCPLease   = 60
	maxDHCPLease   = 10 * 365 * 24 * 60 * 60
	maxDHCPOptions = 64
	maxOptionCode  = 254
	maxOptionBytes = 1024
	maxBootFile    = 127 // of file, which ends with a zero (RFC 2131 section 2)
	maxServerName  = 63  // of sname
	maxIdentifier  = 255
)

// reservedOptions are what the server says by itself, and what only clients and relay agents say.
var reservedOptions = []uint8{1, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 61, 77, 80, 81, 82, 90, 91, 92, 93, 94, 97,
	118, 145, 151, 152, 153, 154, 155, 156, 157, 220, 221}

// dhcp checks the DHCP server of each link.
func (v *validator) dhcp() {
	if len(v.p.DHCP) > maxLinks {
		v.reject(v.p.DHCP[maxLinks].At, "", "dhcp: more than %d links", maxLinks)
		return
	}
	seen := map[string]bool{}
	var subnets []netip.Prefix
	leases := uint64(0)
	for i := range v.p.DHCP {
		d := &v.p.DHCP[i]
		l := v.link(d.Link)
		if !v.servesDHCP(d, l, seen) {
			continue
		}
		for k := range d.Subnets {
			s := &d.Subnets[k]
			v.dhcpSubnet(d, l, s)
			for _, other := range subnets {
				if other.Overlaps(s.Prefix) {
					v.reject(s.At, "give each subnet once", "dhcp.%s: %s overlaps %s, which addresses are given out of too",
						clip(d.Link), s.Prefix, other)
				}
			}
			subnets = append(subnets, s.Prefix)
		}
		leases += d.leases()
		if leases > MaxLeases {
			v.reject(d.At, "make the pools smaller", "dhcp.%s: with this link %d addresses are given out, at most %d can be",
				clip(d.Link), leases, MaxLeases)
		}
		v.dhcpHosts(d)
		v.dhcpClasses(d)
	}
}

// servesDHCP checks that a link can have a server.
func (v *validator) servesDHCP(d *DHCP, l *Link, seen map[string]bool) bool {
	twice := seen[d.Link]
	seen[d.Link] = true
	switch {
	case l == nil:
		v.reject(d.At, suggest(d.Link, v.linkNames()), "dhcp: unknown link %s", quote(d.Link))
	case twice:
		v.reject(d.At, "remove one", "dhcp: link %s comes twice", clip(d.Link))
	case v.places.spoilt("links.%s.address", d.Link):
	case l.DHCP:
		v.reject(d.At, "name a link whose address is written", "dhcp.%s: the link itself is a DHCP client", clip(d.Link))
	case l.WireGuard != nil || l.Dummy || l.NoARP:
		v.reject(d.At, "name a link that hosts are on", "dhcp.%s: nobody can ask for an address there", clip(d.Link))
	case !slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }):
		v.reject(d.At, "give the link an address such as 10.0.0.1/24", "dhcp.%s: the link has no IPv4 address", clip(d.Link))
	default:
		return true
	}
	return false
}

// onAnother is a link beside the one named that has an address of its own in a subnet; empty: none has.
func (v *validator) onAnother(link string, subnet netip.Prefix) string {
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if l.Name != link && slices.ContainsFunc(l.Addresses, func(own netip.Prefix) bool {
			return own.Masked().Overlaps(subnet)
		}) {
			return l.Name
		}
	}
	return ""
}

// dhcpSubnet checks one subnet of a link.
func (v *validator) dhcpSubnet(d *DHCP, l *Link, s *DHCPSubnet) {
	name := "dhcp." + clip(d.Link)
	p := s.Prefix
	switch {
	case !p.IsValid() || !p.Addr().Is4() || p.Masked() != p || p.Bits() > 30:
		v.reject(s.At, "", "%s: %s is no IPv4 subnet with hosts", name, p)
		return
	case s.Server.IsValid() && !slices.Contains(l.Addresses, netip.PrefixFrom(s.Server, p.Bits())):
		v.reject(s.At, "", "%s: %s is no address of the link in %s", name, s.Server, p)
	case s.Server.IsValid() && len(s.Relays) > 0:
		v.reject(s.At, "", "%s: %s is a subnet of the link, not one behind relay agents", name, p)
	case !s.Server.IsValid() && len(s.Relays) == 0:
		v.reject(s.At, "add from: ADDRESS", "%s: %s has no relay agent", name, p)
	case !s.Server.IsValid() && !l.reaches(p):
		v.reject(s.At, "add routes: {to: "+p.String()+", via: ADDRESS of the relay agent} to the link",
			"%s: no route of the link leads to %s, so answers cannot", name, p)
	}
	if other := v.onAnother(l.Name, p); !s.Server.IsValid() && other != "" {
		v.reject(s.At, "", "%s: %s is not behind relay agents: link %s has an address in it", name, p, clip(other))
	}
	for _, relay := range s.Relays {
		if !relay.IsValid() || !relay.Addr().Is4() || !l.reaches(relay) {
			v.reject(s.At, "", "%s: a relay agent at %s cannot send by this link", name, relay)
		}
	}
	if s.Lease < minDHCPLease || s.Lease > maxDHCPLease && s.Lease != EndlessLease {
		v.reject(v.places.find(s.At, "dhcp.%s.lease", d.Link), "write 12h, for example",
			"%s: leases of %d s, expected 1m to 10 years, or forever", name, s.Lease)
	}
	if !s.Pools.Ordered() {
		v.reject(s.At, "", "%s: the pools are not in order", name)
		return
	}
	for _, r := range s.Pools {
		at := v.places.find(s.At, "dhcp.%s.pool", d.Link)
		text := r.First.String() + "-" + r.Last.String()
		if !p.Contains(r.First) || !p.Contains(r.Last) {
			v.reject(at, "", "%s.pool: %s is not all in %s", name, text, p)
			continue
		}
		if r.First == p.Addr() {
			v.reject(at, "leave it out", "%s.pool: %s has the network's own address %s", name, text, r.First)
		}
		if r.Last == lastAddress(p) {
			v.reject(at, "leave it out", "%s.pool: %s has the broadcast address %s", name, text, r.Last)
		}
		for _, own := range l.Addresses {
			if a := own.Addr(); a.Is4() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 {
				v.reject(at, "add exclude: "+a.String(), "%s.pool: %s has the guest's own address %s", name, text, a)
			}
		}
	}
	v.dhcpSettings(name, s.DHCPSettings, s.At)
}

func (v *validator) dhcpSettings(name string, s DHCPSettings, at Pos) {
	last := 0
	for _, o := range s.Options {
		if int(o.Code) <= last || o.Code > maxOptionCode || slices.Contains(reservedOptions, o.Code) {
			v.reject(at, "", "%s: option %d is out of order, or not for a profile to say", name, o.Code)
		}
		last = int(o.Code)
		if len(o.Value) > maxOptionBytes || o.Drop == (len(o.Value) > 0) {
			v.reject(at, "", "%s: option %d has a value of %d bytes", name, o.Code, len(o.Value))
		}
	}
	if s.NextServer.IsValid() && !s.NextServer.Is4() {
		v.reject(at, "", "%s: next_server %s is not IPv4", name, s.NextServer)
	}
	plain := func(text string, most int) bool {
		return len(text) <= most && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
	}
	if !plain(s.BootFile, maxBootFile) {
		v.reject(at, "", "%s: boot_file: expected at most %d plain characters", name, maxBootFile)
	}
	if !plain(s.ServerName, maxServerName) {
		v.reject(at, "", "%s: server_name: expected at most %d plain characters", name, maxServerName)
	}
}

// dhcpHosts checks the clients a profile names: none may be taken for another, nor have its address.
func (v *validator) dhcpHosts(d *DHCP) {
	known, addresses := map[string]Pos{}, map[netip.Addr]Pos{}
	twice := func(h *DHCPHost, what, key string) {
		if first, ok := known[what+key]; ok {
			v.reject(h.At, "remove one", "dhcp.%s.hosts: %s %s comes twice, first at %s", clip(d.Link), what, clip(key), first)
			return
		}
		known[what+key] = h.At
	}
	if len(d.Hosts) > maxHosts {
		v.reject(d.Hosts[maxHosts].At, "", "dhcp.%s.hosts: more than %d", clip(d.Link), maxHosts)
		return
	}
	for i := range d.Hosts {
		h := &d.Hosts[i]
		name := "dhcp." + clip(d.Link) + ".hosts." + clip(h.Name)
		if problem, hint := checkLabel(h.Name); problem != "" {
			v.reject(h.At, hint, "%s: %s", name, problem)
		}
		twice(h, "name", h.Name)
		if len(h.MACs)+len(h.ClientIDs) == 0 {
			v.reject(h.At, "add mac: or client_id:", "%s: nothing says which client it is", name)
		}
		for _, m := range h.MACs {
			if mac, err := net.ParseMAC(m); err != nil || len(mac) != macBytes || mac.String() != m {
				v.reject(h.At, "", "%s: %s is no hardware address", name, quote(m))
			}
			twice(h, "hardware address", m)
		}
		for _, id := range h.ClientIDs {
			b, err := hex.DecodeString(id)
			if err != nil || len(b) < 2 || len(b) > maxIdentifier || hex.EncodeToString(b) != id {
				v.reject(h.At, "", "%s: client identifier %s: expected 2 to %d bytes", name, clip(id), maxIdentifier)
			}
			twice(h, "client identifier", id)
		}
		if h.Lease != 0 && (h.Lease < minDHCPLease || h.Lease > maxDHCPLease && h.Lease != EndlessLease) {
			v.reject(h.At, "", "%s: a lease of %d s, expected 1m to 10 years, or forever", name, h.Lease)
		}
		v.dhcpSettings(name, h.DHCPSettings, h.At)
		if !h.Address.IsValid() {
			continue
		}
		in := slices.IndexFunc(d.Subnets, func(s DHCPSubnet) bool { return s.Prefix.Contains(h.Address) })
		switch first, taken := addresses[h.Address]; {
		case taken:
			v.reject(h.At, "give each its own", "%s: the address %s comes twice, first at %s", name, h.Address, first)
		case in < 0:
			v.reject(h.At, "", "%s: the address %s is in no subnet that is served on link %s", name, h.Address, clip(d.Link))
		case d.Subnets[in].Prefix.Addr() == h.Address || lastAddress(d.Subnets[in].Prefix) == h.Address:
			v.reject(h.At, "", "%s: the address %s stands for the whole subnet %s", name, h.Address, d.Subnets[in].Prefix)
		case slices.ContainsFunc(v.link(d.Link).Addresses, func(p netip.Prefix) bool { return p.Addr() == h.Address }):
			v.reject(h.At, "", "%s: the address %s is the guest's own", name, h.Address)
		}
		addresses[h.Address] = h.At
	}
}

func (v *validator) dhcpClasses(d *DHCP) {
	seen := map[string]bool{}
	for i := range d.Classes {
		k := &d.Classes[i]
		name := "dhcp." + clip(d.Link) + ".classes." + clip(k.Name)
		if k.Vendor == "" && k.User == "" && k.Hostname == "" && k.MAC == "" && k.Arch == nil {
			v.reject(k.At, "add vendor:, user:, hostname:, mac: or arch:", "%s: nothing says who belongs to it", name)
		}
		if seen[k.Name] || k.Name == "" || len(k.Name) > maxIdentifier || len(k.Vendor) > maxIdentifier ||
			len(k.User) > maxIdentifier || len(k.Hostname) > maxIdentifier {
			v.reject(k.At, "", "%s: the name comes twice, or something is too long", name)
		}
		seen[k.Name] = true
		if b, err := hex.DecodeString(strings.ReplaceAll(k.MAC, ":", "")); err != nil || len(b) > macBytes ||
			k.MAC != "" && k.MAC != net.HardwareAddr(b).String() {
			v.reject(k.At, `write "52:54:00"`, "%s: %s is not how a hardware address begins", name, quote(k.MAC))
		}
		if k.Arch != nil && (*k.Arch < 0 || *k.Arch > 1<<16-1) {
			v.reject(k.At, "", "%s: arch %d, expected 0 to 65535", name, *k.Arch)
		}
		v.dhcpSettings(name, k.DHCPSettings, k.At)
	}
}
