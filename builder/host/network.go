package host

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// defaultMTU is that of Ethernet (RFC 894).
const defaultMTU = 1500

// ifupdown is a file for interfaces(5), with the words of Debian's bridge-utils (bridge-utils-interfaces(5)) and
// ifenslave.
func ifupdown(h Host) []byte {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	mtu := cmp.Or(h.MTU, defaultMTU)
	line("# Written by rempart. For machines with ifupdown, bridge-utils and ifenslave; those with systemd-networkd take")
	line("# the files below etc/systemd/network instead.")
	for _, bond := range h.Bonds {
		line("\n# LACP, told fast of a dead cable; each flow keeps to one cable.\nauto %s", bond.Name)
		line("iface %s inet manual", bond.Name)
		line("\tbond-slaves %s", strings.Join(bond.Members, " "))
		line("\tbond-mode 802.3ad\n\tbond-miimon 100\n\tbond-lacp-rate fast\n\tbond-xmit-hash-policy layer2+3\n\tmtu %d", mtu)
	}
	for _, bridge := range h.Bridges {
		why := "for guests alone: the host neither answers nor listens here"
		if len(bridge.Addresses) > 0 {
			why = "for administrators too"
		}
		line("\n# %s: %s.\nauto %s", bridge.Name, why, bridge.Name)
		stanzas := 0
		for _, family := range []string{"inet", "inet6"} {
			for _, a := range bridge.Addresses {
				if (family == "inet") != a.Addr().Is4() {
					continue
				}
				line("iface %s %s static\n\taddress %v", bridge.Name, family, a)
				if family == "inet6" {
					line(withoutAdverts)
					if len(bridge.Ports) == 0 {
						line("\tdad-attempts 0") // nobody is there yet: it would be waited for in vain (interfaces(5))
					}
				}
				if g := bridge.Gateway; g.IsValid() && a.Masked().Contains(g) {
					line("\tgateway %v", g)
				}
				if stanzas++; stanzas == 1 {
					bridgeOptions(line, bridge, mtu)
				}
			}
		}
		if stanzas == 0 {
			line("iface %s inet manual", bridge.Name)
			bridgeOptions(line, bridge, mtu)
			line("\tup ip link set dev $IFACE arp off")
		}
		if !slices.ContainsFunc(bridge.Addresses, func(a netip.Prefix) bool { return a.Addr().Is6() }) {
			line(withoutIPv6)
		}
	}
	if p := h.Emergency; p != (Port{}) {
		family, closed := "inet", withoutIPv6
		if p.Address.Addr().Is6() {
			family, closed = "inet6", withoutAdverts
		}
		line("\n# The way in when no guest is.\nauto %s\niface %s %s static\n\taddress %v", p.NIC, p.NIC, family, p.Address)
		line(closed)
	}
	return b.Bytes()
}

// What keeps addresses and routes from coming by themselves. An interface is up before its commands are run
// (interfaces(5)) and has an address by then, which addrgenmode leaves alone, as it does what routers advertise.
const (
	withoutIPv6 = "\tup [ ! -e /proc/sys/net/ipv6/conf/$IFACE/disable_ipv6 ] || " +
		"echo 1 >/proc/sys/net/ipv6/conf/$IFACE/disable_ipv6"
	withoutAdverts = "\taccept_ra 0\n\tautoconf 0"
)

func bridgeOptions(line func(string, ...any), bridge Bridge, mtu int) {
	ports := "none"
	if len(bridge.Ports) > 0 {
		ports = strings.Join(bridge.Ports, " ")
	}
	// Without STP there is no loop to wait for, and a guest that starts must not wait either.
	line("\tbridge_ports %s\n\tbridge_stp off\n\tbridge_fd 0\n\tbridge_maxwait 0\n\tmtu %d", ports, mtu)
}

// networkd are files for systemd.netdev(5) and systemd.network(5).
func networkd(h Host) []File {
	var files []File
	mtu := cmp.Or(h.MTU, defaultMTU)
	add := func(name, format string, args ...any) {
		files = append(files, File{Path: "etc/systemd/network/" + name, Content: fmt.Appendf(nil, "# Written by rempart.\n"+
			format, args...)})
	}
	for _, bond := range h.Bonds {
		add("60-rempart-"+bond.Name+".netdev", "[NetDev]\nName=%s\nKind=bond\nMTUBytes=%d\n\n[Bond]\nMode=802.3ad\n"+
			"MIIMonitorSec=100ms\nLACPTransmitRate=fast\nTransmitHashPolicy=layer2+3\n", bond.Name, mtu)
		for _, m := range bond.Members {
			add("62-rempart-"+m+".network", "[Match]\nName=%s\n\n[Link]\nMTUBytes=%d\n%s\n[Network]\nBond=%s\n%s", m, mtu,
				unawaited, bond.Name, quiet)
		}
	}
	for _, bridge := range h.Bridges {
		add("60-rempart-"+bridge.Name+".netdev", "[NetDev]\nName=%s\nKind=bridge\n\n"+
			"# Without STP there is no loop to wait for.\n[Bridge]\nSTP=no\nForwardDelaySec=0\n", bridge.Name)
		for _, p := range bridge.Ports {
			add("62-rempart-"+p+".network", "[Match]\nName=%s\n\n[Link]\nMTUBytes=%d\n%s\n[Network]\nBridge=%s\n%s", p, mtu,
				unawaited, bridge.Name, quiet)
		}
		network := "[Match]\nName=" + bridge.Name + "\n\n[Link]\n"
		if len(bridge.Addresses) == 0 {
			network += "# The host neither answers nor listens here.\nARP=no\n"
		}
		// Its MTU is set once it is there: one that it is made with it would lose with each guest that goes
		// (br_mtu_auto_adjust of net/bridge/br_if.c), and networkd does not set again what is so already. Its
		// state is "no-carrier" or more once it is up (networkctl(1)).
		network += fmt.Sprintf("MTUBytes=%d\n# Guests wait until it is there, and come later.\n"+
			"RequiredForOnline=no-carrier\n\n[Network]\nConfigureWithoutCarrier=yes\n%s", mtu, quiet)
		unchecked := ""
		for _, a := range bridge.Addresses {
			if a.Addr().Is6() && len(bridge.Ports) == 0 {
				unchecked += fmt.Sprintf("\n# Checked once a guest is there, guests would wait for themselves.\n[Address]\n"+
					"Address=%v\nDuplicateAddressDetection=none\n", a)
				continue
			}
			network += fmt.Sprintf("Address=%v\n", a)
		}
		if bridge.Gateway.IsValid() {
			network += fmt.Sprintf("Gateway=%v\n", bridge.Gateway)
		}
		add("64-rempart-"+bridge.Name+".network", "%s", network+unchecked)
	}
	if p := h.Emergency; p != (Port{}) {
		add("64-rempart-"+p.NIC+".network", "[Match]\nName=%s\n\n[Link]\n%s\n[Network]\n%sAddress=%v\n", p.NIC, unawaited,
			quiet, p.Address)
	}
	return files
}

// unawaited keeps guests from waiting for a cable: where one is missing, or the switch at its end starts later than the
// host, the firewall starts all the same. What they need is there once the bridges are. An exception is an IPv6 address
// of a bridge with ports: until a cable lets the kernel ask whether it is another's, guests wait, two minutes at most
// (systemd-networkd-wait-online.service(8), --timeout=).
const unawaited = "RequiredForOnline=no\n"

// quiet keeps addresses from coming by themselves, and has nobody listen to what a neighbour says of itself, which
// networkd does unless told otherwise (systemd.network(5), LLDP=).
const quiet = "LinkLocalAddressing=no\nIPv6AcceptRA=no\nLLDP=no\n"

// admins are the interfaces by which the host is administered.
func (h Host) admins() []string {
	var names []string
	for _, b := range h.Bridges {
		if len(b.Addresses) > 0 {
			names = append(names, b.Name)
		}
	}
	if h.Emergency != (Port{}) {
		names = append(names, h.Emergency.NIC)
	}
	return names
}

// filter is a file for nft(8): the host's own table, beside whatever others there are.
func filter(h Host) []byte {
	var quoted []string
	for _, name := range h.admins() {
		quoted = append(quoted, `"`+name+`"`)
	}
	var v6 bool
	for _, b := range h.Bridges {
		for _, a := range b.Addresses {
			v6 = v6 || a.Addr().Is6()
		}
	}
	v6 = v6 || h.Emergency.Address.IsValid() && h.Emergency.Address.Addr().Is6()
	neighbours := ""
	if v6 {
		neighbours = "\t\t# Without neighbour discovery nobody finds the host (RFC 4890, section 4.4).\n" +
			"\t\ticmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, echo-request } accept\n"
	}
	return fmt.Appendf(nil, `# Written by rempart: what the host itself takes. Include it in /etc/nftables.conf.
# What passes between guests is the firewall's matter and is on bridges, which this does not see.
table inet rempart_host
delete table inet rempart_host
table inet rempart_host {
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
		ct state established,related accept
		iifname != { %s } drop
%s		icmp type echo-request accept
		tcp dport 22 accept
		udp dport 123 accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
`, strings.Join(quoted, ", "), neighbours)
}

// ParsePrefix reads an address with its prefix length.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q: want an address with prefix length, such as 192.0.2.7/24", s)
	}
	return p, nil
}
