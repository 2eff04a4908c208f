package net

import (
	"context"
	"net/netip"
	"strings"
	"testing"
)

// TestTruthRentedServer is scenario B in a person's words: one public address with a virtual MAC and a gateway in no
// subnet of it, guests behind it, port translation to several of them, and IPv6 addresses of their own.
func TestTruthRentedServer(t *testing.T) {
	t.Parallel()
	p := builtin(t, "rented-server")
	l := newLab(t, p)
	const (
		internet, internet6 = "wan0 198.51.100.7", "wan0 2001:db8::7"
		owner               = "wan0 203.0.113.7" // who administers
		partner             = "wan0 203.0.113.9"
		web, web6           = "lan0 172.16.10.205", "lan0 2001:db8:205:10::205"
		shop, shop6         = "lan0 172.16.10.206", "lan0 2001:db8:205:10::206"
		games               = "lan0 172.16.10.207"
		guest, guest6       = "lan0 172.16.0.7", "lan0 2001:db8:205:10::7"
		hypervisor          = "lan0 172.16.0.2"
		public              = "10.10.10.10"
	)
	for _, port := range []string{"22", "80", "443", "8080"} {
		l.fw.serve(t, ":"+port)
		for _, at := range []string{internet, web, web6, shop, shop6, games, guest, guest6} {
			l.at(t, at).serve(t, ":"+port)
		}
	}
	l.at(t, games).listenUDP(t, netip.MustParseAddrPort("172.16.10.207:27030"))
	l.load(t, compile(t, p))
	l.truth(t, []row{
		// The public address: three services on two guests, one of them at another port than it has there.
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://" + public + "/", "seen from 198.51.100.7"},
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://" + public + ":443/", "seen from 198.51.100.7"},
		{internet, "curl -sS -m 3 --interface 198.51.100.7 http://" + public + ":8443/", "seen from 198.51.100.7"},
		{internet, "ping -I 198.51.100.7 -c 1 -W 2 " + public, "ok"},
		{internet, "curl -sS -m 1 --interface 198.51.100.7 http://" + public + ":8080/", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 " + public + " 22", ""},
		// A shell on the shop is for a few only; the admin's own way in is another port.
		{internet, "nc -s 198.51.100.7 -z -w 1 " + public + " 2222", ""},
		{partner, "nc -s 203.0.113.9 -z -w 2 " + public + " 2222", "ok"},
		{partner, "nc -s 203.0.113.9 -z -w 1 " + public + " 22", ""},
		{owner, "nc -s 203.0.113.7 -z -w 2 " + public + " 22", "ok"},
		{hypervisor, "nc -z -w 2 172.16.0.1 22", "ok"},
		{guest, "nc -z -w 1 172.16.0.1 22", ""},
		// Nobody reaches the private addresses from outside, nor the router's.
		{internet, "nc -s 198.51.100.7 -z -w 1 172.16.10.205 80", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 172.16.0.7 80", ""},
		{internet, "ping -I 198.51.100.7 -c 1 -W 1 172.16.10.205", ""},
		{internet, "nc -s 198.51.100.7 -z -w 1 172.16.0.1 22", ""},
		// Guests leave under the public address, and reach the services by it too, also those beside them.
		{guest, "curl -sS -m 3 http://198.51.100.7/", "seen from " + public},
		{guest, "ping -c 1 -W 2 198.51.100.7", "ok"},
		{guest, "ping -c 1 -W 2 172.16.0.1", "ok"},
		{guest, "curl -sS -m 3 http://" + public + "/", "seen from 172.16.0.1"},
		{guest, "curl -sS -m 3 http://" + public + ":8443/", "seen from 172.16.0.1"},
		{guest, "nc -z -w 1 " + public + " 2222", ""},
		{guest, "nc -z -w 1 172.16.0.1 80", ""},
		// IPv6: under their own addresses, and only the web servers.
		{internet6, "curl -sS -m 3 --interface 2001:db8::7 http://[2001:db8:205:10::205]/", "seen from 2001:db8::7"},
		{internet6, "curl -sS -m 3 --interface 2001:db8::7 http://[2001:db8:205:10::206]:443/", "seen from 2001:db8::7"},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 2001:db8:205:10::205 22", ""},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 2001:db8:205:10::7 80", ""},
		{internet6, "ping -6 -I 2001:db8::7 -c 1 -W 1 2001:db8:205:10::205", ""},
		{internet6, "ping -6 -I 2001:db8::7 -c 1 -W 2 2001:db8:205::10", "ok"},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 2001:db8:205::10 80", ""},
		{internet6, "nc -6 -s 2001:db8::7 -z -w 1 2001:db8:205:10::1 22", ""},
		{guest6, "curl -sS -m 3 http://[2001:db8::7]/", "seen from 2001:db8:205:10::7"},
		{guest6, "ping -6 -c 1 -W 2 2001:db8::7", "ok"},
	})
	got := l.at(t, internet).openPorts(t, "-S", "198.51.100.7", "-e", "eth0", "-sS", "-p", "1-10000", public)
	if strings.Join(got, " ") != "80 443 8443" {
		t.Errorf("nmap from the Internet finds %v open; want 80 443 8443", got)
	}
	// Of the games' range one port is open, and it is the one that was asked for.
	for port, want := range map[string]bool{"27030": true, "27029": false, "27031": false} {
		ctx, cancel := context.WithTimeout(context.Background(), 2*silence)
		answered, err := l.at(t, internet).tryUDP(ctx, netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"),
			flowIDs.take()), netip.MustParseAddrPort(public+":"+port))
		cancel()
		if err != nil || answered != want {
			t.Errorf("udp %s is answered: %v, %v; want %v", port, answered, err, want)
		}
	}
}
