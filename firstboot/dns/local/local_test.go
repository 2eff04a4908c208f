package local

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/names"
)

// clock is a time that a test sets: now goes on as time does, set by as much as somebody sets the wall clock.
type clock struct {
	now time.Time
	set time.Duration
}

func (c *clock) wall() time.Time { return c.now.Add(c.set) }

func (c *clock) boot() time.Duration { return time.Duration(c.now.Unix()) * time.Second }

func prefixes(all ...string) (p []netip.Prefix) {
	for _, s := range all {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func addrs(all ...string) (a []netip.Addr) {
	for _, s := range all {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

func scenario(c *clock) *Names {
	return New(Config{
		Self: "gw",
		Links: []Link{
			{Name: "lan", Domain: "madyanne.lan.", Addresses: prefixes("10.10.10.1/24", "fd00:a::1/64")},
			{Name: "guest", Domain: "guest.lan.", Addresses: prefixes("10.20.0.1/20")},
			{Name: "lab", Addresses: prefixes("10.30.0.1/24")},
		},
		Hosts: []Host{
			{"proxy", addrs("10.10.10.10", "fd00:a::10")},
			{"printer", addrs("10.20.1.5")},
			{"far", addrs("192.0.2.7")},
		},
		Zones: []string{"dom.net.", "inner.madyanne.lan.", "5.20.10.in-addr.arpa."},
		Taken: func(name string) bool { return name == "blocked.madyanne.lan." },
		Now:   c.wall,
		Boot:  c.boot,
	})
}

// ask asks and returns the RCODE, the records' data, and "not mine".
func ask(n *Names, link, name string, kind uint16) string {
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	got, ok := n.Answer(context.Background(), &answer.Query{Msg: m, Link: link})
	if !ok {
		return "not mine"
	}
	if got == nil {
		return "silence"
	}
	var said []string
	if got.Rcode != dns.RcodeSuccess || len(got.Answer) == 0 {
		said = append(said, dns.RcodeToString[got.Rcode])
	}
	for _, rr := range got.Answer {
		if rr.Header().Name != name {
			said = append(said, "of "+rr.Header().Name)
		}
		said = append(said, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	for _, rr := range got.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			said = append(said, "SOA of "+rr.Header().Name)
		}
	}
	if !got.Authoritative {
		said = append(said, "not authoritative")
	}
	return strings.Join(said, " ")
}

func leaseOf(addr, link, client, name string) names.Binding {
	return names.Binding{Name: name, Addr: netip.MustParseAddr(addr), Link: link, Client: client, Origin: names.DHCP4}
}

func put(n *Names, all ...names.Binding) { n.Apply(names.Change{Put: all}) }

type want struct {
	link, name string
	kind       uint16
	said       string
}

func check(t *testing.T, n *Names, wants ...want) {
	t.Helper()
	for _, w := range wants {
		if got := ask(n, w.link, w.name, w.kind); got != w.said {
			t.Errorf("%s %s on %s = %s; want %s", w.name, dns.Type(w.kind), w.link, got, w.said)
		}
	}
}

const (
	a    = dns.TypeA
	aaaa = dns.TypeAAAA
	ptr  = dns.TypePTR
)

func TestHostsOfTheProfile(t *testing.T) {
	n := scenario(&clock{})
	check(t, n,
		want{"lan", "proxy.madyanne.lan.", a, "10.10.10.10"},
		want{"lan", "PROXY.Madyanne.lan.", a, "10.10.10.10"},
		want{"lan", "proxy.madyanne.lan.", aaaa, "fd00:a::10"},
		want{"lan", "proxy.", a, "10.10.10.10"},
		want{"lan", "proxy.madyanne.lan.", dns.TypeANY, "10.10.10.10 fd00:a::10"},
		want{"lan", "proxy.madyanne.lan.", dns.TypeMX, "NOERROR SOA of madyanne.lan."},
		want{"lan", "printer.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."}, // it is on another link
		want{"lan", "printer.guest.lan.", a, "10.20.1.5"},
		want{"lan", "printer.", a, "10.20.1.5"},
		want{"lan", "printer.guest.lan.", aaaa, "NOERROR SOA of guest.lan."},
		want{"lan", "far.madyanne.lan.", a, "192.0.2.7"}, // on no link: in the first domain
		want{"lan", "10.10.10.10.in-addr.arpa.", ptr, "proxy.madyanne.lan."},
		want{"lan", "7.2.0.192.in-addr.arpa.", ptr, "far.madyanne.lan."},
		want{"lan", "8.2.0.192.in-addr.arpa.", ptr, "not mine"},
		want{"lan", "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.a.0.0.0.0.0.d.f.ip6.arpa.", ptr, "proxy.madyanne.lan."},
		want{"lan", "www.example.org.", a, "not mine"},
		want{"lan", "nobody.", a, "not mine"},
		want{"lan", ".", a, "not mine"},
		want{"lan", "lan.", a, "not mine"},
		want{"lan", "x.proxy.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
	)
}

// TestTopLevelDomainsStay: a client that calls itself com does not answer for com.
func TestTopLevelDomainsStay(t *testing.T) {
	n := scenario(&clock{})
	put(n, leaseOf("10.10.10.100", "lan", "020000000001", "com"))
	check(t, n, want{"lan", "com.", a, "10.10.10.100"}, want{"lan", "com.madyanne.lan.", a, "10.10.10.100"})
	for _, kind := range []uint16{dns.TypeNS, dns.TypeDS, dns.TypeDNSKEY, dns.TypeSOA} {
		check(t, n, want{"lan", "com.", kind, "not mine"})
	}
}

func TestTheGuestItself(t *testing.T) {
	n := scenario(&clock{})
	check(t, n,
		want{"lan", "gw.madyanne.lan.", a, "10.10.10.1"},
		want{"lan", "gw.", aaaa, "fd00:a::1"},
		want{"guest", "gw.", a, "10.20.0.1"}, // the address of the client's own link
		want{"guest", "gw.madyanne.lan.", a, "10.10.10.1"},
		want{"lan", "1.10.10.10.in-addr.arpa.", ptr, "gw.madyanne.lan."},
		want{"", "1.0.20.10.in-addr.arpa.", ptr, "gw.guest.lan."},
		want{"lan", "madyanne.lan.", dns.TypeNS, "gw.madyanne.lan."},
		want{"lan", "madyanne.lan.", a, "NOERROR SOA of madyanne.lan."},
		want{"lan", "madyanne.lan.", dns.TypeSOA,
			"gw.madyanne.lan. hostmaster.gw.madyanne.lan. 1 3600 900 1209600 5"},
		want{"lan", "10.10.10.in-addr.arpa.", dns.TypeSOA,
			"gw.madyanne.lan. hostmaster.gw.madyanne.lan. 1 3600 900 1209600 5"},
	)
}

func TestAbsenceIsFinal(t *testing.T) {
	n := scenario(&clock{})
	check(t, n,
		want{"lan", "nobody.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		want{"lan", "99.10.10.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 10.10.10.in-addr.arpa."},
		want{"lan", "9.9.20.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 9.20.10.in-addr.arpa."},
		want{"lan", "9.16.20.10.in-addr.arpa.", ptr, "not mine"}, // beyond the /20
		want{"lan", "9.0.30.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 0.30.10.in-addr.arpa."},
		want{"lan", "10.in-addr.arpa.", ptr, "not mine"},
		want{"lan", "www.dom.net.", a, "not mine"}, // a zone of the guest's
		want{"lan", "inner.madyanne.lan.", a, "not mine"},
		want{"lan", "www.inner.madyanne.lan.", a, "not mine"},
		want{"lan", "9.5.20.10.in-addr.arpa.", ptr, "not mine"},
	)
}

func TestLeasesResolveAtOnce(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	n := scenario(c)
	before := n.Generation()
	b := leaseOf("10.10.10.100", "lan", "020000000001", "Laptop")
	b.Until = 1030
	put(n, b)
	if n.Generation() == before {
		t.Error("the generation did not change with a new name")
	}
	six := leaseOf("fd00:a::100", "lan", "00030001020000000001", "laptop.madyanne.lan") // the same host's DUID-LL
	six.Origin = names.DHCP6
	put(n, six)
	put(n, leaseOf("10.30.0.5", "lab", "020000000009", "unnamed")) // no names on that link
	check(t, n,
		want{"lan", "laptop.madyanne.lan.", a, "10.10.10.100"},
		want{"lan", "laptop.", aaaa, "fd00:a::100"},
		want{"guest", "laptop.", a, "10.10.10.100"},
		want{"lan", "100.10.10.10.in-addr.arpa.", ptr, "laptop.madyanne.lan."},
		want{"lan", "unnamed.", a, "not mine"},
		want{"lan", "5.0.30.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 0.30.10.in-addr.arpa."},
	)
	m := new(dns.Msg)
	m.SetQuestion("laptop.", a)
	got, _ := n.Answer(t.Context(), &answer.Query{Msg: m, Link: "lan"})
	if ttl := got.Answer[0].Header().Ttl; ttl != 30 {
		t.Errorf("TTL = %d; want 30, what is left of the lease", ttl)
	}
	c.set = 5 * 365 * 24 * time.Hour // by NTP; DHCP has not told of the leases' new ends yet
	check(t, n, want{"lan", "laptop.", a, "10.10.10.100"})
	c.set = 0
	c.now = time.Unix(1030, 0) // the lease of IPv4 ends
	check(t, n, want{"lan", "laptop.", a, "NOERROR SOA of madyanne.lan."},
		want{"lan", "laptop.", aaaa, "fd00:a::100"},
		want{"lan", "100.10.10.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 10.10.10.in-addr.arpa."})
	n.Apply(names.Change{Gone: addrs("fd00:a::100", "10.10.10.100")})
	check(t, n, want{"lan", "laptop.", a, "not mine"},
		want{"lan", "laptop.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."})
	if len(n.clients) != 0 || len(n.leased) != 0 {
		t.Errorf("%d clients and %d leases are remembered after the last ended", len(n.clients), len(n.leased))
	}
}

// TestNothingIsShadowed: whatever a client calls itself, what the profile and the guest's zones say stays.
func TestNothingIsShadowed(t *testing.T) {
	n := scenario(&clock{now: time.Unix(1000, 0)})
	for i, name := range []string{"proxy", "PROXY.madyanne.lan", "gw", "www.example.org", "dom.net", "localhost", "wpad",
		"isatap", "127", "0x7f", "inner", "blocked", "_tcp", "*", "", "\x00", "-", "far", "b\xfcro", "xn--bro-hoa"} {
		put(n, leaseOf(fmt.Sprintf("10.10.10.%d", 100+i), "lan", fmt.Sprintf("0200000000%02x", i), name))
	}
	check(t, n,
		want{"lan", "proxy.", a, "10.10.10.10"},
		want{"lan", "gw.", a, "10.10.10.1"},
		want{"lan", "far.", a, "192.0.2.7"},
		want{"lan", "www.example.org.", a, "not mine"},
		want{"lan", "www.madyanne.lan.", a, "10.10.10.103"}, // what the client gets of its "www.example.org"
		want{"lan", "dom.net.", a, "not mine"},
		want{"lan", "dom.madyanne.lan.", a, "10.10.10.104"},
		want{"lan", "localhost.", a, "not mine"},
		want{"lan", "wpad.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		want{"lan", "isatap.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		want{"lan", "127.", a, "not mine"},
		want{"lan", "inner.madyanne.lan.", a, "not mine"},
		want{"lan", "blocked.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		want{"lan", "tcp.madyanne.lan.", a, "10.10.10.112"},
		want{"lan", "*.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."},
		want{"lan", "b-ro.madyanne.lan.", a, "10.10.10.118"},
		want{"lan", "xn--bro-hoa.madyanne.lan.", a, "10.10.10.119"},
		want{"lan", "106.10.10.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 10.10.10.in-addr.arpa."},
	)
	// Who wanted the host's name goes by one of its own.
	got := ask(n, "lan", "100.10.10.10.in-addr.arpa.", ptr)
	if !strings.HasPrefix(got, "proxy-") || !strings.HasSuffix(got, ".madyanne.lan.") {
		t.Errorf("the client that wanted proxy is %s; want proxy-XXXX.madyanne.lan.", got)
	}
	// A client that is the host, by its address, needs no other name.
	put(n, leaseOf("10.10.10.10", "lan", "0200000000aa", "proxy"))
	check(t, n, want{"lan", "10.10.10.10.in-addr.arpa.", ptr, "proxy.madyanne.lan."})
}

// TestConflictsAreStable: of two clients of one name, each is called the same after any restart, whatever the order.
func TestConflictsAreStable(t *testing.T) {
	first := leaseOf("10.10.10.100", "lan", "020000000001", "pc")
	second := leaseOf("10.10.10.101", "lan", "020000000002", "PC")
	third := leaseOf("10.20.0.100", "guest", "020000000003", "pc")
	first.Since, second.Since, third.Since = 10, 20, 30
	all := []names.Binding{first, second, third}
	n := scenario(&clock{now: time.Unix(1000, 0)})
	put(n, all...)
	other := ask(n, "lan", "101.10.10.10.in-addr.arpa.", ptr)
	check(t, n, want{"lan", "pc.madyanne.lan.", a, "10.10.10.100"}, want{"lan", other, a, "10.10.10.101"},
		want{"lan", "pc.guest.lan.", a, "10.20.0.100"}, want{"guest", "pc.", a, "10.20.0.100"})
	if !strings.HasPrefix(other, "pc-") {
		t.Fatalf("the second pc is %s; want pc-XXXX", other)
	}
	for range 6 {
		all = append(all[1:], all[0])
		again := scenario(&clock{now: time.Unix(1000, 0)})
		again.Apply(names.Change{Whole: true, Put: slices.Clone(all)})
		check(t, again, want{"lan", "pc.madyanne.lan.", a, "10.10.10.100"}, want{"lan", other, a, "10.10.10.101"})
		again.Apply(names.Change{Whole: true, Put: slices.Clone(all)}) // the feed came back
		check(t, again, want{"lan", "pc.madyanne.lan.", a, "10.10.10.100"}, want{"lan", other, a, "10.10.10.101"})
	}
	// The second keeps its name when the first goes, and the name is free for who comes next.
	n.Apply(names.Change{Gone: []netip.Addr{first.Addr}})
	put(n, second)
	check(t, n, want{"lan", other, a, "10.10.10.101"}, want{"lan", "pc.madyanne.lan.", a, "NXDOMAIN SOA of madyanne.lan."})
	put(n, leaseOf("10.10.10.102", "lan", "020000000004", "pc"))
	check(t, n, want{"lan", "pc.madyanne.lan.", a, "10.10.10.102"})
}

// TestExpiredHolder: a name is not kept by a lease that ended, though nobody said so yet.
func TestExpiredHolder(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	n := scenario(c)
	old := leaseOf("10.10.10.100", "lan", "020000000001", "pc")
	old.Until = 1010
	put(n, old)
	c.now = time.Unix(1011, 0)
	put(n, leaseOf("10.10.10.101", "lan", "020000000002", "pc"))
	check(t, n, want{"lan", "pc.", a, "10.10.10.101"})
	n.Apply(names.Change{Gone: []netip.Addr{old.Addr}})
	check(t, n, want{"lan", "pc.", a, "10.10.10.101"})
}

// TestAddressMoves: the next client of an address takes nothing of the last one's.
func TestAddressMoves(t *testing.T) {
	n := scenario(&clock{now: time.Unix(1000, 0)})
	put(n, leaseOf("10.10.10.100", "lan", "020000000001", "old"))
	put(n, leaseOf("10.10.10.100", "lan", "020000000002", ""))
	check(t, n, want{"lan", "old.", a, "not mine"},
		want{"lan", "100.10.10.10.in-addr.arpa.", ptr, "NXDOMAIN SOA of 10.10.10.in-addr.arpa."})
	put(n, leaseOf("10.10.10.100", "lan", "020000000002", "new"))
	put(n, leaseOf("10.10.10.100", "lan", "020000000002", "renamed"))
	check(t, n, want{"lan", "new.", a, "not mine"}, want{"lan", "renamed.", a, "10.10.10.100"})
	put(n, leaseOf("10.10.10.100", "lab", "020000000002", "moved"))
	check(t, n, want{"lan", "renamed.", a, "not mine"})
	n.Apply(names.Change{Whole: true})
	if len(n.clients)+len(n.leased) != 0 || len(n.domains[0].clients) != 0 {
		t.Errorf("after an empty whole there are %d clients, %d leases, %d names", len(n.clients), len(n.leased),
			len(n.domains[0].clients))
	}
}

// TestDomainIsAlsoAZone: clients join a zone of the guest's own, which has the last word.
func TestDomainIsAlsoAZone(t *testing.T) {
	n := New(Config{Self: "gw", Links: []Link{{Name: "lan", Domain: "dom.net.", Addresses: prefixes("10.1.10.1/24")}},
		Zones: []string{"dom.net.", "10.1.10.in-addr.arpa."},
		Taken: func(name string) bool { return name == "arch.dom.net." }})
	put(n, leaseOf("10.1.10.100", "lan", "020000000001", "arch"), leaseOf("10.1.10.101", "lan", "020000000002", "new"))
	check(t, n,
		want{"lan", "arch.dom.net.", a, "not mine"},
		want{"lan", "new.dom.net.", a, "10.1.10.101"},
		want{"lan", "dom.net.", dns.TypeSOA, "not mine"},
		want{"lan", "nobody.dom.net.", a, "not mine"},
	)
}

func TestLabel(t *testing.T) {
	for name, want := range map[string]string{
		"pc": "pc", "My_PC": "my-pc", "a.b.c": "a", ".a": "", "--a--": "a", "a b  c": "a-b-c", "pc\x00": "pc",
		strings.Repeat("a", 70): strings.Repeat("a", 63), strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
		"10": "", "10a": "10a", "0xff": "", "0xfg": "0xfg", "LOCALHOST": "", "wpad.example.org": "", "é": "", "éa": "a",
	} {
		if got := Label(name); got != want {
			t.Errorf("Label(%q) = %q; want %q", name, got, want)
		}
	}
}

func TestIdentity(t *testing.T) {
	const mac = "020000000001"
	for id, want := range map[string]string{
		mac: mac, "01" + mac: mac, "00030001" + mac: mac, "0001000112345678" + mac: mac,
		"ff00000001" + "00030001" + mac: mac, "0004" + strings.Repeat("ab", 16): "0004" + strings.Repeat("ab", 16),
		"": "", "zz": "zz", "ff": "ff", "02" + mac: "02" + mac,
	} {
		if got := Identity(id); got != want {
			t.Errorf("Identity(%s) = %s; want %s", id, got, want)
		}
	}
}

func FuzzLabel(f *testing.F) {
	for _, s := range []string{"pc", "My PC", "a.b", "\xff\x00-", "xn--bro-hoa", strings.Repeat("-", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		label := Label(name)
		if len(label) > maxLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") || label != "" && Label(label) != label {
			t.Errorf("Label(%q) = %q", name, label)
		}
		if label != "" {
			if long := suffixed(label, "0123456789abcdef"); len(long) > maxLabel || Label(long) != long {
				t.Errorf("suffixed(%q) = %q", label, long)
			}
		}
	})
}

func BenchmarkPut(b *testing.B) {
	n := scenario(&clock{now: time.Unix(1000, 0)})
	addr := netip.MustParseAddr("10.20.0.2")
	for i := range 50_000 {
		put(n, leaseOf(addr.String(), "guest", fmt.Sprintf("02%010x", i), fmt.Sprint("host-", i)))
		addr = addr.Next()
	}
	again := leaseOf("10.20.0.2", "guest", "020000000000", "host-0")
	b.ResetTimer()
	for i := range b.N {
		again.Name = fmt.Sprint("host-", i%2)
		put(n, again)
	}
}
