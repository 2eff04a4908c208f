package net

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/filter/ban"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/filter/kernel"
)

// connects tells whether a service answers a connection.
func (l *lab) connects(t *testing.T, link, src, dst string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), silence)
	defer cancel()
	from := netip.MustParseAddr(src)
	ok, err := l.host(t, link, from).tryTCP(ctx, netip.AddrPortFrom(from, flowIDs.take()), netip.MustParseAddrPort(dst))
	if err != nil {
		t.Fatalf("connect from %s to %s: %v", src, dst, err)
	}
	return ok
}

// Who connects too often is shut out, by IPv4 address and IPv6 /64, for the time the profile says, and stays so while
// policies change; admins by address and hosts inside are not, and nobody by packets that others forged.
func TestBans(t *testing.T) {
	p := filtertest.Banning()
	l := newLab(t, p)
	opts := kernel.Options{NetNS: l.fw.FD()}
	ctx := context.Background()
	l.load(t, compile(t, p))
	if err := ban.Keep(ctx, p, opts); err != nil {
		t.Fatalf("Keep = %v; want no error", err)
	}
	const (
		ssh, ssh6, service, service6 = "203.0.113.2:22", "[2001:db8:1::2]:22", "10.2.0.7:8006", "[fd00:2::7]:8006"
	)
	for _, door := range []string{ssh, ssh6} {
		l.fw.listenTCP(t, netip.MustParseAddrPort(door))
	}
	for _, door := range []string{service, service6} {
		to := netip.MustParseAddrPort(door)
		l.host(t, "srv0", to.Addr()).listenTCP(t, to)
	}
	l.host(t, "up0", netip.MustParseAddr("198.51.100.210")).listenTCP(t, netip.MustParseAddrPort("198.51.100.210:8006"))
	expect := func(link, src, dst string, want bool, times int) {
		t.Helper()
		for n := range times {
			if got := l.connects(t, link, src, dst); got != want {
				t.Errorf("connection %d from %s to %s: answered %v; want %v", n+1, src, dst, got, want)
			}
		}
	}
	banned := func() (out []string) {
		t.Helper()
		list, err := ban.List(ctx, opts)
		if err != nil {
			t.Fatalf("List = %v; want no error", err)
		}
		for _, b := range list {
			out = append(out, b.Source.String())
		}
		return out
	}

	// The first packets of a path wait for neighbours to be found, longer than a connection of this test waits.
	for _, src := range []string{"198.51.100.7", "198.51.100.8", "198.51.100.9", "198.51.100.10", "198.51.100.12",
		"198.51.100.20", "2001:db8:5::1", "2001:db8:5::2", "2001:db8:5::3", "2001:db8:6::1"} {
		self := "203.0.113.2"
		if netip.MustParseAddr(src).Is6() {
			self = "2001:db8:1::2"
		}
		host := l.host(t, "up0", netip.MustParseAddr(src))
		out, err := host.Command("ping", "-c1", "-w10", "-I", src, self).CombinedOutput()
		if err != nil {
			t.Fatalf("ping from %s: %v\n%s", src, err, out)
		}
	}

	// By rate: to the machine itself and through it, and each source for itself.
	expect("up0", "198.51.100.7", service, true, 2)
	expect("up0", "198.51.100.7", service, false, 1)
	expect("up0", "198.51.100.7", ssh, false, 1)
	expect("up0", "198.51.100.8", service, true, 1)
	expect("up0", "2001:db8:5::1", service6, true, 1)
	expect("up0", "2001:db8:5::2", service6, true, 1)
	expect("up0", "2001:db8:5::3", service6, false, 1)
	expect("up0", "2001:db8:6::1", service6, true, 1)
	if got, want := banned(), []string{"198.51.100.7/32", "2001:db8:5::/64"}; !slices.Equal(got, want) {
		t.Errorf("banned are %q; want %q", got, want)
	}

	// Never: admins by address, hosts inside that connect to the outside, and whom others forged.
	expect("up0", "198.51.100.9", ssh, true, 6)
	expect("srv0", "10.2.0.9", "198.51.100.210:8006", true, 5)
	victim := netip.MustParseAddr("198.51.100.10")
	l.host(t, "up0", victim)
	for range 10 {
		l.host(t, "up0", victim).raw(t, victim, netip.MustParseAddr("203.0.113.2"), unix.IPPROTO_TCP, syn(victim,
			netip.MustParseAddr("203.0.113.2"), flowIDs.take(), 22))
	}
	expect("up0", "198.51.100.10", ssh, true, 1)

	// Other rules, of the policy and of the bans, change nothing about who is banned.
	l.load(t, compile(t, filtertest.Guarded()))
	l.load(t, compile(t, p))
	other := filtertest.Banning()
	for _, q := range []int{1, 2, 0} {
		other.Bans = filtertest.Banning().Bans[:q]
		if err := ban.Keep(ctx, other, opts); err != nil {
			t.Fatalf("Keep with %d services = %v; want no error", q, err)
		}
		if got, want := banned(), []string{"198.51.100.7/32", "2001:db8:5::/64"}; !slices.Equal(got, want) {
			t.Errorf("with %d services banned are %q; want %q", q, got, want)
		}
	}
	expect("up0", "198.51.100.7", service, false, 1)
	if err := ban.Keep(ctx, p, opts); err != nil {
		t.Fatal(err)
	}

	// By hand: at once, also what is connected, and back.
	hand := netip.MustParseAddr("198.51.100.12")
	expect("up0", hand.String(), service, true, 1)
	if _, err := ban.Add(ctx, p, hand, time.Hour, opts); err != nil {
		t.Fatalf("Add = %v; want no error", err)
	}
	if who, err := ban.Add(ctx, p, hand, 2*time.Hour, opts); err != nil || who.String() != "198.51.100.12/32" {
		t.Fatalf("Add again = %v, %v; want the source", who, err)
	}
	list, err := ban.List(ctx, opts)
	if err != nil || len(list) != 3 || list[1].Left < 90*time.Minute {
		t.Errorf("List = %v, %v; want 3, the second for 2 hours", list, err)
	}
	expect("up0", hand.String(), service, false, 1)
	if _, err := ban.Remove(ctx, hand, opts); err != nil {
		t.Fatalf("Remove = %v; want no error", err)
	}
	if _, err := ban.Remove(ctx, hand, opts); !errors.Is(err, ban.ErrNotBanned) {
		t.Errorf("Remove again = %v; want %v", err, ban.ErrNotBanned)
	}
	expect("up0", hand.String(), service, true, 1)
	for _, never := range []string{"198.51.100.9", "2001:db8:a::1234", "203.0.113.2", "203.0.113.1", "fe80::1", "::",
		"127.0.0.1"} {
		if _, err := ban.Add(ctx, p, netip.MustParseAddr(never), time.Hour, opts); !errors.Is(err, ban.ErrNever) {
			t.Errorf("Add(%s) = %v; want %v", never, err, ban.ErrNever)
		}
	}

	// A ban ends by itself.
	expect("up0", "198.51.100.20", ssh, true, 3)
	expect("up0", "198.51.100.20", ssh, false, 1)
	deadline := time.Now().Add(time.Minute)
	for !l.connects(t, "up0", "198.51.100.20", ssh) {
		if time.Now().After(deadline) {
			t.Fatal("a ban of 12 s holds after a minute")
		}
	}
}

// syn is the first segment of a connection.
func syn(src, dst netip.Addr, from, to uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	const flag = 0x02
	b = append(binary.BigEndian.AppendUint16(b, to), 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flag, 0xff, 0xff, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[16:], checksum(src, dst, b))
	return b
}
