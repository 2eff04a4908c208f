package link_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rempart/firstboot/filter"
	"rempart/profiles"
	"rempart/test/netns"
)

// relayedProfile serves a subnet that is two relay agents away.
const relayedProfile = `rempart: 1
name: fw-relay
memory: 128M
admin: {from: inside}
links:
  lan: {mac: "` + macB + `", address: ["fd00:1::1/64"], routes: [{to: "fd20::/48", via: "fd00:1::2"}]}
zones: {inside: lan}
policy: [inside -> self: ping]
dhcp6:
  lan:
    pool: ::1000-::1fff
    delegate: {from: "fd00:f::/56", length: 60}
    relayed:
      "fd20::/64": {from: ["fe80::/64", "fd00:1::2"], pool: "::5-::5", lease: 1h, dns: self, delegate: true}
`

// TestRelayed6: ISC's dhcrelay, twice, between a client and the guest with its policy.
func TestRelayed6(t *testing.T) {
	l := newLab(t, "near", "far", "host")
	l.wire("eth1", macB, "near", "n0", "fd00:1::2/64")
	for _, c := range []struct{ here, mine, there, its string }{{"near", "n1", "far", "f0"}, {"far", "f1", "host", "h0"}} {
		l.must("ip", "link", "add", c.mine, "netns", l.space(c.here), "type", "veth", "peer", "name", c.its, "netns",
			l.space(c.there))
		l.in(c.here, "ip", "link", "set", c.mine, "up")
		l.in(c.there, "ip", "link", "set", c.its, "up")
	}
	l.in("near", "ip", "address", "add", "fd20:0:0:1::1/64", "dev", "n1")
	l.in("far", "ip", "address", "add", "fd20:0:0:1::2/64", "dev", "f0")
	l.in("far", "ip", "address", "add", "fd20::1/64", "dev", "f1")
	for _, s := range []string{"near", "far"} {
		l.in(s, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	}
	l.in("near", "ip", "-6", "route", "add", "fd20::/64", "via", "fd20:0:0:1::2")
	l.in("far", "ip", "-6", "route", "add", "default", "via", "fd20:0:0:1::1")
	l.dirsOfDHCP()
	p := l.withPolicy("relay.yaml", relayedProfile)
	l.start(p).waitReady()
	d := l.startChild("dhcp", p, dhcpUser, dhcpGrant)
	d.waitReady()
	relay := netns.Tool(t, "dhcrelay", "isc-dhcp-relay")
	l.background("near", relay, "-6", "-d", "--no-pid", "-l", "n1", "-u", "ff02::1:2%n0")
	l.background("far", relay, "-6", "-d", "--no-pid", "-l", "f1", "-u", "ff02::1:2%f0")
	for round := range 2 {
		said := l.dhclient6("host")
		if !strings.Contains(said, "iaaddr fd20::5 ") || !strings.Contains(said, "dhcp6.name-servers fd00:1::1") {
			t.Fatalf("behind two agents dhclient -6 has\n%s\nwant fd20::5, and the guest for a name server", said)
		}
		if round == 0 {
			d.kill(syscall.SIGKILL)
			d = l.startChild("dhcp", p, dhcpUser, dhcpGrant)
			d.waitReady()
		}
	}
	// It can be reached there, as the route of the profile has it.
	l.in("host", "ip", "address", "add", "fd20::5/64", "dev", "h0", "nodad")
	l.in("host", "ip", "-6", "route", "add", "default", "via", "fd20::1")
	reached := func(what string, from ...string) {
		t.Helper()
		l.eventually(what, slow, func() bool {
			args := append([]string{"netns", "exec", l.space("host"), "ping", "-6", "-n", "-c", "1", "-W", "2"}, from...)
			_, err := l.try("ip", append(args, "fd00:1::1")...)
			return err == nil
		})
	}
	reached("the client to reach the guest")
	// It is a router, too, and has a prefix delegated; the agents lead on to it.
	if err := os.Remove(filepath.Join(l.root, "host.leases")); err != nil {
		t.Fatal(err)
	}
	all := l.delegated6("host")
	if len(all) != 1 || all[0].Bits() != 60 || !netip.MustParsePrefix("fd00:f::/56").Contains(all[0].Addr()) {
		t.Fatalf("behind two agents dhclient -P is delegated %v; want a /60 of fd00:f::/56", all)
	}
	way := all[0].String() + " via fd00:1::2 "
	l.eventually("the way to "+way, slow, func() bool { return strings.Contains(strings.Join(l.waysOf(), "\n"), way) })
	l.in("near", "ip", "-6", "route", "add", all[0].String(), "via", "fd20:0:0:1::2")
	l.in("far", "ip", "-6", "route", "add", all[0].String(), "via", "fd20::5")
	inside := all[0].Addr().Next()
	l.in("host", "ip", "address", "add", inside.String()+"/128", "dev", "lo")
	reached("what is in the delegated prefix to reach the guest", "-I", inside.String())
	l.dhclient6Release("host")
	l.eventually("the way to be gone", slow, func() bool { return len(l.waysOf()) == 0 })
}

// withPolicy reads a profile and puts its policy in force.
func (l *lab) withPolicy(file, text string) *profiles.Profile {
	l.t.Helper()
	p, err := profiles.Parse(file, []byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	rules, err := filter.Compile(p)
	if err != nil {
		l.t.Fatal(err)
	}
	nft := filepath.Join(l.root, "policy.nft")
	if err := os.WriteFile(nft, []byte(rules.Text()), 0o644); err != nil {
		l.t.Fatal(err)
	}
	l.in("fw", netns.Tool(l.t, "nft", "nftables"), "-f", nft)
	return p
}
