package dns_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/dns"
	"rempart/firstboot/lists/handover"
	"rempart/profiles/blocklist"
	"rempart/test/netns"
)

// silent holds port 53 of an address of the others and never answers.
func (l *lab) silent(addr string) {
	l.t.Helper()
	l.others.In(l.t, func() error {
		conn, err := net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
		if err == nil {
			l.t.Cleanup(func() { conn.Close() })
		}
		return err
	})
}

// TestFlood: 10,000 queries a second for random names, of a domain whose servers are dead and of one whose servers
// answer. Who asks for anything else is served meanwhile, from the cache and from outside, and memory is bounded.
func TestFlood(t *testing.T) {
	const seconds = 4
	rate := 10_000
	if underRace { // under which everything takes ten times as long; test/all floods in a run of its own without
		rate /= 10
	}
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.silent("192.0.2.55")
	l.start("dns: {upstream: 192.0.2.53, domains: {dead.example: 192.0.2.55}, cache: 4M, lan0: {}}\n")
	l.short("www.example")
	for _, domain := range []string{"dead.example", "example"} {
		var names strings.Builder
		for i := range rate * seconds {
			fmt.Fprintf(&names, "r%d-%d.%s A\n", i, rand.Uint32(), domain)
		}
		file := filepath.Join(l.root, "flood")
		netns.Must(t, os.WriteFile(file, []byte(names.String()), 0o644))
		before := l.told()
		flood := l.client.Command("dnsperf", "-s", gatewayAddr, "-a", "10.10.10.6", "-d", file, "-Q", fmt.Sprint(rate), "-q",
			"5000", "-c", "16", "-n", "1", "-t", "1")
		log := &logWriter{t: t}
		flood.Stdout, flood.Stderr = log, log
		netns.Must(t, flood.Start())
		ended := make(chan error, 1)
		go func() { ended <- flood.Wait() }()
		asked, cached, fresh, highest := 0, 0, 0, 0
		for running := true; running; {
			select {
			case err := <-ended:
				netns.Must(t, err)
				running = false
			default:
			}
			asked++
			if l.short("+time=3", "www.example") == "203.0.113.80" {
				cached++
			}
			if status(l.dig("+time=3", fmt.Sprintf("fresh%d-%d.example", asked, rand.Uint32()))) == "NXDOMAIN" {
				fresh++
			}
			_, anon := resident(t, l.child.Process.Pid)
			highest = max(highest, anon)
		}
		s := l.told()
		t.Logf("%s: %d queries, %d dropped; of %d each cached %d, fresh %d; %d KiB; %s", domain, s.Queries-before.Queries,
			s.Forward.Dropped-before.Forward.Dropped, asked, cached, fresh, highest, lastOf(log.String()))
		// One packet in a flood may be lost in a socket's buffer.
		if s.Queries-before.Queries < uint64(rate*seconds/2) {
			t.Errorf("%s: only %d queries came: this was no flood", domain, s.Queries-before.Queries)
		}
		if asked < 3 || cached < asked-1-asked/10 || fresh < asked-1-asked/10 {
			t.Errorf("%s: of %d questions of another client %d were answered from the cache and %d from outside; want all",
				domain, asked, cached, fresh)
		}
		const slack = 8 << 10 // of the runtime and this test binary, in KiB
		if underRace {
			t.Log("the race detector takes most of that memory: it is judged without")
		} else if most := int(dns.Memory(4<<20)>>10) + slack; highest > most {
			t.Errorf("%s: %d KiB of memory; want %d at most", domain, highest, most)
		}
		if s.Cache.Bytes > 4<<20 {
			t.Errorf("%s: the cache has %d bytes; want 4 MiB at most", domain, s.Cache.Bytes)
		}
	}
}

func lastOf(text string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, "Queries lost") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// TestHostile: packets that are no queries are answered with errors or not at all, nothing amplifies, and the service
// goes on.
func TestHostile(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.start("dns: {upstream: 192.0.2.53, lan0: {}}\n")
	query := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x00\x00\x01\x00\x01")
	header := func(counts ...uint16) []byte {
		b := []byte{0, 7, 1, 0}
		for _, c := range counts {
			b = binary.BigEndian.AppendUint16(b, c)
		}
		return b
	}
	packets := [][]byte{{}, {0}, query[:11], query[:12], query[:20], append(header(1, 0, 0, 0), 0xc0, 12, 0, 1, 0, 1),
		append(header(1, 0, 0, 0), 0xc0, 14, 0xc0, 12, 0, 1, 0, 1), append(header(65535, 65535, 65535, 65535), query[12:]...),
		append(header(1, 0, 0, 1), append(query[12:], 0, 0, 41, 0, 0, 0, 0, 0, 0, 255, 255)...),
		append(header(1, 0, 0, 2), append(query[12:], 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0,
			0)...),
		append(header(1, 0, 0, 0), append([]byte{64}, make([]byte, 80)...)...),
		append([]byte{0, 7, 0x81, 0x80}, query[4:]...)}
	random := rand.New(rand.NewPCG(4, 2))
	for range 2000 {
		b := append([]byte{}, query...)
		for range 1 + random.IntN(4) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		packets = append(packets, b[:1+random.IntN(len(b))])
	}
	l.client.In(t, func() error {
		conn, err := net.Dial("udp", gatewayAddr+":53")
		if err != nil {
			return err
		}
		defer conn.Close()
		sent, got := 0, 0
		answer := make([]byte, 65536)
		for _, p := range packets {
			n, err := conn.Write(p)
			if err != nil {
				return err
			}
			sent += n
		}
		if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		for {
			n, err := conn.Read(answer)
			if err != nil {
				break
			}
			got += n
			if n > 3 && answer[2]&0x80 == 0 {
				t.Errorf("not an answer: % x", answer[:n])
			}
		}
		t.Logf("%d packets of %d bytes were answered with %d bytes", len(packets), sent, got)
		if got > 3*sent {
			t.Errorf("%d bytes were answered with %d", sent, got)
		}
		return nil
	})
	if got := l.short("www.example"); got != "203.0.113.80" {
		t.Errorf("after hostile packets: %q", got)
	}
	if got := l.short("+tcp", "www.example"); got != "203.0.113.80" {
		t.Errorf("by TCP: %q", got)
	}
}

// TestBlocklist: half a million names of a file, and what they cost.
func TestBlocklist(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	lists(t, l.root)
	l.start("dns: {upstream: 192.0.2.53, block: {files: blocked, allow: [host5.tracker5.example.org]}, lan0: {}}\n")
	for name, want := range map[string]string{"host4711.tracker803.example.org": "NXDOMAIN",
		"HOST0.Tracker0.Example.ORG": "NXDOMAIN",
		"www.example":                "NOERROR"} {
		if got := status(l.dig(name)); got != want {
			t.Errorf("%s: %q; want %q", name, got, want)
		}
	}
	if got := l.told(); got.Blocked != 2 || got.BlockLen != blockedNames {
		t.Errorf("blocked %d of %d names", got.Blocked, got.BlockLen)
	}
	_, anon := resident(t, l.child.Process.Pid)
	const most = 24 << 10 // KiB; in a guest the table is the page cache's
	if anon > most {
		t.Errorf("%d KiB of memory of its own; want %d at most", anon, most)
	}
	t.Logf("%d KiB of memory of its own", anon)
}

// handOver lays down half a million names as the lists child does, of which the last label but one is given.
func (l *lab) handOver(domain string) {
	l.t.Helper()
	var b blocklist.Builder
	for i := range blockedNames {
		b.Add(fmt.Sprintf("host%d.%s.example.org", i, domain), true)
	}
	raw, _, err := b.Table()
	netns.Must(l.t, err)
	netns.Must(l.t, handover.Write(l.root, handover.NamesList("ads"), bytes.NewReader(raw)))
}

// TestRenewedBlocklist: a list of half a million names that comes anew while queries are answered, five times. The new
// one is in force, no query is lost, and memory is bounded.
func TestRenewedBlocklist(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	netns.Must(t, os.MkdirAll(filepath.Join(l.root, contract.ListsDir), 0o755))
	l.handOver("first")
	l.start("dns: {upstream: 192.0.2.53, block: {lists: {ads: {url: \"https://192.0.2.8/\"}}}, lan0: {}}\n")
	if got := status(l.dig("x.host7.first.example.org")); got != "NXDOMAIN" {
		t.Errorf("a name of the list that was kept: %q; want NXDOMAIN from the first query on", got)
	}
	highest := 0
	for i := range 5 {
		domain := fmt.Sprintf("turn%d", i)
		l.handOver(domain)
		for end := time.Now().Add(patience); ; {
			out := l.dig("host9." + domain + ".example.org")
			_, anon := resident(t, l.child.Process.Pid)
			highest = max(highest, anon)
			if got := l.short("www.example"); got != "203.0.113.80" {
				t.Fatalf("while a list is renewed, www.example = %q", got)
			}
			if status(out) == "NXDOMAIN" && strings.Contains(out, "Blocked") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the list is not in force: %s", out)
			}
		}
	}
	if got := l.told().BlockLen; got != blockedNames {
		t.Errorf("%d names are blocked; want %d", got, blockedNames)
	}
	if out := l.dig("host9.first.example.org"); strings.Contains(out, "Blocked") {
		t.Error("a name that the list no more has is blocked")
	}
	t.Logf("%d KiB of memory of its own at most", highest)
	const most = 16 << 10 // KiB: two tables of 4 MiB, what reading leaves behind, and what serving takes
	if !underRace && highest > most {
		t.Errorf("%d KiB of memory of its own; want %d at most", highest, most)
	}
}
