package net

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"rempart/firstboot/filter/filtertest"
)

// Who knocks at a port is let in at another until his time is over, also when the policy is loaded again in between;
// nobody else is. Who tries what nobody offers is shut out of everything.
func TestDynamicSets(t *testing.T) {
	p := filtertest.Knocking()
	l := newLab(t, p)
	l.load(t, compile(t, p))
	for _, test := range []struct{ src, beside, own, out string }{
		{"10.9.0.7", "10.9.0.8", "10.9.0.1", "198.51.100.7"},
		{"fd00:10:9::7", "fd00:192:168::7", "fd00:10:9::1", "2001:db8::7"}, // of another /64
	} {
		src, own := netip.MustParseAddr(test.src), netip.MustParseAddr(test.own)
		door := netip.AddrPortFrom(own, 8006)
		l.fw.listenTCP(t, door)
		enters := func(link, from string) bool {
			ctx, cancel := context.WithTimeout(context.Background(), 2*silence)
			defer cancel()
			a := netip.MustParseAddr(from)
			ok, err := l.host(t, link, a).tryTCP(ctx, netip.AddrPortFrom(a, flowIDs.take()), door)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		knock := func() {
			ctx, cancel := context.WithTimeout(context.Background(), silence)
			defer cancel()
			_, _ = l.host(t, "dmz0", src).tryUDP(ctx, netip.AddrPortFrom(src, flowIDs.take()), netip.AddrPortFrom(own, 7001))
		}
		if enters("dmz0", test.src) {
			t.Errorf("%v enters before it knocked", src)
		}
		knock()
		if !enters("dmz0", test.src) {
			t.Errorf("%v does not enter after it knocked", src)
		}
		link := "dmz0"
		if own.Is6() {
			link = "lan0"
		}
		if enters(link, test.beside) {
			t.Errorf("%s enters, and never knocked", test.beside)
		}
		knock()
		l.load(t, compile(t, p))
		if !enters("dmz0", test.src) {
			t.Errorf("%v is forgotten when the policy is loaded again", src)
		}
		end := time.Now().Add(4 * patience)
		for enters("dmz0", test.src) {
			if time.Now().After(end) {
				t.Fatalf("%v still enters long after its time", src)
			}
		}

		web := netip.AddrPortFrom(netip.MustParseAddr(test.out), 80)
		far := l.host(t, "lan0", web.Addr())
		far.listenTCP(t, web)
		reaches := func(to netip.AddrPort) bool {
			ctx, cancel := context.WithTimeout(context.Background(), 2*silence)
			defer cancel()
			ok, err := l.host(t, "dmz0", src).tryTCP(ctx, netip.AddrPortFrom(src, flowIDs.take()), to)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if !reaches(web) {
			t.Errorf("%v does not reach %v", src, web)
		}
		if reaches(netip.AddrPortFrom(web.Addr(), 23)) || reaches(web) {
			t.Errorf("%v reaches %v after it tried telnet", src, web)
		}
	}
}
