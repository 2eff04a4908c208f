package virtualnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

func newHost(t *testing.T, s *Segment, last byte, routes []Route, addresses ...string) *Host {
	t.Helper()
	var list []netip.Prefix
	for _, a := range addresses {
		list = append(list, netip.MustParsePrefix(a))
	}
	h, err := s.NewHost(fmt.Sprintf("host %d", last), mac(last), list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if err := h.AddRoute(r); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// ask makes a talk to b by TCP, UDP and ping.
func ask(t *testing.T, a, b *Host, from, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const port = 7 // echo, RFC 862
	at := netip.AddrPortFrom(to, port)
	stopTCP, err := b.EchoTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	defer stopTCP()
	stopUDP, err := b.EchoUDP(at)
	if err != nil {
		t.Fatal(err)
	}
	defer stopUDP()
	c, err := a.DialTCP(ctx, from, at)
	if err != nil {
		t.Fatalf("tcp %s to %s: %v", from, at, err)
	}
	defer c.Close()
	big := bytes.Repeat([]byte("0123456789abcdef"), 8192) // many segments each way
	go c.Write(big)
	back := make([]byte, len(big))
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c, back); err != nil || !bytes.Equal(back, big) {
		t.Errorf("tcp %s to %s: %v, equal = %v; want what was sent", from, at, err, bytes.Equal(back, big))
	}
	if err := a.ExchangeUDP(ctx, from, at, []byte("datagram"), 200*time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := a.Ping(ctx, from, to, []byte("payload of the echo"), 200*time.Millisecond); err != nil {
		t.Error(err)
	}
}

func TestTwoHostsOnASegment(t *testing.T) {
	s := NewSegment("lan", quiet())
	defer s.Close()
	a := newHost(t, s, 1, nil, "192.0.2.1/24", "2001:db8::1/64")
	b := newHost(t, s, 2, nil, "192.0.2.2/24", "2001:db8::2/64")
	ask(t, a, b, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
	ask(t, b, a, netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::1"))
}

// fakeRouter forwards between two wires: it answers ARP for both its addresses, and changes hardware addresses.
type fakeRouter struct {
	wires [2]net.Conn
	macs  [2]net.HardwareAddr
	addrs [2]netip.Addr
	known map[netip.Addr]net.HardwareAddr // who is where, told beforehand
	mu    sync.Mutex
}

func (r *fakeRouter) serve(side int) {
	buf := make([]byte, MaxFrame)
	for {
		f, err := ReadFrame(r.wires[side], buf)
		if err != nil {
			return
		}
		const arpRequest = 42 // bytes: Ethernet and RFC 826
		if len(f) >= arpRequest && f[12] == 8 && f[13] == 6 && f[21] == 1 &&
			netip.AddrFrom4([4]byte(f[38:42])) == r.addrs[side] {
			reply := append([]byte(nil), f[:arpRequest]...)
			copy(reply[0:6], f[6:12])
			copy(reply[6:12], r.macs[side])
			reply[21] = 2
			copy(reply[22:28], r.macs[side])
			copy(reply[28:32], f[38:42])
			copy(reply[32:38], f[22:28])
			copy(reply[38:42], f[28:32])
			r.write(side, reply)
			continue
		}
		d, err := Dissect(f)
		if err != nil || !bytes.Equal(d.DstMAC, r.macs[side]) {
			continue
		}
		if to, ok := r.known[d.Dst]; ok {
			out := append([]byte(nil), f...)
			copy(out[0:6], to)
			copy(out[6:12], r.macs[1-side])
			r.write(1-side, out)
		}
	}
}

func (r *fakeRouter) write(side int, frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wires[side].Write(AppendFrame(nil, frame))
}

// Two hosts on two segments talk through a guest that does nothing but forward, and the observers see both sides.
func TestHostsThroughAGuest(t *testing.T) {
	left, right := NewSegment("left", quiet()), NewSegment("right", quiet())
	defer left.Close()
	defer right.Close()
	inside, outside := netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("10.2.0.9")
	via := func(s string) []Route {
		return []Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(s)}}
	}
	a := newHost(t, left, 1, via("10.1.0.1"), "10.1.0.9/24")
	b := newHost(t, right, 2, via("10.2.0.1"), "10.2.0.9/24")
	r := &fakeRouter{macs: [2]net.HardwareAddr{mac(11), mac(12)},
		addrs: [2]netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")},
		known: map[netip.Addr]net.HardwareAddr{inside: mac(1), outside: mac(2)}}
	var mu sync.Mutex
	seen := map[string]int{}
	for i, s := range []*Segment{left, right} {
		ours, theirs := net.Pipe()
		s.PlugGuest(ours)
		r.wires[i] = theirs
		defer theirs.Close()
		go r.serve(i)
		s.Observe(func(_ time.Time, frame []byte, fromGuest bool) {
			if d, err := Dissect(frame); err == nil && d.Protocol == EchoRequest {
				mu.Lock()
				defer mu.Unlock()
				seen[fmt.Sprintf("%s %v", s.Name, fromGuest)]++
			}
		})
	}
	ask(t, a, b, inside, outside)
	mu.Lock()
	defer mu.Unlock()
	if seen["left false"] == 0 || seen["right true"] == 0 || seen["left true"] != 0 || seen["right false"] != 0 {
		t.Errorf("echo requests seen: %v; want them to enter the guest left and leave it right", seen)
	}
}

func TestReadFrame(t *testing.T) {
	buf := make([]byte, MaxFrame)
	frame := bytes.Repeat([]byte{7}, 60)
	r := bytes.NewReader(AppendFrame(AppendFrame(nil, frame), frame))
	for range 2 {
		if got, err := ReadFrame(r, buf); err != nil || !bytes.Equal(got, frame) {
			t.Errorf("ReadFrame = %d bytes, %v; want 60", len(got), err)
		}
	}
	if _, err := ReadFrame(r, buf); err != io.EOF {
		t.Errorf("ReadFrame at the end = %v; want io.EOF", err)
	}
	for in, want := range map[string]error{"\x00\x00\x00\x0d": ErrFrame, "\xff\xff\xff\xff": ErrFrame,
		"\x00\x00\x00\x3cshort": io.ErrUnexpectedEOF, "\x00\x00": io.ErrUnexpectedEOF} {
		if _, err := ReadFrame(bytes.NewReader([]byte(in)), buf); !errors.Is(err, want) {
			t.Errorf("ReadFrame(%q) = %v; want %v", in, err, want)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, make([]byte, 60)))
	f.Add([]byte{0, 1, 0x10, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		buf := make([]byte, MaxFrame)
		r := bytes.NewReader(in)
		for {
			got, err := ReadFrame(r, buf)
			if err != nil {
				return
			}
			if len(got) < minFrame || len(got) > MaxFrame {
				t.Fatalf("ReadFrame = %d bytes; want %d to %d", len(got), minFrame, MaxFrame)
			}
		}
	})
}

func FuzzDissect(f *testing.F) {
	at := func(a string) Datagram {
		return Datagram{mac(1), mac(2), netip.MustParseAddrPort(a), netip.MustParseAddrPort(a)}
	}
	for _, a := range []string{"192.0.2.1:53", "[2001:db8::1]:53"} {
		f.Add(at(a).UDP([]byte("hello")))
		f.Add(at(a).SYN(1))
		f.Add(at(a).Echo([]byte("hello")))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		d, err := Dissect(frame)
		if err == nil && (!d.Src.IsValid() || !d.Dst.IsValid() || len(d.Payload) > len(frame)) {
			t.Errorf("Dissect(%x) = %+v; want addresses and a payload inside the frame", frame, d)
		}
		lease := Lease{Address: netip.MustParsePrefix("192.0.2.2/24"), Server: netip.MustParseAddr("192.0.2.1")}
		lease.answer(frame, mac(1))
	})
}

// Frames made by hand say what they were told to, and a host's stack, which checks every checksum, takes them.
func TestDatagram(t *testing.T) {
	for _, family := range []struct{ host, peer string }{{"192.0.2.1/24", "192.0.2.9"},
		{"2001:db8::1/64", "2001:db8::9"}} {
		s := NewSegment("lan", quiet())
		newHost(t, s, 1, nil, family.host)
		answers := make(chan Dissection, 16)
		s.Observe(func(_ time.Time, frame []byte, _ bool) {
			d, err := Dissect(frame)
			if err == nil && bytes.Equal(d.SrcMAC, mac(1)) && d.Protocol != Other {
				d.Payload = bytes.Clone(d.Payload)
				answers <- d
			}
		})
		newHost(t, s, 9, nil, family.peer+"/"+family.host[len(family.host)-2:])
		i := s.NewInjector()
		to := Datagram{mac(9), mac(1), netip.AddrPortFrom(netip.MustParseAddr(family.peer), 1000),
			netip.AddrPortFrom(netip.MustParsePrefix(family.host).Addr(), 2000)}
		for _, c := range []struct {
			frame []byte
			right func(Dissection) bool
		}{
			{to.SYN(77), func(d Dissection) bool { return d.Protocol == TCP && d.RST && d.DstPort == 1000 }},
			{to.UDP([]byte("x")), func(d Dissection) bool { return d.Protocol == Unreachable }},
			{to.Echo([]byte("abc")), func(d Dissection) bool { return d.Protocol == EchoReply && string(d.Payload) == "abc" }},
		} {
			if err := i.Send(c.frame); err != nil {
				t.Fatal(err)
			}
			select {
			case d := <-answers:
				if !c.right(d) {
					t.Errorf("answer to %x = %+v; want the protocol's own", c.frame, d)
				}
			case <-time.After(time.Minute):
				t.Errorf("no answer to %x", c.frame)
			}
		}
		s.Close()
	}
}

func TestServeDHCP(t *testing.T) {
	s := NewSegment("wan", quiet())
	defer s.Close()
	lease := Lease{Address: netip.MustParsePrefix("192.0.2.101/24"), Server: netip.MustParseAddr("192.0.2.1"),
		Time: time.Hour}
	s.ServeDHCP(lease, mac(1))
	got := make(chan *dhcpv4.DHCPv4, 4)
	s.attach(&port{deliver: func(frame []byte) {
		if d, err := Dissect(frame); err == nil && d.DstPort == dhcpClientPort {
			if m, err := dhcpv4.FromBytes(bytes.Clone(d.Payload)); err == nil {
				got <- m
			}
		}
	}})
	send := func(m *dhcpv4.DHCPv4) {
		t.Helper()
		all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		frame := Datagram{mac(5), all, netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67")}.
			UDP(m.ToBytes())
		if err := s.NewInjector().Send(frame); err != nil {
			t.Fatal(err)
		}
	}
	discover, err := dhcpv4.NewDiscovery(mac(5))
	if err != nil {
		t.Fatal(err)
	}
	send(discover)
	offer := <-got
	if offer.MessageType() != dhcpv4.MessageTypeOffer || !offer.YourIPAddr.Equal(net.IPv4(192, 0, 2, 101)) ||
		offer.IPAddressLeaseTime(0) != time.Hour || offer.TransactionID != discover.TransactionID {
		t.Errorf("answer to a discovery = %s; want an offer of 192.0.2.101 for an hour", offer.Summary())
	}
	request, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		t.Fatal(err)
	}
	send(request)
	if ack := <-got; ack.MessageType() != dhcpv4.MessageTypeAck || len(ack.Router()) != 1 {
		t.Errorf("answer to a request = %s; want an acknowledgement with a router", ack.Summary())
	}
	request.UpdateOption(dhcpv4.OptRequestedIPAddress(net.IPv4(192, 0, 2, 7)))
	send(request)
	if nak := <-got; nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("answer to a request for another address = %s; want a refusal", nak.Summary())
	}
}

// A guest that makes up addresses does not make the segment grow.
func TestSegmentIsBounded(t *testing.T) {
	s := NewSegment("lan", quiet())
	defer s.Close()
	p := &port{deliver: func([]byte) {}}
	s.attach(p)
	frame := make([]byte, 60)
	for i := range 3 * maxStations {
		frame[6], frame[9], frame[10], frame[11] = 2, byte(i>>16), byte(i>>8), byte(i)
		s.send(p, frame)
	}
	if n := len(s.where); n > maxStations {
		t.Errorf("a segment has learnt %d stations; want at most %d", n, maxStations)
	}
}

// TestUnplugged: what is for a guest that has gone reaches the one that came in its place, before that has said a word.
func TestUnplugged(t *testing.T) {
	s := NewSegment("lan", quiet())
	defer s.Close()
	plug := func() net.Conn {
		ours, theirs := net.Pipe()
		s.PlugGuest(ours)
		return theirs
	}
	frame := func(to, from net.HardwareAddr) []byte {
		return append(append(append(make([]byte, 0, 60), to...), from...), make([]byte, 48)...)
	}
	patience := time.After(time.Minute)
	gone := plug()
	if _, err := gone.Write(AppendFrame(nil, frame(mac(9), mac(1)))); err != nil {
		t.Fatal(err)
	}
	for learnt := false; !learnt; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		learnt = s.where[[6]byte(mac(1))] != nil
		s.mu.Unlock()
		select {
		case <-patience:
			t.Fatal("the segment learns nothing of a guest that speaks")
		default:
		}
	}
	gone.Close()
	came := plug()
	defer came.Close()
	got := make(chan []byte, 1)
	go func() {
		b, _ := ReadFrame(came, make([]byte, MaxFrame))
		got <- b
	}()
	want := frame(mac(1), mac(9))
	for i := s.NewInjector(); ; {
		if err := i.Send(want); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-got:
			if !bytes.Equal(b, want) {
				t.Errorf("it is sent %x; want %x", b, want)
			}
			return
		case <-time.After(10 * time.Millisecond):
		case <-patience:
			t.Fatal("frames still go to the guest that has gone")
		}
	}
}
