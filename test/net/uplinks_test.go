package net

import (
	"context"
	stdnet "net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
	"rempart/profiles"
	"rempart/test/netns"
)

// homed is a lab with two uplinks, behind both of which one host is, and the policy loaded.
func homed(t *testing.T) *lab {
	t.Helper()
	p := filtertest.Homed()
	l := newLab(t, p)
	for _, a := range []netip.Addr{far, far6} {
		l.host(t, "up1", a)
		delete(l.hosts, a) // and the same host again
		l.host(t, "up2", a)
	}
	l.load(t, compile(t, p))
	return l
}

// far is behind both uplinks.
var (
	far  = netip.MustParseAddr("198.51.100.7")
	far6 = netip.MustParseAddr("2001:db8:9::7")
)

// uplink takes the default route of a family by up1 away, or gives it back: what went by it goes by up2 instead.
func (l *lab) uplink(t *testing.T, a netip.Addr, up bool) {
	t.Helper()
	dev := l.fw.Device(t, "up1")
	for _, g := range l.link("up1").Gateways {
		switch {
		case version(g.Addr) != version(a):
		case up:
			l.fw.Metric(t, dev, netns.Everything(a), g.Addr, 0, int(g.Metric))
		default:
			netns.Must(t, l.fw.Link.RouteDel(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: netns.IPNet(netns.Everything(a)),
				Gw: g.Addr.AsSlice(), Priority: int(g.Metric)}))
		}
	}
}

// dialog is a flow of datagrams that was answered, so it is established.
type dialog struct {
	*stdnet.UDPConn
	to uint16 // port, that no other flow has
}

// converse begins a flow between two hosts.
func converse(t *testing.T, from *node, src netip.Addr, at *node, listens, dst netip.Addr) dialog {
	t.Helper()
	d := dialog{to: flowIDs.take()}
	at.listenUDP(t, netip.AddrPortFrom(listens, d.to))
	from.In(t, func() (err error) {
		d.UDPConn, err = stdnet.DialUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0)),
			stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, d.to)))
		return err
	})
	t.Cleanup(func() { _ = d.Close() })
	d.answered(t, "begin")
	return d
}

// answered says something until the same comes back.
func (d dialog) answered(t *testing.T, text string) {
	t.Helper()
	buffer := make([]byte, 64)
	for end := time.Now().Add(patience); ; {
		_, err := d.Write([]byte(text))
		if err == nil {
			_ = d.SetReadDeadline(time.Now().Add(silence))
			var n int
			if n, err = d.Read(buffer); err == nil && string(buffer[:n]) == text {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%v -> %v %q: no answer: %v", d.LocalAddr(), d.RemoteAddr(), text, err)
		}
	}
}

// port is the flow's other port.
func (d dialog) port() uint16 { return d.LocalAddr().(*stdnet.UDPAddr).AddrPort().Port() }

// told are what of a flow, in either direction, came to a node with a text.
func (n *node) told(d dialog, text string) bool {
	return slices.ContainsFunc(append(n.seen.of(d.port()), n.seen.of(d.to)...), func(a arrival) bool {
		return a.protocol == profiles.UDP && a.said == text && (a.port == d.to || a.port == d.port())
	})
}

// A connection whose routing changes goes on by the other uplink if the policy lets anybody there and it talk, and
// goes nowhere otherwise: neither the first direction of it nor its answers, before, while and after the policy is
// loaded anew; and when its own way is back it goes on.
func TestUplinkChanges(t *testing.T) {
	t.Parallel()
	l := homed(t)
	up1, up2 := l.routers["up1"], l.routers["up2"]
	type end struct {
		link string
		addr [2]netip.Addr
	}
	pair := func(link, v4, v6 string) end {
		return end{link, [2]netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}}
	}
	staff, guest := pair("in0", "10.1.1.7", "fd00:1::1:7"), pair("in0", "10.1.2.7", "fd00:1::2:7")
	server := pair("srv0", "10.2.0.7", "fd00:2::7")
	for i, there := range []netip.Addr{far, far6} {
		for _, r := range []*node{up1, up2} {
			l.hosts[there] = r
		}
		host := func(e end) *node { return l.host(t, e.link, e.addr[i]) }
		flows := []struct {
			what    string
			dialog  dialog
			counter string // of the pair it is dropped in; empty: it goes on
		}{
			{"staff may use both", converse(t, host(staff), staff.addr[i], up1, there, there), ""},
			{"guests may use one", converse(t, host(guest), guest.addr[i], up1, there, there), "fwd/guests/two"},
			{"the answers of a server", converse(t, up1, there, host(server), server.addr[i], server.addr[i]),
				"fwd/servers/two"},
		}
		for _, f := range flows {
			before := 0
			if f.counter != "" {
				before = l.counter(t, f.counter)
			}
			l.uplink(t, there, false)
			if _, err := f.dialog.Write([]byte("moved")); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(patience); !up2.told(f.dialog, "moved"); time.Sleep(silence / 30) {
				if f.counter != "" && l.counter(t, f.counter) > before {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("%v: %s: neither arrived nor dropped", there, f.what)
				}
			}
			if got, want := up2.told(f.dialog, "moved"), f.counter == ""; got != want {
				t.Errorf("%v: %s: left by the other uplink: %v; want %v", there, f.what, got, want)
			}
			if f.counter != "" {
				l.reloads(t, f.dialog, "meanwhile")
			}
			l.uplink(t, there, true)
			f.dialog.answered(t, "back")
			if up2.told(f.dialog, "meanwhile") { // by now it would have come
				t.Errorf("%v: %s: left by the other uplink while the policy was loaded", there, f.what)
			}
		}
	}
}

// reloads loads the policy again and again while a flow sends.
func (l *lab) reloads(t *testing.T, d dialog, text string) {
	t.Helper()
	other := *l.profile
	other.Policy = append(slices.Clone(other.Policy), profiles.Rule{From: "staff", To: "servers", Action: profiles.Accept})
	rules := []filter.Ruleset{compile(t, l.profile), compile(t, &other)}
	for i := range 8 {
		done := make(chan error, 1)
		go func() { done <- kernel.Apply(context.Background(), rules[(i+1)%2], kernel.Options{NetNS: l.fw.FD()}) }()
		for sending := true; sending; {
			if _, err := d.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				if sending = false; err != nil {
					t.Fatal(err)
				}
			default:
			}
		}
	}
}

// What a forward lets in is answered, though no line lets the two zones of the uplink talk.
func TestUplinkForwards(t *testing.T) {
	t.Parallel()
	l := homed(t)
	target, office := netip.MustParseAddr("10.1.2.9"), netip.MustParseAddr("192.0.2.130")
	const port = 7001
	l.host(t, "in0", target).listenUDP(t, netip.AddrPortFrom(target, port))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ok, err := l.host(t, "up2", office).tryUDP(ctx, netip.AddrPortFrom(office, flowIDs.take()),
		netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port))
	if !ok || err != nil {
		t.Errorf("the forward answers: %v, %v; want true", ok, err)
	}
}
