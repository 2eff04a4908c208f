package link

import (
	"strconv"
	"strings"

	"rempart/profiles"
)

// Sysctl is one switch of the kernel.
type Sysctl struct {
	Path  string // below /proc/sys; anyLink stands for the name a link has at the moment
	Value string
	Why   string
	// Optional: a kernel without this switch has nothing to be switched. A switch that is there must take the value.
	Optional bool
}

// anyLink is the element of Sysctl.Path that stands for the link's name.
const anyLink = "*"

// For is the path for the link called name.
func (s Sysctl) For(name string) string { return strings.Replace(s.Path, anyLink, name, 1) }

// machineSysctls are written before any link is up. Their order matters: writing ip_forward or conf/all/forwarding
// resets the switches of every interface to the defaults of RFC 1122 or RFC 1812 (ip-sysctl: ip_forward), so these
// come first. "default" is what a NIC that arrives later starts with; "all" is what the kernel joins with the link's
// own value by and, or, or maximum (inetdevice.h: IN_DEV_ANDCONF, IN_DEV_ORCONF, IN_DEV_MAXCONF).
func machineSysctls(p *profiles.Profile) []Sysctl {
	v4, v6 := forwards(p)
	return []Sysctl{
		{"net/ipv4/ip_forward", flag(v4), "the guest is a router when it joins several links or zones", false},
		{"net/ipv6/conf/all/forwarding", flag(v6), "as ip_forward, for IPv6", !v6},
		// Nothing leaves a NIC before it is configured: no router solicitation, no MLD report, no address probe.
		{"net/ipv6/conf/default/disable_ipv6", "1", "a NIC is silent until it is configured", true},
		{"net/ipv6/conf/default/accept_ra", "0", "addresses and routes come by this program only", true},
		{"net/ipv6/conf/default/autoconf", "0", "addresses and routes come by this program only", true},
		{"net/ipv6/conf/all/accept_ra", "0", "addresses and routes come by this program only", true},
		{"net/ipv6/conf/all/accept_redirects", "0", "a neighbour must not change our routes", true},
		{"net/ipv6/conf/default/accept_redirects", "0", "a neighbour must not change our routes", true},
		{"net/ipv6/conf/all/accept_source_route", "-1", "a sender must not choose the way through us", true},
		{"net/ipv6/conf/default/accept_source_route", "-1", "a sender must not choose the way through us", true},
		// send_redirects is the or of "all" and the link's own. A one-armed guest sends packets out by the link they
		// came in by; redirects would tell hosts to go round the firewall.
		{"net/ipv4/conf/all/send_redirects", "0", "hosts must not be told to go round the firewall", false},
		{"net/ipv4/conf/default/send_redirects", "0", "hosts must not be told to go round the firewall", false},
		{"net/ipv4/conf/all/accept_redirects", "0", "a neighbour must not change our routes", false},
		{"net/ipv4/conf/default/accept_redirects", "0", "a neighbour must not change our routes", false},
		{"net/ipv4/conf/all/secure_redirects", "0", "not even a gateway may", false},
		{"net/ipv4/conf/default/secure_redirects", "0", "not even a gateway may", false},
		{"net/ipv4/conf/all/accept_source_route", "0", "a sender must not choose the way through us", false},
		{"net/ipv4/conf/default/accept_source_route", "0", "a sender must not choose the way through us", false},
		// The maximum of "all" and the link's own counts: "all" stays 0 so that each link decides.
		{"net/ipv4/conf/all/rp_filter", "0", "each link decides", false},
		{"net/ipv4/conf/default/rp_filter", "1", "strict until configured", false},
		{"net/ipv4/conf/all/route_localnet", "0", "127.0.0.0/8 never comes from outside", true},
		{"net/ipv4/conf/all/proxy_arp", "0", "we answer for our own addresses only", true},
		{"net/ipv4/conf/all/arp_ignore", "1", "an address is answered for on its own link only", false},
		{"net/ipv4/conf/default/arp_ignore", "1", "an address is answered for on its own link only", false},
		{"net/ipv4/conf/all/arp_announce", "2", "inside addresses are not told to the outside by ARP", false},
		{"net/ipv4/conf/default/arp_announce", "2", "inside addresses are not told to the outside by ARP", false},
		{"net/ipv4/conf/all/log_martians", "0", "a flood of spoofed packets must not flood the console", true},
		// A SYN proxy takes the client's answer for one only when it fits no connection (nf_conntrack-sysctl:
		// nf_conntrack_tcp_loose).
		{"net/netfilter/nf_conntrack_tcp_loose", flag(!p.SynProxies()), "connections in their midst are none to a SYN proxy",
			!p.SynProxies()},
		{"net/ipv4/tcp_syncookies", "1", "SYN floods against our own services", true},
		{"net/ipv4/tcp_rfc1337", "1", "TIME-WAIT assassination (RFC 1337)", true},
		// Randomised per connection since Linux 4.10, so they tell nothing about the uptime; needed by PAWS (RFC 7323).
		{"net/ipv4/tcp_timestamps", "1", "PAWS; offsets are random per connection", true},
		{"net/ipv4/icmp_echo_ignore_broadcasts", "1", "no smurf amplifier", true},
		{"net/ipv4/icmp_ignore_bogus_error_responses", "1", "no log flood", true},
		{"net/ipv4/icmp_errors_use_inbound_ifaddr", "1", "traceroute shows the side the sender sees", true},
	}
}

// Sizes of connection tracking. An entry with NAT and its slab overhead takes about 400 bytes (nf_conntrack slab of
// 256 plus extensions), so one entry for each 8 KiB of RAM is at most a twentieth of the memory. The kernel's own
// choice below 1 GiB of RAM is 1024 entries per 128 MiB or fewer, which one busy browser fills.
const (
	memoryPerEntry  = 8 << 10 // bytes of RAM
	minEntries      = 8 << 10
	maxEntries      = 1 << 20
	entriesPerChain = 4
)

// ConntrackSysctls are the switches of connection tracking for a guest with memory bytes of RAM. They are no part of
// a Plan, because a guest may be given other RAM than its profile says.
func ConntrackSysctls(memory int64) []Sysctl {
	entries := min(max(memory/memoryPerEntry, minEntries), maxEntries)
	return []Sysctl{
		{"net/netfilter/nf_conntrack_max", strconv.FormatInt(entries, 10), "connections that fit into this RAM", true},
		{"net/netfilter/nf_conntrack_buckets", strconv.FormatInt(entries/entriesPerChain, 10), "short hash chains", true},
	}
}

// linkSysctls are those of one link. IPv6 is enabled last, when everything that keeps it quiet is set, and only on
// links that have an IPv6 address.
//
// Reverse-path filtering is strict: a packet is dropped unless an answer to its source would leave by the link it
// came in by. That holds on a one-armed guest too, where every answer leaves by the one link. With default routes on
// several links an answer may rightly take another way; there it is loose and the policy's own rules against
// spoofing stand alone, as they do for IPv6, for which the kernel has no such switch.
func linkSysctls(v6, loose bool) []Sysctl {
	rp := "1"
	if loose {
		rp = "2"
	}
	const v4conf, v6conf = "net/ipv4/conf/" + anyLink + "/", "net/ipv6/conf/" + anyLink + "/"
	return []Sysctl{
		{v4conf + "rp_filter", rp, "spoofed sources", false},
		{v4conf + "send_redirects", "0", "hosts must not be told to go round the firewall", false},
		{v4conf + "accept_redirects", "0", "a neighbour must not change our routes", false},
		{v4conf + "secure_redirects", "0", "not even a gateway may", false},
		{v4conf + "accept_source_route", "0", "a sender must not choose the way through us", false},
		{v4conf + "arp_ignore", "1", "an address is answered for on its own link only", false},
		{v4conf + "arp_announce", "2", "inside addresses are not told to the outside by ARP", false},
		{v4conf + "arp_notify", "1", "neighbours learn a new MAC at once, after a reprovision say", true},
		{v4conf + "promote_secondaries", "1", "removing one address must not remove its subnet's others", false},
		{v4conf + "proxy_arp", "0", "we answer for our own addresses only", true},
		{v4conf + "route_localnet", "0", "127.0.0.0/8 never comes from outside", true},
		{v6conf + "accept_ra", "0", "addresses and routes come by this program only", true},
		{v6conf + "autoconf", "0", "addresses and routes come by this program only", true},
		{v6conf + "use_tempaddr", "0", "a router has no private addresses", true},
		{v6conf + "router_solicitations", "0", "we do not ask for what we do not take", true},
		// The kernel waits up to this long before duplicate address detection (addrconf.c: addrconf_dad_kick), to keep
		// a thousand hosts from asking at once. The detection itself, one second, stays.
		{v6conf + "router_solicitation_delay", "0", "addresses are usable a second earlier", true},
		{v6conf + "accept_dad", "1", "an address that somebody else has is not used", true},
		{v6conf + "addr_gen_mode", "0", "the link-local address follows the MAC, which the hypervisor sets", true},
		{v6conf + "accept_redirects", "0", "a neighbour must not change our routes", true},
		{v6conf + "accept_source_route", "-1", "a sender must not choose the way through us", true},
		{v6conf + "keep_addr_on_down", "1", "addresses survive a link that is down for a moment", true},
		{v6conf + "ndisc_notify", "1", "neighbours learn a new MAC at once, after a reprovision say", true},
		{v6conf + "disable_ipv6", flag(!v6), "IPv6 exists where the profile gives an IPv6 address", !v6},
	}
}

// spareSysctls silence a NIC that no link claims.
func spareSysctls() []Sysctl {
	return []Sysctl{{"net/ipv6/conf/" + anyLink + "/disable_ipv6", "1", "a NIC no link claims is silent", true}}
}

// forwards says for which families the guest is a router: there is more than one link or zone to forward between, or
// a forward, and somewhere an address of the family.
func forwards(p *profiles.Profile) (v4, v6 bool) {
	if len(p.Links) < 2 && len(p.Zones) < 2 && len(p.Forwards) == 0 {
		return false, false
	}
	for _, l := range p.Links {
		v4, v6 = v4 || l.DHCP, v6 || l.Learns6()
		for _, a := range l.Addresses {
			v4 = v4 || a.Addr().Is4()
			v6 = v6 || a.Addr().Is6()
		}
	}
	return v4, v6
}

func flag(on bool) string {
	if on {
		return "1"
	}
	return "0"
}
