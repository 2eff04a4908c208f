package link_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/netns"
)

// delegating is a firewall that is delegated a prefix on wan, for lan and dmz.
func delegating() *profiles.Profile {
	host := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	return &profiles.Profile{
		Name: "fw-pd",
		Links: []profiles.Link{
			{Name: "wan", MAC: macA, Auto: true, Delegation: &profiles.Delegation{Length: 56}},
			{Name: "lan", MAC: macB, Addresses: pfx("fd00:1::1/64"),
				Delegated: []profiles.Delegated{{Subnet: 1, Host: host("::1")}}},
			{Name: "dmz", MAC: macC, Delegated: []profiles.Delegated{{Subnet: 0xff, Host: host("::53")}}},
		},
		Zones: []profiles.Zone{{Name: "internet", External: true}, {Name: "inside"}},
		RA: []profiles.Advert{
			{Link: "lan", Lifetime: 1800, Interval: 600, Valid: 5400, Preferred: 2700, DNSSelf: true,
				Search: []string{"home.arpa"}, MTU: 1480, Other: true},
			{Link: "dmz", Lifetime: 1800, Interval: 600, Valid: 5400, Preferred: 2700},
		},
	}
}

const (
	macC    = "02:00:00:00:00:0c"
	raUser  = "907"
	raGrant = "+net_raw"
)

// delegationLab is an Internet provider before the guest, and hosts that configure themselves behind it.
func delegationLab(t *testing.T) *lab {
	l := newLab(t, "isp", "host", "dmz")
	l.wire("eth0", macA, "isp", "p0", "2001:db8:1::1/64", "fe80::1/64")
	l.wire("eth1", macB, "host", "h0")
	l.wire("eth2", macC, "dmz", "d0")
	l.in("isp", "ip", "address", "add", "2001:db8:9::9/128", "dev", "lo")
	l.in("isp", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	l.routerd("--dhcp-range=2001:db8:1::,ra-only,64,3600", "--ra-param=p0,10,1200")
	for _, s := range []string{"host", "dmz"} {
		l.in(s, "sysctl", "-qw", "net.ipv6.conf.all.accept_ra=2", "net.ipv6.conf.all.accept_ra_rt_info_max_plen=64")
	}
	return l
}

const pdConfig = `
authoritative;
default-lease-time %[2]d;
preferred-lifetime %[2]d;
option dhcp-renewal-time %[3]d;
option dhcp-rebinding-time %[4]d;
option dhcp6.name-servers 2001:db8:9::53;
option dhcp6.domain-search "isp.example";
subnet6 2001:db8:1::/64 { prefix6 %[1]s %[1]s /56; }
`

// pdServer starts ISC dhcpd as the server that delegates a prefix.
func (l *lab) pdServer(prefix string, life, renew int) *process {
	l.t.Helper()
	file, leases := filepath.Join(l.root, "dhcpd6.conf"), filepath.Join(l.root, "dhcpd6.leases")
	config := fmt.Sprintf(pdConfig, prefix, life, renew, renew*3/2)
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		l.t.Fatal(err)
	}
	f, err := os.OpenFile(leases, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		l.t.Fatal(err)
	}
	_ = f.Close()
	p := l.background("isp", netns.Tool(l.t, "dhcpd", "isc-dhcp-server"), "-6", "-f", "-d", "--no-pid", "-cf", file, "-lf",
		leases, "p0")
	l.eventually("dhcpd listens", patience, func() bool { return strings.Contains(p.out.String(), "Sending on   Socket") })
	return p
}

// renumber has the provider of a guest delegate 2001:db8:200::/56 from now on, and know nothing of what was before.
func (l *lab) renumber(g *guest, server *process, life, renew int) {
	l.t.Helper()
	server.stop()
	if err := os.Truncate(filepath.Join(l.root, "dhcpd6.leases"), 0); err != nil {
		l.t.Fatal(err)
	}
	l.pdServer("2001:db8:200::", life, renew)
	l.in("isp", "ip", "link", "set", "p0", "down")
	g.waitLink("wan", "down", func(r contract.LinkReport) bool { return !r.Up })
	l.in("isp", "ip", "link", "set", "p0", "up")
}

// of are the global IPv6 addresses of a host, with what ip(8) says of them.
func (l *lab) of(space string, filter ...string) string {
	l.t.Helper()
	return l.in(space, append([]string{"ip", "-6", "-o", "address", "show", "scope", "global"}, filter...)...)
}

// monitor starts ip(8) telling of what changes of a family in the firewall, and returns once it listens.
func (l *lab) monitor(family string, what ...string) *process {
	l.t.Helper()
	p := l.background("fw", append([]string{"ip", family, "monitor"}, what...)...)
	subscribed := regexp.MustCompile(fmt.Sprintf(`(?m)^\S+ +0 +%d +0*[1-9a-f]`, p.cmd.Process.Pid))
	l.eventually("the monitor to listen", patience, func() bool {
		return subscribed.MatchString(l.in("fw", "cat", "/proc/net/netlink"))
	})
	return p
}

// learnTime is after how long links are called ready whatever they have learnt, see package link.
const learnTime = 15 * time.Second

// TestDelegation: ISC dhcpd delegates, kernels of other namespaces are the hosts inside.
func TestDelegation(t *testing.T) {
	l := delegationLab(t)
	server := l.pdServer("2001:db8:100::", 600, 200)
	monitor := l.monitor("-6", "address", "route")
	started := time.Now()
	g := l.start(delegating())
	l.startChild("ra", delegating(), raUser, raGrant)
	g.waitReady()
	usable := func() bool {
		return slices.Contains(l.addresses("lan"), "2001:db8:100:1::1/64") && l.of("fw", "dev", "lan", "tentative") == "" &&
			slices.Contains(l.addresses("dmz"), "2001:db8:100:ff::53/64") && l.of("fw", "dev", "dmz", "tentative") == ""
	}
	if time.Since(started) >= learnTime { // on a busy machine it may have been ready as it was
		l.eventually("addresses in the delegated prefix", patience, usable)
	}
	if !usable() {
		t.Errorf("when it is ready lan and dmz have\n%s%s\nwant addresses in the delegated prefix that can be used",
			l.of("fw", "dev", "lan"), l.of("fw", "dev", "dmz"))
	}
	const unused = "unreachable 2001:db8:100::/56 dev lo proto dhcp metric 16777216"
	l.eventually("the route to nowhere", patience, func() bool {
		return slices.ContainsFunc(l.routes("-6"), func(r string) bool { return strings.HasPrefix(r, unused) })
	})
	// What is for a subnet that another link is yet to have must not go back to the provider.
	const delegated = "2001:db8:100:"
	l.eventually("the prefix is told of", patience, func() bool {
		return strings.Contains(monitor.out.String(), delegated)
	})
	told := monitor.out.String()
	if first := told[strings.Index(told, delegated):]; !strings.HasPrefix(first, "2001:db8:100::/56 dev lo") {
		t.Errorf("the first that is told of the delegated prefix is not its route to nowhere:\n%s", told)
	}
	l.eventually("hosts to have addresses and the route", patience, func() bool {
		return strings.Contains(l.of("host", "dev", "h0"), "2001:db8:100:1:") &&
			strings.Contains(l.of("host", "dev", "h0"), "fd00:1:") &&
			strings.Contains(l.of("dmz", "dev", "d0"), "2001:db8:100:ff:") &&
			strings.Contains(l.in("host", "ip", "-6", "route"), "default via fe80::")
	})
	if got := l.in("host", "sysctl", "-n", "net.ipv6.conf.h0.mtu"); strings.TrimSpace(got) != "1480" {
		t.Errorf("the host's MTU is %s; want 1480 as advertised", got)
	}
	resolv, err := os.ReadFile(filepath.Join(l.root, contract.ResolvPath))
	if want := "search isp.example\nnameserver 2001:db8:9::53\n"; err != nil || !strings.HasSuffix(string(resolv), want) {
		t.Errorf("resolv.conf = %q, %v; want it to end in %q", resolv, err, want)
	}
	// Killed and started again it finds nothing to do.
	g.kill(syscall.SIGKILL)
	g = l.start(delegating())
	g.waitReady()
	if log := g.log.String(); strings.Contains(log, "remove ") || strings.Contains(log, "lan: address") {
		t.Errorf("after a restart the child changed something:\n%s", log)
	}
	// The provider is renumbered: hosts get the new prefix and use the old one no more.
	l.renumber(g, server, 600, 200)
	l.eventually("the new prefix inside", 3*patience, func() bool {
		return slices.Contains(l.addresses("lan"), "2001:db8:200:1::1/64")
	})
	l.eventually("hosts in the new prefix, and the old deprecated", patience, func() bool {
		return strings.Contains(l.of("host", "dev", "h0", "-deprecated"), "2001:db8:200:1:") &&
			strings.Contains(l.of("host", "dev", "h0", "deprecated"), "2001:db8:100:1:")
	})
	for line := range strings.Lines(l.of("host", "dev", "h0", "deprecated")) {
		_, rest, _ := strings.Cut(line, "valid_lft ")
		life, _, _ := strings.Cut(rest, "sec")
		if n, err := strconv.Atoi(life); err != nil || n > 7200 {
			t.Errorf("the old address is valid for %q; want two hours at most:\n%s", life, line)
		}
	}
}

// TestAdvertisementsJudged has rdisc6 ask, as a host does, and radvdump read what is said.
func TestAdvertisementsJudged(t *testing.T) {
	l := newLab(t, "isp", "host")
	l.wire("eth0", macA, "isp", "p0", "2001:db8:1::1/64")
	l.wire("eth1", macB, "host", "h0")
	p := &profiles.Profile{
		Name: "fw-ra",
		Links: []profiles.Link{
			{Name: "wan", MAC: macA, Addresses: pfx("2001:db8:1::2/64"),
				Gateways: []profiles.Gateway{{Addr: netip.MustParseAddr("2001:db8:1::1")}}},
			{Name: "lan", MAC: macB, Addresses: pfx("fd00:1::1/64", "2001:db8:5::1/64")},
		},
		Zones: []profiles.Zone{{Name: "internet", External: true}, {Name: "inside"}},
		RA: []profiles.Advert{{Link: "lan", Lifetime: 1800, Interval: 600, Valid: 5400, Preferred: 2700, DNSSelf: true,
			DNS: []netip.Addr{netip.MustParseAddr("fd00:1::53")}, Search: []string{"home.arpa"}, MTU: 1480, Managed: true,
			Other: true, Preference: profiles.PreferHigh, Routes: []profiles.AdvertRoute{
				{To: netip.MustParsePrefix("fd00::/16"), Preference: profiles.PreferLow, Lifetime: 900}}}},
	}
	g := l.start(p)
	g.waitReady()
	dump := l.background("host", netns.Tool(t, "radvdump", "radvdump"))
	said := l.startChild("ra", p, raUser, raGrant)
	rdisc6 := func(until ...string) (out string) {
		l.eventually(strings.Join(until, ", "), patience, func() bool {
			out, _ = l.try("ip", "netns", "exec", l.space("host"), netns.Tool(t, "rdisc6", "ndisc6"), "-1", "-w", "2000", "h0")
			return !slices.ContainsFunc(until, func(s string) bool { return !strings.Contains(squeezed(out), s) })
		})
		return out
	}
	out := squeezed(rdisc6("Router lifetime : 1800"))
	for _, want := range []string{"Stateful address conf. : Yes", "Stateful other conf. : Yes", "Router preference : high",
		"Prefix : 2001:db8:5::/64", "Prefix : fd00:1::/64", "Valid time : 5400", "Pref. time : 2700", "MTU : 1480",
		"Route : fd00::/16", "Route preference : low", "Route lifetime : 900", "DNS server", "fd00:1::53",
		"DNS search list : home.arpa", "Source link-layer address: " + strings.ToUpper(macB)} {
		if !strings.Contains(out, want) {
			t.Errorf("rdisc6 does not read %q in what is advertised:\n%s", want, out)
		}
	}
	l.eventually("radvdump's reading", patience, func() bool { return strings.Contains(dump.out.String(), "home.arpa") })
	for _, want := range []string{"prefix 2001:db8:5::/64", "AdvAutonomous on", "AdvDefaultLifetime 1800",
		"AdvLinkMTU 1480", "RDNSS", "DNSSL", "AdvManagedFlag on", "AdvDefaultPreference high"} {
		if !strings.Contains(dump.out.String(), want) {
			t.Errorf("radvdump does not read %q:\n%s", want, dump.out.String())
		}
	}
	// Without a way out the guest is nobody's router, and says so at once; with one it is again.
	l.in("isp", "ip", "link", "set", "p0", "down")
	l.eventually("no router without an uplink", patience, func() bool {
		return strings.Contains(dump.out.String(), "AdvDefaultLifetime 0")
	})
	l.in("isp", "ip", "link", "set", "p0", "up")
	rdisc6("Router lifetime : 1800")
	// Stopped in order it takes leave.
	before := strings.Count(dump.out.String(), "AdvDefaultLifetime 0;")
	said.kill(syscall.SIGTERM)
	l.eventually("the last advertisement", patience, func() bool {
		return strings.Count(dump.out.String(), "AdvDefaultLifetime 0;") > before
	})
}

// squeezed has one space where there were several.
func squeezed(s string) string { return strings.Join(strings.Fields(s), " ") }
