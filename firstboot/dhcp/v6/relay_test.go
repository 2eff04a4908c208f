package v6

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/profiles"
)

// foreign has a subnet behind relay agents besides those of the link.
func foreign() profiles.DHCP6 {
	d := usual()
	d.Relayed = []profiles.DHCP6Relayed{{Prefix: netip.MustParsePrefix("fd20::/64"),
		From: []netip.Prefix{netip.MustParsePrefix("fe80::2/128"), netip.MustParsePrefix("fd00:1::2/128")},
		DHCP6Scope: profiles.DHCP6Scope{Lease: 3600, DNSSelf: true,
			Pools: []profiles.SuffixRange{{First: ip("::5"), Last: ip("::5")}},
			Hosts: []profiles.DHCP6Host{{Name: "far", MAC: "02:00:00:01:00:02", Host: ip("::7")}}}}}
	return d
}

// relayed puts a message into those of agents, the first being the closest to the client.
func relayed(m dhcpv6.DHCPv6, links ...string) []byte {
	for hop, link := range links {
		r := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, HopCount: uint8(hop),
			LinkAddr: net.ParseIP(link), PeerAddr: net.ParseIP("fe80::99")}
		r.AddOption(dhcpv6.OptRelayMessage(m))
		m = r
	}
	return m.ToBytes()
}

// through sends what agents forward, and returns what the client is answered as text; empty: nothing.
func (c *client) through(agent string, kind dhcpv6.MessageType, links ...string) string {
	c.t.Helper()
	answers, _ := c.send(ip(agent), relayed(c.compose(kind, nil), links...))
	if len(answers) == 0 {
		return ""
	}
	outer, err := dhcpv6.RelayMessageFromBytes(answers[0])
	if err != nil {
		c.t.Fatal(err)
	}
	for range links[1:] {
		next, ok := outer.Options.RelayMessage().(*dhcpv6.RelayMessage)
		if !ok || next.MessageType != dhcpv6.MessageTypeRelayReply {
			c.t.Fatalf("the answer is for fewer than the %d agents there are: %v", len(links), outer)
		}
		outer = next
	}
	c.got, err = outer.GetInnerMessage()
	if err != nil {
		c.t.Fatal(err)
	}
	return describe(c.got)
}

// TestForeignSubnets: the agent closest to a client says where it is; that selects what it is given.
func TestForeignSubnets(t *testing.T) {
	b := newBench(t, foreign(), static)
	c := b.client(1)
	for _, links := range [][]string{{"fd20::1"}, {"fd20::1", "fd00:1::9"}, {"fd20::1", "::", "::"}, {"::", "fd20::1"}} {
		if got := c.through("fe80::2", requested, links...); got != "REPLY, fd20::5 1h0m0s/45m0s" {
			t.Errorf("relayed from %v it is answered %q; want the subnet's only address", links, got)
		}
	}
	if dns := c.got.Options.DNS(); len(dns) != 1 || dns[0].String() != "fd00:1::1" {
		t.Errorf("name servers %v; want the guest, as it is reached from afar", dns)
	}
	if got := b.names[ip("fd20::5")]; got != "host1@lan" {
		t.Errorf("the name of its address is %q; want host1 of the link", got)
	}
	if got := b.client(3).through("fd00:1::2", requested, "fd20::1"); got != "REPLY, NA NoAddrsAvail" {
		t.Errorf("when the subnet is full a new client is answered %q", got)
	}
	if got := b.client(2).through("fd00:1::2", requested, "fd20::1"); got != "REPLY, fd20::7 1h0m0s/45m0s" {
		t.Errorf("the named host is answered %q", got)
	}
	// The same end on the link itself is another lease.
	onLink := b.client(4)
	onLink.have = []netip.Addr{ip("fd00:1::1000")}
	if got := onLink.ask(requested, nil); got != "REPLY, fd00:1::1000 12h0m0s/9h0m0s" {
		t.Errorf("a client on the link is answered %q", got)
	}
	// Another process knows them.
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(foreign(), static)
	c.bench = b
	if got := c.through("fe80::2", rebound, "fd20::1"); got != "REPLY, fd20::5 1h0m0s/45m0s" {
		t.Errorf("after a restart it is answered %q", got)
	}
	c.have = []netip.Addr{ip("fd20::5")}
	if got := c.through("fe80::2", confirm, "fd20::1"); got != "REPLY, Success" {
		t.Errorf("what it has is confirmed by %q", got)
	}
	for what, from := range map[string][2]string{"an agent the profile does not name": {"fe80::3", "fd20::1"},
		"a subnet it does not name": {"fe80::2", "fd21::1"}, "an agent from afar, for the link": {"fd20::2", "fd00:1::9"}} {
		if got := b.client(5).through(from[0], requested, from[1]); got != "" {
			t.Errorf("%s is answered %q; want silence", what, got)
		}
	}
	deep := make([]string, maxHops)
	for i := range deep {
		deep[i] = "fd20::1"
	}
	if got := c.through("fe80::2", renew, deep...); got == "" {
		t.Errorf("by %d agents it is not answered", len(deep))
	}
	if got := c.through("fe80::2", renew, append(deep, "::")...); got != "" {
		t.Errorf("by %d agents it is answered %q; want silence", len(deep)+1, got)
	}
}

// TestDelegatesBehindAgents: where the profile says so, routers behind relay agents are delegated prefixes of what the
// link delegates, none that others have; the way there is the route to their subnet, whoever forwards.
func TestDelegatesBehindAgents(t *testing.T) {
	lan := profiles.Link{Name: "lan", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00:1::1/64")},
		Routes: []profiles.Route{{To: netip.MustParsePrefix("fd20::/48"), Via: ip("fd00:1::2")}}}
	for _, c := range []struct {
		what  string
		edit  func(*profiles.DHCP6, *profiles.Link)
		agent string
		given bool
		way   string
	}{
		{"of its own", func(*profiles.DHCP6, *profiles.Link) {}, "fe80::2", true, "fd00:1::2"},
		{"by another agent", func(*profiles.DHCP6, *profiles.Link) {}, "fd00:1::2", true, "fd00:1::2"},
		{"not said", func(d *profiles.DHCP6, _ *profiles.Link) { d.Relayed[0].Delegate = false }, "fe80::2", false, ""},
		{"nothing delegated", func(d *profiles.DHCP6, _ *profiles.Link) { d.Delegate = nil }, "fe80::2", false, ""},
		{"no way", func(_ *profiles.DHCP6, l *profiles.Link) { l.Routes = nil }, "fe80::2", false, ""},
		{"by itself", func(_ *profiles.DHCP6, l *profiles.Link) { l.Routes[0].Via = ip("fd00:1::1") }, "fe80::2", false, ""},
		{"another subnet's way", func(_ *profiles.DHCP6, l *profiles.Link) {
			l.Routes = append(slices.Clone(l.Routes), profiles.Route{To: netip.MustParsePrefix("fd20::/64"),
				Via: ip("fe80::3")})
		}, "fe80::2", true, "fe80::3"},
	} {
		d := foreign()
		d.Delegate, d.Relayed[0].Delegate = routers().Delegate, true
		at := lan
		at.Routes = slices.Clone(lan.Routes)
		c.edit(&d, &at)
		b := newBench(t, d, static)
		b.Server = New(Config{DHCP6: []profiles.DHCP6{d}, Links: []profiles.Link{at}, Store: b.store, Names: b.names,
			Log: b.cfg.Log})
		b.prefixes(static)
		r, on := b.router(1), b.router(2)
		on.ask(requested)
		far := func(kind dhcpv6.MessageType) string {
			t.Helper()
			return r.throughPD(c.agent, kind)
		}
		got := far(requested)
		if !c.given {
			if got != "REPLY, PD NoPrefixAvail" {
				t.Errorf("%s: it is answered %q; want nothing", c.what, got)
			}
			continue
		}
		if len(r.held) != 1 || len(on.held) == 1 && r.one().Overlaps(on.one()) {
			t.Fatalf("%s: it is answered %q and has %v, a router on the link %v", c.what, got, r.held, on.held)
		}
		led := func(what string, n int) {
			t.Helper()
			ways := fmt.Sprint(b.led())
			want := fmt.Sprintf("%s via %s by lan", r.one(), c.way)
			if strings.Contains(ways, want) != (n > 0) || strings.Count(ways, " via "+c.way+" ") != n {
				t.Errorf("%s, %s: ways are %s; want %d to %s", c.what, what, ways, n, want)
			}
		}
		led("given", 1)
		if all := b.Leases(); len(all) != 2 {
			t.Errorf("%s: leases are %v; want one of each router", c.what, all)
		}
		had := r.one()
		if far(renew); r.one() != had {
			t.Errorf("%s: it renews %s and has %v", c.what, had, r.held)
		}
		if got := far(release); got != "REPLY, Success" {
			t.Errorf("%s: it gives it back and is answered %q", c.what, got)
		}
		led("given back", 0)
	}
}

// throughPD has a router behind an agent of fd20::/64 ask for a prefix alone.
func (r *router) throughPD(agent string, kind dhcpv6.MessageType) string {
	r.t.Helper()
	m := r.compose(kind, func(m *dhcpv6.Message) {
		m.Options.Del(dhcpv6.OptionIANA)
		ia := &dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 1}}
		for _, p := range r.held {
			ia.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(p)})
		}
		m.AddOption(ia)
	})
	answers, err := r.send(ip(agent), relayed(m, "fd20::1"))
	if len(answers) != 1 {
		r.t.Fatalf("%d answers, %v", len(answers), err)
	}
	outer, err := dhcpv6.RelayMessageFromBytes(answers[0])
	if err != nil {
		r.t.Fatal(err)
	}
	if r.got, err = outer.GetInnerMessage(); err != nil {
		r.t.Fatal(err)
	}
	if kind != release {
		r.held = nil
		for _, ia := range r.got.Options.IAPD() {
			r.held = append(r.held, asked(ia)...)
		}
	}
	return describe(r.got)
}

// TestTwoDelegations: a router that asks for two prefixes has two, although just one is kept for it.
func TestTwoDelegations(t *testing.T) {
	d := routers()
	d.Hosts = []profiles.DHCP6Host{{Name: "branch", MAC: "02:00:00:01:00:01",
		Delegate: &profiles.PrefixBlock{Prefix: netip.MustParsePrefix("fd00:f:0:4::/62")}}}
	b := newBench(t, d, static)
	c := b.client(1)
	got := c.ask(requested, func(m *dhcpv6.Message) {
		m.Options.Del(dhcpv6.OptionIANA)
		m.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{1}})
		m.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{2}})
	})
	var all []netip.Prefix
	for _, ia := range c.got.Options.IAPD() {
		all = append(all, asked(ia)...)
	}
	if got != "REPLY" || len(all) != 2 || all[0] != netip.MustParsePrefix("fd00:f:0:4::/62") || all[0].Overlaps(all[1]) {
		t.Errorf("it is answered %q with %v; want its own prefix and another", got, all)
	}
}

// TestTwoAssociations: a named host that asks for two addresses has both under its name.
func TestTwoAssociations(t *testing.T) {
	b := newBench(t, usual(), static)
	c := b.client(1)
	c.mac, c.name = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, ""
	c.duid = &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: c.mac}
	c.ask(requested, func(m *dhcpv6.Message) { m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 8}}) })
	if len(c.have) != 2 || c.have[0] != ip("fd00:1::10") || c.have[1] == c.have[0] {
		t.Fatalf("it has %v; want its own address and one of the pool", c.have)
	}
	for _, a := range c.have {
		if b.names[a] != "nas@lan" {
			t.Errorf("the name of %s is %q; want nas", a, b.names[a])
		}
	}
}
