package virtualnet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// partner plays a guest at the ends of segments: each frame goes to hear.
func partner(s *Segment, hear func(frame []byte)) *port {
	p := &port{guest: true, deliver: hear}
	s.attach(p)
	return p
}

// Two hosts on VLANs of the same number, QinQ on one side: a wire between two trunks carries both, and what has another
// tag, or none, reaches neither.
func TestVLANs(t *testing.T) {
	left, right := NewSegment("left", quiet()), NewSegment("right", quiet())
	outerLeft, outerRight := NewSegment("outer", quiet()), NewSegment("outer", quiet())
	innerLeft, innerRight := NewSegment("inner", quiet()), NewSegment("inner", quiet())
	other := NewSegment("other", quiet())
	for _, s := range []*Segment{left, right, outerLeft, outerRight, innerLeft, innerRight, other} {
		defer s.Close()
	}
	var tagged, strange atomic.Int32
	left.Observe(func(_ time.Time, frame []byte, _ bool) {
		if binary.BigEndian.Uint16(frame[12:]) == Ether8021AD && binary.BigEndian.Uint16(frame[14:]) == 20 &&
			binary.BigEndian.Uint16(frame[16:]) == Ether8021Q && binary.BigEndian.Uint16(frame[18:]) == 30 {
			tagged.Add(1)
		} else {
			strange.Add(1)
		}
	})
	other.Observe(func(time.Time, []byte, bool) { strange.Add(1) })
	left.CarryVLAN(outerLeft, Ether8021AD, 20)
	right.CarryVLAN(outerRight, Ether8021AD, 20)
	right.CarryVLAN(other, Ether8021AD, 21)
	outerLeft.CarryVLAN(innerLeft, Ether8021Q, 30)
	outerRight.CarryVLAN(innerRight, Ether8021Q, 30)
	var l, r *port
	l = partner(left, func(frame []byte) { right.send(r, frame) })
	r = partner(right, func(frame []byte) { left.send(l, frame) })
	a := newHost(t, innerLeft, 1, nil, "192.0.2.1/24", "2001:db8::1/64")
	b := newHost(t, innerRight, 2, nil, "192.0.2.2/24", "2001:db8::2/64")
	ask(t, a, b, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"))
	ask(t, b, a, netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::1"))
	if tagged.Load() == 0 || strange.Load() > 0 {
		t.Errorf("%d frames with tags 20 and 30, %d others; want the first only", tagged.Load(), strange.Load())
	}
}

// say is an LACPDU of a guest that is in service or not.
func say(carries bool) []byte {
	frame := make([]byte, minFrame+lacpSize)
	copy(frame, []byte{0x01, 0x80, 0xc2, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x88, 0x09, lacpSubtype, lacpVersion, 1, 20})
	copy(frame[minFrame+lacpActor+2:], "0123456789abcd") // what the answer has to repeat
	if carries {
		frame[minFrame+lacpActor+2+lacpState] = lacpCarries
	}
	return frame
}

func TestBondAnswersLACP(t *testing.T) {
	inner, one, two := NewSegment("bond", quiet()), NewSegment("one", quiet()), NewSegment("two", quiet())
	for _, s := range []*Segment{inner, one, two} {
		defer s.Close()
	}
	b := NewBond(inner, []*Segment{one, two}, true, false)
	answers := make(chan []byte, 4)
	first := partner(one, func(frame []byte) { answers <- bytes.Clone(frame) })
	partner(two, func(frame []byte) { answers <- bytes.Clone(frame) })
	one.send(first, say(true))
	got := <-answers
	d := got[minFrame:]
	if len(d) != lacpSize || d[0] != lacpSubtype || d[lacpActor+2+lacpState]&lacpCarries != lacpCarries ||
		string(d[lacpPartner+2:][:14]) != "0123456789abcd" || d[lacpPartner+2+lacpState] != lacpCarries {
		t.Errorf("the answer is %x; want an LACPDU in service that repeats what was said", got)
	}
	if n := b.InService(); n != 1 {
		t.Errorf("%d members in service; want 1", n)
	}
	// Only the member in service carries traffic, whatever the addresses.
	for last := range byte(8) {
		if got := b.choose([]byte{2, 0, 0, 0, 0, last, 2, 0, 0, 0, 0, 1, 8, 0}, false); len(got) != 1 || got[0] != 0 {
			t.Errorf("choose = %v; want the first member", got)
		}
	}
	one.send(first, say(false))
	<-answers
	if n := b.InService(); n != 0 {
		t.Errorf("%d members in service after one went; want 0", n)
	}
}

func TestBondFollowsTheActiveMember(t *testing.T) {
	inner, one, two := NewSegment("bond", quiet()), NewSegment("one", quiet()), NewSegment("two", quiet())
	for _, s := range []*Segment{inner, one, two} {
		defer s.Close()
	}
	b := NewBond(inner, []*Segment{one, two}, false, true)
	frame := []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0}
	if got := b.choose(frame, true); len(got) != 2 {
		t.Errorf("before the guest said anything choose = %v; want both members", got)
	}
	for i, s := range []*Segment{one, two} {
		s.send(partner(s, func([]byte) {}), frame)
		if got := b.choose(frame, true); len(got) != 1 || got[0] != i {
			t.Errorf("after a frame on member %d choose = %v", i, got)
		}
	}
}

func FuzzLACPDU(f *testing.F) {
	f.Add(say(true))
	f.Add(say(false)[:40])
	inner, one := NewSegment("bond", quiet()), NewSegment("one", quiet())
	b := NewBond(inner, []*Segment{one}, true, false)
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < minFrame {
			return // no segment delivers such
		}
		if answer, slow := b.lacpdu(0, frame); len(answer) > 0 && (!slow || len(answer) != minFrame+lacpSize) {
			t.Errorf("lacpdu(%x) = %x, %t", frame, answer, slow)
		}
		if out, ok := untag(tag(frame, Ether8021Q, 7), Ether8021Q, 7); !ok || !bytes.Equal(out, frame) {
			t.Errorf("untag(tag(%x)) = %x, %t", frame, out, ok)
		}
	})
}
