package dhcp6

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/firstboot/link/packet"
)

var (
	ourMAC     = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	anotherMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	server1    = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1}
	server2    = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 2}
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// bench is a machine with a clock and what it did.
type bench struct {
	*machine
	t     *testing.T
	now   time.Duration
	sent  []*dhcpv6.Message
	sentA []time.Duration
	notes []string
	last  State
}

func newBench(t *testing.T, cfg Config) *bench {
	cfg.MAC = ourMAC
	return &bench{t: t, now: time.Second, machine: &machine{cfg: &cfg, random: rand.New(rand.NewPCG(1, 2))}}
}

func (b *bench) gather() {
	b.t.Helper()
	for _, a := range b.take() {
		switch {
		case a.send != nil:
			m, err := dhcpv6.MessageFromBytes(a.send)
			if err != nil {
				b.t.Fatalf("it sends what nobody can read: %v", err)
			}
			b.sent, b.sentA = append(b.sent, m), append(b.sentA, b.now)
		case a.state != nil:
			b.last = *a.state
		default:
			b.notes = append(b.notes, a.log)
		}
	}
}

// pass lets time pass, up to a moment.
func (b *bench) pass(until time.Duration) {
	b.t.Helper()
	for range 10000 {
		at := b.next(b.now)
		if at == 0 || at > until {
			b.now = until
			return
		}
		b.now = max(b.now, at)
		b.timer(b.now)
		b.gather()
	}
	b.t.Fatalf("it never rests: next is %v at %v, phase %d", b.next(b.now), b.now, b.phase)
}

func (b *bench) begin() {
	b.t.Helper()
	b.up(b.now)
	b.timer(b.now)
	b.gather()
}

// lastKind is what it sent last.
func (b *bench) lastKind() dhcpv6.MessageType {
	if len(b.sent) == 0 {
		return dhcpv6.MessageTypeNone
	}
	return b.sent[len(b.sent)-1].MessageType
}

// grant is a prefix in an answer.
type grant struct {
	prefix           string
	valid, preferred time.Duration
}

// answer is what a server says to the last message.
func (b *bench) hear(kind dhcpv6.MessageType, server []byte, edit func(*dhcpv6.Message), grants ...grant) {
	b.t.Helper()
	m := &dhcpv6.Message{MessageType: kind, TransactionID: b.sent[len(b.sent)-1].TransactionID}
	m.AddOption(dhcpv6.OptClientID(duid(ourMAC)))
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: server})
	pd, na := &dhcpv6.OptIAPD{IaId: iaid}, &dhcpv6.OptIANA{IaId: iaid}
	for _, g := range grants {
		p := pfx(g.prefix)
		if p.Bits() == 128 {
			na.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: p.Addr().AsSlice(), ValidLifetime: g.valid,
				PreferredLifetime: g.preferred})
			continue
		}
		pd.Options.Add(&dhcpv6.OptIAPrefix{ValidLifetime: g.valid, PreferredLifetime: g.preferred,
			Prefix: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}})
	}
	for _, ia := range []struct {
		n int
		o dhcpv6.Option
	}{{len(pd.Options.Options), pd}, {len(na.Options.Options), na}} {
		if ia.n > 0 {
			m.AddOption(ia.o)
		}
	}
	if edit != nil {
		edit(m)
	}
	m, err := dhcpv6.MessageFromBytes(m.ToBytes())
	if err != nil {
		b.t.Fatal(err)
	}
	b.answer(b.now, m)
	b.timer(b.now)
	b.gather()
}

func (b *bench) want(what, want string) {
	b.t.Helper()
	if got := describe(b.last, b.now); got != want {
		b.t.Errorf("%s: it holds %q; want %q", what, got, want)
	}
}

func describe(s State, now time.Duration) string {
	var out []string
	for _, p := range s.Prefixes {
		out = append(out, fmt.Sprintf("%s %s/%s", p.Prefix, (p.Valid-now).Round(time.Second),
			max(p.Preferred-now, 0).Round(time.Second)))
	}
	for _, a := range s.Addresses {
		out = append(out, fmt.Sprintf("%s %s", a.Addr, (a.Valid-now).Round(time.Second)))
	}
	return strings.Join(out, ", ")
}

const (
	advertise = dhcpv6.MessageTypeAdvertise
	reply     = dhcpv6.MessageTypeReply
)

var hour = grant{"2001:db8:100::/56", time.Hour, time.Hour}

// bound is a client that got hour.
func boundBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, Config{Prefix: true, Length: 56})
	b.begin()
	b.hear(advertise, server1, nil, hour)
	b.pass(b.now + 2*time.Second)
	if b.lastKind() != dhcpv6.MessageTypeRequest {
		t.Fatalf("after an offer it sends %s; want a request", b.lastKind())
	}
	b.hear(reply, server1, nil, hour)
	b.want("granted", "2001:db8:100::/56 1h0m0s/1h0m0s")
	return b
}

func TestDelegation(t *testing.T) {
	b := boundBench(t)
	solicit, request := b.sent[0], b.sent[len(b.sent)-1]
	if p := solicit.Options.OneIAPD().Options.Prefixes(); len(p) != 1 || p[0].Prefix.String() != "::/56" {
		t.Errorf("it wishes for %v; want a length of 56", p)
	}
	if p := request.Options.OneIAPD().Options.Prefixes(); len(p) != 1 || p[0].Prefix.String() != hour.prefix {
		t.Errorf("it requests %v; want what was offered", p)
	}
	if got := request.Options.ServerID().ToBytes(); !slices.Equal(got, server1) {
		t.Errorf("it requests it from %x; want %x", got, server1)
	}
	// T1 at a half, then nobody answers; T2 at four fifths; the end.
	begin := b.now
	b.pass(begin + 31*time.Minute)
	if b.lastKind() != dhcpv6.MessageTypeRenew {
		t.Fatalf("at T1 it sends %s; want a renew", b.lastKind())
	}
	b.pass(begin + 49*time.Minute)
	if b.lastKind() != dhcpv6.MessageTypeRebind || b.sent[len(b.sent)-1].Options.ServerID() != nil {
		t.Fatalf("at T2 it sends %s; want a rebind to whoever", b.lastKind())
	}
	b.hear(reply, server2, nil, hour)
	b.want("rebound by another", "2001:db8:100::/56 1h0m0s/1h0m0s")
	b.pass(b.now + 61*time.Minute)
	b.want("nobody extended it", "")
	if b.lastKind() != dhcpv6.MessageTypeSolicit {
		t.Errorf("when all has ended it sends %s; want a solicit", b.lastKind())
	}
}

// TestRetransmission: nobody answers for three hours.
func TestRetransmission(t *testing.T) {
	b := newBench(t, Config{Prefix: true})
	b.begin()
	b.pass(10 * time.Hour)
	if len(b.sent) < 15 || len(b.sent) > 40 {
		t.Errorf("%d messages in 10 hours; want about 21", len(b.sent))
	}
	for i := 2; i < len(b.sentA); i++ {
		gap, before := b.sentA[i]-b.sentA[i-1], b.sentA[i-1]-b.sentA[i-2]
		if gap > solicitMost*11/10 || gap < before*17/10 && gap < solicitMost*9/10 {
			t.Errorf("message %d after %v, the one before after %v", i, gap, before)
		}
	}
}

func TestBestOffer(t *testing.T) {
	b := newBench(t, Config{Prefix: true})
	b.begin()
	b.hear(advertise, server1, nil, hour)
	b.hear(advertise, server2, func(m *dhcpv6.Message) { m.AddOption(dhcpv6.OptPreference(9)) },
		grant{"2001:db8:200::/56", time.Hour, time.Hour})
	if b.lastKind() != dhcpv6.MessageTypeSolicit {
		t.Fatal("it does not wait for other offers")
	}
	b.pass(b.now + 2*time.Second)
	if got := b.sent[len(b.sent)-1].Options.ServerID(); got == nil || !slices.Equal(got.ToBytes(), server2) {
		t.Errorf("it requests from %v; want the one with the higher preference", got)
	}
	// One that is preferred above all is not made to wait.
	b = newBench(t, Config{Prefix: true})
	b.begin()
	b.hear(advertise, server1, func(m *dhcpv6.Message) { m.AddOption(dhcpv6.OptPreference(bestOfAll)) }, hour)
	if b.lastKind() != dhcpv6.MessageTypeRequest {
		t.Errorf("after the best of all offers it sends %s; want a request", b.lastKind())
	}
}

func TestRenumbering(t *testing.T) {
	fresh := grant{"2001:db8:200::/56", time.Hour, time.Hour}
	for _, c := range []struct {
		name   string
		grants []grant
		want   string
	}{
		{"replaced", []grant{fresh}, "2001:db8:200::/56 1h0m0s/1h0m0s, 2001:db8:100::/56 29m0s/0s"},
		{"beside", []grant{fresh, {hour.prefix, 10 * time.Minute, 0}},
			"2001:db8:200::/56 1h0m0s/1h0m0s, 2001:db8:100::/56 10m0s/0s"},
		{"taken back", []grant{fresh, {hour.prefix, 0, 0}}, "2001:db8:200::/56 1h0m0s/1h0m0s"},
		{"lost", []grant{{hour.prefix, 0, 0}}, ""},
		{"nothing said", nil, "2001:db8:100::/56 29m0s/29m0s"},
	} {
		b := boundBench(t)
		b.pass(b.now + 31*time.Minute)
		b.hear(reply, server1, nil, c.grants...)
		b.want(c.name, c.want)
	}
	// Two hours at most.
	b := newBench(t, Config{Prefix: true})
	b.begin()
	b.hear(advertise, server1, nil, grant{hour.prefix, 100 * time.Hour, 50 * time.Hour})
	b.pass(b.now + 2*time.Second)
	b.hear(reply, server1, nil, grant{hour.prefix, 100 * time.Hour, 50 * time.Hour})
	b.pass(b.now + 26*time.Hour)
	b.hear(reply, server1, nil, fresh)
	b.want("long lived", "2001:db8:200::/56 1h0m0s/1h0m0s, 2001:db8:100::/56 2h0m0s/0s")
}

func TestNoBinding(t *testing.T) {
	b := boundBench(t)
	b.pass(b.now + 31*time.Minute)
	b.hear(reply, server1, func(m *dhcpv6.Message) {
		ia := &dhcpv6.OptIAPD{IaId: iaid}
		ia.Options.Add(&dhcpv6.OptStatusCode{StatusCode: statusNoBinding})
		m.AddOption(ia)
	})
	if b.lastKind() != dhcpv6.MessageTypeRequest {
		t.Errorf("a server that forgot is sent %s; want a request", b.lastKind())
	}
	b.want("meanwhile", "2001:db8:100::/56 29m0s/29m0s")
}

// TestFlap: after the carrier was gone it asks whether this is still the same network, and keeps what it has if nobody
// says.
func TestFlap(t *testing.T) {
	b := boundBench(t)
	b.down()
	b.now += time.Minute
	b.begin()
	if b.lastKind() != dhcpv6.MessageTypeRebind {
		t.Fatalf("after a flap it sends %s; want a rebind", b.lastKind())
	}
	b.want("at once", "2001:db8:100::/56 59m0s/59m0s")
	b.pass(b.now + 20*time.Second)
	if b.phase != bound {
		t.Errorf("with no answer it is in phase %d; want bound", b.phase)
	}
	// Of addresses alone every server can tell.
	b = newBench(t, Config{Address: true})
	b.restore(b.now, State{MAC: ourMAC.String(), Server: server1, Renew: time.Hour, Rebind: time.Hour,
		Addresses: []Address{{netip.MustParseAddr("2001:db8::5"), time.Hour, time.Hour}}})
	b.begin()
	if b.lastKind() != dhcpv6.MessageTypeConfirm {
		t.Fatalf("it sends %s; want a confirm", b.lastKind())
	}
	b.hear(reply, server2, func(m *dhcpv6.Message) {
		m.AddOption(&dhcpv6.OptStatusCode{StatusCode: statusNotOnLink})
	})
	b.want("another network", "")
	b.pass(b.now + 2*time.Second)
	if b.lastKind() != dhcpv6.MessageTypeSolicit {
		t.Errorf("it sends %s; want a solicit", b.lastKind())
	}
}

// TestHostileServer sends what no server should. Nothing of it is taken, and the client does not ask faster.
func TestHostileServer(t *testing.T) {
	inside := func() []netip.Prefix { return []netip.Prefix{pfx("fd00:0:1::/64")} }
	for _, g := range []grant{
		{"fd00:0:1::/64", time.Hour, time.Hour},       // the inside's
		{"fd00::/32", time.Hour, time.Hour},           // around it
		{"2001:db8::/16", time.Hour, time.Hour},       // a continent
		{"2001:db8::/80", time.Hour, time.Hour},       // no room
		{"ff02::/56", time.Hour, time.Hour},           // groups
		{"fe80::/64", time.Hour, time.Hour},           // link-local
		{"::/56", time.Hour, time.Hour},               // nothing
		{"2001:db8:1::/56", time.Hour, 2 * time.Hour}, // preferred for longer than valid
		{"2001:db8:1::/56", time.Second, time.Second}, // for a second
		{"2001:db8:1::/56", 0, 0},                     // not at all
	} {
		b := newBench(t, Config{Prefix: true, Inside: inside})
		b.begin()
		b.hear(advertise, server1, nil, g)
		b.pass(b.now + 2*time.Second)
		if b.lastKind() != dhcpv6.MessageTypeSolicit {
			t.Errorf("%v is offered and it sends %s; want it ignored", g, b.lastKind())
		}
		b = boundBench(t)
		b.cfg.Inside = inside
		b.pass(b.now + 31*time.Minute)
		n := len(b.sent)
		b.hear(reply, server1, nil, g)
		if slices.ContainsFunc(b.last.Prefixes, func(p Prefix) bool { return p.Prefix.String() == g.prefix }) {
			t.Errorf("%v is granted and taken: %s", g, describe(b.last, b.now))
		}
		if b.pass(b.now + time.Minute); len(b.sent) > n+5 {
			t.Errorf("%v is granted and it sends %d messages in a minute", g, len(b.sent)-n)
		}
	}
}

// TestNotAnAnswer: what is not for this client or this exchange changes nothing.
func TestNotAnAnswer(t *testing.T) {
	for name, edit := range map[string]func(*dhcpv6.Message){
		"another transaction": func(m *dhcpv6.Message) { m.TransactionID[0]++ },
		"another client":      func(m *dhcpv6.Message) { m.UpdateOption(dhcpv6.OptClientID(duid(anotherMAC))) },
		"no client":           func(m *dhcpv6.Message) { m.Options.Del(dhcpv6.OptionClientID) },
		"no server":           func(m *dhcpv6.Message) { m.Options.Del(dhcpv6.OptionServerID) },
		"an offer":            func(m *dhcpv6.Message) { m.MessageType = advertise },
		"another server":      func(m *dhcpv6.Message) { m.UpdateOption(dhcpv6.OptServerID(duid(anotherMAC))) },
		"another association": func(m *dhcpv6.Message) { m.Options.OneIAPD().IaId[0] = 9 },
		"T1 greater than T2":  func(m *dhcpv6.Message) { m.Options.OneIAPD().T1, m.Options.OneIAPD().T2 = time.Hour, 1e9 },
		"a failure":           func(m *dhcpv6.Message) { m.AddOption(&dhcpv6.OptStatusCode{StatusCode: 1}) },
	} {
		b := boundBench(t)
		b.pass(b.now + 31*time.Minute)
		before := describe(b.last, b.now)
		b.hear(reply, server1, edit, grant{"2001:db8:900::/56", time.Hour, time.Hour})
		if got := describe(b.last, b.now); got != before {
			t.Errorf("%s: it holds %q; want %q", name, got, before)
		}
	}
}

func TestShortLives(t *testing.T) {
	b := newBench(t, Config{Prefix: true})
	short := grant{hour.prefix, minLife, minLife}
	b.begin()
	b.hear(advertise, server1, nil, short)
	b.pass(b.now + 2*time.Second)
	n := len(b.sent)
	for end := b.now + 10*time.Minute; b.now < end; b.pass(b.now + time.Second) {
		if b.send != 0 {
			b.hear(reply, server1, nil, short)
		}
	}
	if got := len(b.sent) - n; got > 10*60/10 {
		t.Errorf("%d messages in 10 minutes with a server that gives %s at a time; want one in 10 s at most", got, minLife)
	}
}

func TestStateOfAFile(t *testing.T) {
	now := time.Minute
	good := State{MAC: ourMAC.String(), Prefixes: []Prefix{{pfx("2001:db8::/56"), now + time.Hour, now + time.Hour}}}
	if err := good.Check(now); err != nil {
		t.Errorf("Check(%+v) = %v", good, err)
	}
	for name, bad := range map[string]State{
		"many":     {Prefixes: make([]Prefix, maxPrefixes+1)},
		"no":       {Prefixes: []Prefix{{}}},
		"far":      {Prefixes: []Prefix{{pfx("2001:db8::/56"), now + 2*maxLife, now}}},
		"loopback": {Addresses: []Address{{netip.MustParseAddr("::1"), now, now}}},
		"IPv4":     {DNS: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		"server":   {Server: make([]byte, maxDUID+1)},
		"renew":    {Renew: now + 2*maxLife},
	} {
		if bad.Check(now) == nil {
			t.Errorf("Check of a state with %s: taken", name)
		}
	}
}

// packetOf is an answer as it comes off the wire.
func packetOf(payload []byte, from, to string) []byte {
	b := encode(payload, netip.MustParseAddr(from))
	copy(b[24:], netip.MustParseAddr(to).AsSlice())
	udp := b[ipHeader:]
	binary.BigEndian.PutUint16(udp[0:], portServer)
	binary.BigEndian.PutUint16(udp[2:], portClient)
	binary.BigEndian.PutUint16(udp[6:], 0)
	binary.BigEndian.PutUint16(udp[6:], ^packet.Sum(packet.Pseudo6(b), udp))
	return b
}

func anAnswer() []byte {
	m := &dhcpv6.Message{MessageType: reply, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	m.AddOption(dhcpv6.OptClientID(duid(ourMAC)))
	m.AddOption(&dhcpv6.OptIAPD{IaId: iaid, Options: dhcpv6.PDOptions{Options: dhcpv6.Options{&dhcpv6.OptIAPrefix{
		ValidLifetime: time.Hour, PreferredLifetime: time.Hour, Prefix: &net.IPNet{IP: net.ParseIP("2001:db8::"),
			Mask: net.CIDRMask(56, 128)}}}}})
	return m.ToBytes()
}

func TestParse(t *testing.T) {
	self := netip.MustParseAddr("fe80::a")
	good := packetOf(anAnswer(), "fe80::1", "fe80::a")
	if m, err := parse(append(good, 0, 0), self, true); err != nil || m.MessageType != reply {
		t.Errorf("parse of an answer with padding = %v, %v", m, err)
	}
	edited := func(at int, value byte) []byte { b := slices.Clone(good); b[at] = value; return b }
	for name, b := range map[string][]byte{
		"nothing": nil, "short": good[:47], "cut": good[:len(good)-9], "IPv4": edited(0, 0x45), "TCP": edited(6, 6),
		"another port": edited(ipHeader+3, 9), "another length": edited(ipHeader+5, 9), "damaged": edited(60, 99),
		"from afar":   packetOf(anAnswer(), "2001:db8::1", "fe80::a"),
		"for another": packetOf(anAnswer(), "fe80::1", "fe80::b"),
		"a question":  packetOf(append([]byte{1}, anAnswer()[1:]...), "fe80::1", "fe80::a"),
		"empty":       packetOf(nil, "fe80::1", "fe80::a"),
	} {
		if m, err := parse(b, self, true); err == nil {
			t.Errorf("parse of %s = %v; want an error", name, m)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	self := netip.MustParseAddr("fe80::a")
	f.Add(packetOf(anAnswer(), "fe80::1", "fe80::a"))
	f.Add(packetOf([]byte{7, 1, 2, 3, 0, 25, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, "fe80::1", "fe80::a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b, self, false)
		if err != nil {
			return
		}
		o := judge(m, nil)
		s := State{}.merge(time.Minute, o)
		s.MAC = ourMAC.String()
		if len(o.server) <= maxDUID && s.Check(time.Minute) != nil {
			t.Errorf("%x leads to %+v", b, s)
		}
	})
}
