package link_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/profiles"
	"rempart/test/netns"
)

const (
	dhcpUser  = "905"
	dhcpGrant = "+net_raw,+net_bind_service"
	nasMAC    = "52:54:00:00:00:10"
)

// serving6 is a firewall that gives IPv6 addresses on lan.
func serving6() *profiles.Profile {
	end := netip.MustParseAddr
	return &profiles.Profile{
		Name:  "fw-dhcp6",
		Links: []profiles.Link{{Name: "lan", MAC: macB, Addresses: pfx("fd00:1::1/64", "2001:db8:5::1/64")}},
		Zones: []profiles.Zone{{Name: "inside"}},
		RA: []profiles.Advert{{Link: "lan", Lifetime: 1800, Always: true, Interval: 600, Valid: 5400, Preferred: 2700,
			NoAuto: true}},
		DHCP6: []profiles.DHCP6{{Link: "lan", Rapid: true, DHCP6Scope: profiles.DHCP6Scope{Lease: 3600, DNSSelf: true,
			Search: []string{"home.arpa"},
			Pools:  []profiles.SuffixRange{{First: end("::1000"), Last: end("::1fff")}},
			Hosts:  []profiles.DHCP6Host{{Name: "nas", MAC: nasMAC, Host: end("::10")}}}}},
	}
}

// serve6 is a lab with the link, the advertisements and the DHCPv6 server of the guest, and two hosts.
func serve6(t *testing.T) (*lab, *guest) {
	l := newLab(t, "wire", "host", "nas")
	// A bridge in between, so that several hosts are on one link.
	l.in("wire", "ip", "link", "add", "name", "br0", "type", "bridge", "mcast_snooping", "0")
	l.wire("eth0", macB, "wire", "w0")
	for host, mac := range map[string]string{"host": "02:00:00:00:01:01", "nas": nasMAC} {
		l.must("ip", "link", "add", "h0", "netns", l.space(host), "address", mac, "type", "veth", "peer", "name", "w-"+host,
			"netns", l.space("wire"))
		l.in(host, "sysctl", "-qw", "net.ipv6.conf.h0.accept_ra=0")
		l.in(host, "ip", "link", "set", "h0", "up")
		l.in("wire", "ip", "link", "set", "w-"+host, "master", "br0", "up")
	}
	l.in("wire", "ip", "link", "set", "w0", "master", "br0")
	l.in("wire", "ip", "link", "set", "br0", "up")
	l.dirsOfDHCP()
	p := serving6()
	l.start(p).waitReady()
	l.startChild("ra", p, raUser, raGrant)
	g := l.startChild("dhcp", p, dhcpUser, dhcpGrant)
	g.waitReady()
	return l, g
}

// dhclient6 has ISC's client get an address, and returns what it knows of its lease.
func (l *lab) dhclient6(host string, options ...string) (out string) {
	l.t.Helper()
	file := filepath.Join(l.root, host+".leases")
	args := append([]string{"netns", "exec", l.space(host), netns.Tool(l.t, "dhclient", "isc-dhcp-client"), "-6", "-1",
		"-v", "-sf", "/bin/true", "-lf", file, "-pf", filepath.Join(l.root, host+".pid"), "-cf", "/dev/null"}, options...)
	l.eventually("an answer to dhclient -6", patience, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		said, err := exec.CommandContext(ctx, "ip", append(args, "h0")...).CombinedOutput()
		out = string(said)
		return err == nil
	})
	b, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatalf("dhclient -6: %v\n%s", err, out)
	}
	// It stays, to renew; a test asks again when it wants to.
	if pid, err := os.ReadFile(filepath.Join(l.root, host+".pid")); err == nil {
		l.t.Cleanup(func() { _, _ = l.try("kill", strings.TrimSpace(string(pid))) })
		_, _ = l.try("kill", strings.TrimSpace(string(pid)))
	}
	return string(b)
}

var leased6 = regexp.MustCompile(`iaaddr (\S+)`)

// TestDHCP6: ISC's dhclient and dhcpcd are given addresses in both prefixes, a named host its own, and the same after
// the server was killed.
func TestDHCP6(t *testing.T) {
	l, g := serve6(t)
	var first []string
	for round := range 2 {
		said := l.dhclient6("host")
		got := leased6.FindAllStringSubmatch(said[strings.LastIndex(said, "lease6"):], -1)
		var list []string
		for _, m := range got {
			list = append(list, m[1])
		}
		if len(list) != 2 || !strings.HasPrefix(list[0], "2001:db8:5::1") && !strings.HasPrefix(list[0], "fd00:1::1") {
			t.Fatalf("dhclient -6 has %v; want an end in both prefixes:\n%s", list, said)
		}
		if !strings.Contains(said, "dhcp6.domain-search \"home.arpa.\"") || !strings.Contains(said, "dhcp6.name-servers") {
			t.Errorf("dhclient -6 knows no names:\n%s", said)
		}
		if round == 0 {
			first = list
			g.kill(syscall.SIGKILL)
			g = l.startChild("dhcp", serving6(), dhcpUser, dhcpGrant)
			g.waitReady()
			_ = os.Remove(filepath.Join(l.root, "host.leases.keep"))
		} else if strings.Join(first, " ") != strings.Join(list, " ") {
			t.Errorf("after the server was killed dhclient -6 has %v; want %v again", list, first)
		}
	}
	if said := l.dhclient6("nas"); !strings.Contains(said, "iaaddr fd00:1::10 ") ||
		!strings.Contains(said, "iaaddr 2001:db8:5::10 ") {
		t.Errorf("the named host has\n%s\nwant ::10", said)
	}
	// Asked without addresses, it tells of name servers.
	if said := l.dhclient6("host", "-S"); !strings.Contains(said, "dhcp6.name-servers") {
		t.Errorf("dhclient -6 -S:\n%s", said)
	}
}

// dhcpcd6 has dhcpcd configure a host by IPv6.
func (l *lab) dhcpcd6(host string) *process {
	l.t.Helper()
	return l.dhcpcd(host, "duid\nipv6only\nipv6rs\nnohook resolv.conf, hostname, timesyncd\n", "h0")
}

// dhcpcd runs dhcpcd with folders of its own: it remembers leases by the interface's name, and all hosts here, of all
// tests, call theirs the same.
func (l *lab) dhcpcd(host, text string, args ...string) *process {
	l.t.Helper()
	conf := filepath.Join(l.root, "dhcpcd-"+host+".conf")
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	p := l.private(host, "/var/lib/dhcpcd /run/dhcpcd", append([]string{netns.Tool(l.t, "dhcpcd", "dhcpcd-base"), "-B",
		"-d", "-f", conf}, args...)...)
	l.t.Cleanup(func() { // it ends its helpers when asked to; should it not end itself, nobody waits for ever
		defer time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() }).Stop()
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		p.once.Do(func() { _ = p.cmd.Wait() })
	})
	return p
}

// TestDHCP6ByAdvertisement: dhcpcd asks because the router says so, and has an address and a route.
func TestDHCP6ByAdvertisement(t *testing.T) {
	l, _ := serve6(t)
	p := l.dhcpcd6("host")
	l.eventually("dhcpcd to have addresses in both prefixes", 2*patience, func() bool {
		have := l.in("host", "ip", "-6", "-o", "address", "show", "dev", "h0", "scope", "global")
		return strings.Contains(have, "fd00:1::1") && strings.Contains(have, "2001:db8:5::1")
	})
	l.eventually("dhcpcd's default route", patience, func() bool {
		return strings.Contains(l.in("host", "ip", "-6", "route"), "default via fe80::")
	})
	if strings.Contains(p.out.String(), "invalid") {
		t.Errorf("dhcpcd complains:\n%s", p.out.String())
	}
}
