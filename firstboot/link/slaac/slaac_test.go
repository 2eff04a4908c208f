package slaac

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/link/packet"
)

var (
	nic     = net.HardwareAddr{0x00, 0x16, 0x3e, 0x01, 0x02, 0x03}
	routerA = netip.MustParseAddr("fe80::a")
	routerB = netip.MustParseAddr("fe80::b")
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// frame makes an advertisement as it stands on the wire: flags and lifetime of the router, then options.
func frame(from netip.Addr, flags byte, lifetime uint16, options ...[]byte) []byte {
	body := make([]byte, advertHeader)
	body[0], body[4], body[5] = typeAdvert, 1, flags // a hop limit of 1 is not believed
	binary.BigEndian.PutUint16(body[6:], lifetime)
	for _, o := range options {
		body = append(body, o...)
	}
	b := make([]byte, ipHeader, ipHeader+len(body))
	b[0], b[6], b[7] = 6<<4, protocolICMP6, hopLimit
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], netip.MustParseAddr("ff02::1").AsSlice())
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[ipHeader+2:], ^packet.Sum(packet.Pseudo6(b), b[ipHeader:]))
	return b
}

func option(kind byte, content []byte) []byte {
	b := append([]byte{kind, 0}, content...)
	for len(b)%optionUnit != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b) / optionUnit)
	return b
}

func prefixOption(p string, flags byte, valid, preferred uint32) []byte {
	b := []byte{byte(pfx(p).Bits()), flags}
	b = binary.BigEndian.AppendUint32(b, valid)
	b = binary.BigEndian.AppendUint32(b, preferred)
	return option(optionPrefix, append(append(b, 0, 0, 0, 0), pfx(p).Addr().AsSlice()...))
}

func timed(seconds uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0, 0}, seconds), rest...)
}

const both = flagOnLink | flagAutonomous

func TestParse(t *testing.T) {
	good := frame(routerA, 1<<3, 1800, prefixOption("2001:db8::/64", both, 7200, 3600),
		option(optionMTU, timed(1480)), option(optionDNS, timed(600, netip.MustParseAddr("2001:db8::53").AsSlice()...)),
		option(optionSearch, timed(600, []byte("\x03isp\x07example\x00")...)), option(200, make([]byte, 6)))
	a, err := parse(append(good, "padding"...), true)
	if err != nil || a.from != routerA || a.lifetime != 30*time.Minute || a.preference != prefHigh || a.mtu != 1480 ||
		!slices.Equal(a.prefixes, []prefixInfo{{pfx("2001:db8::/64"), true, true, 2 * time.Hour, time.Hour}}) ||
		!slices.Equal(a.dns, []serverInfo{{netip.MustParseAddr("2001:db8::53"), 10 * time.Minute}}) ||
		!slices.Equal(a.search, []domainInfo{{"isp.example", 10 * time.Minute}}) {
		t.Errorf("parse = %+v, %v", a, err)
	}
	change := func(at int, b byte) []byte { c := slices.Clone(good); c[at] = b; return c }
	for name, bad := range map[string][]byte{
		"empty": nil, "short": good[:ipHeader+8], "truncated": good[:len(good)-1], "no IPv6": change(0, 4<<4),
		"no ICMPv6": change(6, 17), "forwarded": change(7, 254), "not from the link": frame(netip.MustParseAddr("2001::1"),
			0, 1800), "another type": change(ipHeader, 135), "checksum": change(ipHeader+2, good[ipHeader+2]+1),
		"an option of no length": frame(routerA, 0, 1800, make([]byte, 8)),
		"an option too long":     frame(routerA, 0, 1800, []byte{optionMTU, 2, 0, 0, 0, 0, 5, 220}),
	} {
		if a, err := parse(bad, true); err == nil {
			t.Errorf("%s: parse = %+v; want an error", name, a)
		}
	}
	if _, err := parse(change(ipHeader+2, 0), false); err != nil {
		t.Errorf("parse without a checksum to look at: %v", err)
	}
	for _, wrong := range []string{"\x03isp", "\x40", "\xc0\x0c", "\x01-\x00", "\x02a\x00\x00", "\x03a b\x00"} {
		if got := domains([]byte(wrong)); len(got) != 0 {
			t.Errorf("domains(%q) = %q; want none", wrong, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(frame(routerA, 0, 1800, prefixOption("2001:db8::/64", both, 7200, 3600), option(optionMTU, timed(1480)),
		option(optionSearch, timed(600, []byte("\x03isp\x07example\x00")...))), false)
	f.Fuzz(func(t *testing.T, b []byte, summed bool) {
		a, err := parse(b, summed)
		if err != nil {
			return
		}
		m := newMachine(&Config{})
		m.advert(time.Second, a)
		if err := m.state.Check(time.Second); err != nil {
			t.Errorf("%+v became %+v: %v", a, m.state, err)
		}
	})
}

func newMachine(cfg *Config) *machine {
	cfg.MAC = nic
	return &machine{cfg: cfg, random: rand.New(rand.NewPCG(1, 2))}
}

// hear lets a machine hear an advertisement and returns what it says of it.
func (m *machine) hear(t *testing.T, now time.Duration, frame []byte) (logs string, news bool) {
	t.Helper()
	a, err := parse(frame, true)
	if err != nil {
		t.Fatal(err)
	}
	m.advert(now, a)
	for _, a := range m.take() {
		news = news || a.state != nil
		logs += a.log
	}
	return logs, news
}

func TestHostileAdvertisements(t *testing.T) {
	cfg := Config{Inside: func() []netip.Prefix { return []netip.Prefix{pfx("fd00:1::/64"), pfx("2001:db8:77::/48")} }}
	const inside = "fd00:1::/64"
	for name, c := range map[string]struct {
		options [][]byte
		says    string
	}{
		"the inside's prefix":         {[][]byte{prefixOption(inside, both, 7200, 3600)}, "overlaps " + inside},
		"around the inside's":         {[][]byte{prefixOption("fd00:1::/48", flagOnLink, 7200, 3600)}, "overlaps " + inside},
		"within what is routed":       {[][]byte{prefixOption("2001:db8:77:1::/64", both, 7200, 3600)}, "overlaps 2001:"},
		"the world":                   {[][]byte{prefixOption("::/0", flagOnLink, 7200, 3600)}, "hosts have no such"},
		"half the Internet":           {[][]byte{prefixOption("2000::/3", flagOnLink, 7200, 3600)}, "larger than"},
		"multicast":                   {[][]byte{prefixOption("ff02::/64", both, 7200, 3600)}, "hosts have no such"},
		"loopback":                    {[][]byte{prefixOption("::/64", both, 7200, 3600)}, "hosts have no such"},
		"site-local":                  {[][]byte{prefixOption("fec0::/64", both, 7200, 3600)}, "hosts have no such"},
		"IPv4 in IPv6":                {[][]byte{prefixOption("64:ff9b::/64", both, 7200, 3600)}, "hosts have no such"},
		"an address of another size":  {[][]byte{prefixOption("2001:db8::/56", both, 7200, 3600)}, "needs a prefix of 64"},
		"preferred longer than valid": {[][]byte{prefixOption("2001:db8::/64", both, 3600, 7200)}, "preferred for longer"},
		"MTU 0":                       {[][]byte{option(optionMTU, timed(68))}, "MTU 68"},
		"MTU of 4 GiB":                {[][]byte{option(optionMTU, timed(0xffffffff))}, "MTU 4294967295"},
		"a multicast name server": {[][]byte{option(optionDNS, timed(600,
			netip.MustParseAddr("ff02::1").AsSlice()...))}, "name server ff02::1"},
		"a loopback name server": {[][]byte{option(optionDNS, timed(600, netip.MustParseAddr("::1").AsSlice()...))},
			"name server ::1"},
		"a search domain with a line break": {[][]byte{option(optionSearch, timed(600, []byte("\x03a\nb\x00")...))}, ""},
		"link-local":                        {[][]byte{prefixOption("fe80::/64", both, 7200, 3600)}, ""},
	} {
		m := newMachine(&cfg)
		says, _ := m.hear(t, time.Second, frame(routerA, 0, 0, c.options...))
		s := m.state
		if len(s.Prefixes)+len(s.DNS)+len(s.Search)+len(s.Routers)+s.MTU != 0 || !strings.Contains(says, c.says) ||
			(says == "") != (c.says == "") {
			t.Errorf("%s: state %+v, said %q; want nothing taken and %q", name, s, says, c.says)
		}
	}
	// However many there are, so many are taken.
	m := newMachine(&cfg)
	for i := range 200 {
		from := netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: byte(i + 1)})
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 7: byte(i)}), 64).String()
		m.hear(t, time.Second, frame(from, 0, 9000, prefixOption(p, both, 0xffffffff, 0xffffffff),
			option(optionDNS, timed(600, netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 15: byte(i)}).AsSlice()...))))
	}
	if s := m.state; len(s.Routers) != maxRouters || len(s.Prefixes) != maxPrefixes || len(s.DNS) != maxDNS {
		t.Errorf("of 200 of each, %d routers, %d prefixes and %d name servers are taken", len(s.Routers), len(s.Prefixes),
			len(s.DNS))
	}
	// Those of a network that the link may have left keep nobody out.
	for i := range m.state.Routers {
		m.state.Routers[i].Stale = true
	}
	m.hear(t, time.Second, frame(routerA, 0, 1800))
	if s := m.state; len(s.Routers) != maxRouters || s.Routers[0].Addr != routerA {
		t.Errorf("among stale routers the new one is not first: %+v", s.Routers)
	}
	if got := m.state.Prefixes[0].Valid; got != time.Second+maxLifetime {
		t.Errorf("an endless lifetime ends at %s; want %s", got, time.Second+maxLifetime)
	}
	// The profile may name whom to believe.
	m = newMachine(&Config{Routers: []netip.Addr{routerA}, Prefixes: []netip.Prefix{pfx("2001:db8::/32")}})
	m.hear(t, time.Second, frame(routerB, 0, 1800, prefixOption("2001:db8::/64", both, 7200, 3600)))
	m.hear(t, time.Second, frame(routerA, 0, 1800, prefixOption("2001:bad::/64", both, 7200, 3600)))
	if s := m.state; len(s.Prefixes) != 0 || len(s.Routers) != 1 || s.Routers[0].Addr != routerA {
		t.Errorf("state %+v; want router %s and no prefix", s, routerA)
	}
}

func TestLifetimes(t *testing.T) {
	m := newMachine(&Config{})
	now := 100 * time.Second
	say := func(valid, preferred uint32) (left, preferredFor time.Duration) {
		m.hear(t, now, frame(routerA, 0, 1800, prefixOption("2001:db8::/64", both, valid, preferred)))
		if len(m.state.Prefixes) == 0 {
			return 0, 0
		}
		return m.state.Prefixes[0].Valid - now, m.state.Prefixes[0].Preferred - now
	}
	for i, c := range []struct {
		valid, preferred        uint32
		wantLeft, wantPreferred time.Duration
	}{
		{86400, 3600, 24 * time.Hour, time.Hour},
		{0, 0, 2 * time.Hour, 0},                             // RFC 4862, 5.5.3 e: not below two hours
		{60, 30, 2 * time.Hour, 30 * time.Second},            // nor again
		{7300, 7300, 7300 * time.Second, 7300 * time.Second}, // longer is taken
	} {
		if left, preferred := say(c.valid, c.preferred); left != c.wantLeft || preferred != c.wantPreferred {
			t.Errorf("%d: valid for %s, preferred for %s; want %s and %s", i, left, preferred, c.wantLeft, c.wantPreferred)
		}
	}
	if got := m.next(now); got != now+1800*time.Second {
		t.Errorf("next = %s; want the end of the router", got)
	}
	m.take()
	now += 1801 * time.Second
	m.timer(now)
	if acts := m.take(); len(m.state.Routers) != 0 || len(acts) != 1 || acts[0].state == nil {
		t.Errorf("after the router's lifetime: %+v, %+v; want it gone and told", m.state, acts)
	}
	now += 7300 * time.Second
	m.timer(now)
	if len(m.state.Prefixes) != 0 || m.next(now) != 0 {
		t.Errorf("after all lifetimes: %+v; want nothing", m.state)
	}
	// A router that stops being one says so.
	m.hear(t, now, frame(routerA, 0, 1800))
	m.hear(t, now, frame(routerA, 0, 0))
	if len(m.state.Routers) != 0 {
		t.Errorf("routers %+v; want none", m.state.Routers)
	}
}

func TestRouterOrder(t *testing.T) {
	m := newMachine(&Config{})
	first := func() netip.Addr { return m.state.Routers[0].Addr }
	m.up(time.Second)
	m.hear(t, 2*time.Second, frame(routerA, 3<<3, 1800)) // low
	m.hear(t, 2*time.Second, frame(routerB, 2<<3, 1800)) // reserved, which is medium
	if first() != routerB {
		t.Errorf("routers %+v; want the preferred first", m.state.Routers)
	}
	m.down()
	m.up(3 * time.Second)
	if acts := m.take(); len(acts) == 0 || !acts[0].solicit {
		t.Errorf("after a flap: %+v; want a solicitation", acts)
	}
	m.hear(t, 4*time.Second, frame(routerA, 3<<3, 1800))
	if first() != routerA || len(m.state.Routers) != 2 {
		t.Errorf("routers %+v; want the one heard since the flap first", m.state.Routers)
	}
}

func TestSolicitations(t *testing.T) {
	m := newMachine(&Config{})
	now := time.Second
	m.up(now)
	count := func() (n int) {
		for _, a := range m.take() {
			if a.solicit {
				n++
			}
		}
		return n
	}
	if count() != 1 {
		t.Error("no solicitation at once")
	}
	gap := time.Duration(0)
	for range 12 {
		next := m.next(now)
		if next-now <= gap*3/2 && next-now < solicitMax*9/10 {
			t.Errorf("the interval after %s is %s; want it to grow", gap, next-now)
		}
		gap, now = next-now, next
		m.timer(now)
		if count() != 1 {
			t.Error("no solicitation when its time came")
		}
	}
	m.hear(t, now, frame(routerA, 0, 1800))
	if next := m.next(now); next != now+1800*time.Second {
		t.Errorf("next = %s; want no more solicitations", next)
	}
	m.down()
	m.timer(now + time.Hour)
	if count() != 0 {
		t.Error("a solicitation without carrier")
	}
}

func TestRepetitionIsNoNews(t *testing.T) {
	m := newMachine(&Config{})
	same := frame(routerA, 0, 1800, prefixOption("2001:db8::/64", both, 86400, 14400))
	if _, news := m.hear(t, time.Second, same); !news {
		t.Error("the first advertisement is no news")
	}
	for now := 4 * time.Second; now < time.Minute; now += 3 * time.Second {
		if _, news := m.hear(t, now, same); news {
			t.Errorf("at %s the same is news again", now)
		}
	}
	if _, news := m.hear(t, 20*time.Minute, same); !news {
		t.Error("lifetimes that moved by minutes are no news")
	}
}

func TestSolicit(t *testing.T) {
	b := solicit(routerA, nic)
	if len(b) != 56 || packet.Sum(packet.Pseudo6(b), b[ipHeader:]) != 0xffff || b[7] != 255 || b[ipHeader] != 133 ||
		string(b[len(b)-6:]) != string(nic) {
		t.Errorf("solicit = %x", b)
	}
}
