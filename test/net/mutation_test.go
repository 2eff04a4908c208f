package net

import (
	"context"
	"encoding/binary"
	"fmt"
	stdnet "net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
)

// unseen are the rules that no packet of this test can show to be missing, each with the reason.
var unseen = map[string]string{
	"input: IPv6 multicast listener discovery":      "only a querier would miss the reports; none is here",
	"input: default: in no zone":                    "such packets are spoofed; the chain's policy is drop too",
	"forward: default: in no zone":                  "the same",
	"forward/own: the source is this machine's own": "no probe lies about its source",
	"forward: the source is this machine's own":     "the same",
}

// TestSomeRulesMatter tries all that only packets can show, with every rule and with some of them missing: a probe goes
// wrong or a counter that counted stays still.
func TestSomeRulesMatter(t *testing.T) {
	t.Parallel()
	p := filtertest.OneArmed()
	full := compile(t, p)
	l := newLab(t, p)
	probes := append(filter.Probes(p), sameZone()...)
	l.listen(t, probes)
	want := l.signature(t, full, probes)
	if len(want.wrong) > 0 {
		t.Fatalf("with all rules: %q", want.wrong)
	}
	const every = 6 // firstboot/filter tries all, without packets
	all := filtertest.Missing(full)
	for i := 0; i < len(all); i += every {
		m := all[i]
		got := l.signature(t, m.In(full), probes)
		same := reflect.DeepEqual(got, want)
		switch why := unseen[m.Name]; {
		case same && why == "":
			t.Errorf("nothing shows that this rule is missing: %s", m.Name)
		case !same && why != "":
			t.Errorf("listed as unseen, but it is seen: %s: %v; take it off the list", m.Name, got.difference(want))
		}
	}
}

// TestMutantsByPackets makes mistakes in the rules of every built-in profile, and of one whose lines became sets, and
// sends their probes: those go wrong, and no others, that package filtertest says by reading the rules. That package
// tries all mistakes (TestEveryRuleMatters of firstboot/filter); this shows that it reads as the kernel does.
func TestMutantsByPackets(t *testing.T) {
	all := []*profiles.Profile{filtertest.Merged()}
	for _, name := range profiles.Builtin() {
		all = append(all, builtin(t, name))
	}
	for _, p := range all {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			full := compile(t, p)
			probes := routed(filter.Probes(p))
			l := newLab(t, p)
			l.listen(t, probes)
			seen := 0
			for _, m := range sample(full, len(probes)) {
				mutant := m.In(full)
				want := foretold(t, p, mutant, probes)
				l.load(t, mutant)
				got := l.goWrong(t, probes, want)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %d probes go wrong, %d were foretold:\n%s\nforetold:\n%s", m.Name, len(got), len(want),
						strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
				if len(want) > 0 {
					seen++
				}
			}
			if seen == 0 {
				t.Error("no mistake made any probe go wrong")
			}
		})
	}
}

// goWrong sends probes and names those that go wrong. What was not foretold is tried again, with more patience: an
// answer that took too long on a busy machine is none that does not come.
func (l *lab) goWrong(t *testing.T, probes []filter.Probe, want []string) (got []string) {
	t.Helper()
	var again []filter.Probe
	add := func(outcomes []outcome, doubted bool) {
		for _, o := range outcomes {
			switch {
			case o.wrong() == "":
			case doubted && !slices.Contains(want, o.String()):
				again = append(again, o.probe)
			default:
				got = append(got, o.String())
			}
		}
	}
	add(l.runWithin(t, probes, 3*silence), true)
	if len(again) > 0 {
		add(l.run(t, again), false)
	}
	sort.Strings(got)
	return got
}

// sample is some mistakes of each kind, spread over the rules: fewer, the more probes have to be sent for each.
func sample(rs filter.Ruleset, probes int) []filtertest.Mutant {
	count := min(8, 1+2000/probes)
	var out []filtertest.Mutant
	for _, all := range [][]filtertest.Mutant{filtertest.Missing(rs), filtertest.Swapped(rs)} {
		all = slices.DeleteFunc(all, func(m filtertest.Mutant) bool {
			// Of one table, and nothing without which neighbours do not find each other: that would change everything.
			return rs.Tables[m.Table].Family != filter.FamilyInet || strings.Contains(m.Name, "IPv6 ") ||
				m.First != nil && m.Commute(rs)
		})
		for i := range min(count, len(all)) {
			out = append(out, all[i*len(all)/min(count, len(all))])
		}
	}
	return out
}

// foretold are the probes that go wrong by the reading of rules, as outcomes name them.
func foretold(t *testing.T, p *profiles.Profile, rs filter.Ruleset, probes []filter.Probe) []string {
	t.Helper()
	w := filtertest.NewWalker(p, rs)
	var out []string
	for _, probe := range probes {
		first := filtertest.PacketOf(probe, w)
		fate, err := w.Walk(first, nil)
		if err != nil {
			t.Fatal(err)
		}
		wrong := filtertest.Judge(probe, fate, w) != ""
		if !wrong && probe.Pass {
			back, err := w.Walk(filtertest.Answer(first, fate), nil)
			if err != nil {
				t.Fatal(err)
			}
			wrong = !back.Passed
		}
		if wrong {
			if probe.Dst = first.Dst; !probe.Dst.IsValid() {
				t.Fatalf("%+v has no destination", probe)
			}
			out = append(out, outcome{probe: probe}.String())
		}
	}
	sort.Strings(out)
	return out
}

// sameZone are flows inside a zone by the firewall, which Probes leaves out because hosts of a wire need no firewall.
func sameZone() []filter.Probe {
	var out []filter.Probe
	for _, x := range [][4]string{{"home", "lan0", "192.168.0.7", "192.168.0.9"},
		{"dmz", "dmz0", "10.9.0.7", "10.9.0.9"}, {"home", "lan0", "fd00:192:168::7", "fd00:192:168::9"},
		{"dmz", "dmz0", "fd00:10:9::7", "fd00:10:9::9"}} {
		src, dst := netip.MustParseAddr(x[2]), netip.MustParseAddr(x[3])
		out = append(out, filter.Probe{Proves: "default: " + x[0] + " -> " + x[0], From: x[0], To: x[0], Link: x[1],
			OutLink: x[1],
			Src:     src, Dst: dst, SeenDst: dst, SeenSrc: src, Protocol: profiles.UDP, Port: 4444, SeenPort: 4444})
	}
	return out
}

// knockAbroad sends a datagram from one host behind the router to another, by the firewall; there is no such host, so
// that the router cannot answer by itself, and only the counter of the pair shows it.
func (l *lab) knockAbroad(t *testing.T) {
	t.Helper()
	for _, x := range [][2]string{{"198.51.100.7", "198.51.100.99"}, {"2001:db8::7", "2001:db8::99"}} {
		src := netip.MustParseAddr(x[0])
		l.host(t, "lan0", src).In(t, func() error {
			conn, err := stdnet.DialUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(src, flowIDs.take())),
				stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(x[1]), 4444)))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write([]byte("knock"))
			return err
		})
	}
}

// signature is all that packets and counters show of a Ruleset.
type signature struct {
	wrong    []string
	counting []string // counters that are not zero
}

func (s signature) difference(from signature) string {
	return fmt.Sprintf("wrong %q, counting %q instead of %q", s.wrong, s.counting, from.counting)
}

func (l *lab) signature(t *testing.T, rs filter.Ruleset, probes []filter.Probe) signature {
	t.Helper()
	for _, n := range append([]*node{l.fw}, l.nodes()...) {
		if out, err := n.Command("ip", "neigh", "flush", "all").CombinedOutput(); err != nil {
			t.Fatalf("flush neighbours of %s: %v\n%s", n.Name, err, out)
		}
	}
	if err := kernel.Apply(context.Background(), rs, kernel.Options{NetNS: l.fw.FD()}); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	var s signature
	for _, o := range l.runWithin(t, probes, 3*silence) {
		if why := o.wrong(); why != "" {
			s.wrong = append(s.wrong, o.String())
		}
	}
	for what, good := range map[string]func(*testing.T) bool{"the firewall talks to itself": l.selfTalk,
		"the firewall calls out": l.callOut, "a forged packet of a known flow is dropped": l.forged,
		"a packet that fits no connection is dropped": l.invalid, "the MSS is lowered": l.clamped} {
		if !good(t) {
			s.wrong = append(s.wrong, what)
		}
	}
	sort.Strings(s.wrong)
	l.knockAbroad(t)
	time.Sleep(silence / 3)
	out, err := l.fw.Command("nft", "list", "counters", "table", "inet", filter.TableName).Output()
	if err != nil {
		t.Fatalf("list counters: %v", err)
	}
	for _, m := range regexp.MustCompile(`counter (\S+) \{\s+packets (\d+)`).FindAllStringSubmatch(string(out), -1) {
		if m[2] != "0" {
			s.counting = append(s.counting, m[1])
		}
	}
	sort.Strings(s.counting)
	return s
}

// selfTalk tells whether the firewall reaches its own services by loopback.
func (l *lab) selfTalk(t *testing.T) bool {
	local := netip.MustParseAddr("192.168.0.101")
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	ok, err := l.fw.tryTCP(ctx, netip.AddrPortFrom(local, flowIDs.take()), netip.AddrPortFrom(local, filter.PortSSH))
	return ok && err == nil
}

// callOut tells whether the firewall's own connections get their answers.
func (l *lab) callOut(t *testing.T) bool {
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	ok, err := l.fw.tryTCP(ctx, netip.AddrPortFrom(netip.MustParseAddr("192.168.0.101"), flowIDs.take()),
		netip.MustParseAddrPort("198.51.100.7:4444"))
	return ok && err == nil
}

// raw sends an IPv4 packet from a node with any source address.
func (n *node) raw(t *testing.T, src, dst netip.Addr, protocol byte, body []byte) {
	t.Helper()
	header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0} // the kernel fills in lengths and the checksum
	packet := append(append(append(header, src.AsSlice()...), dst.AsSlice()...), body...)
	n.In(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		// A route may depend on the source, also on one that is not the node's own.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1); err != nil {
			return err
		}
		_ = unix.Bind(fd, &unix.SockaddrInet4{Addr: src.As4()})
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: dst.As4()})
	})
}

// forged tells whether a packet of a flow of the dmz that enters by the other link is dropped: connection tracking
// knows its addresses and ports, only the link is wrong.
func (l *lab) forged(t *testing.T) bool {
	const fake = "fake"
	id := flowIDs.take()
	src, dst := netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("198.51.100.7")
	receiver := l.host(t, "lan0", dst)
	honest := func(id uint16) (answered bool) {
		ctx, cancel := context.WithTimeout(context.Background(), silence)
		defer cancel()
		answered, err := l.host(t, "dmz0", src).tryUDP(ctx, netip.AddrPortFrom(src, id), netip.AddrPortFrom(dst, 4444))
		return answered && err == nil
	}
	honest(id)
	body := binary.BigEndian.AppendUint16(nil, id)
	body = append(binary.BigEndian.AppendUint16(body, 4444), 0, byte(8+len(fake)), 0, 0)
	l.host(t, "lan0", netip.MustParseAddr("192.168.0.7")).raw(t, src, dst, unix.IPPROTO_UDP, append(body, fake...))
	time.Sleep(silence / 6)
	// Once what was sent behind it is seen, it has been too, if it came.
	if control := flowIDs.take(); honest(control) {
		for end := time.Now().Add(patience); len(receiver.seen.of(control)) == 0; time.Sleep(silence / 30) {
			if time.Now().After(end) {
				t.Fatal("what was answered is never seen to arrive")
			}
		}
	}
	return !slices.ContainsFunc(receiver.seen.of(id), func(a arrival) bool { return a.said == fake })
}

// invalid tells whether a TCP packet with flags that no connection has is dropped where connections are allowed.
func (l *lab) invalid(t *testing.T) bool {
	id := flowIDs.take()
	src, dst := netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("198.51.100.7")
	self := netip.MustParseAddr("192.168.0.101")
	segment := func(port uint16, dst netip.Addr, src netip.Addr) []byte {
		const synAndReset = 0x06
		b := binary.BigEndian.AppendUint16(nil, id)
		b = append(binary.BigEndian.AppendUint16(b, port), 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, synAndReset, 0xff, 0xff, 0, 0, 0, 0)
		binary.BigEndian.PutUint16(b[16:], checksum(src, dst, b))
		return b
	}
	l.host(t, "dmz0", src).raw(t, src, dst, unix.IPPROTO_TCP, segment(4444, dst, src))
	home := netip.MustParseAddr("192.168.0.7")
	l.host(t, "lan0", home).raw(t, home, self, unix.IPPROTO_TCP, segment(filter.PortSSH, self, home))
	time.Sleep(silence / 6)
	return len(l.host(t, "lan0", dst).seen.of(id)) == 0
}

// checksum is TCP's, RFC 9293, section 3.1, over a segment of even length.
func checksum(src, dst netip.Addr, segment []byte) uint16 {
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(segment))
	for _, b := range [][]byte{src.AsSlice(), dst.AsSlice(), segment} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
