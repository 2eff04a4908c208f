package v4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"rempart/firstboot/dhcp/lease"
	"rempart/profiles"
)

// bench is a server on one link, its clock, and what it said.
type bench struct {
	*Server
	t     testing.TB
	now   time.Time
	boot  time.Duration
	said  bytes.Buffer
	names map[netip.Addr]string
	used  map[netip.Addr]bool // what the network says is in use
}

func (b *bench) Bound(l lease.Lease, _ string) { b.names[l.Addr] = l.Name }
func (b *bench) Gone(a netip.Addr)             { delete(b.names, a) }

func (b *bench) Probe(_ string, a netip.Addr, _ bool, done func(string)) {
	by := ""
	if b.used[a] {
		by = squatter
	}
	go done(by)
}

// squatter is who answers for all addresses that are in use.
const squatter = "02:00:00:00:00:99"

func (b *bench) pass(d time.Duration) { b.now, b.boot = b.now.Add(d), b.boot+d }

func span(first, last string) profiles.Ranges {
	return profiles.Ranges{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}
}

func home() profiles.DHCP {
	return profiles.DHCP{Link: "lan", NoProbe: true, Subnets: []profiles.DHCPSubnet{{
		Prefix: netip.MustParsePrefix("10.0.0.0/24"), Server: netip.MustParseAddr("10.0.0.1"),
		Pools: span("10.0.0.100", "10.0.0.103"), Lease: 3600,
		DHCPSettings: profiles.DHCPSettings{Options: []profiles.DHCPOption{{Code: 3, Value: []byte{10, 0, 0, 1}},
			{Code: 19, Value: []byte{1}}}},
	}}}
}

func newBench(t testing.TB, dhcp ...profiles.DHCP) *bench {
	b := &bench{t: t, now: time.Unix(1_700_000_000, 0), names: map[netip.Addr]string{}, used: map[netip.Addr]bool{}}
	log := slog.New(slog.NewTextHandler(&b.said, nil))
	store, err := lease.Open(lease.Options{Log: log, Clock: lease.Clock{
		Wall: func() time.Time { return b.now }, Boot: func() time.Duration { return b.boot }}})
	if err != nil {
		t.Fatal(err)
	}
	b.Server = New(Config{DHCP: dhcp, Store: store, Names: b, Prober: b, Log: log})
	return b
}

// message is one from the nth client.
func message(kind dhcpv4.MessageType, n int, options ...string) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet,
		ClientHWAddr:  net.HardwareAddr{0x52, 0x54, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)},
		TransactionID: dhcpv4.TransactionID{1, 2, 3, byte(n)}, Options: dhcpv4.Options{53: {byte(kind)}}}
	for _, o := range options {
		name, value, _ := strings.Cut(o, " ")
		switch name {
		case "wish":
			m.Options[50] = netip.MustParseAddr(value).AsSlice()
		case "server":
			m.Options[54] = netip.MustParseAddr(value).AsSlice()
		case "has":
			m.ClientIPAddr = netip.MustParseAddr(value).AsSlice()
		case "relay":
			m.GatewayIPAddr = netip.MustParseAddr(value).AsSlice()
		case "broadcast":
			m.SetBroadcast()
		case "id":
			m.Options[61] = append([]byte{0}, value...)
		case "name":
			m.Options[12] = []byte(value)
		case "vendor":
			m.Options[60] = []byte(value)
		case "user":
			m.Options[77] = []byte(value)
		case "asks":
			m.Options[55] = []byte(value)
		case "time":
			m.Options[51] = []byte{0, 0, 0, 100}
		case "info":
			m.Options[82] = []byte(value)
		default:
			panic(name)
		}
	}
	return m
}

// answer is what a message is answered, and where to; nil: nothing.
func (b *bench) answerFrom(from string, m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, Reply) {
	b.t.Helper()
	sent := make(chan Reply, 1)
	raw, err := parse(m.ToBytes()) // as it comes by the wire
	if err != nil {
		b.t.Fatal(err)
	}
	b.Handle(Packet{Link: "lan", From: netip.MustParseAddrPort(from), Message: raw}, func(r Reply) { sent <- r })
	b.mu.Lock()
	asking := false
	for _, sub := range b.links["lan"].subnets {
		for _, o := range sub.pool.offers {
			asking = asking || o.asking
		}
	}
	b.mu.Unlock()
	var r Reply
	if asking {
		r = <-sent
	} else {
		select {
		case r = <-sent:
		default:
			return nil, r
		}
	}
	out, err := dhcpv4.FromBytes(r.Message)
	if err != nil {
		b.t.Fatalf("the answer is no DHCP message: %v", err)
	}
	if out.TransactionID != m.TransactionID || !bytes.Equal(out.ClientHWAddr, m.ClientHWAddr) {
		b.t.Errorf("the answer is to %v of %v; want %v of %v", out.TransactionID, out.ClientHWAddr, m.TransactionID,
			m.ClientHWAddr)
	}
	return out, r
}

func (b *bench) answer(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, Reply) {
	b.t.Helper()
	return b.answerFrom("0.0.0.0:68", m)
}

// outcome is an answer in words: "ack 10.0.0.100", "nak", "nothing".
func outcome(m *dhcpv4.DHCPv4) string {
	if m == nil {
		return "nothing"
	}
	word := strings.ToLower(m.MessageType().String())
	if m.YourIPAddr.IsUnspecified() {
		return word
	}
	return word + " " + m.YourIPAddr.String()
}

func (b *bench) want(what string, m *dhcpv4.DHCPv4, want string) *dhcpv4.DHCPv4 {
	b.t.Helper()
	got, _ := b.answer(m)
	if outcome(got) != want {
		b.t.Errorf("%s: %s; want %s", what, outcome(got), want)
	}
	return got
}

// lease takes a client through the four messages.
func (b *bench) lease(n int, want string, options ...string) {
	b.t.Helper()
	o, _ := b.answer(message(dhcpv4.MessageTypeDiscover, n, options...))
	if o == nil {
		b.t.Errorf("client %d: no offer; want %s", n, want)
		return
	}
	b.want(fmt.Sprintf("client %d", n), message(dhcpv4.MessageTypeRequest, n, append(options,
		"wish "+o.YourIPAddr.String(), "server "+o.ServerIdentifier().String())...), "ack "+want)
}

// TestAddresses: who gets which address, over the life of a lease and when the pool is full.
func TestAddresses(t *testing.T) {
	b := newBench(t, home())
	b.lease(1, "10.0.0.100", "name laptop")
	b.lease(2, "10.0.0.101")
	b.lease(1, "10.0.0.100")
	b.want("renewing", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100"), "ack 10.0.0.100")
	b.want("rebooted", message(dhcpv4.MessageTypeRequest, 1, "wish 10.0.0.100"), "ack 10.0.0.100")
	b.pass(time.Second)
	b.want("another's address", message(dhcpv4.MessageTypeRequest, 3, "wish 10.0.0.100"), "nak")
	b.want("another network's", message(dhcpv4.MessageTypeRequest, 3, "wish 192.168.7.7"), "nak")
	b.want("no address of the pool", message(dhcpv4.MessageTypeRequest, 3, "wish 10.0.0.9"), "nak")
	b.want("forgotten, free", message(dhcpv4.MessageTypeRequest, 3, "wish 10.0.0.103"), "ack 10.0.0.103")
	b.want("wished for", message(dhcpv4.MessageTypeDiscover, 4, "wish 10.0.0.102"), "offer 10.0.0.102")
	b.want("the pool is full of offers", message(dhcpv4.MessageTypeDiscover, 5), "nothing")
	b.want("another server's offer taken", message(dhcpv4.MessageTypeRequest, 4, "wish 10.0.0.8", "server 10.0.0.9"),
		"nothing")
	b.lease(5, "10.0.0.102")
	b.want("full", message(dhcpv4.MessageTypeDiscover, 6), "nothing")
	if !strings.Contains(b.said.String(), "the pool is full") {
		t.Errorf("said %q; want that the pool is full", b.said.String())
	}
	if got := b.Full(); len(got) != 1 || got[0].String() != "10.0.0.0/24" {
		t.Errorf("Full() = %v; want the one subnet", got)
	}
	b.want("known while full", message(dhcpv4.MessageTypeDiscover, 2), "offer 10.0.0.101")
	b.answer(message(dhcpv4.MessageTypeRelease, 2, "has 10.0.0.101", "server 10.0.0.1"))
	b.lease(2, "10.0.0.101") // its own again
	b.pass(30 * time.Minute)
	b.want("renewing", message(dhcpv4.MessageTypeRequest, 2, "has 10.0.0.101"), "ack 10.0.0.101")
	b.pass(45 * time.Minute) // all but that one have ended
	b.want("after the end, its own", message(dhcpv4.MessageTypeDiscover, 3), "offer 10.0.0.103")
	if got := b.Full(); len(got) != 0 {
		t.Errorf("Full() = %v after leases ended; want none", got)
	}
	b.lease(7, "10.0.0.100") // free for longest
	if _, ok := b.names[netip.MustParseAddr("10.0.0.101")]; !ok || len(b.names) != 2 {
		t.Errorf("names are told of %v; want the two leases there are", b.names)
	}
}

// TestOffersMakeRoom: a flood of discoveries takes no address from who goes on.
func TestOffersMakeRoom(t *testing.T) {
	b := newBench(t, home())
	for n := range 50 {
		b.answer(message(dhcpv4.MessageTypeDiscover, 100+n))
		b.pass(time.Second)
	}
	b.pass(youngOffer * time.Second)
	o, _ := b.answer(message(dhcpv4.MessageTypeDiscover, 1))
	if o == nil {
		t.Fatal("no offer after a flood of discoveries")
	}
	if sub := b.links["lan"].subnets[0]; len(sub.pool.offers) > 4 || b.links["lan"].offers != len(sub.pool.offers) {
		t.Errorf("%d offers of 4 addresses, counted %d", len(sub.pool.offers), b.links["lan"].offers)
	}
	b.want("taken", message(dhcpv4.MessageTypeRequest, 1, "wish "+o.YourIPAddr.String(), "server 10.0.0.1"),
		"ack "+o.YourIPAddr.String())
}

// TestClockSet: leases go on when the clock is set, and names are told when they end now.
func TestClockSet(t *testing.T) {
	b := newBench(t, home())
	b.lease(1, "10.0.0.100")
	b.names = map[netip.Addr]string{}
	b.Sweep()
	if len(b.names) != 0 {
		t.Errorf("names are told of %v, though nothing happened", b.names)
	}
	b.now = b.now.Add(5 * 365 * 24 * time.Hour)
	b.Sweep()
	if _, ok := b.names[netip.MustParseAddr("10.0.0.100")]; !ok {
		t.Errorf("after the clock was set names are told of %v; want the lease", b.names)
	}
}

// TestInUse: an address that the network has is not offered, nor one that a client declined.
func TestInUse(t *testing.T) {
	d := home()
	d.NoProbe = false
	b := newBench(t, d)
	b.used[netip.MustParseAddr("10.0.0.100")] = true
	b.lease(1, "10.0.0.101")
	b.answer(message(dhcpv4.MessageTypeDecline, 1, "wish 10.0.0.101", "server 10.0.0.1"))
	b.lease(1, "10.0.0.102")
	b.want("declined by who has it not", message(dhcpv4.MessageTypeDecline, 2, "wish 10.0.0.102", "server 10.0.0.1"),
		"nothing")
	b.lease(2, "10.0.0.103")
	b.want("the rest is in use", message(dhcpv4.MessageTypeDiscover, 3), "nothing")
	b.used = map[netip.Addr]bool{}
	b.pass(declineTime * time.Second)
	b.Sweep()
	b.lease(3, "10.0.0.100")
}

// TestSurvives: a server started anew knows what was leased, in the order it ended.
func TestSurvives(t *testing.T) {
	b := newBench(t, home())
	for n := range 4 {
		b.lease(n, fmt.Sprintf("10.0.0.%d", 100+n))
		b.pass(time.Second)
	}
	b.pass(2 * time.Hour)
	b.lease(9, "10.0.0.100")
	b.Server = New(b.Config)
	if _, ok := b.names[netip.MustParseAddr("10.0.0.100")]; !ok || len(b.names) != 1 {
		t.Errorf("names are told of %v; want the one lease", b.names)
	}
	b.lease(8, "10.0.0.101")
	b.lease(9, "10.0.0.100")
	b.lease(3, "10.0.0.103")
	d := home()
	d.Subnets[0].Pools = span("10.0.0.102", "10.0.0.102") // the profile has changed
	b.Config.DHCP = []profiles.DHCP{d}
	b.Server = New(b.Config)
	b.want("no longer in the pool", message(dhcpv4.MessageTypeRequest, 9, "has 10.0.0.100"), "nak")
	b.lease(9, "10.0.0.102")
}

// TestHostsAndClasses: who the profile names gets what it says, inside the pool and outside.
func TestHostsAndClasses(t *testing.T) {
	arch := 7
	d := home()
	d.Hosts = []profiles.DHCPHost{
		{Name: "printer", MACs: []string{"52:54:00:00:00:01"}, Address: netip.MustParseAddr("10.0.0.9"), Lease: 60,
			DHCPSettings: profiles.DHCPSettings{Options: []profiles.DHCPOption{{Code: 3, Drop: true},
				{Code: 19, Value: []byte{0}}}}},
		{Name: "inside", ClientIDs: []string{"006162"}, Address: netip.MustParseAddr("10.0.0.100")},
		{Name: "evil", MACs: []string{"52:54:00:00:00:66"}, Ignore: true},
	}
	d.Classes = []profiles.DHCPClass{
		{Name: "pxe", Vendor: "PXEClient*", DHCPSettings: profiles.DHCPSettings{BootFile: "undionly.kpxe",
			NextServer: netip.MustParseAddr("10.0.0.5")}},
		{Name: "ipxe", User: "iPXE", DHCPSettings: profiles.DHCPSettings{BootFile: "boot.ipxe"}},
		{Name: "odd", Arch: &arch, Ignore: true},
		{Name: "phones", Hostname: "Phone-*", DHCPSettings: profiles.DHCPSettings{BootFile: "phone.cfg"}},
	}
	b := newBench(t, d)
	b.lease(1, "10.0.0.9", "name other")
	if got := b.names[netip.MustParseAddr("10.0.0.9")]; got != "printer" {
		t.Errorf("the printer is known as %q; want the profile's name", got)
	}
	m, _ := b.answer(message(dhcpv4.MessageTypeDiscover, 1))
	if m.Options[3] != nil || m.Options[19][0] != 0 || string(m.Options[12]) != "printer" ||
		binary.BigEndian.Uint32(m.Options[51]) != 60 {
		t.Errorf("the printer is told %v; want no router, option 19 = 0, its name, 60 s", m.Options)
	}
	b.want("somebody else's static address", message(dhcpv4.MessageTypeRequest, 2, "wish 10.0.0.9"), "nak")
	b.lease(2, "10.0.0.101") // .100 is for inside
	b.want("wishes for inside's", message(dhcpv4.MessageTypeDiscover, 3, "wish 10.0.0.100"), "offer 10.0.0.102")
	b.lease(4, "10.0.0.100", "id ab")
	b.want("ignored", message(dhcpv4.MessageTypeDiscover, 0x66), "nothing")
	pxe, _ := b.answer(message(dhcpv4.MessageTypeDiscover, 5, "vendor PXEClient:Arch:00000"))
	if pxe == nil || pxe.BootFileName != "undionly.kpxe" || pxe.ServerIPAddr.String() != "10.0.0.5" {
		t.Errorf("PXE is told %v; want undionly.kpxe from 10.0.0.5", pxe)
	}
	for name, want := range map[string]string{"phone-7": "phone.cfg", "PHONE-": "phone.cfg", "phone": "", "aphone-7": ""} {
		if m, _ := b.answer(message(dhcpv4.MessageTypeDiscover, 5, "name "+name)); m == nil || m.BootFileName != want {
			t.Errorf("%s is told %v; want the boot file %q", name, m, want)
		}
	}
	for _, user := range []string{"iPXE", "\x04iPXE", "\x01x\x04iPXE"} {
		m, _ := b.answer(message(dhcpv4.MessageTypeDiscover, 5, "user "+user))
		if m == nil || m.BootFileName != "boot.ipxe" {
			t.Errorf("user class %q is told %v; want boot.ipxe", user, m)
		}
	}
}

// TestWayBack is section 4.1 of RFC 2131: where answers go.
func TestWayBack(t *testing.T) {
	b := newBench(t, home())
	mac := string([]byte{0x52, 0x54, 0, 0, 0, 1})
	for _, c := range []struct {
		what     string
		m        *dhcpv4.DHCPv4
		to       string
		hardware string
	}{
		{"no address yet", message(dhcpv4.MessageTypeDiscover, 1), "10.0.0.100:68", mac},
		{"wants a broadcast", message(dhcpv4.MessageTypeDiscover, 1, "broadcast "), "255.255.255.255:68", string(allOnes)},
		{"acknowledged", message(dhcpv4.MessageTypeRequest, 1, "wish 10.0.0.100", "server 10.0.0.1"), "10.0.0.100:68", mac},
		{"refused", message(dhcpv4.MessageTypeRequest, 2, "wish 10.0.0.100"), "255.255.255.255:68", string(allOnes)},
		{"renewing", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100"), "10.0.0.100:68", ""},
		{"inform", message(dhcpv4.MessageTypeInform, 3, "has 10.0.0.50"), "10.0.0.50:68", ""},
	} {
		_, r := b.answer(c.m)
		if r.To.String() != c.to || string(r.Hardware) != c.hardware {
			t.Errorf("%s: answered to %v, %x; want %s, %x", c.what, r.To, r.Hardware, c.to, c.hardware)
		}
	}
	m, _ := b.answer(message(dhcpv4.MessageTypeInform, 3, "has 10.0.0.50"))
	if outcome(m) != "ack" || m.Options[51] != nil || m.Options[3] == nil {
		t.Errorf("inform is answered %v; want an ack with options and without a lease", m)
	}
}

// TestRelay: giaddr, or what option 82 says, chooses the subnet; option 82 comes back; strangers are no relay agents.
func TestRelay(t *testing.T) {
	d := home()
	d.Subnets = append(d.Subnets, profiles.DHCPSubnet{Prefix: netip.MustParsePrefix("10.20.0.0/24"), Lease: 600,
		Pools: span("10.20.0.50", "10.20.0.60"), Relays: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32")}})
	b := newBench(t, d)
	m, r := b.answerFrom("10.0.0.2:67", message(dhcpv4.MessageTypeDiscover, 1, "relay 10.20.0.1", "info \x01\x02ab"))
	if outcome(m) != "offer 10.20.0.50" || r.To.String() != "10.20.0.1:67" || r.Hardware != nil ||
		string(m.Options[82]) != "\x01\x02ab" || m.Options[1][2] != 255 {
		t.Errorf("by the relay agent: %s to %v, option 82 %q; want offer 10.20.0.50 to it", outcome(m), r.To, m.Options[82])
	}
	end := bytes.LastIndexByte(r.Message, 0xff)
	if end < 6 || string(r.Message[end-6:end]) != "\x52\x04\x01\x02ab" {
		t.Errorf("option 82 is not the last one: % x", r.Message)
	}
	m, _ = b.answerFrom("10.0.0.2:67", message(dhcpv4.MessageTypeDiscover, 2, "relay 172.16.0.1",
		"info \x05\x04\x0a\x14\x00\x07\x0b\x04\x0a\x14\x00\x01"))
	if outcome(m) != "offer 10.20.0.51" || m.ServerIdentifier().String() != "10.20.0.1" {
		t.Errorf("link selection and server override: %s from %v; want offer 10.20.0.51 from 10.20.0.1", outcome(m),
			m.ServerIdentifier())
	}
	for from, relay := range map[string]string{"10.0.0.3:67": "10.20.0.1", "10.0.0.2:67": "10.0.0.1"} {
		if m, _ := b.answerFrom(from, message(dhcpv4.MessageTypeDiscover, 3, "relay "+relay)); m != nil {
			t.Errorf("relayed for %s from %s: %s; want nothing", relay, from, outcome(m))
		}
	}
	m, _ = b.answerFrom("10.0.0.2:67", message(dhcpv4.MessageTypeRequest, 1, "relay 10.20.0.1", "wish 10.20.0.50",
		"server 10.0.0.1"))
	if outcome(m) != "ack 10.20.0.50" {
		t.Errorf("taking the offer by the relay agent: %s", outcome(m))
	}
	m, r = b.answerFrom("10.20.0.50:68", message(dhcpv4.MessageTypeRequest, 1, "has 10.20.0.50"))
	if outcome(m) != "ack 10.20.0.50" || r.To.String() != "10.20.0.50:68" {
		t.Errorf("renewing past the relay agent: %s to %v", outcome(m), r.To)
	}
}

// TestRoom: what the client asks for comes first, in its order, and what does not fit is left out.
func TestRoom(t *testing.T) {
	d := home()
	long := bytes.Repeat([]byte{7}, 200)
	d.Subnets[0].Options = append(d.Subnets[0].Options, profiles.DHCPOption{Code: 43, Value: long},
		profiles.DHCPOption{Code: 119, Value: long}, profiles.DHCPOption{Code: 224, Value: long})
	b := newBench(t, d)
	m, r := b.answer(message(dhcpv4.MessageTypeDiscover, 1, "asks \xe0\x03"))
	if m.Options[224] == nil || m.Options[43] != nil || m.Options[119] != nil || m.Options[3] == nil ||
		len(r.Message) > leastMessage-headers {
		t.Errorf("%d bytes with options %v; want at most %d with 224 and 3", len(r.Message), m.Options, leastMessage-headers)
	}
	big := message(dhcpv4.MessageTypeDiscover, 1, "asks \xe0\x03")
	big.Options[57] = []byte{5, 220}
	if m, _ := b.answer(big); m.Options[43] == nil || m.Options[119] == nil {
		t.Errorf("a client that takes 1500 bytes gets %v; want all", m.Options)
	}
}

// FuzzHandle: whatever comes, the server answers or not, and gives no address of nobody's.
func FuzzHandle(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{1, 3, 4, 7, 8} {
		f.Add(message(kind, 1, "wish 10.0.0.100", "server 10.0.0.1", "info \x05\x04\x0a\x00\x00\x01").ToBytes())
	}
	d := home()
	d.Classes = []profiles.DHCPClass{{Name: "c", User: "x*", Vendor: "y*"}}
	f.Fuzz(func(t *testing.T, src []byte) {
		b := newBench(t, d)
		m, err := parse(src)
		if err != nil {
			return
		}
		b.Handle(Packet{Link: "lan", From: netip.MustParseAddrPort("10.0.0.100:68"), Message: m}, func(r Reply) {
			out, err := dhcpv4.FromBytes(r.Message)
			if err != nil {
				t.Fatalf("the answer is no DHCP message: %v", err)
			}
			if a := addr4(out.YourIPAddr); a.IsValid() && !b.links["lan"].subnets[0].pool.has(a) {
				t.Errorf("gave %v, which is in no pool", a)
			}
			frame(r)
		})
	})
}

// BenchmarkExchange is the four messages of a new client while 50,000 others have leases, without the disk.
func BenchmarkExchange(b *testing.B) {
	d := home()
	d.Subnets[0].Prefix, d.Subnets[0].Pools = netip.MustParsePrefix("10.0.0.0/8"), span("10.0.1.0", "10.1.0.255")
	s := newBench(b, d)
	s.clock = func() time.Time { return s.now }
	sent := 0
	take := func(n int) {
		o := netip.Addr{}
		s.Handle(Packet{Link: "lan", Message: message(dhcpv4.MessageTypeDiscover, n)}, func(r Reply) {
			o, sent = r.To.Addr(), sent+1
		})
		s.Handle(Packet{Link: "lan", Message: message(dhcpv4.MessageTypeRequest, n, "wish "+o.String(), "server 10.0.0.1")},
			func(Reply) { sent++ })
	}
	const many = 50_000
	for n := range many {
		if n%1000 == 0 {
			s.pass(time.Second)
		}
		take(n)
	}
	n := many
	for b.Loop() {
		s.pass(time.Second)
		take(n)
		n++
	}
	if sent != 2*n {
		b.Errorf("%d answers to %d messages", sent, 2*n)
	}
}
