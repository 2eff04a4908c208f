package dhcp_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rempart/profiles"
	"rempart/test/netns"
)

// rates are how many exchanges a second are asked for, one after the other: the best that a server reaches counts. Each
// lasts benchSeconds; the leases for its memory are given at fillRate for no longer than fillSeconds.
var rates = []int{500, 1000, 2000, 4000, 8000}

const (
	benchSeconds = 4
	manyLeases   = 50_000
	fillRate     = 2000
	fillSeconds  = 60
)

// BenchmarkServers puts this server, dnsmasq and Kea through Kea's load generator, one after the other in the same
// namespaces: four-way exchanges a second, memory with 50,000 leases, and how long a start with these takes. On a disk
// the others do not wait for it, so that all keep their leases on a tmpfs for the comparison, which makes waiting cost
// nothing; what this server does on a disk, where it waits before each acknowledgement, is a line of its own.
func BenchmarkServers(b *testing.B) {
	for _, s := range []struct {
		name string
		run  func(l *lab, dir string) *exec.Cmd
		dir  string
	}{
		{"rempart", ours, "/run"},
		{"dnsmasq", dnsmasq, "/run"},
		{"kea", kea, "/run"},
		{"rempart on a disk", ours, ""},
	} {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				measure(b, s.dir, s.run)
			}
		})
	}
}

// measure takes the figures of one server. Where there is no directory its leases are on the disk of this machine.
func measure(b *testing.B, dir string, run func(*lab, string) *exec.Cmd) {
	l := newLab(b)
	l.fw.Route(b, l.fw.Device(b, "lan"), netip.MustParsePrefix("10.64.0.0/16"), netip.MustParseAddr("10.0.0.2"), 0)
	c := l.client("relay", "lan")
	netnsAddr(b, c, "10.0.0.2/24")
	netnsAddr(b, c, relayed+"/16")
	if dir == "" {
		dir = l.root
	}
	dir, err := os.MkdirTemp(dir, "bench")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		b.Fatal(err)
	}
	start := func() (*exec.Cmd, time.Duration) {
		began := time.Now()
		cmd := run(l, dir)
		l.eventually("the server to listen", func() bool {
			out, err := l.fw.Command("ss", "-Hlun", "sport", "=", "67").Output()
			return err == nil && strings.Contains(string(out), ":67")
		})
		return cmd, time.Since(began)
	}
	stop := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	cmd, _ := start()
	best, leases := load(b, c, manyLeases, "-4", "-l", relayed, gateway)
	rss := resident(b, cmd.Process.Pid)
	stop(cmd)
	cmd, took := start()
	stop(cmd)
	b.ReportMetric(best, "exchanges/s")
	b.ReportMetric(float64(rss)/(1<<20), "MiB-RSS")
	b.ReportMetric(float64(leases), "leases")
	b.ReportMetric(took.Seconds()*1000, "ms-start")
}

// load puts a server through all rates, and gives so many leases; how says by which protocol, from where and to whom.
func load(b *testing.B, c *client, many int, how ...string) (best float64, leases int) {
	b.Helper()
	for _, rate := range rates {
		got, _ := perfdhcp(b, c, how, "-r", strconv.Itoa(rate), "-p", strconv.Itoa(benchSeconds), "-R", strconv.Itoa(rate))
		best = max(best, got)
	}
	_, leases = perfdhcp(b, c, how, "-r", strconv.Itoa(fillRate), "-n", strconv.Itoa(many), "-R", strconv.Itoa(many), "-p",
		strconv.Itoa(fillSeconds))
	return best, leases
}

var (
	rateLine  = regexp.MustCompile(`Rate: ([0-9.]+) 4-way`)
	ackedLine = regexp.MustCompile(`(?s)REQUEST-(?:ACK|REPLY).*?received packets: ([0-9]+)`)
)

// perfdhcpTries is how often the load generator is run that gives up because an answer seems to have come before its
// question: of what two of its threads read from the clock it takes the later for the earlier at times.
const perfdhcpTries = 5

// perfdhcp runs the load generator and returns the rate it saw and the leases it got. It ends with 3 when packets were
// lost, which is what is measured here.
func perfdhcp(b *testing.B, c *client, how []string, args ...string) (rate float64, leases int) {
	b.Helper()
	last := len(how) - 1 // whom it is sent to
	var out []byte
	for range perfdhcpTries {
		cmd := c.Command(netns.Tool(b, "perfdhcp", "kea-admin"), slices.Concat(how[:last], []string{"-W", "1000000"}, args,
			how[last:])...)
		if out, _ = cmd.CombinedOutput(); !bytes.Contains(out, []byte("timestamp must not be greater")) {
			break
		}
	}
	r, n := rateLine.FindSubmatch(out), ackedLine.FindSubmatch(out)
	if r == nil || n == nil {
		b.Fatalf("perfdhcp %v says nothing of rates:\n%s", args, out)
	}
	rate, err := strconv.ParseFloat(string(r[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	leases, err = strconv.Atoi(string(n[1]))
	if err != nil {
		b.Fatal(err)
	}
	return rate, leases
}

// resident is what a process holds in memory, in bytes.
func resident(b *testing.B, pid int) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

func wide() *profiles.Profile {
	p := profile(3600)
	p.DHCP[0].Subnets[1].Pools = ranges("10.64.1.0", "10.64.255.254")
	return p
}

// ours runs this server with its leases in dir.
func ours(l *lab, dir string) *exec.Cmd {
	l.root = dir
	l.home()
	return l.start(wide()).cmd
}

func dnsmasq(l *lab, dir string) *exec.Cmd {
	return l.foreground(netns.Tool(l.t, "dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null",
		"--port=0",
		"--user=root", "--interface=lan", "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--dhcp-lease-max=65000",
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--pid-file="+filepath.Join(dir, "pid"), "--quiet-dhcp",
		"--dhcp-range=10.64.1.0,10.64.255.254,255.255.0.0,1h", "--dhcp-range=10.0.0.100,10.0.0.120,1h")
}

func kea(l *lab, dir string) *exec.Cmd {
	return l.kea(dir, "kea-dhcp4", "kea-dhcp4-server", "Dhcp4", map[string]any{
		"interfaces-config": map[string]any{"interfaces": []string{"lan/" + gateway}, "dhcp-socket-type": "udp"},
		"subnet4": []any{map[string]any{"subnet": "10.64.0.0/16",
			"pools": []any{map[string]any{"pool": "10.64.1.0-10.64.255.254"}}}},
	})
}

// foreground runs a foreign server in the firewall's namespace.
func (l *lab) foreground(args ...string) *exec.Cmd {
	l.t.Helper()
	var log buffer
	cmd := l.fw.Command(args[0], args[1:]...)
	cmd.Env = os.Environ()
	cmd.Stdout, cmd.Stderr = &log, &log
	l.fw.In(l.t, cmd.Start)
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s", args[0], log.String())
		}
		_ = cmd.Process.Kill()
	})
	return cmd
}
