package boot

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rempart/builder/hypervisor"
	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// Numbers on the wire: Ethernet types (IEEE 802.3 slow protocols, 802.1Q, 802.1ad), and of an LACPDU (IEEE 802.1AX,
// 6.4.2.3) where its subtype and the actor's state are, and the bits of that.
const (
	etherSlow     = 0x8809
	ether8021Q    = 0x8100
	ether8021AD   = 0x88a8
	lacpSubtype   = 1
	lacpActor     = 14 + 18 // behind the Ethernet header: subtype, version, and the actor's TLV up to its state
	lacpFast      = 1 << 1
	lacpInService = 1<<3 | 1<<4 | 1<<5 // synchronization, collecting, distributing
)

// trunk counts what goes over one wire between two guests.
type trunk struct {
	mu         sync.Mutex
	inService  map[string]bool // senders of LACPDUs that say their end carries traffic
	slow       bool            // one of them asked for the slow rate
	vlan, qinq int             // frames with a tag, and with the two of QinQ
}

func (w *trunk) observe(_ time.Time, frame []byte, _ bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherSlow:
		if len(frame) > lacpActor && frame[14] == lacpSubtype {
			state := frame[lacpActor]
			w.inService[net.HardwareAddr(frame[6:12]).String()] = state&lacpInService == lacpInService
			w.slow = w.slow || state&lacpFast == 0
		}
	case ether8021Q:
		if binary.BigEndian.Uint16(frame[14:])&0xfff == 10 {
			w.vlan++
		}
	case ether8021AD:
		if binary.BigEndian.Uint16(frame[14:])&0xfff == 20 && binary.BigEndian.Uint16(frame[16:]) == ether8021Q &&
			binary.BigEndian.Uint16(frame[18:])&0xfff == 30 {
			w.qinq++
		}
	}
}

// both tells whether both ends say that they carry traffic.
func (w *trunk) both() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, in := range w.inService {
		if in {
			n++
		}
	}
	return n == 2
}

func (w *trunk) counts() (vlan, qinq int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.vlan, w.qinq
}

// wires are Backends that come out in this process.
func wires(n int) []hypervisor.Backend {
	return slices.Repeat([]hypervisor.Backend{{Kind: hypervisor.Wire}}, n)
}

// TestLinks boots two guests with two wires between them: LACP has to agree on both, VLANs and QinQ have to pass over
// it, routes and rules have to lead there, a bridge has to join, and a cut wire must cost nothing.
func TestLinks(t *testing.T) {
	t.Parallel()
	left := rig.Build(t, "testdata/links-left.yaml")
	right := rig.Build(t, "testdata/links-right.yaml")
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	segment := func(name string) *virtualnet.Segment {
		s := virtualnet.NewSegment(name, log)
		t.Cleanup(s.Close)
		return s
	}
	host := func(s *virtualnet.Segment, last byte, address, gateway string) *virtualnet.Host {
		p := netip.MustParsePrefix(address)
		h, err := s.NewHost(address, net.HardwareAddr{2, 0, 0x5e, 0, 0x54, last}, []netip.Prefix{p})
		if err != nil {
			t.Fatal(err)
		}
		via := virtualnet.Route{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(gateway)}
		if err := h.AddRoute(via); err != nil {
			t.Fatal(err)
		}
		return h
	}
	lan, e1, e2, hub := segment("lan"), segment("e1"), segment("e2"), segment("hub")
	one := host(lan, 1, "10.1.0.9/24", "10.1.0.1")
	two, three := host(e1, 2, "10.2.0.9/24", "10.2.0.1"), host(e2, 3, "10.2.0.10/24", "10.2.0.1")
	hubber, sider := host(hub, 4, "10.5.0.9/24", "10.5.0.1"), host(hub, 5, "10.6.0.9/24", "10.6.0.1")
	var cables []*virtualnet.Segment
	var trunks []*trunk
	for _, name := range []string{"wire 1", "wire 2"} {
		w := &trunk{inService: map[string]bool{}}
		c := segment(name)
		c.Observe(w.observe)
		cables, trunks = append(cables, c), append(trunks, w)
	}
	var hubFrames sync.Map // hardware addresses the right guest uses on hub
	hub.Observe(func(_ time.Time, frame []byte, fromGuest bool) {
		if fromGuest {
			hubFrames.Store(net.HardwareAddr(frame[6:12]).String(), true)
		}
	})

	// NICs in bus order: lan p1 p2, and p1 p2 e1 e2 hub.
	a := left.Boot(t, rig.Options{Backends: wires(len(left.Manifest.Links))})
	for i, s := range []*virtualnet.Segment{lan, cables[0], cables[1]} {
		s.PlugGuest(a.Guest.Wires[i])
	}
	a.AwaitReady() // one after the other: two kernels that start at once starve each other's timers
	b := right.Boot(t, rig.Options{Backends: wires(len(right.Manifest.Links))})
	for i, s := range []*virtualnet.Segment{cables[0], cables[1], e1, e2, hub} {
		s.PlugGuest(b.Guest.Wires[i])
	}
	for _, g := range []struct {
		guest  *rig.Guest
		master *rig.Master
	}{{a, left}, {b, right}} {
		r := g.guest.AwaitReady()
		if len(r.Failures)+len(r.Warnings) > 0 || len(r.Links) != len(g.master.Profile.Links) {
			t.Errorf("%s reports %+v; want every link well", g.master.Profile.Name, r)
		}
		t.Logf("%s: READY at %.2f s of guest time, links at %.2f s", r.Name, r.Times.Ready, r.Times.Links)
	}
	r, _ := b.Report()
	for name, mac := range map[string]string{"hub": "02:00:5e:00:53:01", "lan": "02:00:5e:00:53:02",
		"side": "02:00:5e:00:53:03"} {
		if !slices.ContainsFunc(r.Links, func(l contract.LinkReport) bool { return l.Name == name && l.MAC == mac }) {
			t.Errorf("links = %+v; want %s with %s", r.Links, name, mac)
		}
	}
	eventually(t, "LACP in service on both wires, at both ends", func() bool {
		return trunks[0].both() && trunks[1].both()
	})

	ping := func(what string, h *virtualnet.Host, from, to string, pass bool) {
		t.Helper()
		within := rig.Patience
		if !pass {
			within = 2 * time.Second // the same flow's neighbours have just shown how long an answer takes
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		err := h.Ping(ctx, netip.MustParseAddr(from), netip.MustParseAddr(to), []byte(what), time.Second/2)
		if (err == nil) != pass {
			t.Errorf("%s: ping from %s to %s: %v; want it answered: %t", what, from, to, err, pass)
		}
	}
	ping("a VLAN on the bond", one, "10.1.0.9", "10.2.0.9", true)
	ping("back", three, "10.2.0.10", "10.1.0.9", true)
	ping("QinQ, answered by a rule's table", one, "10.1.0.9", "10.3.0.1", true)
	ping("across the bridge", two, "10.2.0.9", "10.2.0.10", true)
	ping("a virtual MAC", hubber, "10.5.0.9", "10.5.0.1", true)
	ping("a macvlan", sider, "10.6.0.9", "10.6.0.1", true)
	ping("an unreachable route", one, "10.1.0.9", "10.77.0.1", false)
	ping("no policy line", hubber, "10.5.0.9", "10.1.0.9", false)
	vlan1, qinq1 := trunks[0].counts()
	vlan2, qinq2 := trunks[1].counts()
	if vlan1+vlan2 < 4 || qinq1+qinq2 < 2 {
		t.Errorf("%d frames of VLAN 10 and %d of 20.30 on the wires; want 4 and 2 at least", vlan1+vlan2, qinq1+qinq2)
	}
	for _, w := range trunks {
		w.mu.Lock()
		if w.slow {
			t.Error("an end asks for LACP's slow rate; want fast")
		}
		w.mu.Unlock()
	}
	for _, mac := range []string{"02:00:5e:00:53:01", "02:00:5e:00:53:03"} {
		if _, ok := hubFrames.Load(mac); !ok {
			t.Errorf("no frame from %s on hub", mac)
		}
	}

	// Killed, the link child finds everything as it left it: nothing is made again, and nothing is lost for longer than a
	// resent ping.
	for _, g := range []*rig.Guest{a, b} {
		before := childOf(g.AwaitReady(), "link")
		said := len(g.ConsoleText())
		g.Order("kill link KILL")
		g.Await("the link child to be back", func(r contract.Report) bool {
			c := childOf(r, "link")
			return r.Ready && c.Restarts > before.Restarts && c.State == "ready"
		})
		since := g.ConsoleText()[said:]
		for _, again := range []string{": make a ", ": remove it", ": member of ", ": down", ": up"} {
			if strings.Contains(since, again) {
				t.Errorf("after a restart %q was done again:\n%s", again, since)
			}
		}
	}
	ping("after a restart", one, "10.1.0.9", "10.2.0.10", true)

	cables[0].Close()
	ping("over the wire that is left", one, "10.1.0.9", "10.2.0.9", true)
	ping("QinQ over the wire that is left", one, "10.1.0.9", "10.3.0.1", true)
	a.PowerOff()
	b.PowerOff()
}

// eventually polls for something that nobody announces.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(rig.Patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for: %s", rig.Patience, what)
		}
	}
}
