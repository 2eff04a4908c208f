package dns_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rempart/test/netns"
)

// contestant is a name server that stands where the guest does.
type contestant struct {
	name  string
	start func(l *lab, blocked string) (pid int, began time.Time)
}

func contestants() []contestant {
	return []contestant{
		{"rempart", func(l *lab, blocked string) (int, time.Time) {
			block := ""
			if blocked != "" {
				block = "block: {files: " + filepath.Base(blocked) + "}, "
			}
			began := time.Now()
			l.start("dns: {upstream: 192.0.2.53, " + block + "cache: 16M, lan0: {}}\n")
			return l.child.Process.Pid, began
		}},
		{"dnsmasq", func(l *lab, blocked string) (int, time.Time) {
			args := []string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
				"--pid-file=", "--bind-interfaces", "--listen-address=" + gatewayAddr, "--server=192.0.2.53",
				"--dns-forward-max=1000", "--cache-size=10000"}
			if blocked != "" {
				args = append(args, "--addn-hosts="+blocked)
			}
			return l.onGateway("dnsmasq", args...)
		}},
		{"unbound", func(l *lab, blocked string) (int, time.Time) {
			conf := filepath.Join(l.root, "bench.conf")
			include := ""
			if blocked != "" {
				include = " include: " + blocked + ".unbound\n"
			}
			netns.Must(l.t, os.WriteFile(conf, []byte("server:\n interface: "+gatewayAddr+"\n access-control: 0.0.0.0/0 allow\n"+
				" do-daemonize: no\n username: \"\"\n chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n use-syslog: no\n"+
				" module-config: \"iterator\"\n num-threads: 2\n msg-cache-size: 8m\n rrset-cache-size: 8m\n"+
				" outgoing-range: 900\n num-queries-per-thread: 450\n so-reuseport: yes\n"+include+
				"forward-zone:\n name: \".\"\n forward-addr: 192.0.2.53\n"), 0o644))
			return l.onGateway("unbound", "-d", "-c", conf)
		}},
	}
}

// onGateway runs a foreign program in the guest's place until the test ends.
func (l *lab) onGateway(name string, args ...string) (int, time.Time) {
	l.t.Helper()
	cmd := l.gw.Command(tool(l.t, name), args...)
	log := &logWriter{t: l.t}
	cmd.Stderr, cmd.Stdout = log, log
	began := time.Now()
	netns.Must(l.t, cmd.Start())
	l.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid, began
}

// awaitGuest waits for the first answer of who stands in the guest's place.
func (l *lab) awaitGuest() time.Time {
	l.t.Helper()
	for deadline := time.Now().Add(3 * patience); ; {
		out, _ := l.client.Command("dig", "+tries=1", "+time=1", "@"+gatewayAddr, "www.example").CombinedOutput()
		if strings.Contains(string(out), "status: NOERROR") {
			return time.Now()
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("nobody answers: %s", out)
		}
	}
}

// perf runs dnsperf and returns its figure of queries a second, how many were lost, and all it said. (flamethrower,
// which does the same, is in no Debian; the package of that name copies files.)
func (l *lab) perf(queries string, args ...string) (qps float64, lost int, out string) {
	l.t.Helper()
	file := filepath.Join(l.root, "queries")
	netns.Must(l.t, os.WriteFile(file, []byte(queries), 0o644))
	b, err := l.client.Command("dnsperf", append([]string{"-s", gatewayAddr, "-d", file}, args...)...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("dnsperf: %v: %s", err, b)
	}
	out = string(b)
	word := func(after string) string {
		_, rest, _ := strings.Cut(out, after)
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			l.t.Fatalf("dnsperf says nothing of %q: %s", after, out)
		}
		return fields[0]
	}
	qps, err = strconv.ParseFloat(word("Queries per second:"), 64)
	netns.Must(l.t, err)
	lost, err = strconv.Atoi(word("Queries lost:"))
	netns.Must(l.t, err)
	return qps, lost, out
}

// p99 is that of the latencies that dnsperf -v tells of each query.
func p99(t testing.TB, out string) time.Duration {
	t.Helper()
	var all []float64
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == ">" {
			if s, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
				all = append(all, s)
			}
		}
	}
	if len(all) < 100 {
		t.Fatalf("%d latencies: %.300s", len(all), out)
	}
	slices.Sort(all)
	return time.Duration(all[len(all)*99/100] * float64(time.Second)).Round(time.Microsecond)
}

// resident is VmRSS of the process that nsenter became, in KiB; anonymous memory alone as second.
func resident(t testing.TB, pid int) (rss, anon int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	netns.Must(t, err)
	for line := range bytes.Lines(b) {
		if fields := strings.Fields(string(line)); len(fields) > 1 {
			switch n, _ := strconv.Atoi(fields[1]); fields[0] {
			case "VmRSS:":
				rss = n
			case "RssAnon:":
				anon = n
			}
		}
	}
	return rss, anon
}

// blockedNames is how many names are blocked where memory is measured.
const blockedNames = 500_000

// lists writes the blocked names in the forms the contestants read.
func lists(t testing.TB, dir string) string {
	t.Helper()
	var hosts, unbound bytes.Buffer
	for i := range blockedNames {
		fmt.Fprintf(&hosts, "0.0.0.0 host%d.tracker%d.example.org\n", i, i%977)
		fmt.Fprintf(&unbound, "local-zone: \"host%d.tracker%d.example.org.\" always_nxdomain\n", i, i%977)
	}
	file := filepath.Join(dir, "blocked")
	netns.Must(t, os.WriteFile(file, hosts.Bytes(), 0o644))
	netns.Must(t, os.WriteFile(file+".unbound", unbound.Bytes(), 0o644))
	return file
}

// BenchmarkDNS compares the guest's name service with dnsmasq and unbound in its place: same namespaces, same upstream,
// same load. `make bench` runs it.
func BenchmarkDNS(b *testing.B) {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		b.Skip("SKIPPED, NOT MEASURED: there is no dnsperf; test/setup test brings it")
	}
	fmt.Println("| DNS | cached queries/s | p99 at 5,000/s | forwarded queries/s | start | memory with 500,000 blocked |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	for _, c := range contestants() {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				measure(b, c)
			}
		})
	}
}

func measure(b *testing.B, c contestant) {
	const seconds = "4"
	var cached, forwarded strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&cached, "c%d.many.example A\n", i)
	}
	for i := range 400_000 {
		fmt.Fprintf(&forwarded, "f%d.many.example A\n", i)
	}
	wide := append([]string{`local-zone: "many.example." redirect`, `local-data: "many.example. 3600 A 203.0.113.9"`},
		records...)
	l := newLab(b)
	l.unbound(upstreamA, wide...)
	c.start(l, "")
	l.awaitGuest()
	l.perf(cached.String(), "-n", "2")
	hits, lost, _ := l.perf(cached.String(), "-l", seconds, "-c", "8", "-q", "200")
	_, _, out := l.perf(cached.String(), "-l", "2", "-Q", "5000", "-v")
	misses, lostToo, _ := l.perf(forwarded.String(), "-l", seconds, "-c", "8", "-q", "100")
	second := newLab(b)
	second.unbound(upstreamA, records...)
	pid, began := c.start(second, lists(b, second.root))
	start := second.awaitGuest().Sub(began)
	rss, anon := resident(b, pid)
	fmt.Printf("| %s | %.0f (%d lost) | %v | %.0f (%d lost) | %v | %.1f MiB, of which its own %.1f |\n", c.name, hits,
		lost,
		p99(b, out), misses, lostToo, start.Round(time.Millisecond), float64(rss)/1024, float64(anon)/1024)
	b.ReportMetric(hits, "cached/s")
	b.ReportMetric(misses, "forwarded/s")
}
