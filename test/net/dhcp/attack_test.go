package dhcp_test

import (
	"net"
	"strings"
	"testing"

	"rempart/test/net/hostile"
	"rempart/test/netns"
)

// TestAttacked has dhcpstarv, which is made for it, take every address of a pool and keep them. The host that had one
// before keeps it and renews; the pool says that it is full. (dhcpig does the same, but the one that Debian 12 has
// fails at its first packet; what it gives back in others' names is in package v4's tests.)
func TestAttacked(t *testing.T) {
	l := newLab(t)
	p := profile(8) // T1 after 4 s
	p.DHCP[0].NoProbe = false
	p.DHCP[0].Subnets[0].Pools = ranges("10.0.0.100", "10.0.0.104")
	s := l.start(p)
	known := l.client("known", "lan")
	known.begin("dhclient")
	l.eventually("an address", func() bool { return known.address() != "" })
	had := known.address()
	l.client("attacker", "lan").background(netns.Tool(t, "dhcpstarv", "dhcpstarv"), "-v", "-i", "eth0")
	l.eventually("the pool to be full", func() bool { return strings.Contains(s.log.String(), "the pool is full") })
	acks := l.seen.acked(known.mac)
	l.eventually("the known client to renew twice", func() bool { return l.seen.acked(known.mac) >= acks+2 })
	if got := known.address(); got != had {
		t.Errorf("the known client has %s; want %s, which it had", got, had)
	}
}

// TestMalformed replays packets that are wrong in every way that has a name, cut at every byte, and with every byte
// changed, at the running server: it goes on serving.
func TestMalformed(t *testing.T) {
	l := newLab(t)
	s := l.start(profile(8))
	known := l.client("known", "lan")
	known.begin("dhcpcd")
	l.eventually("an address", func() bool { return known.address() != "" })
	had := known.address()
	attacker := l.client("attacker", "lan")
	netnsAddr(t, attacker, "10.0.0.9/24")
	var conn *net.UDPConn
	attacker.In(t, func() (err error) {
		conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(gateway), Port: 67})
		return err
	})
	defer conn.Close()
	corpus := hostile.DHCP4()
	for _, b := range corpus {
		_, _ = conn.Write(b) // what is refused on the way was not worth sending
	}
	acks := l.seen.acked(known.mac)
	l.eventually("the known client to renew twice", func() bool { return l.seen.acked(known.mac) >= acks+2 })
	if got := known.address(); got != had {
		t.Errorf("the known client has %s; want %s, which it had", got, had)
	}
	late := l.client("late", "lan")
	late.begin("dhclient")
	l.eventually("a new client to have an address", func() bool { return late.address() != "" })
	if lines := strings.Count(s.log.String(), "\n"); lines > 20*len(corpus) || strings.Contains(s.log.String(), "panic") {
		t.Errorf("%d packets made %d lines of log:\n%.4096s", len(corpus), lines, s.log.String())
	}
	t.Logf("%d packets", len(corpus))
}
