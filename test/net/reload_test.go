package net

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// pick returns the first probe that matches.
func pick(t *testing.T, p *profiles.Profile, what string, match func(filter.Probe) bool) filter.Probe {
	t.Helper()
	for _, probe := range filter.Probes(p) {
		if match(probe) {
			return probe
		}
	}
	t.Fatalf("profile %s has no probe of %s", p.Name, what)
	return filter.Probe{}
}

// While the policy is loaded again and again, over itself and over a slightly different one, streams keep flowing,
// iperf3 among them, short connections are made at every moment, a datagram that may pass is never lost, and one that
// may not never passes; over IPv4 and, where the lines are of both families, IPv6.
func TestReload(t *testing.T) {
	t.Run("rules", func(t *testing.T) { testReload(t, filtertest.OneArmed(), sender, sender6) })
	t.Run("sets", func(t *testing.T) { testReload(t, withSets(filtertest.OneArmed()), sender) })
	t.Run("merged", func(t *testing.T) { testReload(t, withLines(filtertest.OneArmed(), 10), sender) })
	// The same while a list changes under a policy that stays.
	t.Run("lists", func(t *testing.T) { testReload(t, withList(filtertest.OneArmed(), 0), sender) })
}

// withList is withSets where the set is a list from elsewhere; another variant has other members but for the sender.
func withList(p *profiles.Profile, variant byte) *profiles.Profile {
	p = withSets(p)
	p.Sets[0].Source = &profiles.ListSource{URL: "https://lists.example/", Every: 3600}
	for i, r := range p.Sets[0].Ranges[1:] {
		b := r.First.As4()
		b[1] += variant
		a := netip.AddrFrom4(b)
		p.Sets[0].Ranges[i+1] = profiles.AddrRange{First: a, Last: a}
	}
	return p
}

// sender and sender6 are the host whose connections and datagrams may pass.
var (
	sender  = netip.MustParseAddr("10.9.0.7")
	sender6 = netip.MustParseAddr("fd00:10:9::7")
)

// withSets is the profile with its one accepting line behind a large set that knows the sender.
func withSets(p *profiles.Profile) *profiles.Profile {
	var members profiles.Ranges
	for i := range 20_000 {
		a := sender
		if i > 0 {
			a = netip.AddrFrom4([4]byte{172, byte(16 + i>>14), byte(i >> 6), byte(i << 2)})
		}
		members = append(members, profiles.AddrRange{First: a, Last: a})
	}
	p.Sets = []profiles.Set{{Name: "members", Ranges: members}}
	p.Policy[1].Matches = []profiles.Match{{SourceSets: []string{"members"}}}
	return p
}

// merged is how many lines withLines adds.
const merged = 600

// withLines is the profile with its one accepting line behind lines that become sets: single hosts, and prefixes with
// ranges of ports. Another variant has other sets.
func withLines(p *profiles.Profile, variant byte) *profiles.Profile {
	for i := range merged {
		m := profiles.Match{Protocol: profiles.UDP, Ports: []profiles.PortRange{{First: 6660, Last: 6660 + uint16(i%2)*10}},
			Sources: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, variant, byte(i), byte(i >> 8)}), 32)}}
		if i < 2 { // the sender is among them, in either set
			m.Sources = []netip.Prefix{netip.PrefixFrom(sender, 32)}
		}
		p.Policy = append(p.Policy, profiles.Rule{From: "dmz", To: "internet", Action: profiles.Accept,
			Matches: []profiles.Match{m}})
	}
	p.Policy[1].Matches = []profiles.Match{{Protocol: profiles.TCP}}
	return p
}

func testReload(t *testing.T, p *profiles.Profile, senders ...netip.Addr) {
	const (
		reloads = 100
		each    = 10 // connections to a reload: a thousand at least
	)
	change := kernel.Apply
	if len(p.Sourced()) > 0 {
		change = kernel.Swap
	}
	l := newLab(t, p)
	rules := []filter.Ruleset{compile(t, p), compile(t, withMoreRules(p))}
	l.load(t, rules[0])
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var background sync.WaitGroup
	stop := make(chan struct{})
	var families []*underLoad
	for _, src := range senders {
		families = append(families, l.underLoad(t, p, src, stop, &background))
	}

	turns := make(chan struct{}, 1)
	loaded := 0
	go func() {
		defer close(turns)
		measuring := func(f *underLoad) bool { return !done(f.measured) }
		for i := 0; i < reloads || slices.ContainsFunc(families, measuring); i++ {
			turns <- struct{}{}
			if i%5 == 4 { // a policy that the kernel refuses must not be noticed either
				if err := kernel.Apply(ctx, refused(rules[0]), kernel.Options{NetNS: l.fw.FD()}); err == nil {
					t.Error("a jump to nowhere was applied")
				}
			}
			if err := change(ctx, rules[(i+1)%2], kernel.Options{NetNS: l.fw.FD()}); err != nil {
				t.Errorf("reload %d: %v", i, err)
				return
			}
			loaded++
			time.Sleep(20 * time.Millisecond)
		}
	}()
	// The connections are spread over all reloads, and none may need a second try.
	lossy, failed := atomic.Int32{}, atomic.Int32{}
	var clients sync.WaitGroup
	slots := make(chan struct{}, 16)
	made := 0
	for range turns {
		for range each {
			to := families[made%len(families)].allowed
			from := l.host(t, to.Link, to.Src)
			made++
			slots <- struct{}{}
			clients.Go(func() {
				defer func() { <-slots }()
				ok, again := from.connect(ctx, netip.AddrPortFrom(to.Src, 0), netip.AddrPortFrom(to.Dst, to.Port))
				if !ok {
					failed.Add(1)
				}
				if again > 0 {
					lossy.Add(1)
				}
			})
		}
	}
	clients.Wait()
	close(stop)
	background.Wait()
	for _, f := range families {
		f.judge(t, loaded)
	}
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of %d connections failed during %d reloads; want 0", n, made, loaded)
	}
	if n := lossy.Load(); n != 0 {
		t.Errorf("%d of %d connections lost a packet during %d reloads; want 0", n, made, loaded)
	}
	t.Logf("%d reloads, %d connections", loaded, made)
}

// connect is tryTCP that also tells how many segments the kernel had to send again: a lost SYN, or a lost answer to it,
// would otherwise hide as a connection that took a second longer (RFC 6298, section 2), as do those of a busy machine.
func (n *node) connect(ctx context.Context, src, dst netip.AddrPort) (answered bool, again uint32) {
	var conn stdnet.Conn
	if err := n.Enter(func() (err error) {
		d := stdnet.Dialer{LocalAddr: stdnet.TCPAddrFromAddrPort(src)}
		conn, err = d.DialContext(ctx, "tcp", dst.String())
		return err
	}); err != nil {
		return false, 0
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	size, err := conn.Read(make([]byte, 128))
	raw, rawErr := conn.(*stdnet.TCPConn).SyscallConn()
	if err != nil || size == 0 || rawErr != nil {
		return false, 0
	}
	var info *unix.TCPInfo
	if err := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || info == nil {
		return false, 0
	}
	return true, info.Total_retrans
}

// done tells whether a channel is closed.
func done(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// refused is the rules with a last one that the kernel does not take.
func refused(rs filter.Ruleset) filter.Ruleset {
	table := rs.Tables[0]
	table.Chains = append(append([]filter.Chain{}, table.Chains...), filter.Chain{Name: "refused", Rules: []filter.Rule{
		{Do: []filter.Expr{filter.Verdict{Kind: filter.VerdictJump, Chain: "nowhere"}}}}})
	return filter.Ruleset{Tables: []filter.Table{table}}
}

// withMoreRules is the profile with one harmless line more, so that reloading changes something.
func withMoreRules(p *profiles.Profile) *profiles.Profile {
	q := *p
	if len(p.Sourced()) > 0 {
		return withList(filtertest.OneArmed(), 4) // another list
	}
	if len(p.Policy) > merged {
		return withLines(filtertest.OneArmed(), 20) // other sets, and the old ones go
	}
	q.Policy = append(append([]profiles.Rule{}, p.Policy...), profiles.Rule{From: "home", To: profiles.Self,
		Action: profiles.Accept, Matches: []profiles.Match{{Protocol: profiles.UDP,
			Ports: []profiles.PortRange{{First: 33000, Last: 33000}}}}})
	return &q
}

// stream is a connection that stays open.
type stream struct{ conn stdnet.Conn }

// openStream makes a connection to an echo service of its own beside the probe's.
func (l *lab) openStream(t *testing.T, p filter.Probe) stream {
	t.Helper()
	const port = 5555
	to := l.receiver(t, p)
	var ln *stdnet.TCPListener
	to.In(t, func() (err error) {
		ln, err = stdnet.ListenTCP("tcp", stdnet.TCPAddrFromAddrPort(netip.AddrPortFrom(p.SeenDst, port)))
		return err
	})
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			_, _ = conn.Write(buffer[:n])
		}
	}()
	var s stream
	l.host(t, p.Link, p.Src).In(t, func() (err error) {
		d := stdnet.Dialer{Timeout: patience}
		s.conn, err = d.Dial("tcp", netip.AddrPortFrom(p.Dst, port).String())
		return err
	})
	t.Cleanup(func() { _ = s.conn.Close() })
	if err := s.roundTrip(); err != nil {
		t.Fatalf("the stream before any reload: %v", err)
	}
	return s
}

func (s stream) roundTrip() error {
	_ = s.conn.SetDeadline(time.Now().Add(patience))
	if _, err := s.conn.Write([]byte("still here")); err != nil {
		return err
	}
	got := make([]byte, 10)
	if _, err := s.conn.Read(got); err != nil {
		return err
	}
	if string(got) != "still here" {
		return fmt.Errorf("got %q back", got)
	}
	return nil
}

// datagrams sends a datagram every 200 µs and counts those that do not arrive.
func (l *lab) datagrams(t *testing.T, p filter.Probe, stop chan struct{}, wg *sync.WaitGroup) (sent, lost func() int) {
	t.Helper()
	const port = 6666
	to, from := l.receiver(t, p), l.host(t, p.Link, p.Src)
	var in, out *stdnet.UDPConn
	to.In(t, func() (err error) {
		in, err = stdnet.ListenUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(p.SeenDst, port)))
		if err == nil {
			err = in.SetReadBuffer(4 << 20)
		}
		return err
	})
	from.In(t, func() (err error) {
		out, err = stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Dst, port)))
		return err
	})
	var seen, written atomic.Int64
	wg.Add(2)
	go func() {
		defer wg.Done()
		defer in.Close()
		buffer := make([]byte, 64)
		for {
			if _, _, err := in.ReadFromUDPAddrPort(buffer); err != nil {
				return
			}
			seen.Add(1)
		}
	}()
	go func() {
		defer wg.Done()
		defer out.Close()
		defer func() { _ = in.SetReadDeadline(time.Now().Add(silence)) }()
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				var b [8]byte
				binary.BigEndian.PutUint64(b[:], uint64(written.Load()))
				if _, err := out.Write(b[:]); err == nil {
					written.Add(1)
				} else if !errors.Is(err, stdnet.ErrClosed) {
					t.Errorf("send a datagram: %v", err)
					return
				}
			}
		}
	}()
	return func() int { return int(written.Load()) }, func() int { return int(written.Load() - seen.Load()) }
}

// knockUnanswered sends what may not pass, each time as a new flow, and counts what arrives all the same.
func (l *lab) knockUnanswered(t *testing.T, p filter.Probe, stop chan struct{},
	wg *sync.WaitGroup) (leaks func() (tried, passed int)) {
	t.Helper()
	from, to := l.host(t, p.Link, p.Src), l.receiver(t, p)
	var used []uint16
	wg.Add(1)
	go func() {
		defer wg.Done()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				time.Sleep(silence)
				return
			case <-tick.C:
			}
			id := flowIDs.take()
			err := from.Enter(func() error {
				conn, err := stdnet.DialUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Src, id)),
					stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Dst, p.Port)))
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.Write([]byte("knock"))
				return err
			})
			if err != nil {
				t.Errorf("knock: %v", err)
				return
			}
			used = append(used, id)
		}
	}()
	return func() (tried, n int) {
		for _, id := range used {
			for _, a := range to.seen.of(id) {
				if a.protocol == profiles.UDP && a.dst == p.SeenDst && a.port == p.SeenPort {
					n++
				}
			}
		}
		return len(used), n
	}
}
