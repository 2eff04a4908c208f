package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dns/dnssec"
	"rempart/firstboot/dns/server"
	"rempart/firstboot/names"
	"rempart/profiles"
)

// serveProfile serves a profile's names by TCP on loopback, to the clients that are named, and returns its address.
func serveProfile(t *testing.T, p *profiles.Profile, access *server.Access) (*house, string) {
	t.Helper()
	root, err := os.MkdirTemp("/tmp", "dns") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(contract.NamesSocket)), 0o755); err != nil {
		t.Fatal(err)
	}
	h, err := newHouse(&child.Env{Profile: p, Root: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.server.ServeTCP(ctx, l, access, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h, l.Addr().String()
}

func load(t *testing.T, name string) *profiles.Profile {
	t.Helper()
	p, err := profiles.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open() *server.Access {
	return &server.Access{Link: "lan", From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, NoRecursion: true}
}

// ask asks by TCP and returns the RCODE and the data of the answer.
func ask(t *testing.T, to, name string, kind uint16) string {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	m, _, err := (&dns.Client{Net: "tcp"}).ExchangeContext(t.Context(), q, to)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	said := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		said = append(said, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(said, " ")
}

// TestNameServerProfile: the zone of the built-in profile, forward and reverse, aliases and all.
func TestNameServerProfile(t *testing.T) {
	_, to := serveProfile(t, load(t, "name-server"), open())
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"fedora.dom.net.", dns.TypeA, "NOERROR 10.1.10.2"},
		{"arch.dom.net.", dns.TypeA, "NOERROR 10.1.10.3"},
		{"dom.net.", dns.TypeNS, "NOERROR ns.dom.net."},
		{"nothing.dom.net.", dns.TypeA, "NXDOMAIN"},
		{"fedora.dom.net.", dns.TypeAAAA, "NOERROR"},
		{"2.10.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR fedora.dom.net."},
		{"3.10.1.10.in-addr.arpa.", dns.TypePTR, "NOERROR arch.dom.net."},
		{"4.10.1.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"www.example.org.", dns.TypeA, "REFUSED"}, // this client may not recurse
	} {
		if got := ask(t, to, c.name, c.kind); got != c.want {
			t.Errorf("%s %s = %s; want %s", c.name, dns.Type(c.kind), got, c.want)
		}
	}
	for _, alias := range strings.Fields("nextcloud nex duplicati dup syncthing syn perkeep per") {
		if got, want := ask(t, to, alias+".dom.net.", dns.TypeA), "NOERROR fedora.dom.net. 10.1.10.2"; got != want {
			t.Errorf("%s.dom.net. = %s; want %s", alias, got, want)
		}
	}
}

// TestLeasesReachClients: from the DHCP child's socket to an answer; gone with the lease.
func TestLeasesReachClients(t *testing.T) {
	p := load(t, "name-server")
	p.DNS.Links[0].Domain = "home.lan"
	p.Hosts = []profiles.Host{{Name: "printer", Addresses: []netip.Addr{netip.MustParseAddr("10.1.10.9")}}}
	p.DHCP = []profiles.DHCP{{Link: "lan"}}
	h, to := serveProfile(t, p, open())
	l, err := names.Listen(h.leases)
	if err != nil {
		t.Fatal(err)
	}
	feed := names.NewFeed()
	ctx, cancel := context.WithCancel(context.Background())
	served, followed := make(chan error), make(chan struct{})
	applied := make(chan struct{}, 16)
	go func() { feed.Serve(ctx, l, slog.New(slog.DiscardHandler)); served <- nil }()
	go func() {
		defer close(followed)
		names.Follow(ctx, h.leases, slog.New(slog.DiscardHandler), func(c names.Change) {
			h.local.Apply(c)
			applied <- struct{}{}
		})
	}()
	defer func() {
		cancel()
		<-followed
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	<-applied
	laptop := netip.MustParseAddr("10.1.10.100")
	if err := feed.Put(names.Binding{Name: "Laptop", Addr: laptop, Link: "lan", Client: "020000000001",
		Origin: names.DHCP4}); err != nil {
		t.Fatal(err)
	}
	<-applied
	for name, want := range map[string]string{"laptop.home.lan.": "NOERROR 10.1.10.100", "laptop.": "NOERROR 10.1.10.100",
		"printer.home.lan.": "NOERROR 10.1.10.9", "ns.home.lan.": "NOERROR 10.1.10.1", "x.home.lan.": "NXDOMAIN"} {
		if got := ask(t, to, name, dns.TypeA); got != want {
			t.Errorf("%s = %s; want %s", name, got, want)
		}
	}
	feed.Remove(laptop)
	<-applied
	if got := ask(t, to, "laptop.home.lan.", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("after its lease ended the laptop is %s; want NXDOMAIN", got)
	}
}

// TestTransfers: dig gets the whole zone if it may, and nothing if it may not.
func TestTransfers(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("SKIPPED, NOT PASSED: dig (bind9-dnsutils) is not installed; test/setup test installs it")
	}
	p := load(t, "name-server")
	for _, c := range []struct {
		open []netip.Prefix
		want int // records
	}{{[]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, 14}, {nil, 0},
		{[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, 0}} {
		p.DNS.Zones[0].Transfer = c.open
		_, to := serveProfile(t, p, open())
		_, port, err := net.SplitHostPort(to)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), dig, "@127.0.0.1", "-p", port, "+tcp", "+noall", "+answer", "dom.net",
			"AXFR").CombinedOutput()
		if err != nil {
			t.Fatalf("dig: %v\n%s", err, out)
		}
		if got := strings.Count(string(out), "\tIN\t"); got != c.want {
			t.Errorf("open to %v: dig got %d records; want %d\n%s", c.open, got, c.want, out)
		}
	}
}

// TestDNSSECIsEnforced: with dnssec, an upstream whose root has not the keys of the root is believed nothing, and the
// client hears why; without, everything.
func TestDNSSECIsEnforced(t *testing.T) {
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key := &dns.DNSKEY{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 60}, Flags: 257,
		Protocol: 3, Algorithm: dns.ECDSAP256SHA256}
	if _, err := key.Generate(256); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	forger := &dns.Server{PacketConn: packets, NotifyStartedFunc: func() { close(started) },
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(q)
			m.AuthenticatedData = true // its word for it
			h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
			switch q.Question[0].Qtype {
			case dns.TypeA:
				m.Answer = []dns.RR{&dns.A{Hdr: h, A: []byte{198, 51, 100, 66}}}
			case dns.TypeDNSKEY:
				m.Answer = []dns.RR{key}
			}
			_ = w.WriteMsg(m)
		})}
	go func() { ended <- forger.ActivateAndServe() }()
	<-started
	defer func() {
		if err := forger.Shutdown(); err != nil {
			t.Error(err)
		}
		<-ended
	}()
	for _, enforced := range []bool{true, false} {
		p := load(t, "name-server")
		p.DNS.DNSSEC = enforced
		p.DNS.Upstreams = []profiles.Upstream{{Addr: netip.MustParseAddr("127.0.0.1"),
			Port: uint16(packets.LocalAddr().(*net.UDPAddr).Port)}}
		access := open()
		access.NoRecursion = false
		h, to := serveProfile(t, p, access)
		q := new(dns.Msg)
		q.SetQuestion("www.example.org.", dns.TypeA)
		q.SetEdns0(1232, true)
		m, _, err := (&dns.Client{Net: "tcp"}).ExchangeContext(t.Context(), q, to)
		if err != nil {
			t.Fatal(err)
		}
		if !enforced {
			if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
				t.Errorf("without dnssec: %v; want the answer", m)
			}
			continue
		}
		why := uint16(0)
		for _, o := range m.IsEdns0().Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				why = e.InfoCode
			}
		}
		if m.Rcode != dns.RcodeServerFailure || why != dns.ExtendedErrorCodeDNSKEYMissing || m.AuthenticatedData {
			t.Errorf("with dnssec: %v; want SERVFAIL that says DNSKEY Missing", m)
		}
		if c := h.status().DNSSEC; c != (dnssec.Counts{Bogus: 1}) {
			t.Errorf("counted are %+v; want one wrong answer", c)
		}
	}
}

// TestZoneMemory: what a zone takes is bounded by its text.
func TestZoneMemory(t *testing.T) {
	var text strings.Builder
	text.WriteString("big.net.\t3600\tIN\tSOA\tns.big.net. host.big.net. 1 2 3 4 5\nbig.net.\t3600\tIN\tNS\tns.big.net.\n")
	for i := range 15_000 {
		fmt.Fprintf(&text, "host-%d.big.net.\t3600\tIN\tA\t10.1.%d.%d\n", i, i>>8, i&255)
	}
	d := &profiles.DNS{Zones: []profiles.DNSZone{{Name: "big.net", Records: text.String()}}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	zones, err := zonesOf(d)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	took := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	most := ownMemory(&profiles.Profile{DNS: d})
	t.Logf("15,000 records, %d KiB of text, take %d KiB", text.Len()>>10, took>>10)
	if took > most {
		t.Errorf("a zone of %d bytes of text takes %d bytes; want %d at most", text.Len(), took, most)
	}
	runtime.KeepAlive(zones)
}
