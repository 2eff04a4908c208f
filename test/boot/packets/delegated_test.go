package packets

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/builder/guest"
	"rempart/builder/guest/verify"
	"rempart/firstboot/contract/hardware"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
	"rempart/test/netns"
	"rempart/test/rig"
)

// delegated is the rented-server whose hoster delegates its IPv6 prefix.
const delegated = "testdata/rented-delegated.yaml"

// What the hoster has: the subnet of the guest's uplink, and two prefixes to delegate, one after the other.
var (
	hosterSubnet     = netip.MustParsePrefix("2001:db8:205::/64")
	firstDelegation  = netip.MustParsePrefix("2001:db8:100::/56")
	secondDelegation = netip.MustParsePrefix("2001:db8:200::/56")
)

// webMAC is the hardware address that the profile knows the web server by.
const webMAC = "52:54:00:00:02:05"

// in is an address of a subnet of a delegated prefix, by its end.
func in(prefix netip.Prefix, subnet byte, end string) netip.Addr {
	b, host := prefix.Addr().As16(), netip.MustParseAddr(end).As16()
	b[7] = subnet
	copy(b[8:], host[8:])
	return netip.AddrFrom16(b)
}

// newDelegated is the hoster's router with the Internet behind it, and behind the guest hosts that have their addresses
// of it: by DHCPv6, by advertisements, and with an end of their own.
func newDelegated(t *testing.T, m *rig.Master) *world {
	t.Helper()
	w := newWorld(t, m)
	hoster := w.host(t, "hoster", "wan0", []string{"205.205.205.254/32", "2001:db8:205::1/64", "fe80::1/64"})
	w.internet(t, hoster)
	own := hardware.Address(hosterSubnet, w.macs["wan0"])
	for _, p := range []netip.Prefix{firstDelegation, secondDelegation} {
		route(t, hoster, p.String(), own.String())
	}
	w.learner(t, "web", "lan0", webMAC, "")
	w.learner(t, "shop", "lan0", "", "::206")
	w.learner(t, "guest", "lan0", "", "")
	w.learner(t, "name", "dmz0", "", "::53")
	w.learner(t, "other", "dmz0", "", "")
	w.learner(t, "branch", "branch0", "", "")
	return w
}

// branch has WIDE's client ask for a prefix for the hosts behind a router, and one of them reach the Internet.
func (w *world) branch(t *testing.T, prefix netip.Prefix) {
	t.Helper()
	n, dir := w.hosts["branch"], t.TempDir()
	n.In(t, func() error { return netns.Sysctl("ipv6/conf/eth0/accept_ra=2") }) // of a router too
	n.In(t, func() error { return netns.Sysctl("ipv6/conf/all/forwarding=1") })
	runOn(t, n, "ip", "link", "add", "name", "inside", "type", "bridge")
	runOn(t, n, "ip", "link", "set", "inside", "up")
	conf := filepath.Join(dir, "conf")
	netns.Must(t, os.WriteFile(conf, []byte("interface eth0 { send ia-pd 0; };\n"+
		"id-assoc pd 0 { prefix ::/62 infinity; prefix-interface inside { sla-id 1; sla-len 2; }; };\n"), 0o644))
	const private = `mkdir -p /var/lib/dhcpv6 && mount -t tmpfs tmpfs /var/lib/dhcpv6 && exec "$@"`
	daemon(t, n, "unshare", "-m", "sh", "-c", private, "sh", netns.Tool(t, "dhcp6c", "wide-dhcpv6-client"), "-f",
		"-D", "-c", conf, "-p", filepath.Join(dir, "pid"), "eth0")
	own := ""
	eventually(t, "a router to be delegated a prefix", func() bool {
		said := runOn(t, n, "ip", "-6", "-o", "address", "show", "dev", "inside", "scope", "global")
		for _, f := range strings.Fields(said) {
			if a, err := netip.ParsePrefix(f); err == nil {
				own = a.Addr().String()
			}
		}
		return own != ""
	})
	slots := netip.PrefixFrom(in(prefix, 0x10, "::"), 60)
	if a := netip.MustParseAddr(own); !slots.Contains(a) || a.As16()[7]&3 != 1 {
		t.Errorf("behind the router is %s; want the second subnet of a slot of %s", own, slots)
	}
	eventually(t, own+" behind the router to reach the Internet", func() bool {
		return n.Command("ping", "-6", "-n", "-c", "1", "-W", "5", "-I", own, "2001:db8::7").Run() == nil
	})
}

// learner is a host whose kernel configures itself by what routers advertise, with an end of its own where one is
// given.
func (w *world) learner(t *testing.T, name, link, mac, end string) {
	t.Helper()
	n := w.host(t, name, link, nil)
	n.In(t, func() error { return netns.Sysctl("ipv6/conf/eth0/accept_ra=1") })
	if end != "" {
		runOn(t, n, "ip", "token", "set", end, "dev", "eth0")
	}
	runOn(t, n, "ip", "link", "set", "eth0", "down") // for the kernel asks routers when a link comes up
	if mac != "" {
		runOn(t, n, "ip", "link", "set", "eth0", "address", mac)
	}
	runOn(t, n, "ip", "link", "set", "eth0", "up")
}

// hosterConfig is dhcpd's: one prefix, and an address for the guest itself.
const hosterConfig = `
authoritative;
default-lease-time 60;
preferred-lifetime 60;
option dhcp-renewal-time 5;
option dhcp-rebinding-time 8;
subnet6 2001:db8:205::/64 { range6 2001:db8:205::d0 2001:db8:205::df; prefix6 %[1]s %[1]s /%[2]d; }
`

// delegates runs a new DHCPv6 server of the hoster, which knows of nothing that was before, and returns what ends it.
func (w *world) delegates(t *testing.T, prefix netip.Prefix) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	conf, leases := filepath.Join(dir, "conf"), filepath.Join(dir, "leases")
	netns.Must(t, os.WriteFile(conf, fmt.Appendf(nil, hosterConfig, prefix.Addr(), prefix.Bits()), 0o644))
	netns.Must(t, os.WriteFile(leases, nil, 0o644))
	said, end := stoppable(t, w.hosts["hoster"], netns.Tool(t, "dhcpd", "isc-dhcp-server"), "-6", "-f", "-d", "--no-pid",
		"-cf", conf, "-lf", leases, "eth0")
	eventually(t, "dhcpd to listen", func() bool { return strings.Contains(said.String(), "Sending on   Socket") })
	return end
}

// dhclient has a host ask for its address by DHCPv6 until the test ends.
func (w *world) dhclient(t *testing.T, host string) {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	netns.Must(t, os.WriteFile(script, []byte(`#!/bin/sh
case $reason in
BOUND6|RENEW6|REBIND6)
	[ -z "$new_ip6_address" ] || ip -6 address replace "$new_ip6_address/64" dev "$interface" \
		valid_lft "$new_max_life" preferred_lft "$new_preferred_life" ;;
DEPREF6) ip -6 address change "$cur_ip6_address/64" dev "$interface" preferred_lft 0 ;;
EXPIRE6|RELEASE6|STOP6) ip -6 address delete "$old_ip6_address/64" dev "$interface" ;;
esac
`), 0o755))
	daemon(t, w.hosts[host], netns.Tool(t, "dhclient", "isc-dhcp-client"), "-6", "-d", "-v", "-cf", "/dev/null", "-sf",
		script, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "eth0")
}

// addresses are a host's global ones that are as the words of ip(8) say: "-deprecated", "deprecated".
func (w *world) addresses(t *testing.T, host string, words ...string) string {
	t.Helper()
	return runOn(t, w.hosts[host], append([]string{"ip", "-6", "-o", "address", "show", "dev", "eth0", "scope",
		"global"}, words...)...)
}

// inhabited waits until the hosts inside have their addresses in a prefix, opens their ports, and returns that of the
// one that has chosen its end itself.
func (w *world) inhabited(t *testing.T, prefix netip.Prefix) (guest netip.Addr) {
	t.Helper()
	guest = hardware.Address(netip.PrefixFrom(in(prefix, 1, "::"), 64), w.mac(t, "guest"))
	other := hardware.Address(netip.PrefixFrom(in(prefix, 0xff, "::"), 64), w.mac(t, "other"))
	for _, x := range []struct {
		host string
		addr netip.Addr
	}{{"web", in(prefix, 1, "::205")}, {"shop", in(prefix, 1, "::206")}, {"guest", guest},
		{"name", in(prefix, 0xff, "::53")}, {"other", other}} {
		eventually(t, fmt.Sprintf("%s to have %s", x.host, x.addr), func() bool {
			return strings.Contains(w.addresses(t, x.host, "-deprecated", "-tentative"), " "+x.addr.String()+"/") &&
				strings.Contains(runOn(t, w.hosts[x.host], "ip", "-6", "route"), "default via fe80::")
		})
		w.open(t, x.host, x.addr.String(), knownPorts...)
	}
	return guest
}

// mac is the hardware address of a host.
func (w *world) mac(t *testing.T, host string) net.HardwareAddr {
	t.Helper()
	return w.hosts[host].Device(t, "eth0").Attrs().HardwareAddr
}

// delegatedTruth says in a person's words what the delegated rented-server is to do with a prefix.
func (w *world) delegatedTruth(t *testing.T, prefix netip.Prefix, guest netip.Addr) []row {
	const inet = "2001:db8::7"
	at := func(a netip.Addr, port int) string { return fmt.Sprintf("[%s]:%d", a, port) }
	web, shop, name := in(prefix, 1, "::205"), in(prefix, 1, "::206"), in(prefix, 0xff, "::53")
	own := hardware.Address(hosterSubnet, w.macs["wan0"])
	other := hardware.Address(netip.PrefixFrom(in(prefix, 0xff, "::"), 64), w.mac(t, "other"))
	g := guest.String()
	return []row{
		// The Internet reaches the hosts that lines name by the ends of their addresses, and their services only.
		{"internet", inet, "tcp", at(web, 80), pass, "lan0 " + inet + " " + at(web, 80)},
		{"internet", inet, "tcp", at(shop, 80), pass, "lan0 " + inet + " " + at(shop, 80)},
		{"internet", inet, "tcp", at(shop, 443), pass, "lan0 " + inet + " " + at(shop, 443)},
		{"internet", inet, "tcp", at(web, 443), drop, ""},
		{"internet", inet, "tcp", at(web, 22), drop, ""},
		{"internet", inet, "udp", at(web, 80), drop, ""},
		{"internet", inet, "ping", web.String(), drop, ""},
		{"internet", inet, "tcp", at(guest, 80), drop, ""},
		{"internet", inet, "ping", g, drop, ""},
		{"internet", inet, "tcp", at(name, 80), drop, ""},
		{"internet", inet, "ping", own.String(), reach, ""},
		{"internet", inet, "tcp", at(own, 22), drop, ""},
		{"internet", inet, "tcp", at(in(prefix, 1, "::1"), 22), drop, ""},
		{"internet", inet, "udp", at(in(prefix, 1, "::1"), 53), drop, ""},
		{"internet", inet, "tcp", at(in(prefix, 1, "::1"), 853), drop, ""},
		// Guests reach it under addresses of their own, and of the other link the host that a line names.
		{"guest", g, "tcp", "[" + inet + "]:80", pass, "wan0 " + g + " [" + inet + "]:80"},
		{"guest", g, "udp", "[" + inet + "]:443", pass, "wan0 " + g + " [" + inet + "]:443"},
		{"guest", g, "ping", inet, pass, "wan0 " + g + " " + inet},
		{"web", web.String(), "tcp", "[" + inet + "]:443", pass, "wan0 " + web.String() + " [" + inet + "]:443"},
		{"guest", g, "tcp", at(name, 80), pass, "dmz0 " + g + " " + at(name, 80)},
		{"guest", g, "tcp", at(name, 443), drop, ""},
		{"guest", g, "tcp", at(other, 80), drop, ""},
		{"guest", g, "ping", in(prefix, 1, "::1").String(), reach, ""},
		{"guest", g, "tcp", at(in(prefix, 1, "::1"), 22), drop, ""},
		// Of the hosts there one reaches the Internet, by one service.
		{"name", name.String(), "tcp", "[" + inet + "]:443", pass, "wan0 " + name.String() + " [" + inet + "]:443"},
		{"name", name.String(), "tcp", "[" + inet + "]:80", drop, ""},
		{"other", other.String(), "tcp", "[" + inet + "]:443", drop, ""},
		{"name", name.String(), "tcp", at(guest, 80), drop, ""},
		{"name", name.String(), "ping", in(prefix, 0xff, "::1").String(), drop, ""},
	}
}

// forgeries are packets whose sources belong to other links, and controls that differ in nothing else.
func forgeries(prefix netip.Prefix) []knock {
	const inet = "2001:db8::7"
	web, name := in(prefix, 1, "::205").String(), in(prefix, 0xff, "::53").String()
	return []knock{
		{link: "wan0", src: inet, flow: "tcp", to: "[" + web + "]:80", kind: allowed},
		{link: "lan0", src: web, flow: "udp", to: "[" + inet + "]:443", kind: allowed},
		{link: "lan0", src: web, flow: "tcp", to: "[" + name + "]:80", kind: allowed},
		// The prefix comes from where it is not.
		{link: "wan0", src: in(prefix, 1, "::77").String(), flow: "tcp", to: "[" + web + "]:80", kind: spoofed},
		{link: "wan0", src: name, flow: "tcp", to: "[" + web + "]:80", kind: spoofed},
		{link: "dmz0", src: in(prefix, 1, "::77").String(), flow: "udp", to: "[" + inet + "]:443", kind: spoofed},
		{link: "lan0", src: name, flow: "tcp", to: "[" + inet + "]:443", kind: spoofed},
		// And others from inside.
		{link: "lan0", src: inet, flow: "udp", to: "[2001:db8::8]:443", kind: spoofed},
		{link: "lan0", src: "2001:db8:205::99", flow: "tcp", to: "[" + inet + "]:80", kind: spoofed},
		{link: "lan0", src: in(prefix, 7, "::77").String(), flow: "tcp", to: "[" + inet + "]:80", kind: spoofed},
		{link: "lan0", src: in(prefix, 1, "::1").String(), flow: "tcp", to: "[" + inet + "]:80", kind: spoofed},
	}
}

// secure asks the guest by TLS, with the certificate that its identity disk has, by the name in it and by another.
func (w *world) secure(t *testing.T, id *identity.Identity, p *profiles.Profile) {
	t.Helper()
	own, err := guest.DNSCertificate(id, p)
	netns.Must(t, err)
	block, _ := pem.Decode(id.Secret(identity.ConsumerDNS, identity.DNSMade))
	trusted := filepath.Join(t.TempDir(), "trusted.pem")
	netns.Must(t, os.WriteFile(trusted, pem.EncodeToMemory(block), 0o600))
	web := in(firstDelegation, 1, "::205").String()
	for _, name := range []string{own.Names[0], "another.rented.lan"} {
		out, _ := w.hosts["guest"].Command(netns.Tool(t, "kdig", "knot-dnsutils"), "@"+in(firstDelegation, 1, "::1").String(),
			"+tls", "+tls-ca="+trusted, "+tls-hostname="+name, "+timeout=20", "web.rented.lan", "AAAA").CombinedOutput()
		if got := strings.Contains(string(out), web); got != (name == own.Names[0]) {
			t.Errorf("by TLS of %s kdig says\n%s\nwant an answer by the name of the certificate and by no other", name, out)
		}
	}
}

// TestDelegated boots the rented-server whose prefix is delegated, among foreign clients and servers: ISC's delegates,
// dnsmasq advertises outside, kernels and dhclient -6 are the hosts inside. They reach out and are reached as the
// policy has it, are known by name, and have another prefix when the hoster has.
func TestDelegated(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, delegated)
	w := newDelegated(t, m)
	hoster := w.hosts["hoster"]
	daemon(t, hoster, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-",
		"--user=root", "--group=", "--pid-file=", "--interface=eth0", "--bind-interfaces", "--enable-ra",
		"--dhcp-range=2001:db8:205::,ra-only,64,3600", "--ra-param=eth0,10,1200")
	stop := w.delegates(t, firstDelegation)
	for _, port := range knownPorts {
		w.open(t, "internet", "2001:db8::7", port)
	}
	disk := filepath.Join(t.TempDir(), "identity")
	id, err := guest.EnsureIdentity(disk, m.Profile.Name, m.Profile, nil)
	netns.Must(t, err)
	g := m.Boot(t, rig.Options{Backends: w.backends(), Identity: disk})
	g.AwaitReady()
	w.dhclient(t, "web")
	host := w.inhabited(t, firstDelegation)
	if got := runOn(t, w.hosts["guest"], netns.Tool(t, "rdisc6", "ndisc6"), "-1", "eth0"); !strings.Contains(got,
		"2001:db8:100:1::/64") || !strings.Contains(got, "Stateful address conf.    :          Yes") {
		t.Errorf("rdisc6 reads\n%s\nwant the delegated subnet, and addresses by DHCPv6", got)
	}
	name := func(prefix netip.Prefix) {
		t.Helper()
		web, server := in(prefix, 1, "::205").String(), "@"+in(prefix, 1, "::1").String()
		eventually(t, "the name of "+web, func() bool {
			return dig(t, w.hosts["guest"], server, "web.rented.lan", "AAAA") == "NOERROR "+web &&
				dig(t, w.hosts["guest"], server, "-x", web) == "NOERROR web.rented.lan."
		})
	}
	name(firstDelegation)
	w.secure(t, id, m.Profile)
	w.branch(t, firstDelegation)
	t.Run("truth", func(t *testing.T) { w.truth(t, w.delegatedTruth(t, firstDelegation, host)) })
	began := time.Now()
	knocking := w.knock(t, forgeries(firstDelegation))
	eventually(t, "the controls of the forged packets to pass", func() bool {
		return len(w.watch.of(func(x *trace) bool {
			return x.knock != nil && x.knock.kind == allowed && len(x.out) == 0
		})) == 0
	})
	knocking.more(1)
	knocking.end()
	stop()
	w.delegates(t, secondDelegation)
	host = w.inhabited(t, secondDelegation)
	if old := w.addresses(t, "guest", "-deprecated"); strings.Contains(old, "2001:db8:100:") {
		t.Errorf("after the prefix was replaced the host has\n%s\nwant the old address deprecated", old)
	}
	name(secondDelegation)
	t.Run("renumbered", func(t *testing.T) { w.truth(t, w.delegatedTruth(t, secondDelegation, host)) })
	if _, after, ready := strings.Cut(g.ConsoleText(), "READY router6"); !ready || strings.Contains(after, "FAILED") {
		t.Errorf("a guest whose prefix was replaced said\n%s\nwant it not to have failed", after)
	}
	knocking.judge(t, began) // when all that was sent after them has come out of the guest
	g.PowerOff()
	// What it advertised it knows when it is started again.
	kept := rig.Inspected(t, g.State).Listing.Entries
	if !slices.ContainsFunc(kept, func(e verify.Entry) bool { return strings.HasSuffix(e.Path, "/ra/advertised") }) {
		t.Errorf("of %d files of the state disk none has what was advertised", len(kept))
	}
}
