package packets

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/builder/virtualnet"
	"rempart/test/netns"
	"rempart/test/rig"
)

// sighting is a packet of a flow as it came out of the guest.
type sighting struct {
	link     string
	src      netip.Addr
	dst      netip.AddrPort // port 0 for ping
	at       time.Time
	answered bool // it is the guest's, or the receiver's, answer on its way back to the sender
	what     string
}

func (s sighting) String() string {
	return fmt.Sprintf("%s %v -> %v by %s", s.what, s.src, s.dst, s.link)
}

// flow is one connection attempt, datagram or echo request as its sender wrote it.
type flow struct {
	link     string
	protocol virtualnet.Protocol
	src, dst netip.AddrPort // ports 0 for ping
}

// trace is what was seen of one flow.
type trace struct {
	flow
	knock *knock     // nil: a program's
	sent  int        // frames of it that went to the guest
	out   []sighting // frames of it, and answers to it, that came from the guest
}

// through are the sightings of the flow itself, under whatever translation.
func (t *trace) through() []sighting { return t.which(false) }

// answers are the sightings of answers to it.
func (t *trace) answers() []sighting { return t.which(true) }

func (t *trace) which(answered bool) (out []sighting) {
	for _, s := range t.out {
		if s.answered == answered {
			out = append(out, s)
		}
	}
	return out
}

// watch sees every frame on every tap of one guest.
type watch struct {
	mu     sync.Mutex
	prints map[string]*trace // by what no translation touches: see fingerprint
	flows  map[flow]*trace
	guest  map[string]int // frames the guest sent, by link
	first  time.Time      // when it sent the first
	links  map[string]net.HardwareAddr
	// bridged are the links behind which the guest is a bridge: frames go through it to other addresses than its own.
	bridged map[string]bool
}

// fingerprint is what tells a flow from all others and no translation touches: the initial sequence number of a TCP
// connection, the payload of a datagram or of an echo request. Every sender here makes that its own: ping(8) begins
// with the time.
func fingerprint(d virtualnet.Dissection) string {
	switch {
	case d.Protocol == virtualnet.TCP && d.SYN && !d.ACK:
		return fmt.Sprintf("tcp %08x", d.Sequence)
	case d.Protocol == virtualnet.UDP && len(d.Payload) > 0:
		return "udp " + string(d.Payload)
	case d.Protocol == virtualnet.EchoRequest && len(d.Payload) > 0:
		return "echo " + string(d.Payload)
	}
	return ""
}

// newWatch starts to watch taps. What they saw is kept as captures when the test fails.
func newWatch(tb testing.TB, at *netns.Node, taps map[string]netlink.Link, macs map[string]net.HardwareAddr,
	bridged map[string]bool) *watch {
	tb.Helper()
	w := &watch{prints: map[string]*trace{}, flows: map[flow]*trace{}, guest: map[string]int{}, links: macs,
		bridged: bridged}
	for link, tap := range taps {
		w.open(tb, at, link, tap)
	}
	return w
}

func (w *watch) open(tb testing.TB, at *netns.Node, link string, tap netlink.Link) {
	tb.Helper()
	dump, err := os.Create(filepath.Join(tb.TempDir(), link+".pcap"))
	netns.Must(tb, err)
	capture := virtualnet.NewCapture(dump)
	tb.Cleanup(func() {
		if err := errors.Join(capture.Flush(), dump.Close()); err != nil {
			tb.Errorf("capture of %s: %v", link, err)
		}
		if tb.Failed() {
			keep(tb, dump.Name())
		}
	})
	at.Sniff(tb, tap, unix.SOCK_RAW, func(frame []byte, from *unix.SockaddrLinklayer) {
		// A tap's outgoing packets are what the host puts into it, for the guest.
		toGuest := from.Pkttype == unix.PACKET_OUTGOING
		capture.Observe(time.Now(), frame, !toGuest)
		w.see(link, frame, toGuest)
	})
}

func keep(tb testing.TB, file string) {
	dir, err := rig.Artifacts(tb)
	if err == nil {
		var b []byte
		if b, err = os.ReadFile(file); err == nil {
			file = filepath.Join(dir, filepath.Base(file))
			err = os.WriteFile(file, b, 0o600)
		}
	}
	tb.Logf("the frames are kept in %s (%v)", file, err)
}

// see notes one frame.
func (w *watch) see(link string, frame []byte, toGuest bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !toGuest {
		w.guest[link]++
		if w.first.IsZero() {
			w.first = time.Now()
		}
	}
	d, err := virtualnet.Dissect(frame)
	switch {
	case err != nil:
	case !toGuest:
		w.fromGuest(link, d)
	case bytes.Equal(d.DstMAC, w.links[link]), w.bridged[link]:
		w.toGuest(link, d)
	}
}

func (w *watch) toGuest(link string, d virtualnet.Dissection) {
	print := fingerprint(d)
	if print == "" {
		return
	}
	t := w.prints[print]
	if t == nil {
		t = w.add(link, d, nil)
	}
	if t.link == link && t.src.Addr() == d.Src {
		t.sent++
	}
}

// add begins a trace; the mutex is held.
func (w *watch) add(link string, d virtualnet.Dissection, k *knock) *trace {
	t := &trace{flow: flow{link, d.Protocol, netip.AddrPortFrom(d.Src, d.SrcPort),
		netip.AddrPortFrom(d.Dst, d.DstPort)}, knock: k}
	w.prints[fingerprint(d)], w.flows[t.flow] = t, t
	return t
}

func (w *watch) fromGuest(link string, d virtualnet.Dissection) {
	s := sighting{link: link, src: d.Src, dst: netip.AddrPortFrom(d.Dst, d.DstPort), at: time.Now()}
	// An answer that the guest passes on has been seen going to it, like any packet: it is an answer all the same.
	if t, what := w.answered(link, d); t != nil {
		s.what, s.answered = what, true
		t.out = append(t.out, s)
	} else if t := w.prints[fingerprint(d)]; t != nil {
		s.what = "the packet"
		t.out = append(t.out, s)
	}
}

// answered tells which flow a frame answers, and how.
func (w *watch) answered(link string, d virtualnet.Dissection) (*trace, string) {
	back := flow{link, d.Protocol, netip.AddrPortFrom(d.Dst, d.DstPort), netip.AddrPortFrom(d.Src, d.SrcPort)}
	switch d.Protocol {
	case virtualnet.TCP, virtualnet.UDP:
		return w.flows[back], "an answer"
	case virtualnet.EchoReply:
		if t := w.prints["echo "+string(d.Payload)]; t != nil && t.link == link && t.src.Addr() == d.Dst {
			return t, "a reply"
		}
	case virtualnet.Unreachable:
		quoted, err := virtualnet.DissectPacket(d.Payload)
		if err != nil {
			return nil, ""
		}
		if t := w.prints[fingerprint(quoted)]; t != nil {
			return t, "an error"
		}
		return w.flows[flow{link, quoted.Protocol, netip.AddrPortFrom(quoted.Src, quoted.SrcPort),
			netip.AddrPortFrom(quoted.Dst, quoted.DstPort)}], "an error"
	}
	return nil, ""
}

// of are copies of all traces that match.
func (w *watch) of(match func(*trace) bool) []trace {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []trace
	for _, t := range w.prints {
		if match(t) {
			c := *t
			c.out = append([]sighting(nil), t.out...)
			out = append(out, c)
		}
	}
	return out
}

// spoken is how many frames the guest has sent on any link, and when it sent the first.
func (w *watch) spoken() (frames int, first time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.guest {
		frames += n
	}
	return frames, w.first
}
