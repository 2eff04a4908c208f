// Package host writes the files that turn a Debian machine into a good host of firewalls: bridges, bonds, names of
// NICs, a packet filter of its own, the hotplug script of virtual NICs. The host does the cabling, the firewall the
// logic: nothing but a bridge for administrators, and a port for emergencies, speaks with the host itself.
//
// It is a pure function: a Host in, files by path out. What it deliberately does not do: write to /etc, or load, start
// and enable anything. Who runs the host looks at the files and installs them.
package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Host is a machine with bridges.
type Host struct {
	NICs    []NIC // names by hardware address; those of others stay as they are
	Bonds   []Bond
	Bridges []Bridge
	// Emergency is a NIC with an address of the host on no bridge: a way in when the firewall is not; its zero value is
	// none.
	Emergency Port
	MTU       int // of everything but the emergency port; 0: 1500
}

// NIC is a name for a NIC.
type NIC struct {
	Name string
	MAC  net.HardwareAddr
}

// Bond joins NICs by LACP. A Linux bridge does not forward LACP, so bonds belong to the host unless the NICs are passed
// through to the guest.
type Bond struct {
	Name    string
	Members []string
}

// Bridge is a network between guests, and with what is plugged into Ports.
type Bridge struct {
	Name  string
	Ports []string // NICs and bonds; none: only guests are on it
	// Addresses are the host's own there; a bridge without any hears nothing of what passes. Those with some are for
	// administrators.
	Addresses []netip.Prefix
	Gateway   netip.Addr // zero: none
}

// Port is a NIC with an address.
type Port struct {
	NIC     string
	Address netip.Prefix
}

// Limits.
const (
	maxInterface = 15    // IFNAMSIZ-1 of <linux/if.h>
	minMTU       = 1280  // of IPv6 (RFC 8200, section 5)
	maxMTU       = 65521 // of a vif: drivers/net/xen-netback/interface.c, ETH_MAX_MTU - VLAN_ETH_HLEN and the like
	maxMembers   = 16    // ours: LACP aggregates have 8
)

// Validate tells everything that is wrong with a host, at once.
func (h Host) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	seen := map[string]string{} // what made each interface
	name := func(what, s string) {
		odd := func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-", c)
		}
		if s == "" || len(s) > maxInterface || strings.ContainsFunc(s, odd) || strings.Trim(s, ".") == "" || s[0] == '-' {
			bad("%s %q: want 1 to %d letters, digits, dots, hyphens and underscores", what, s, maxInterface)
		}
	}
	own := func(what, s string) {
		name(what, s)
		if other, taken := seen[s]; taken {
			bad("%s %s: there is a %s of that name", what, s, other)
		}
		seen[s] = what
	}
	macs := map[string]string{}
	for _, n := range h.NICs {
		own("NIC", n.Name)
		if len(n.MAC) != 6 || n.MAC[0]&1 == 1 {
			bad("NIC %s: %q is no unicast MAC address", n.Name, n.MAC)
		} else if other, taken := macs[n.MAC.String()]; taken {
			bad("NICs %s and %s have the same MAC address %s", other, n.Name, n.MAC)
		}
		macs[n.MAC.String()] = n.Name
	}
	used := map[string]string{} // what each interface is part of
	use := func(by, s string) {
		name("port of "+by, s)
		if other, taken := used[s]; taken {
			bad("%s is part of %s and of %s; want one", s, other, by)
		}
		used[s] = by
	}
	bonds, bridges := map[string]bool{}, map[string]bool{}
	for _, b := range h.Bonds {
		bonds[b.Name] = true
	}
	for _, b := range h.Bridges {
		bridges[b.Name] = true
	}
	// made: a bridge is part of nothing, and a bond of bridges alone.
	made := func(by, s string, bond bool) {
		if bridges[s] {
			bad("%s: %s is a bridge itself", by, s)
		} else if bond && bonds[s] {
			bad("%s: %s is a bond itself", by, s)
		}
	}
	for _, b := range h.Bonds {
		own("bond", b.Name)
		if len(b.Members) < 2 || len(b.Members) > maxMembers {
			bad("bond %s has %d members; want 2 to %d", b.Name, len(b.Members), maxMembers)
		}
		for _, m := range b.Members {
			use("bond "+b.Name, m)
			made("bond "+b.Name, m, true)
		}
	}
	for _, b := range h.Bridges {
		own("bridge", b.Name)
		for _, p := range b.Ports {
			use("bridge "+b.Name, p)
			made("bridge "+b.Name, p, false)
		}
		h.validateAddresses(b, bad)
	}
	if p := h.Emergency; p != (Port{}) {
		use("the emergency port", p.NIC)
		made("the emergency port", p.NIC, true)
		if !usable(p.Address) {
			bad("the emergency port %s: %v is no address with a prefix length", p.NIC, p.Address)
		}
	}
	if h.MTU != 0 && (h.MTU < minMTU || h.MTU > maxMTU) {
		bad("MTU %d; want %d to %d", h.MTU, minMTU, maxMTU)
	}
	if len(h.Bridges) == 0 {
		bad("there is no bridge")
	} else if !slices.ContainsFunc(h.Bridges, func(b Bridge) bool { return len(b.Addresses) > 0 }) &&
		h.Emergency == (Port{}) {
		bad("no bridge has an address and there is no emergency port: nobody could administer the host")
	}
	return errors.Join(errs...)
}

// usable tells whether a host can have that address.
func usable(a netip.Prefix) bool {
	return a.IsValid() && !a.Addr().IsMulticast() && !a.Addr().IsUnspecified() && !a.Addr().Is4In6()
}

func (h Host) validateAddresses(b Bridge, bad func(string, ...any)) {
	for _, a := range b.Addresses {
		if !usable(a) {
			bad("bridge %s: %v is no address with a prefix length", b.Name, a)
		}
	}
	reached := func(a netip.Prefix) bool { return a.Masked().Contains(b.Gateway) && a.Addr() != b.Gateway }
	if b.Gateway.IsValid() && !slices.ContainsFunc(b.Addresses, reached) {
		bad("bridge %s: the gateway %v is in no network of its addresses", b.Name, b.Gateway)
	}
}

// File is one file, by its path from the root.
type File struct {
	Path    string // "etc/sysctl.d/..."
	Mode    uint32
	Content []byte
}

// Files are all files of a host, in the order of their paths. Bridges are written twice, for ifupdown and for
// systemd-networkd: a machine has one of the two.
func Files(h Host) ([]File, error) {
	if err := h.Validate(); err != nil {
		return nil, fmt.Errorf("files of a host: %w", err)
	}
	files := []File{
		{Path: "etc/network/interfaces.d/rempart", Content: ifupdown(h)},
		{Path: "etc/sysctl.d/50-rempart-bridges.conf", Content: []byte(sysctls)},
		{Path: "etc/udev/rules.d/70-rempart.rules", Content: udevRules(h)},
		{Path: "etc/nftables.d/rempart-host.nft", Content: filter(h)},
		{Path: "etc/systemd/system/xendomains.service.d/rempart.conf", Content: []byte(xendomains)},
		{Path: "etc/default/xendomains", Content: []byte(endOfGuests)},
		{Path: "etc/xen/scripts/vif-rempart", Mode: 0o755, Content: []byte(vifScript)},
	}
	files = append(files, networkd(h)...)
	for i := range files {
		if files[i].Mode == 0 {
			files[i].Mode = 0o644
		}
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}
