package link_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/test/netns"
)

const threeLegs = `rempart: 1
name: fw-1
admin: none
links:
  wan:
    mac: "02:00:00:00:00:0a"
    address: [203.0.113.1/24, "2001:db8:1::1/64"]
    gateway: [203.0.113.254, "2001:db8:1::fe"]
  dmz: {mac: "02:00:00:00:00:0b", address: [10.0.2.1/24, "fd00:2::1/64"]}
  lan: {mac: "02:00:00:00:00:0c", address: [10.0.1.1/24, "fd00:1::1/64"], routes: [{to: 10.1.0.0/16, via: 10.0.1.10}]}
zones: {internet: wan, dmz: dmz, lan: lan}
policy: [dmz -> lan: any, dmz -> internet: any]
`

const leasedLeg = `rempart: 1
name: fw-1
admin: none
links:
  wan: {mac: "02:00:00:00:00:0a", address: 203.0.113.1/24, gateway: 203.0.113.254}
  dmz: {mac: "02:00:00:00:00:0b", address: 10.0.2.1/24}
  lan: {mac: "02:00:00:00:00:0c", address: dhcp, accept: {default: false}}
zones: {internet: wan, dmz: dmz, lan: lan}
policy: [dmz -> lan: any, dmz -> internet: any]
`

// The same where the link inside has its address by DHCP: as long as it is not there, and without a lease.
func TestLostLeaseKeepsItsPackets(t *testing.T) {
	l := newLab(t, "outside", "server", "isp")
	l.wire("eth0", "02:00:00:00:00:0a", "outside", "o0", "203.0.113.254/24")
	l.wire("eth1", "02:00:00:00:00:0b", "server", "s0", "10.0.2.10/24")
	plug := func() {
		l.wire("eth2", "02:00:00:00:00:0c", "isp", "p0", "198.51.100.1/24")
		l.in("isp", "ip", "route", "replace", "default", "via", "198.51.100.50")
	}
	plug()
	l.in("server", "ip", "route", "add", "default", "via", "10.0.2.1")
	p := l.withPolicy("lease.yaml", leasedLeg)
	countLeaks(l, "ip daddr 198.51.100.0/24")
	server := l.dhcpd(fmt.Sprintf(iscConfig, 3600, "198.51.100.50", ""))
	g := l.start(p)
	leased := func(r contract.LinkReport) bool { return slices.Contains(r.Addresses, "198.51.100.50/24") }
	g.waitLink("lan", "leased", leased)
	ping := netns.Tool(t, "ping", "iputils-ping")
	l.in("server", ping, "-c1", "-W20", "198.51.100.1")
	l.background("server", ping, "-qi0.02", "198.51.100.1")
	server.stop()
	for range 3 {
		l.in("fw", "ip", "link", "del", "lan")
		g.waitLink("lan", "gone", func(r contract.LinkReport) bool { return !r.Up })
		l.in("server", "sh", "-c", "! "+ping+" -qi0.02 -c20 -W1 198.51.100.1") // the other goes on meanwhile
		plug()
		g.waitLink("lan", "back", func(r contract.LinkReport) bool { return r.Up })
	}
	if n := leaks(t, l); n != "0" {
		t.Errorf("%s packets for a link that had gone left by the default route; want none", n)
	}
}

// countLeaks has the outside count the packets that match.
func countLeaks(l *lab, matches ...string) {
	rules := strings.Join(matches, " counter name leaked\n") + " counter name leaked\n"
	l.in("outside", "nft", "table inet count {\ncounter leaked {}\n"+
		"chain arrived {\ntype filter hook prerouting priority 0\n"+rules+"}\n}")
}

// leaks is how many packets the outside counted that were for a link inside.
func leaks(t *testing.T, l *lab) string {
	t.Helper()
	text := l.in("outside", "nft", "list", "counter", "inet", "count", "leaked")
	m := regexp.MustCompile(`packets (\d+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no packets in what nft lists:\n%s", text)
	}
	return m[1]
}

// What is for a link that has gone does not leave by the default route, also where it belongs to a connection that
// was let through to that link.
func TestLostLinkKeepsItsPackets(t *testing.T) {
	l := newLab(t, "outside", "server", "inside")
	l.wire("eth0", "02:00:00:00:00:0a", "outside", "o0", "203.0.113.254/24", "2001:db8:1::fe/64")
	l.wire("eth1", "02:00:00:00:00:0b", "server", "s0", "10.0.2.10/24", "fd00:2::10/64")
	plug := func() {
		l.wire("eth2", "02:00:00:00:00:0c", "inside", "i0", "10.0.1.10/24", "fd00:1::10/64")
		l.in("inside", "ip", "address", "replace", "10.1.0.1/32", "dev", "lo")
		l.in("inside", "ip", "route", "add", "default", "via", "10.0.1.1")
		l.in("inside", "ip", "route", "add", "default", "via", "fd00:1::1")
	}
	plug()
	l.in("server", "ip", "route", "add", "default", "via", "10.0.2.1")
	l.in("server", "ip", "route", "add", "default", "via", "fd00:2::1")
	p := l.withPolicy("lost.yaml", threeLegs)
	countLeaks(l, "ip daddr { 10.0.1.0/24, 10.1.0.0/16 }", "ip6 daddr fd00:1::/64")
	g := l.start(p)
	g.waitReady()
	ping := netns.Tool(t, "ping", "iputils-ping")
	for _, host := range []string{"10.0.1.10", "10.1.0.1", "fd00:1::10"} {
		l.in("server", ping, "-c1", "-W20", host)
		l.background("server", ping, "-qi0.02", host)
	}
	for range 3 {
		l.in("fw", "ip", "link", "del", "lan")
		g.waitLink("lan", "gone", func(r contract.LinkReport) bool { return !r.Up })
		l.in("server", "sh", "-c", "! "+ping+" -qi0.02 -c20 -W1 10.0.1.10") // the others go on meanwhile
		plug()
		g.waitLink("lan", "back", func(r contract.LinkReport) bool { return r.Up && r.Error == "" })
		l.in("server", ping, "-c1", "-W20", "10.0.1.10")
	}
	if n := leaks(t, l); n != "0" {
		t.Errorf("%s packets for a link that had gone left by the default route; want none", n)
	}
}
