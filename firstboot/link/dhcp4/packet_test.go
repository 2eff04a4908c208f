package dhcp4

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/firstboot/link/packet"
)

// wire is a packet from a server as it stands on the wire.
func wire(payload []byte) []byte {
	b := encode(payload, serverA, leased)
	udp := b[ipHeader:]
	binary.BigEndian.PutUint16(udp[0:], portServer)
	binary.BigEndian.PutUint16(udp[2:], portClient) // the sum of both ports stays, and with it the checksum
	return b
}

func TestDecodeReadsWhatEncodeWrote(t *testing.T) {
	for n := range 70 { // odd and even lengths
		payload := bytes.Repeat([]byte{0xa5, 0xff, 3}, n)
		got, from, err := decode(append(wire(payload), 0, 0, 0, 0, 0), true) // with Ethernet padding
		if err != nil || !bytes.Equal(got, payload) || from != serverA {
			t.Errorf("decode(%d bytes) = %x from %s, %v", len(payload), got, from, err)
		}
	}
}

// TestChecksums uses the worked example of RFC 1071 section 3 and one with a carry out of the carry.
func TestChecksums(t *testing.T) {
	if got := packet.Sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != 0xddf2 {
		t.Errorf("sum of RFC 1071's example = %#x; want 0xddf2", got)
	}
	if got := packet.Sum(0xffff, []byte{0xff, 0xff, 0, 1}); got != 1 {
		t.Errorf("sum with two carries = %#x; want 1", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := func() []byte { return wire([]byte("some payload")) }
	fix := func(b []byte) []byte { // the header checksum, so that what is wrong is found by its own check
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^packet.Sum(0, b[:ipHeader]))
		return b
	}
	edit := func(at int, v byte) []byte {
		b := good()
		b[at] = v
		if at < ipHeader {
			fix(b)
		}
		return b
	}
	for name, b := range map[string][]byte{
		"empty":                nil,
		"short":                good()[:19],
		"truncated":            good()[:30],
		"version 6":            edit(0, 6<<4|5),
		"header of 16 bytes":   edit(0, 4<<4|4),
		"header over the end":  fix(good()[:ipHeader])[:ipHeader:ipHeader],
		"total below header":   edit(3, 10),
		"total above packet":   edit(3, 200),
		"not UDP":              edit(9, 6),
		"first fragment":       edit(6, 0x20),
		"later fragment":       edit(7, 1),
		"to another port":      edit(ipHeader+3, 69),
		"from another port":    edit(ipHeader+1, 68),
		"UDP length too large": edit(ipHeader+5, 200),
		"UDP length too small": edit(ipHeader+5, 7),
		"flipped payload":      edit(ipHeader+udpHeader, 'S'),
		"flipped IP checksum":  func() []byte { b := good(); b[10] ^= 1; return b }(),
	} {
		if got, _, err := decode(b, true); err == nil {
			t.Errorf("%s: decode = %q; want an error", name, got)
		}
	}
	// A guest of the same host leaves the sum to hardware that is not there; and zero means there is none.
	flipped := edit(ipHeader+udpHeader, 'S')
	if _, _, err := decode(flipped, false); err != nil {
		t.Errorf("a packet not yet summed: %v; want it taken", err)
	}
	flipped[ipHeader+6], flipped[ipHeader+7] = 0, 0
	if _, _, err := decode(flipped, true); err != nil {
		t.Errorf("a packet without a sum: %v; want it taken", err)
	}
}

func TestClaims(t *testing.T) {
	zero := netip.IPv4Unspecified()
	reply := func(b []byte) []byte { b[7] = 2; return b }
	for name, c := range map[string]struct {
		packet []byte
		want   bool
	}{
		"somebody answers":       {reply(arp(otherMAC, leased, zero)), true},
		"somebody announces":     {arp(otherMAC, leased, leased), true},
		"somebody probes too":    {arp(otherMAC, zero, leased), true},
		"our own probe":          {arp(ourMAC, zero, leased), false},
		"our own echo":           {reply(arp(ourMAC, leased, leased)), false},
		"somebody asks":          {arp(otherMAC, serverA, leased), false},
		"somebody else's":        {arp(otherMAC, serverA, serverB), false},
		"short":                  {arp(otherMAC, leased, leased)[:27], false},
		"empty":                  {nil, false},
		"other hardware":         {func() []byte { b := arp(otherMAC, leased, zero); b[1] = 6; return b }(), false},
		"other protocol":         {func() []byte { b := arp(otherMAC, leased, zero); b[2] = 0x86; return b }(), false},
		"other address lengths":  {func() []byte { b := arp(otherMAC, leased, zero); b[4] = 8; return b }(), false},
		"answer with no address": {reply(arp(otherMAC, zero, leased)), false},
	} {
		if got := claims(c.packet, ourMAC, leased); got != c.want {
			t.Errorf("%s: claims = %t; want %t", name, got, c.want)
		}
	}
}

// FuzzPacket gives outside bytes the whole way: packet, message, machine in every state. Whatever comes, a lease that
// is taken keeps to its bounds.
func FuzzPacket(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak} {
		f.Add(answer(kind).ToBytes(), false)
		f.Add(wire(answer(kind).ToBytes()), true)
	}
	f.Add([]byte{}, true)
	inside := []netip.Prefix{netip.MustParsePrefix("10.10.10.0/24")}
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		packet := b
		if !whole {
			packet = wire(b[:min(len(b), maxPacket-ipHeader-udpHeader)])
		}
		msg, err := message(packet, true)
		if err != nil {
			return
		}
		for _, s := range []state{selecting, requesting, bound, renewing, rebinding, rebooting} {
			r := s.reach(t)
			r.m.cfg.Inside = func() []netip.Prefix { return inside }
			again := *msg
			again.TransactionID, again.ClientHWAddr = r.m.xid, net.HardwareAddr(slices.Clone(ourMAC))
			r.m.answer(r.now, &again)
			for _, a := range r.m.take() {
				if a.lease != nil {
					checkBounds(t, *a.lease, inside)
				}
			}
			if l := r.m.offer; r.m.state == requesting && l.Address.IsValid() {
				checkBounds(t, l, inside)
			}
		}
	})
}

func checkBounds(t *testing.T, l Lease, inside []netip.Prefix) {
	t.Helper()
	held := l.Expires - l.Obtained
	if !unicast(l.Address.Addr()) || l.Address.Bits() < minBits || held < DefaultMinLease || held > maxLease ||
		l.Renew <= l.Obtained || l.Rebind <= l.Renew || l.Expires <= l.Rebind || len(l.Routes) > maxRoutes ||
		len(l.DNS) > maxDNS {
		t.Errorf("took the lease %+v", l)
	}
	for _, p := range inside {
		for _, r := range l.Routes {
			if r.Dst.Bits() > 0 && p.Overlaps(r.Dst) || p.Contains(r.Gateway) {
				t.Errorf("took the route %v", r)
			}
		}
		if p.Overlaps(l.Address) {
			t.Errorf("took the address %v", l.Address)
		}
	}
}

func FuzzARP(f *testing.F) {
	f.Add(arp(otherMAC, leased, leased))
	f.Fuzz(func(t *testing.T, b []byte) {
		if claims(b, ourMAC, leased) && (len(b) < arpLen || bytes.Equal(b[8:14], ourMAC)) {
			t.Errorf("claims(%x) = true", b)
		}
	})
}
