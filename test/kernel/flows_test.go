package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/ban"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/firstboot/filter/offload"
	"rempart/profiles"
	"rempart/test/netns"
)

// The hosts around the firewall of filtertest.Fast: one inside, and one on the link that leads out.
const (
	inside4, inside6   = "10.1.0.7", "fd00:1::7"
	outside4, outside6 = "203.0.113.9", "2001:db8:1::9"
)

// street is the firewall and its two neighbours.
type street struct {
	fw, in, out *netns.Node
	opts        kernel.Options
}

// build joins them. The firewall has no rules yet.
func build(t *testing.T) *street {
	s := &street{fw: netns.NewNode(t, "firewall"), in: netns.NewNode(t, "inside"), out: netns.NewNode(t, "outside")}
	s.opts = kernel.Options{NetNS: s.fw.FD()}
	s.fw.Forward(t)
	return s
}

// plug brings one link of the firewall, with the host behind it.
func (s *street) plug(t *testing.T, name string, host *netns.Node, own, theirs []string) {
	mine, other := s.fw.Join(t, name, host, "eth0")
	for i := range own {
		s.fw.Addr(t, mine, netip.MustParsePrefix(own[i]))
		host.Addr(t, other, netip.MustParsePrefix(theirs[i]))
		host.Route(t, other, netns.Everything(netip.MustParsePrefix(own[i]).Addr()), netip.MustParsePrefix(own[i]).Addr(), 0)
	}
}

func (s *street) plugIn(t *testing.T) {
	s.plug(t, "in0", s.in, []string{"10.1.0.1/24", "fd00:1::1/64"}, []string{inside4 + "/24", inside6 + "/64"})
}

// keep runs the keeper of the flow table as the policy child does; the function it returns ends it.
func (s *street) keep(t *testing.T, p *profiles.Profile) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.fw.Enter(func() error {
			return offload.Keep(ctx, p, slog.New(slog.NewTextHandler(os.Stdout, nil)), s.opts)
		})
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Keep = %v; want no error", err)
		}
	}
}

// echo answers every line on a port.
func echo(t *testing.T, n *netns.Node, addr string) {
	var ln net.Listener
	n.In(t, func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

// talk is one connection on which lines are exchanged.
type talk struct {
	net.Conn
	lines *bufio.Reader
}

func dial(n *netns.Node, from, to string) (*talk, error) {
	var conn net.Conn
	err := n.Enter(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", to)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &talk{conn, bufio.NewReader(conn)}, nil
}

// How long an answer may take, and how long none counts as none.
const (
	patience = time.Minute
	silence  = time.Second
)

// rounds exchanges so many lines, and says after how many there was no answer within the time.
func (c *talk) rounds(n int, wait time.Duration) error {
	for i := range n {
		_ = c.SetDeadline(time.Now().Add(wait))
		if _, err := fmt.Fprintln(c, "round", i); err != nil {
			return err
		}
		if line, err := c.lines.ReadString('\n'); err != nil {
			return fmt.Errorf("after %d rounds: %w (%q)", i, err, line)
		}
	}
	return nil
}

// port is the connection's own.
func (c *talk) port() int { return c.LocalAddr().(*net.TCPAddr).Port }

// offloaded tells whether connection tracking says of the flow from a port that it takes the short way.
func (s *street) offloaded(t *testing.T, port int) bool {
	var table []byte
	s.fw.In(t, func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/nf_conntrack")
		return err
	})
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, fmt.Sprintf("sport=%d ", port)) {
			return strings.Contains(line, "[OFFLOAD]")
		}
	}
	return false
}

// counted makes the firewall count the packets that are forwarded by the rules, in a table of the test's own.
func (s *street) counted(t *testing.T) func() uint64 {
	conn, err := nftables.New(nftables.WithNetNSFd(s.fw.FD()))
	netns.Must(t, err)
	table := conn.AddTable(&nftables.Table{Name: "count", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(100)})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	netns.Must(t, conn.Flush())
	return func() uint64 {
		rules, err := conn.GetRules(table, chain)
		netns.Must(t, err)
		return rules[0].Exprs[0].(*expr.Counter).Packets
	}
}

func (s *street) apply(t *testing.T, p *profiles.Profile) filter.Ruleset {
	rules, err := filter.Compile(p)
	netns.Must(t, err)
	netns.Must(t, kernel.Apply(context.Background(), rules, s.opts))
	return rules
}

// shortWay waits until a connection takes the short way: connection tracking says so, and the packets of many lines
// that are exchanged meet no rules.
func (s *street) shortWay(t *testing.T, what string, c *talk, forwarded func() uint64) {
	t.Helper()
	const rounds, stray = 300, 20
	var err error
	var by uint64
	short := within(patience, func() bool {
		before := forwarded()
		err = c.rounds(rounds, patience)
		by = forwarded() - before
		return err != nil || by <= stray && s.offloaded(t, c.port())
	})
	if !short || err != nil {
		t.Fatalf("%s: does not take the short way, %d packets of %d rounds met the rules: %v\n%s", what, by, rounds, err,
			s.rules(t))
	}
}

func (s *street) rules(t *testing.T) (text string) {
	s.fw.In(t, func() error {
		out, err := exec.Command("/"+foreignDir+"nft", "list", "ruleset").CombinedOutput()
		text = string(out)
		return err
	})
	return text
}

var handle = regexp.MustCompile(` # handle \d+`)

// flows shows the flow table in the kernel of guests.
func flows(t *testing.T) {
	p := filtertest.Fast()
	s := build(t)
	if can, err := kernel.CanOffload(context.Background(), s.opts); err != nil || !can {
		t.Fatalf("CanOffload = %v, %v; want true: the modules that Preload names suffice", can, err)
	}
	if text := s.rules(t); text != "" {
		t.Fatalf("after CanOffload there are rules:\n%s", text)
	}
	rules := s.apply(t, p)
	s.sameByText(t, rules)
	stop := s.keep(t, p)
	forwarded := s.counted(t)

	// The links come late.
	s.plugIn(t)
	s.plug(t, "up0", s.out, []string{"203.0.113.2/24", "2001:db8:1::2/64"}, []string{outside4 + "/24", outside6 + "/64"})
	echo(t, s.out, ":7000")
	echo(t, s.in, ":80")
	echo(t, s.in, ":81")
	netns.Must(t, ban.Ensure(context.Background(), p, s.opts))
	var held []*talk
	for _, test := range []struct {
		what     string
		n        *netns.Node
		from, to string
	}{
		{"masqueraded, IPv4", s.in, inside4, outside4 + ":7000"},
		{"IPv6", s.in, inside6, "[" + outside6 + "]:7000"},
		{"by a forward", s.out, outside4, "203.0.113.2:80"},
	} {
		c, err := dial(test.n, test.from, test.to)
		if err != nil {
			t.Fatalf("%s: %v\n%s", test.what, err, s.rules(t))
		}
		defer c.Close()
		s.shortWay(t, test.what, c, forwarded)
		held = append(held, c)
	}

	// What is denied stays so, and what lines write into packets is written into all of them.
	for _, to := range []string{inside4 + ":81", "[" + inside6 + "]:81"} {
		from := outside4
		if strings.HasPrefix(to, "[") {
			from = outside6
		}
		if c, err := dialFor(s.out, from, to, silence); err == nil {
			c.Close()
			t.Errorf("%s reaches %s; want nothing", from, to)
		}
	}
	s.keepsWriting(t)

	// Loaded again, connections go on, and take the short way again once the keeper of the new rules runs.
	stop()
	s.apply(t, p)
	for _, c := range held {
		if err := c.rounds(3, patience); err != nil {
			t.Errorf("after the policy was loaded again: %v", err)
		}
	}
	stop = s.keep(t, p)
	for _, c := range held {
		s.shortWay(t, "after the policy was loaded again", c, forwarded)
	}

	// A link that vanished and came back as another device.
	netns.Must(t, s.fw.Link.LinkDel(s.fw.Device(t, "in0")))
	s.plugIn(t)
	c, err := dial(s.in, inside4, outside4+":7000")
	if err != nil {
		t.Fatalf("after the link came back: %v", err)
	}
	s.shortWay(t, "after the link came back", c, forwarded)

	// Who is banned is shut out although his flow skipped the rules, within moments: what binds the flow table anew
	// meanwhile may keep it for one.
	s.bannedStaysOut(t, p)
	if _, err := ban.Add(context.Background(), p, netip.MustParseAddr(inside4), time.Hour, s.opts); err != nil {
		t.Fatal(err)
	}
	if !within(patience, func() bool { return c.rounds(1, silence) != nil }) {
		t.Error("a banned source goes on by the short way")
	}
	if _, err := ban.Remove(context.Background(), netip.MustParseAddr(inside4), s.opts); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c, err = dial(s.out, outside4, "203.0.113.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.shortWay(t, "before the ban", c, forwarded)
	for range 2 * p.Bans[0].Attempts {
		if more, err := dialFor(s.out, outside4, "203.0.113.2:80", silence); err == nil {
			_ = more.rounds(1, silence)
			more.Close()
		}
	}
	if !within(patience, func() bool { return c.rounds(1, silence) != nil }) {
		t.Error("a source that was banned by rate goes on by the short way")
	}
	stop()

	// A policy without it takes the flow table away.
	slow := filtertest.Fast()
	slow.FlowTable = false
	s.apply(t, slow)
	if text := s.rules(t); strings.Contains(text, "flowtable") {
		t.Errorf("the flow table is left over:\n%s", text)
	}
}

func dialFor(n *netns.Node, from, to string, wait time.Duration) (*talk, error) {
	var conn net.Conn
	err := n.Enter(func() (err error) {
		conn, err = (&net.Dialer{Timeout: wait, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", to)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &talk{conn, bufio.NewReader(conn)}, nil
}

// pair is a flow of datagrams from the host inside to a port of the one outside.
func (s *street) pair(t *testing.T, port int) (here, there *net.UDPConn) {
	t.Helper()
	far := &net.UDPAddr{IP: net.ParseIP(outside4), Port: port}
	s.out.In(t, func() (err error) {
		there, err = net.ListenUDP("udp4", far)
		return err
	})
	t.Cleanup(func() { there.Close() })
	s.in.In(t, func() (err error) {
		here, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(inside4)}, far)
		return err
	})
	t.Cleanup(func() { here.Close() })
	return here, there
}

// bannedStaysOut shows that a flow of somebody who is banned does not find the short way again by what the other side
// goes on sending.
func (s *street) bannedStaysOut(t *testing.T, p *profiles.Profile) {
	here, there := s.pair(t, 7001)
	buffer := make([]byte, 64)
	var client net.Addr
	short := within(patience, func() bool {
		deadline := time.Now().Add(silence)
		netns.Must(t, errors.Join(here.SetReadDeadline(deadline), there.SetReadDeadline(deadline)))
		if _, err := here.Write([]byte("question")); err != nil {
			return false
		}
		_, from, err := there.ReadFrom(buffer)
		if err != nil {
			return false
		}
		client = from
		_, err = there.WriteTo([]byte("answer"), from)
		netns.Must(t, err)
		_, err = here.Read(buffer)
		return err == nil && s.offloaded(t, here.LocalAddr().(*net.UDPAddr).Port)
	})
	if !short {
		t.Fatalf("a flow of datagrams does not take the short way\n%s", s.rules(t))
	}
	if _, err := ban.Add(context.Background(), p, netip.MustParseAddr(inside4), time.Hour, s.opts); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, err := there.WriteTo([]byte("again"), client)
		netns.Must(t, errors.Join(err, here.SetReadDeadline(time.Now().Add(silence))))
		if n, err := here.Read(buffer); err == nil {
			t.Errorf("somebody banned is sent %q", buffer[:n])
		}
		_, err = here.Write([]byte("question"))
		netns.Must(t, errors.Join(err, there.SetReadDeadline(time.Now().Add(silence))))
		if n, _, err := there.ReadFrom(buffer); err == nil {
			t.Errorf("somebody banned sends %q", buffer[:n])
		}
	}
	if _, err := ban.Remove(context.Background(), netip.MustParseAddr(inside4), s.opts); err != nil {
		t.Fatal(err)
	}
}

// keepsWriting shows that a flow with a class of service has it in every packet and does not take the short way.
func (s *street) keepsWriting(t *testing.T) {
	here, there := s.pair(t, 5060)
	raw, err := there.SyscallConn()
	netns.Must(t, err)
	netns.Must(t, errors.Join(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	}), err))
	buffer, control := make([]byte, 64), make([]byte, 64)
	for i := range 50 {
		deadline := time.Now().Add(patience)
		netns.Must(t, errors.Join(there.SetDeadline(deadline), here.SetDeadline(deadline)))
		_, err := here.Write([]byte("voice"))
		netns.Must(t, err)
		_, n, _, from, err := there.ReadMsgUDP(buffer, control)
		netns.Must(t, err)
		messages, err := unix.ParseSocketControlMessage(control[:n])
		netns.Must(t, err)
		const ef = 46 << 2
		if len(messages) != 1 || messages[0].Data[0] != ef {
			t.Fatalf("datagram %d has %v; want the class of service %#x", i, messages, ef)
		}
		_, err = there.WriteToUDP([]byte("voice"), from)
		netns.Must(t, err)
		_, err = here.Read(buffer)
		netns.Must(t, err)
	}
	if s.offloaded(t, here.LocalAddr().(*net.UDPAddr).Port) {
		t.Error("a flow whose packets are written into takes the short way")
	}
}

// sameByText compares what the kernel lists of the rules with what nft(8) makes of their text in another namespace.
func (s *street) sameByText(t *testing.T, rules filter.Ruleset) {
	t.Helper()
	other := netns.NewNode(t, "by text")
	other.In(t, func() error {
		cmd := exec.Command("/"+foreignDir+"nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules.Text())
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	var lists [2]string
	for i, n := range []*netns.Node{s.fw, other} {
		n.In(t, func() error {
			out, err := exec.Command("/"+foreignDir+"nft", "-s", "-a", "list", "ruleset").CombinedOutput()
			lists[i] = handle.ReplaceAllString(string(out), "")
			return err
		})
	}
	if lists[0] != lists[1] || !strings.Contains(lists[0], "flow add @flows") {
		t.Errorf("by netlink:\n%s\nby nft:\n%s", lists[0], lists[1])
	}
}
