package zone

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/profiles/zonefile"
)

// program finds what test/setup installed or unpacked.
func program(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := filepath.Abs("../../../bin/tools/usr/sbin/" + name)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: %s is not there; test/setup test brings it", name)
	}
	return path
}

// startNamed serves zone files, by origin, with BIND on loopback and returns its address.
func startNamed(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	// A port of both protocols: TCP is taken first, and let go when named takes it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf := fmt.Sprintf(`options { directory %q; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; };
		recursion no; minimal-responses yes; zero-no-soa-ttl no; dnssec-validation no; pid-file none; lock-file none;
		session-keyfile %q; allow-transfer { any; }; }; controls { };
`, dir, port, filepath.Join(dir, "session.key"))
	for origin, file := range files {
		conf += fmt.Sprintf("zone %q { type primary; file %q; check-names ignore; };\n", origin, file)
	}
	if err := os.WriteFile(filepath.Join(dir, "named.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program(t, "named"), "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	rest := make(chan struct{})
	t.Cleanup(func() { cancel(); <-rest; _ = cmd.Wait() })
	var log strings.Builder
	lines := bufio.NewScanner(io.TeeReader(said, &log))
	running := false
	for !running && lines.Scan() {
		running = strings.HasSuffix(lines.Text(), " running")
	}
	go func() { defer close(rest); _, _ = io.Copy(io.Discard, said) }()
	if !running {
		t.Fatalf("named does not run:\n%s", log.String())
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// wide is a zone with all that makes answers differ.
//
//go:embed testdata/wide.zone
var wide string

// questions are the names that are asked for, each with all types below.
func questions() []string {
	names := strings.Fields(`ns mail mixedcase MIXEDCASE a b c out gone looped x.wild y.x.wild wild *.wild here.wild
		x.here.wild under.here.wild deep.under.here.wild z.alias alias d x.d y.x.d nothing.d moved name deep.name
		very.deep.name x.deep.name sub www.sub ns.sub secure www.secure _svc._tcp _tcp svc new nothing a.b.nothing zzz 0
		aaaa.ns long x.long`)
	names = append(names, "", strings.Repeat("b", 63)+"."+strings.Repeat("b", 63)+".long")
	var all []string
	for _, n := range names {
		if n != "" {
			n += "."
		}
		all = append(all, n+"example.net.")
	}
	return all
}

var asked = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypeMX,
	dns.TypeDS, dns.TypeDNAME, dns.TypeSRV, dns.TypeSVCB, dns.TypeDNSKEY, dns.TypeNSEC3PARAM, 65400}

// words are the records of a section, in one order and one case: BIND answers in the case of the zone file where this
// answers in the client's.
func words(rrs []dns.RR) string {
	var all []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			all = append(all, strings.ToLower(rr.String()))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n  ")
}

func summary(m *dns.Msg) string {
	return fmt.Sprintf("%s aa=%v\n answer\n  %s\n authority\n  %s\n additional\n  %s", dns.RcodeToString[m.Rcode],
		m.Authoritative, words(m.Answer), words(m.Ns), words(m.Extra))
}

// load reads a zone file as a master is built from it.
func load(t *testing.T, file, origin string) Config {
	t.Helper()
	read, findings := zonefile.Read(os.DirFS(filepath.Dir(file)), filepath.Base(file), origin)
	records, more := zonefile.Check(origin, read)
	for _, f := range append(findings, more...) {
		if !f.Warning {
			t.Fatalf("%v", f)
		}
	}
	return Config{Origin: origin, Records: records}
}

// TestSameAnswersAsNamed asks this and BIND the same about a zone, unsigned, signed with NSEC, NSEC3 and NSEC3 with
// opt-out, with and without DO.
func TestSameAnswersAsNamed(t *testing.T) {
	for _, signing := range []struct {
		name string
		args []string
	}{
		{"unsigned", nil},
		{"NSEC", []string{}},
		{"NSEC3", []string{"-3", "aabb"}},
		{"NSEC3 with opt-out", []string{"-3", "-", "-A"}},
	} {
		t.Run(signing.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "zone")
			if err := os.WriteFile(file, []byte(wide), 0o644); err != nil {
				t.Fatal(err)
			}
			if signing.args != nil {
				file = sign(t, dir, file, signing.args)
			}
			zones, err := New([]Config{load(t, file, "example.net.")})
			if err != nil {
				t.Fatal(err)
			}
			server := startNamed(t, map[string]string{"example.net.": file})
			client := &dns.Client{Net: "tcp"}
			conn, err := client.DialContext(t.Context(), server)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			n := 0
			for _, name := range questions() {
				for _, kind := range asked {
					for _, do := range []bool{false, true} {
						q := new(dns.Msg)
						q.SetQuestion(name, kind)
						q.RecursionDesired = false
						q.SetEdns0(4096, do)
						want, _, err := client.ExchangeWithConnContext(t.Context(), q, conn)
						if err != nil {
							t.Fatalf("%s %s: named: %v", name, dns.Type(kind), err)
						}
						got, ok := zones.Answer(t.Context(), &answer.Query{Msg: q, From: netip.MustParseAddr("192.0.2.99"),
							Link: "lan", TCP: true})
						if !ok {
							t.Fatalf("%s is not in the zone", name)
						}
						// Both on the wire, so that what is compared has been packed and read.
						packed, err := got.Pack()
						if err != nil {
							t.Fatalf("%s %s: %v", name, dns.Type(kind), err)
						}
						again := new(dns.Msg)
						if err := again.Unpack(packed); err != nil {
							t.Fatal(err)
						}
						if got, want := summary(again), summary(want); got != want {
							t.Errorf("%s %s do=%v: got %s\n\nwant %s", name, dns.Type(kind), do, got, want)
						}
						n++
					}
				}
			}
			t.Logf("%d answers are the same", n)
		})
	}
}

// sign signs a zone file with BIND's tools and returns the signed one's name.
func sign(t *testing.T, dir, file string, args []string) string {
	t.Helper()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program(t, name), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("dnssec-keygen", "-K", dir, "-a", "ECDSAP256SHA256", "-f", "KSK", "example.net")
	run("dnssec-keygen", "-K", dir, "-a", "ECDSAP256SHA256", "example.net")
	run("dnssec-signzone", append(args, "-S", "-K", dir, "-o", "example.net", "-x", "-f", "signed", file)...)
	return filepath.Join(dir, "signed")
}

// TestTransferAsNamed: the whole zone, as BIND gives it.
func TestTransferAsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "zone")
	text := wide + "$GENERATE 1-2000 host-$ A 10.0.0.1\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	conf := load(t, file, "example.net.")
	conf.Transfer = []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	zones, err := New([]Config{conf})
	if err != nil {
		t.Fatal(err)
	}
	server := startNamed(t, map[string]string{"example.net.": file})
	q := new(dns.Msg)
	q.SetAxfr("example.net.")
	transfer := new(dns.Transfer)
	envelopes, err := transfer.In(q, server)
	if err != nil {
		t.Fatal(err)
	}
	var want []dns.RR
	for e := range envelopes {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		want = append(want, e.RR...)
	}
	from := func(addr string, tcp bool) *answer.Query {
		return &answer.Query{Msg: q, From: netip.MustParseAddr(addr), Link: "lan", TCP: tcp}
	}
	messages, ok := zones.Transfer(from("192.0.2.7", true))
	if !ok {
		t.Fatal("Transfer refuses a host it is open to")
	}
	var got []dns.RR
	n := 0
	for m := range messages {
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if len(packed) > dns.MaxMsgSize/2 {
			t.Errorf("a message has %d bytes", len(packed))
		}
		again := new(dns.Msg)
		if err := again.Unpack(packed); err != nil {
			t.Fatal(err)
		}
		got = append(got, again.Answer...)
		n++
	}
	if words(got) != words(want) {
		t.Errorf("Transfer = \n%s\nwant\n%s", words(got), words(want))
	}
	for _, end := range []dns.RR{got[0], got[len(got)-1]} {
		if end.Header().Rrtype != dns.TypeSOA {
			t.Errorf("%v is at an end of a transfer; want the SOA", end)
		}
	}
	t.Logf("%d records in %d messages", len(got), n)
	for _, q := range []*answer.Query{from("192.0.2.8", true), from("192.0.2.7", false)} {
		if _, ok := zones.Transfer(q); ok {
			t.Errorf("Transfer to %v, TCP %v; want none", q.From, q.TCP)
		}
		m, ok := zones.Answer(t.Context(), q)
		if !ok || m.Rcode != dns.RcodeRefused || len(m.Answer) > 0 {
			t.Errorf("Answer to AXFR = %v, %v; want it refused", m, ok)
		}
	}
}
