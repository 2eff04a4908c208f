package boot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// group is a switch with two ports: what comes by either goes on to a segment. Ports that it takes for one send back in
// turn, those that have carrier; else it sends by the one where it saw the guest last, as any switch.
type group struct {
	asOne   bool
	last    atomic.Int64
	wires   [2]net.Conn
	carrier [2]atomic.Bool
	from    [2]atomic.Int64 // frames of the guest
	next    int
}

func newGroup(t *testing.T, s *virtualnet.Segment, asOne bool, a, b net.Conn) *group {
	g := &group{asOne: asOne, wires: [2]net.Conn{a, b}}
	ours, theirs := net.Pipe()
	s.PlugGuest(theirs)
	var done sync.WaitGroup
	var one sync.Mutex
	for i, wire := range g.wires {
		g.carrier[i].Store(true)
		done.Go(func() {
			buf := make([]byte, virtualnet.MaxFrame)
			for {
				frame, err := virtualnet.ReadFrame(wire, buf)
				if err != nil {
					return
				}
				g.from[i].Add(1)
				g.last.Store(int64(i))
				one.Lock()
				_, err = ours.Write(virtualnet.AppendFrame(nil, frame))
				one.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	done.Go(func() {
		buf := make([]byte, virtualnet.MaxFrame)
		for {
			frame, err := virtualnet.ReadFrame(ours, buf)
			if err != nil {
				return
			}
			for range g.wires {
				if g.next = 1 - g.next; !g.asOne {
					g.next = int(g.last.Load())
				}
				if g.carrier[g.next].Load() {
					_, _ = g.wires[g.next].Write(virtualnet.AppendFrame(nil, frame)) // fails when the guest has ended
					break
				}
			}
		}
	})
	t.Cleanup(func() {
		ours.Close()
		a.Close()
		b.Close()
		done.Wait()
	})
	return g
}

// frames counts what the guest has sent by each wire.
func (g *group) frames() [2]int64 { return [2]int64{g.from[0].Load(), g.from[1].Load()} }

// since counts what it has sent since then.
func (g *group) since(then [2]int64) [2]int64 {
	now := g.frames()
	return [2]int64{now[0] - then[0], now[1] - then[1]}
}

// TestBonds boots a guest with a bond of each mode without LACP, cuts a member's wire while pings are on their way, and
// mends it: few are lost, and each mode uses the members it should.
func TestBonds(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, "testdata/bonds.yaml")
	g := m.Boot(t, rig.Options{Backends: wires(len(m.Manifest.Links))})
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	type side struct {
		*group
		hosts []*virtualnet.Host
		nic   int // of its first member
		net   int
	}
	sides := map[string]*side{}
	for i, name := range []string{"ab", "xor", "rr"} {
		s := virtualnet.NewSegment(name, log)
		t.Cleanup(s.Close)
		e := &side{nic: 2 * i, net: i + 1}
		for n := range 2 { // neighbouring hardware addresses, which a hash of layer 2 tells apart
			h, err := s.NewHost(name, net.HardwareAddr{2, 0, 0x5e, 0, byte(i), byte(n)}, []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", e.net, 10+n)),
				netip.MustParsePrefix(fmt.Sprintf("fd0%d::%d/64", e.net, 10+n))})
			if err != nil {
				t.Fatal(err)
			}
			e.hosts = append(e.hosts, h)
		}
		e.group = newGroup(t, s, name != "ab", g.Guest.Wires[e.nic], g.Guest.Wires[e.nic+1])
		sides[name] = e
	}
	well := func(links ...string) {
		t.Helper()
		g.Await("all links well but those without a wire", func(r contract.Report) bool {
			bad := map[string]bool{}
			for _, l := range r.Links {
				if l.Error != "" {
					bad[l.Name] = true
				}
			}
			for _, l := range links {
				if !bad[l] {
					return false
				}
			}
			return len(r.Links) == len(m.Profile.Links) && len(bad) == len(links)
		})
	}
	wire := func(e *side, member int, up bool) {
		t.Helper()
		err := g.Monitor().Execute(t.Context(), "set_link", map[string]any{"name": fmt.Sprint("link", e.nic+member),
			"up": up}, nil)
		if err != nil {
			t.Fatal(err)
		}
		e.carrier[member].Store(up)
	}
	ping := func(e *side, host, number int, answered *atomic.Int64) {
		ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
		defer cancel()
		from, to := fmt.Sprintf("10.%d.0.%d", e.net, 10+host), fmt.Sprintf("10.%d.0.1", e.net)
		if number%2 == 1 {
			from, to = fmt.Sprintf("fd0%d::%d", e.net, 10+host), fmt.Sprintf("fd0%d::1", e.net)
		}
		if e.hosts[host].Ping(ctx, netip.MustParseAddr(from), netip.MustParseAddr(to), fmt.Appendf(nil, "ping %d", number),
			time.Hour) == nil {
			answered.Add(1)
		}
	}
	// stream sends pings of both families and hosts, one after the other; change comes in their midst. It returns how
	// many were answered when the last ones are.
	const count, every = 60, 50 * time.Millisecond
	stream := func(name string, change func()) int {
		t.Helper()
		e := sides[name]
		var answered, last atomic.Int64
		pace := time.NewTicker(every)
		defer pace.Stop()
		for n := range count {
			if n == count/3 {
				change()
			}
			into := &answered
			if n >= count-4 {
				into = &last
			}
			go ping(e, n/2%2, n, into)
			<-pace.C
		}
		eventually(t, name+"'s last pings answered", func() bool { return last.Load() == 4 })
		return int(answered.Load()) + 4
	}
	g.AwaitReady()
	well()
	for name := range sides { // everybody knows everybody
		if n := stream(name, func() {}); n < count {
			t.Errorf("%s: %d of %d pings answered with all wires in place", name, n, count)
		}
	}

	// Which members each mode used for those.
	if f := sides["ab"].frames(); f[1] < count {
		t.Errorf("active-backup sent %v frames by its members; want the second, its primary, used", f)
	}
	for _, name := range []string{"xor", "rr"} {
		if f := sides[name].frames(); f[0] < count/4 || f[1] < count/4 {
			t.Errorf("%s sent %v frames by its members; want both used", name, f)
		}
	}

	// Lost while a member is, at most: miimon is 50 or 100 ms, the pace 50 ms, and the machine may be busy.
	const most = 20
	for name, member := range map[string]int{"ab": 1, "xor": 0, "rr": 1} {
		e := sides[name]
		n := stream(name, func() { wire(e, member, false) })
		t.Logf("%s: %d of %d pings lost while a wire was cut", name, count-n, count)
		if n < count-most {
			t.Errorf("%s: %d of %d pings answered while a wire was cut; want %d at least", name, n, count, count-most)
		}
		then := e.frames()
		if n := stream(name, func() {}); n < count {
			t.Errorf("%s: %d of %d pings answered by the wire that is left", name, n, count)
		}
		if f := e.since(then); f[member] > 0 || f[1-member] < count {
			t.Errorf("%s sent %v frames by its members with wire %d cut", name, f, member)
		}
	}
	well("a2", "x1", "r2")
	for name, member := range map[string]int{"ab": 1, "xor": 0, "rr": 1} {
		e := sides[name]
		n := stream(name, func() { wire(e, member, true) })
		t.Logf("%s: %d of %d pings lost while a wire was mended", name, count-n, count)
		if n < count-most {
			t.Errorf("%s: %d of %d pings answered while a wire was mended; want %d at least", name, n, count, count-most)
		}
	}
	well()
	for name, member := range map[string]int{"ab": 1, "xor": 0, "rr": 1} {
		e := sides[name]
		then := e.frames()
		if n := stream(name, func() {}); n < count {
			t.Errorf("%s: %d of %d pings answered with all wires back", name, n, count)
		}
		f := e.since(then)
		if f[member] < count/4 || name == "ab" && f[1-member] > count/4 || name != "ab" && f[1-member] < count/4 {
			t.Errorf("%s sent %v frames by its members; want them used as at first", name, f)
		}
	}
	g.PowerOff()
}
