package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
	"rempart/test/netns"
)

// How much is sent: each burst is of one round, and the rounds of all contestants take turns.
const (
	rounds   = 7
	newFlows = 5_000  // datagrams that each begin a flow, in a burst
	onePath  = 20_000 // datagrams of one flow, in a burst
)

// minimal is what a person would write by hand for the same path: nothing but the answers and the one service.
const minimal = `table inet minimal {
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname "in0" oifname "out0" meta l4proto udp accept
	}
}
`

// minimalForward is the same for a forward.
const minimalForward = `table inet minimal {
	chain prerouting {
		type nat hook prerouting priority -100;
		iifname "in0" udp dport 9000 dnat ip to 10.2.0.2:9
	}
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname "in0" oifname "out0" ct status dnat accept
	}
}
`

// contestant is a firewall with its rules between a sender and a receiver.
type contestant struct {
	name        string
	from, to    *netns.Node
	translated  bool      // datagrams are sent to the firewall, which forwards them
	source      uint16    // of the next flow that is translated, less firstSource
	fresh, flow []float64 // packets a second, of each round
}

// lines is a policy of so many lines, each about another source, and last the one that lets the datagrams through.
func lines(n int) *profiles.Profile {
	p := &profiles.Profile{Name: "bench", Admin: profiles.Admin{None: true},
		Links: []profiles.Link{
			{Name: "in0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}},
			{Name: "out0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.1/24")}},
		},
		Zones: []profiles.Zone{{Name: "in", Members: []profiles.Member{{Link: "in0"}}},
			{Name: "out", Members: []profiles.Member{{Link: "out0"}}}},
	}
	for i := range n - 1 {
		source := netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
		p.Policy = append(p.Policy, profiles.Rule{From: "in", To: "out", Action: profiles.Accept, Matches: []profiles.Match{
			{Protocol: profiles.UDP, Ports: []profiles.PortRange{{First: 443, Last: uint16(443 + i%2)}},
				Sources: []netip.Prefix{netip.PrefixFrom(source, 32)}}}})
	}
	p.Policy = append(p.Policy, profiles.Rule{From: "in", To: "out", Action: profiles.Accept,
		Matches: []profiles.Match{{Protocol: profiles.UDP}}})
	return p
}

// newContestant makes the three machines; load gives the middle one its rules.
func newContestant(b *testing.B, name string, load func(fw *netns.Node) error) *contestant {
	b.Helper()
	c := &contestant{name: name, from: netns.NewNode(b, "sender"), to: netns.NewNode(b, "receiver")}
	fw := netns.NewNode(b, "firewall")
	fw.Forward(b)
	in, inside := fw.Join(b, "in0", c.from, "eth0")
	out, outside := fw.Join(b, "out0", c.to, "eth0")
	fw.Addr(b, in, netip.MustParsePrefix("10.1.0.1/24"))
	fw.Addr(b, out, netip.MustParsePrefix("10.2.0.1/24"))
	c.from.Addr(b, inside, netip.MustParsePrefix("10.1.0.2/24"))
	c.to.Addr(b, outside, netip.MustParsePrefix("10.2.0.2/24"))
	c.from.Route(b, inside, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.1.0.1"), 0)
	// The receiver counts and says nothing: what it would answer is not what is measured.
	deaf := c.to.Command("nft", "add table inet deaf; add chain inet deaf ears "+
		"{ type filter hook prerouting priority -400; }; add rule inet deaf ears meta l4proto udp drop")
	if said, err := deaf.CombinedOutput(); err != nil {
		b.Fatalf("nft: %v\n%s", err, said)
	}
	if err := load(fw); err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	return c
}

// firstSource is the first port that flows to the firewall begin at.
const firstSource = 20_000

// send sends the i-th datagram of a burst that is to be a flow of its own, or of one flow, to a port or by a forward.
func (c *contestant) send(fd, i int, port func(i int) uint16, fresh bool, payload []byte) error {
	to := &unix.SockaddrInet4{Addr: [4]byte{10, 2, 0, 2}, Port: int(port(i))}
	if !c.translated {
		return unix.Sendto(fd, payload, 0, to)
	}
	to.Addr, to.Port = [4]byte{10, 1, 0, 1}, forwarded
	if !fresh {
		return unix.Sendto(fd, payload, 0, to)
	}
	own, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	c.source++
	if err := unix.Bind(own, &unix.SockaddrInet4{Port: firstSource + int(c.source)}); err != nil {
		return err
	}
	return unix.Sendto(own, payload, 0, to)
}

// received is how many packets the receiver got.
func (c *contestant) received(b *testing.B) uint64 {
	return c.to.Device(b, "eth0").Attrs().Statistics.RxPackets
}

// burst sends datagrams as fast as one thread can, and returns how many a second came through to the other side.
func (c *contestant) burst(b *testing.B, n int, fresh bool, port func(i int) uint16) float64 {
	b.Helper()
	before := c.received(b)
	var began time.Time
	c.from.In(b, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // another source port each time
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		payload := binary.BigEndian.AppendUint64(nil, 1)
		began = time.Now()
		for i := range n {
			if err := c.send(fd, i, port, fresh, payload); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		}
		return nil
	})
	// What is sent is through when Sendto returns, or a moment later: the path is one chain of soft interrupts.
	got := c.received(b) - before
	for wait := time.Now().Add(time.Second); got < uint64(n) && time.Now().Before(wait); got = c.received(b) - before {
	}
	spent := time.Since(began)
	if got < uint64(n)*99/100 {
		b.Fatalf("%s: %d of %d datagrams came through", c.name, got, n)
	}
	return float64(got) / spent.Seconds()
}

// forwards is a policy of so many forwards from one zone, and last the one that the datagrams go by.
func forwards(n int) *profiles.Profile {
	p := lines(1)
	p.Policy = nil
	for i := range n {
		port := uint16(50_000 - i)
		if i == n-1 {
			port = forwarded
		}
		p.Forwards = append(p.Forwards, profiles.Forward{From: "in", Protocol: profiles.UDP,
			Ports: []profiles.PortRange{{First: port, Last: port}}, To: netip.MustParseAddr("10.2.0.2"), ToPort: 9})
	}
	return p
}

// forwarded is the port of the forward that datagrams go by.
const forwarded = 9_000

// zones is a policy between so many zones of each side, by prefixes; the datagrams are of the last ones.
func zones(n int) *profiles.Profile {
	p := lines(1)
	p.Zones, p.Policy = nil, nil
	for _, side := range []struct {
		link string
		net  byte
	}{{"in0", 1}, {"out0", 2}} {
		for i := range n {
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, side.net, 0, byte(2 * (n - 1 - i) % 256)}), 31)
			if i == n-1 {
				prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, side.net, 0, 2}), 31)
			} else if i == n-2 {
				prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, side.net, 0, 254}), 31)
			}
			p.Zones = append(p.Zones, profiles.Zone{Name: fmt.Sprint(side.link, "-", i),
				Members: []profiles.Member{{Link: side.link, Prefixes: []netip.Prefix{prefix}}}})
		}
	}
	p.Policy = []profiles.Rule{{From: fmt.Sprint("in0-", n-1), To: fmt.Sprint("out0-", n-1), Action: profiles.Accept,
		Matches: []profiles.Match{{Protocol: profiles.UDP}}}}
	return p
}

// BenchmarkForward sends datagrams through a firewall, by our policies of 10 to 10,000 lines and by a minimal one that
// a person wrote: many that each begin a flow, which is what the lines cost, and many of one flow.
func BenchmarkForward(b *testing.B) {
	const what = "forwarding"
	if os.Geteuid() != 0 {
		figure(what, "NOT MEASURED: needs root to make network namespaces")
		b.Skip("SKIPPED, NOT MEASURED: needs root to make network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		b.Fatalf("nft is missing; install the package nftables: %v", err)
	}
	hand := func(script string) *contestant {
		return newContestant(b, "by hand", func(fw *netns.Node) error {
			cmd := fw.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(script)
			return cmd.Run()
		})
	}
	plain, forward := hand(minimal), hand(minimalForward)
	forward.translated = true
	all := []*contestant{plain, forward}
	join := func(name string, p *profiles.Profile) *contestant {
		rules, err := filter.Compile(p)
		if err != nil {
			b.Fatal(err)
		}
		c := newContestant(b, name, func(fw *netns.Node) error {
			return kernel.Apply(context.Background(), rules, kernel.Options{NetNS: fw.FD()})
		})
		all = append(all, c)
		return c
	}
	for _, n := range []int{10, 100, 1_000, 10_000} {
		join(fmt.Sprint(n, " lines"), lines(n))
	}
	for _, n := range []int{10, 1_000, 4_000} {
		join(fmt.Sprint(n, " forwards"), forwards(n)).translated = true
	}
	for _, n := range []int{2, 100} {
		join(fmt.Sprint(n, " zones on each side"), zones(n))
	}
	for range rounds {
		for _, c := range all {
			c.fresh = append(c.fresh, c.burst(b, newFlows, true, func(i int) uint16 { return uint16(1 + i) }))
			c.flow = append(c.flow, c.burst(b, onePath, false, func(int) uint16 { return 1 }))
		}
	}
	for _, c := range all[2:] {
		byHand := plain
		if c.translated {
			byHand = forward
		}
		fresh, flow := median(c.fresh)/median(byHand.fresh), median(c.flow)/median(byHand.flow)
		report(b, fresh, "of-by-hand-new-flows/"+strings.ReplaceAll(c.name, " ", "-"))
		figure(fmt.Sprintf("forwarding with %s, against a minimal ruleset by hand", c.name),
			"new flows %.0f/s against %.0f/s (%.2f), packets of one flow %.0f/s against %.0f/s (%.2f)",
			median(c.fresh), median(byHand.fresh), fresh, median(c.flow), median(byHand.flow), flow)
	}
}
