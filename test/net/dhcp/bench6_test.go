package dhcp_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/profiles"
	"rempart/test/netns"
)

// manyLeases6 is below what this server keeps of DHCPv6 at most (1<<14).
const manyLeases6 = 16_000

// clients6 is whose DUID the load generator counts on from: the same clients come again and again.
const clients6 = "duid=0001000112345678020000000000"

// pool6 has room for them.
const pool6 = "fd00:1::1:0:0-fd00:1::2:ffff:ffff"

// BenchmarkServers6 is BenchmarkServers for DHCPv6, with Kea: on a tmpfs, which makes waiting for the disk cost nothing
// (Kea does not wait); and this server on a disk.
func BenchmarkServers6(b *testing.B) {
	for _, s := range []struct {
		name string
		run  func(l *lab, dir string) *exec.Cmd
		dir  string
	}{{"rempart", ours6, "/run"}, {"kea", kea6, "/run"}, {"rempart on a disk", ours6, ""}} {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				measure6(b, s.dir, s.run)
			}
		})
	}
}

func measure6(b *testing.B, dir string, run func(*lab, string) *exec.Cmd) {
	l := newLab(b)
	l.fw.Addr(b, l.fw.Device(b, "lan"), netip.MustParsePrefix("fd00:1::1/64"))
	c := l.client("client", "lan")
	if dir == "" {
		dir = l.root
	}
	dir, err := os.MkdirTemp(dir, "bench6")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		b.Fatal(err)
	}
	for _, n := range []interface {
		Command(string, ...string) *exec.Cmd
	}{l.fw, c} {
		l.eventually("addresses that nobody else has", func() bool {
			out, err := n.Command("ip", "-6", "address", "show", "scope", "link").Output()
			return err == nil && strings.Contains(string(out), "fe80::") && !strings.Contains(string(out), "tentative")
		})
	}
	cmd := run(l, dir)
	l.eventually("the server to listen", func() bool {
		out, err := l.fw.Command("ss", "-Hlun", "sport", "=", "547").Output()
		return err == nil && strings.Contains(string(out), ":547")
	})
	// It serves once it knows its addresses.
	l.eventually("an answer", func() bool {
		_, leases := perfdhcp(b, c, []string{"-6", "-l", c.dev, "all"}, "-r", "10", "-n", "1", "-R", "1")
		return leases > 0
	})
	best, leases := load(b, c, manyLeases6, "-6", "-l", c.dev, "-b", clients6, "all")
	rss := resident(b, cmd.Process.Pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	b.ReportMetric(best, "exchanges/s")
	b.ReportMetric(float64(rss)/(1<<20), "MiB-RSS")
	b.ReportMetric(float64(leases), "leases")
}

func ours6(l *lab, dir string) *exec.Cmd {
	l.root = dir
	l.home()
	first, last, _ := strings.Cut(strings.ReplaceAll(pool6, "fd00:1::", "::"), "-")
	p := profile(3600)
	p.DHCP6 = []profiles.DHCP6{{Link: "lan", DHCP6Scope: profiles.DHCP6Scope{Lease: 3600,
		Pools: []profiles.SuffixRange{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}}}}
	return l.start(p).cmd
}

func kea6(l *lab, dir string) *exec.Cmd {
	return l.kea(dir, "kea-dhcp6", "kea-dhcp6-server", "Dhcp6", map[string]any{
		"interfaces-config": map[string]any{"interfaces": []string{"lan"}},
		"server-id":         map[string]any{"type": "LL", "persist": false}, // not where it would be installed
		"subnet6": []any{map[string]any{"subnet": "fd00:1::/64", "interface": "lan",
			"pools": []any{map[string]any{"pool": pool6}}}},
	})
}

// kea runs one of Kea's servers, its leases in a file that it does not wait for.
func (l *lab) kea(dir, program, pkg, section string, config map[string]any) *exec.Cmd {
	l.t.Helper()
	config["lease-database"] = map[string]any{"type": "memfile", "persist": true, "name": filepath.Join(dir, "leases"),
		"lfc-interval": 0}
	config["valid-lifetime"] = 3600
	config["loggers"] = []any{map[string]any{"name": program, "severity": "ERROR"}}
	conf, err := json.Marshal(map[string]any{section: config})
	if err != nil {
		l.t.Fatal(err)
	}
	path := filepath.Join(dir, "kea.conf")
	if err := os.WriteFile(path, conf, 0o644); err != nil {
		l.t.Fatal(err)
	}
	l.t.Setenv("KEA_PIDFILE_DIR", dir)
	l.t.Setenv("KEA_LOCKFILE_DIR", dir)
	return l.foreground(netns.Tool(l.t, program, pkg), "-c", path)
}
