package dhcp4

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	ourMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	otherMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	serverA  = netip.MustParseAddr("198.51.100.1")
	serverB  = netip.MustParseAddr("198.51.100.2")
	leased   = netip.MustParseAddr("198.51.100.50")
)

// rig is a machine with a clock that the test moves.
type rig struct {
	t   *testing.T
	m   machine
	now time.Duration
	out []action
}

func newRig(t *testing.T) *rig {
	t.Helper()
	cfg := &Config{MAC: ourMAC, HostName: "fw-1", Log: slog.New(slog.DiscardHandler),
		Inside: func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.10.10.0/24")} }}
	return &rig{t: t, now: 1000 * time.Second, m: machine{cfg: cfg, random: rand.New(rand.NewPCG(1, 2))}}
}

// after moves the clock to the machine's next deadline and says how long that was.
func (r *rig) after() time.Duration {
	r.t.Helper()
	if r.m.next == 0 {
		r.t.Fatalf("in state %s no timer is set", r.m.state)
	}
	d := r.m.next - r.now
	r.now = r.m.next
	r.m.timer(r.now)
	return d
}

// sent is the only message the machine wants sent now, and where to.
func (r *rig) sent() (*dhcpv4.DHCPv4, netip.Addr) {
	r.t.Helper()
	var found []action
	for _, a := range r.m.take() {
		if a.send != nil {
			found = append(found, a)
		} else {
			r.out = append(r.out, a)
		}
	}
	if len(found) != 1 {
		r.t.Fatalf("in state %s %d messages are to be sent; want 1", r.m.state, len(found))
	}
	m, err := dhcpv4.FromBytes(found[0].send)
	if err != nil {
		r.t.Fatalf("our own message: %v", err)
	}
	return m, found[0].to
}

// done are the actions since, in short.
func (r *rig) done() []string {
	var s []string
	for _, a := range append(r.out, r.m.take()...) {
		switch {
		case a.send != nil:
			m, _ := dhcpv4.FromBytes(a.send)
			s = append(s, m.MessageType().String())
		case a.lease != nil:
			s = append(s, "lease "+a.lease.Address.String())
		case a.lost != "":
			s = append(s, "lost")
		case a.probe.IsValid():
			s = append(s, "probe "+a.probe.String())
		case a.announce.IsValid():
			s = append(s, "announce "+a.announce.String())
		case a.log != "":
			s = append(s, "log")
		}
	}
	r.out = nil
	return s
}

func (r *rig) want(what string, want ...string) {
	r.t.Helper()
	if got := r.done(); !slices.Equal(got, want) {
		r.t.Fatalf("%s: did %q; want %q", what, got, want)
	}
}

func (r *rig) state(want state) {
	r.t.Helper()
	if r.m.state != want {
		r.t.Fatalf("state = %s; want %s", r.m.state, want)
	}
}

// reply answers the machine's current exchange; edit may spoil the answer.
func (r *rig) reply(kind dhcpv4.MessageType, edit ...func(*dhcpv4.DHCPv4)) {
	m := answer(kind)
	m.TransactionID = r.m.xid
	for _, e := range edit {
		e(m)
	}
	r.m.answer(r.now, m)
}

func answer(kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	o := dhcpv4.Options{}
	o[dhcpv4.OptionDHCPMessageType.Code()] = []byte{byte(kind)}
	o[dhcpv4.OptionServerIdentifier.Code()] = serverA.AsSlice()
	o[dhcpv4.OptionSubnetMask.Code()] = []byte{255, 255, 255, 0}
	o[dhcpv4.OptionRouter.Code()] = serverA.AsSlice()
	o[dhcpv4.OptionIPAddressLeaseTime.Code()] = binary.BigEndian.AppendUint32(nil, 3600)
	return &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: iana.HWTypeEthernet, ClientHWAddr: ourMAC,
		YourIPAddr: leased.AsSlice(), Options: o}
}

func option(code dhcpv4.OptionCode, value ...byte) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.Options[code.Code()] = value }
}

func address(a string) func(*dhcpv4.DHCPv4) {
	return func(m *dhcpv4.DHCPv4) { m.YourIPAddr = netip.MustParseAddr(a).AsSlice() }
}

func fromB(m *dhcpv4.DHCPv4) { m.Options[dhcpv4.OptionServerIdentifier.Code()] = serverB.AsSlice() }

// bind goes all the way to a lease of an hour.
func (r *rig) bind() {
	r.t.Helper()
	r.m.carrierUp(r.now)
	r.sent()
	r.reply(dhcpv4.MessageTypeOffer)
	r.sent()
	r.reply(dhcpv4.MessageTypeAck)
	r.want("acknowledged", "probe 198.51.100.50")
	r.m.probed(r.now, false)
	r.want("probed", "lease 198.51.100.50/24", "announce 198.51.100.50")
	r.state(bound)
}

func TestExchange(t *testing.T) {
	r := newRig(t)
	r.m.carrierUp(r.now)
	d, to := r.sent()
	if d.MessageType() != dhcpv4.MessageTypeDiscover || to.IsValid() || d.HostName() != "fw-1" || d.IsBroadcast() ||
		!slices.Equal(d.Options.Get(dhcpv4.OptionClientIdentifier), append([]byte{1}, ourMAC...)) {
		t.Errorf("discover = %s to %s", d.Summary(), to)
	}
	list := d.Options.Get(dhcpv4.OptionParameterRequestList)
	for _, code := range []byte{1, 3, 6, 26, 121} {
		if !slices.Contains(list, code) {
			t.Errorf("option %d is not asked for in %v", code, list)
		}
	}
	if slices.Index(list, 121) > slices.Index(list, 3) {
		t.Errorf("router before classless routes in %v; RFC 3442 wants it after", list)
	}
	r.reply(dhcpv4.MessageTypeOffer)
	q, to := r.sent()
	if q.MessageType() != dhcpv4.MessageTypeRequest || to.IsValid() || q.TransactionID != d.TransactionID ||
		!q.RequestedIPAddress().Equal(leased.AsSlice()) || !q.ServerIdentifier().Equal(serverA.AsSlice()) ||
		!q.ClientIPAddr.IsUnspecified() {
		t.Errorf("request = %s to %s", q.Summary(), to)
	}
	sentAt := r.now
	r.now += 300 * time.Millisecond
	r.reply(dhcpv4.MessageTypeAck)
	r.want("acknowledged", "probe 198.51.100.50")
	r.m.probed(r.now, false)
	r.want("probed", "lease 198.51.100.50/24", "announce 198.51.100.50")
	l := r.m.lease
	if l.Obtained != sentAt || l.Renew != sentAt+1800*time.Second || l.Rebind != sentAt+3150*time.Second ||
		l.Expires != sentAt+3600*time.Second {
		t.Errorf("lease times = %+v; want them from %s, when the request was sent", l, sentAt)
	}
}

func TestBackoff(t *testing.T) {
	r := newRig(t)
	r.m.carrierUp(r.now)
	want := time.Second
	for i := range 12 {
		r.sent()
		got := r.after()
		if got < want*3/4 || got > want*5/4 {
			t.Errorf("wait %d = %s; want %s and at most a quarter more or less", i, got, want)
		}
		want = min(2*want, 64*time.Second)
	}
	// No answer to the request: after four tries everything starts again.
	r = newRig(t)
	r.m.carrierUp(r.now)
	r.sent()
	r.reply(dhcpv4.MessageTypeOffer)
	for range requestTries {
		if m, _ := r.sent(); m.MessageType() != dhcpv4.MessageTypeRequest {
			t.Fatalf("sent %s; want REQUEST", m.MessageType())
		}
		r.after()
	}
	if m, _ := r.sent(); m.MessageType() != dhcpv4.MessageTypeDiscover {
		t.Errorf("sent %s; want DISCOVER", m.MessageType())
	}
}

func TestRenewRebindExpire(t *testing.T) {
	r := newRig(t)
	r.bind()
	if d := r.after(); d != 1800*time.Second {
		t.Errorf("T1 after %s; want 30 min", d)
	}
	m, to := r.sent()
	r.state(renewing)
	if to != serverA || !m.ClientIPAddr.Equal(leased.AsSlice()) || m.RequestedIPAddress() != nil ||
		m.ServerIdentifier() != nil {
		t.Errorf("renewing sends %s to %s; want unicast, ciaddr and neither option 50 nor 54", m.Summary(), to)
	}
	r.reply(dhcpv4.MessageTypeAck)
	r.want("renewed", "lease 198.51.100.50/24")
	if r.m.lease.Expires != r.now+time.Hour {
		t.Errorf("renewed until %s; want an hour from %s", r.m.lease.Expires, r.now)
	}
	start := r.now
	r.after()
	tries := 0
	for r.m.state == renewing {
		r.sent()
		if tries++; tries > 20 {
			t.Fatal("renews without end")
		}
		if d := r.after(); d > time.Minute && r.m.state == renewing && d > (r.m.lease.Rebind-r.now+d)/2+time.Second {
			t.Errorf("waited %s", d)
		}
	}
	if r.now != start+3150*time.Second {
		t.Errorf("rebinding at %s; want T2, 3150 s", r.now-start)
	}
	for r.m.state == rebinding {
		if m, to := r.sent(); to.IsValid() || !m.ClientIPAddr.Equal(leased.AsSlice()) {
			t.Errorf("rebinding sends %s to %s; want broadcast with ciaddr", m.Summary(), to)
		}
		r.after()
	}
	if r.now != start+time.Hour {
		t.Errorf("lost at %s; want at the end, 3600 s", r.now-start)
	}
	if m, _ := r.sent(); m.MessageType() != dhcpv4.MessageTypeDiscover || !m.RequestedIPAddress().Equal(leased.AsSlice()) {
		t.Errorf("after the end sends %s; want DISCOVER with a wish for the last address", m.Summary())
	}
	r.want("end", "lost")
}

func TestRebindByAnotherServer(t *testing.T) {
	r := newRig(t)
	r.bind()
	for r.m.state != rebinding {
		r.after()
		r.sent()
	}
	r.reply(dhcpv4.MessageTypeAck, fromB)
	r.want("rebound", "lease 198.51.100.50/24")
	if r.m.lease.Server != serverB {
		t.Errorf("server = %s; want %s", r.m.lease.Server, serverB)
	}
}

func TestConfirmation(t *testing.T) {
	kept := Lease{Address: netip.PrefixFrom(leased, 24), Server: serverA, MAC: ourMAC.String(),
		Obtained: 500 * time.Second,
		Renew:    2000 * time.Second, Rebind: 3000 * time.Second, Expires: 4000 * time.Second}
	r := newRig(t)
	r.m.restore(r.now, kept)
	r.want("restored", "lease 198.51.100.50/24")
	r.m.carrierUp(r.now)
	m, to := r.sent()
	if r.m.state != rebooting || to.IsValid() || !m.RequestedIPAddress().Equal(leased.AsSlice()) ||
		m.ServerIdentifier() != nil || !m.ClientIPAddr.IsUnspecified() {
		t.Errorf("confirming sends %s to %s; want broadcast, option 50, no 54, no ciaddr", m.Summary(), to)
	}
	// Nobody answers: the lease is held to its own times.
	for r.m.state == rebooting {
		r.after()
		r.done()
	}
	r.state(bound)
	if r.m.next != kept.Renew {
		t.Errorf("next = %s; want T1 %s", r.m.next, kept.Renew)
	}
	// The cable comes out and in again, now elsewhere.
	r.m.carrierDown()
	if r.m.next != kept.Expires || r.m.lease == nil {
		t.Errorf("without carrier next = %s, lease %v; want the lease held to its end", r.m.next, r.m.lease)
	}
	r.m.carrierUp(r.now)
	r.sent()
	r.reply(dhcpv4.MessageTypeNak)
	r.want("refused", "lost")
	r.after()
	if m, _ := r.sent(); m.MessageType() != dhcpv4.MessageTypeDiscover || m.RequestedIPAddress() != nil {
		t.Errorf("after NAK sends %s; want DISCOVER without a wish", m.Summary())
	}

	r = newRig(t)
	r.now = 5000 * time.Second
	r.m.restore(r.now, kept)
	r.want("restored too late")
	r.m.carrierUp(r.now)
	if m, _ := r.sent(); m.MessageType() != dhcpv4.MessageTypeDiscover {
		t.Errorf("with an ended lease sends %s; want DISCOVER", m.MessageType())
	}

	r = newRig(t)
	kept.MAC = otherMAC.String()
	r.m.restore(r.now, kept)
	r.want("restored another NIC's lease")
}

func TestWithoutCarrierALeaseEnds(t *testing.T) {
	r := newRig(t)
	r.bind()
	r.m.carrierDown()
	if d := r.after(); d != time.Hour {
		t.Errorf("woke after %s; want at the end of the lease, 1 h", d)
	}
	r.want("end", "lost")
	r.state(stopped)
	r.m.carrierUp(r.now)
	r.sent()
	r.state(selecting)
}

func TestNAKsSlowDown(t *testing.T) {
	r := newRig(t)
	r.m.carrierUp(r.now)
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 64} {
		r.sent()
		r.reply(dhcpv4.MessageTypeOffer)
		r.sent()
		r.reply(dhcpv4.MessageTypeNak)
		r.state(waiting)
		if got := r.after(); got != want*time.Second {
			t.Errorf("pause %d = %s; want %d s", i, got, want)
		}
	}
}

func TestConflict(t *testing.T) {
	r := newRig(t)
	r.m.carrierUp(r.now)
	r.sent()
	r.reply(dhcpv4.MessageTypeOffer)
	r.sent()
	r.reply(dhcpv4.MessageTypeAck)
	r.want("acknowledged", "probe 198.51.100.50")
	r.m.probed(r.now, true)
	m, to := r.sent()
	if m.MessageType() != dhcpv4.MessageTypeDecline || to.IsValid() || !m.RequestedIPAddress().Equal(leased.AsSlice()) ||
		!m.ServerIdentifier().Equal(serverA.AsSlice()) || m.Options.Get(dhcpv4.OptionParameterRequestList) != nil {
		t.Errorf("sent %s; want DECLINE with options 50 and 54 only", m.Summary())
	}
	if d := r.after(); d != 10*time.Second {
		t.Errorf("waited %s; want 10 s", d)
	}
	r.sent()
	r.state(selecting)
}

func TestWrongAnswersAreIgnored(t *testing.T) {
	wrongXID := func(m *dhcpv4.DHCPv4) { m.TransactionID[0]++ }
	wrongMAC := func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = otherMAC }
	noMAC := func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = nil }
	aRequest := func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest }
	noType := func(m *dhcpv4.DHCPv4) { delete(m.Options, dhcpv4.OptionDHCPMessageType.Code()) }
	twoTypes := option(dhcpv4.OptionDHCPMessageType, 2, 5)
	for name, edit := range map[string]func(*dhcpv4.DHCPv4){
		"xid": wrongXID, "mac": wrongMAC, "no mac": noMAC, "opcode": aRequest, "no type": noType, "two types": twoTypes,
	} {
		for _, at := range []state{selecting, requesting, renewing, rebinding, rebooting} {
			for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak} {
				r := at.reach(t)
				r.reply(kind, edit)
				if got := r.done(); r.m.state != at || len(got) != 0 {
					t.Errorf("%s with wrong %s: %s became %s and did %q; want nothing", kind, name, at, r.m.state, got)
				}
			}
		}
	}
	for _, c := range []struct {
		at   state
		kind dhcpv4.MessageType
		edit func(*dhcpv4.DHCPv4)
	}{
		{selecting, dhcpv4.MessageTypeAck, fromB},
		{selecting, dhcpv4.MessageTypeNak, fromB},
		{requesting, dhcpv4.MessageTypeOffer, fromB},
		{requesting, dhcpv4.MessageTypeAck, fromB},
		{requesting, dhcpv4.MessageTypeNak, fromB},
		{renewing, dhcpv4.MessageTypeAck, fromB},
		{renewing, dhcpv4.MessageTypeNak, fromB},
		{requesting, dhcpv4.MessageTypeAck, address("198.51.100.77")},
		{renewing, dhcpv4.MessageTypeAck, address("198.51.100.77")},
		{rebinding, dhcpv4.MessageTypeAck, address("198.51.100.77")},
		{rebooting, dhcpv4.MessageTypeAck, address("198.51.100.77")},
		{bound, dhcpv4.MessageTypeAck, fromB},
		{bound, dhcpv4.MessageTypeNak, fromB},
		{rebinding, dhcpv4.MessageTypeNak, option(dhcpv4.OptionServerIdentifier)},
	} {
		r := c.at.reach(t)
		r.reply(c.kind, c.edit)
		if got := slices.DeleteFunc(r.done(), func(s string) bool { return s == "log" }); r.m.state != c.at || len(got) != 0 {
			t.Errorf("%s in %s: became %s and did %q; want nothing", c.kind, c.at, r.m.state, got)
		}
	}
}

// reach is a machine in the state.
func (s state) reach(t testing.TB) *rig {
	r := &rig{now: 1000 * time.Second}
	if tt, ok := t.(*testing.T); ok {
		r = newRig(tt)
	} else {
		r.m = machine{cfg: &Config{MAC: ourMAC, Log: slog.New(slog.DiscardHandler)}, random: rand.New(rand.NewPCG(1, 2))}
	}
	r.m.carrierUp(r.now)
	switch s {
	case requesting:
		r.reply(dhcpv4.MessageTypeOffer)
	case bound, renewing, rebinding, rebooting:
		r.reply(dhcpv4.MessageTypeOffer)
		r.reply(dhcpv4.MessageTypeAck)
		r.m.probed(r.now, false)
		if s == rebooting {
			r.m.carrierDown()
			r.m.carrierUp(r.now)
		}
		for (s == renewing || s == rebinding) && r.m.state != s {
			r.now = r.m.next
			r.m.timer(r.now)
		}
	}
	if r.m.state != s {
		t.Fatalf("reached %s; want %s", r.m.state, s)
	}
	r.done()
	return r
}

// TestHostileOfferIsNotTheEnd: what is refused is as if it had not come, and a good offer after it is taken.
func TestHostileOfferIsNotTheEnd(t *testing.T) {
	r := selecting.reach(t)
	r.reply(dhcpv4.MessageTypeOffer, address("10.10.10.7"))
	if got := r.done(); !slices.Equal(got, []string{"log"}) {
		t.Fatalf("an offer inside: did %q; want just a message", got)
	}
	r.reply(dhcpv4.MessageTypeOffer)
	r.state(requesting)
}

func TestStateNames(t *testing.T) {
	for s := stopped; s <= rebooting; s++ {
		if s.String() == "" || strings.Contains(s.String(), "%") {
			t.Errorf("state %d has no name", int(s))
		}
	}
	if got := fmt.Sprint(rebooting); got != "rebooting" {
		t.Errorf("rebooting = %q", got)
	}
}
