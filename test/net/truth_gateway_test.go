package net

import (
	"net/netip"
	"testing"
)

// TestScanNATGateway is what anybody finds who tries all ports of the gateway, outside and inside, IPv4 and IPv6:
// exactly what the profile declares. On the gateway itself something listens behind ports that are not declared.
func TestScanNATGateway(t *testing.T) {
	t.Parallel()
	p := builtin(t, "nat-gateway")
	l := newLab(t, p)
	const (
		internet = "wan 198.51.100.7"
		owner    = "wan 203.0.113.7" // who administers
		inside   = "lan 10.10.10.150"
		inside6  = "lan fd00:10:10:10::150"
		proxy    = "lan 10.10.10.10"
		machine  = "lan 10.10.10.2" // the hypervisor
	)
	for _, port := range []string{":22", ":53", ":80", ":3128", ":8006"} {
		l.fw.serve(t, port)
	}
	for _, port := range []string{":22", ":80", ":443", ":8006"} {
		l.at(t, proxy).serve(t, port)
		l.at(t, machine).serve(t, port)
	}
	for _, own := range []string{"10.10.10.1", "fd00:10:10:10::1", "203.0.113.10"} {
		for _, port := range []uint16{53, 67, 123, 161, 514} {
			l.fw.listenUDP(t, netip.AddrPortFrom(netip.MustParseAddr(own), port))
		}
	}
	l.load(t, compile(t, p))
	l.scans(t, []scanned{
		{internet, "203.0.113.10", allTCP, "tcp/80 tcp/443 tcp/8006"}, {internet, "203.0.113.10", topUDP, ""},
		{internet, "10.10.10.1", lowTCP, ""}, {internet, "10.10.10.1", topUDP, ""},
		{owner, "203.0.113.10", lowTCP, "tcp/22 tcp/80 tcp/443 tcp/8006"}, {owner, "203.0.113.10", topUDP, ""},
		{inside, "10.10.10.1", lowTCP, "tcp/53"}, {inside, "10.10.10.1", topUDP, "udp/53 udp/67 udp/123"},
		{inside6, "fd00:10:10:10::1", lowTCP, "tcp/53"}, {inside6, "fd00:10:10:10::1", topUDP, "udp/53 udp/123"},
	})
}
