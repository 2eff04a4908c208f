package v6

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// TestRelay: an agent on the link forwards, and says the client's hardware address (RFC 6939).
func TestRelay(t *testing.T) {
	b := newBench(t, usual(), static)
	c := b.client(1)
	c.duid, c.name = &dhcpv6.DUIDEN{EnterpriseNumber: 9, EnterpriseIdentifier: []byte{1}}, ""
	relay := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: net.ParseIP("fd00:1::2"),
		PeerAddr: net.ParseIP("fe80::99")}
	relay.AddOption(dhcpv6.OptRelayMessage(c.compose(requested, nil)))
	relay.AddOption(dhcpv6.OptClientLinkLayerAddress(iana.HWTypeEthernet, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}))
	relay.AddOption(dhcpv6.OptInterfaceID([]byte("port7")))
	answers, err := b.send(ip("fd00:1::2"), relay.ToBytes())
	if err != nil || len(answers) != 1 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	got, err := dhcpv6.RelayMessageFromBytes(answers[0])
	if err != nil {
		t.Fatal(err)
	}
	inner, err := got.GetInnerMessage()
	if err != nil || describe(inner) != "REPLY, fd00:1::10 12h0m0s/9h0m0s" ||
		string(got.Options.InterfaceID()) != "port7" {
		t.Errorf("relayed: %v, %v; want the named host's address and the port", got, err)
	}
	relay.LinkAddr = net.ParseIP("fd00:9::2")
	if answers, err := b.send(ip("fd00:1::2"), relay.ToBytes()); len(answers) != 0 || err == nil {
		t.Errorf("from another link: %d answers, %v; want silence", len(answers), err)
	}
	deep := dhcpv6.DHCPv6(c.compose(requested, nil))
	for range maxHops + 1 {
		r := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: net.IPv6zero,
			PeerAddr: net.IPv6zero}
		r.AddOption(dhcpv6.OptRelayMessage(deep))
		deep = r
	}
	if answers, err := b.send(ip("fd00:1::2"), deep.ToBytes()); len(answers) != 0 || err == nil {
		t.Errorf("relayed %d times: %d answers, %v; want silence", maxHops+1, len(answers), err)
	}
}

// TestSolicitFlood: a hundred thousand clients that never were cost no memory, and known ones are served.
func TestSolicitFlood(t *testing.T) {
	d := usual()
	d.Pools = []profiles.SuffixRange{{First: ip("::1:0:0:0"), Last: ip("::1:ffff:ffff:ffff")}}
	b := newBench(t, d, static)
	known := b.client(1)
	known.ask(requested, nil)
	raw := b.client(2).compose(solicit, nil).ToBytes()
	at := bytes.Index(raw, []byte{2, 0, 0, 1, 0, 2})
	answered := 0
	for i := range 100_000 {
		raw[at+2], raw[at+3], raw[at+4] = byte(i>>16), byte(i>>8), byte(i)
		_ = b.message(b.links["lan"], on, ip("fe80::99"), raw, func([]byte) { answered++ })
	}
	if n := b.store.Len(); answered != 100_000 || n != 1 {
		t.Errorf("%d of 100,000 are answered and %d leases kept; want all, and one", answered, n)
	}
	if len(b.told) > 1 {
		t.Errorf("%d names are remembered", len(b.told))
	}
	if got := known.ask(renew, nil); !strings.HasPrefix(got, "REPLY, fd00:1:") {
		t.Errorf("a known client is answered %q", got)
	}
}

// TestRequestFlood: requests of clients that never were fill what the pool has and no more.
func TestRequestFlood(t *testing.T) {
	b := newBench(t, usual(), static)
	known := b.client(1)
	known.ask(requested, nil)
	for i := range 2000 {
		c := b.client(byte(i))
		c.mac[2], c.name = byte(i>>8)+1, ""
		_ = b.message(b.links["lan"], on, ip("fe80::99"), c.compose(requested, nil).ToBytes(), func([]byte) {})
	}
	if n := b.store.Len(); n > 4 {
		t.Errorf("%d leases are kept; want the pool's", n)
	}
	if got := known.ask(renew, nil); !strings.HasPrefix(got, "REPLY, fd00:1::") {
		t.Errorf("a known client is answered %q", got)
	}
}

func FuzzMessage(f *testing.F) {
	store, err := lease.Open(lease.Options{Clock: lease.SystemClock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	d := foreign()
	d.Delegate, d.Relayed[0].Delegate = routers().Delegate, true
	d.Relayed[0].From = append(d.Relayed[0].From, netip.MustParsePrefix("fe80::99/128"))
	lan := profiles.Link{Name: "lan", Addresses: []netip.Prefix{static.Prefix},
		Routes: []profiles.Route{{To: netip.MustParsePrefix("fd20::/64"), Via: ip("fd00:1::2")}}}
	s := New(Config{DHCP6: []profiles.DHCP6{d}, Links: []profiles.Link{lan}, Store: store, Names: book{},
		Log: slog.New(slog.DiscardHandler)})
	s.Look(watch.View{Links: map[string]watch.Link{"lan": {Running: true, LinkLocal: ip("fe80::1"),
		Addresses: []watch.Address{static, gua}}}})
	c := &client{duid: &dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 1, 0, 1}}, name: "x",
		have: []netip.Addr{ip("fd00:1::1002")}}
	for _, kind := range []dhcpv6.MessageType{solicit, requested, renew, rebound, confirm, release, decline, inform} {
		f.Add(c.compose(kind, nil).ToBytes())
	}
	relay := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayForward, LinkAddr: net.ParseIP("fd00:1::2"),
		PeerAddr: net.ParseIP("fe80::99")}
	relay.AddOption(dhcpv6.OptRelayMessage(c.compose(requested, nil)))
	f.Add(relay.ToBytes())
	relay.LinkAddr = net.ParseIP("fd20::1")
	relay.Options.Update(dhcpv6.OptRelayMessage(c.compose(requested, func(m *dhcpv6.Message) {
		m.AddOption(&dhcpv6.OptIAPD{})
	})))
	f.Add(relay.ToBytes())
	for _, kind := range []dhcpv6.MessageType{solicit, requested, renew, rebound, release} {
		f.Add(c.compose(kind, func(m *dhcpv6.Message) {
			ia := &dhcpv6.OptIAPD{}
			ia.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(netip.MustParsePrefix("fd00:f:0:4::/62"))})
			m.AddOption(ia)
		}).ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = s.message(s.links["lan"], on, ip("fe80::99"), b, func(a []byte) {
			if len(a) > 2*maxMessage+len(b) {
				t.Errorf("%d bytes are answered by %d", len(b), len(a))
			}
		})
	})
}
