package net

import (
	"context"
	"net/netip"
	"testing"
)

// TestTruthNameServer is the name server in a person's words: its own network, and nobody else, asks it for names.
func TestTruthNameServer(t *testing.T) {
	t.Parallel()
	p := builtin(t, "name-server")
	l := newLab(t, p)
	const (
		internet        = "wan 198.51.100.7"
		neighbour       = "wan 203.0.113.50"
		inside, inside6 = "lan 10.1.10.7", "lan fd00:1:10::7"
	)
	for _, port := range []string{"22", "53", "80", "443"} {
		l.fw.serve(t, ":"+port)
		l.at(t, inside).serve(t, ":"+port)
		l.at(t, internet).serve(t, ":"+port)
	}
	for _, own := range []string{"10.1.10.1:53", "203.0.113.10:53"} {
		l.fw.listenUDP(t, netip.MustParseAddrPort(own))
	}
	l.load(t, compile(t, p))
	l.truth(t, []row{
		{inside, "nc -z -w 2 10.1.10.1 53", "ok"},
		{inside, "nc -z -w 2 10.1.10.1 22", "ok"},
		{inside, "ping -c 1 -W 2 10.1.10.1", "ok"},
		{inside, "nc -z -w 1 10.1.10.1 80", ""},
		{inside, "curl -sS -m 3 http://198.51.100.7/", "seen from 203.0.113.10"},
		{inside, "ping -c 1 -W 2 198.51.100.7", "ok"},
		{inside6, "nc -6 -z -w 2 fd00:1:10::1 22", "ok"},
		{inside6, "ping -6 -c 1 -W 2 fd00:1:10::1", "ok"},
		{inside6, "nc -6 -z -w 1 fd00:1:10::1 53", ""}, // those who may ask are named by their IPv4 addresses
		{internet, "nc -s 198.51.100.7 -z -w 1 203.0.113.10 53", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 203.0.113.10 22", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.1.10.1 53", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 10.1.10.7 80", ""},
		{internet, "ping -I 198.51.100.7 -c 1 -W 1 203.0.113.10", ""},
		{neighbour, "nc -z -w 1 203.0.113.10 53", ""},
		{neighbour, "nc -z -w 1 203.0.113.10 80", ""},
	})
	for _, c := range []struct {
		from, src, to string
		want          bool
	}{
		{inside, "10.1.10.7", "10.1.10.1:53", true}, {internet, "198.51.100.7", "203.0.113.10:53", false},
		{neighbour, "203.0.113.50", "203.0.113.10:53", false}, {internet, "198.51.100.7", "10.1.10.1:53", false},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 3*silence)
		answered, err := l.at(t, c.from).tryUDP(ctx, netip.AddrPortFrom(netip.MustParseAddr(c.src), flowIDs.take()),
			netip.MustParseAddrPort(c.to))
		cancel()
		if err != nil || answered != c.want {
			t.Errorf("a question from %s to %s is answered: %v, %v; want %v", c.src, c.to, answered, err, c.want)
		}
	}
	l.scans(t, []scanned{
		{internet, "203.0.113.10", allTCP, ""}, {neighbour, "203.0.113.10", lowTCP, ""},
		{neighbour, "203.0.113.10", topUDP, ""},
		{inside, "10.1.10.1", lowTCP, "tcp/22 tcp/53"}, {inside, "10.1.10.1", topUDP, "udp/53"},
		{inside6, "fd00:1:10::1", lowTCP, "tcp/22"}, {inside6, "fd00:1:10::1", topUDP, ""},
	})
}
