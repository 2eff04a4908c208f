package link_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/netns"
)

// downstreamProfile delegates a part of what the guest is delegated to routers on lan: sixteen subnets, four to a slot.
const downstreamProfile = `rempart: 1
name: fw-down
memory: 128M
admin: {from: inside}
links:
  wan: {mac: "` + macA + `", address: auto, delegation: 56}
  lan: {mac: "` + macB + `", address: ["10.9.0.1/24", "delegated/1::1"]}
zones: {internet: wan, inside: lan}
policy: [inside -> internet: any, internet -> inside: ping]
ra: {lan: {}}
dhcp6:
  lan:
    pool: ::1000-::1fff
    delegate: {from: "delegated/10::/60", length: 62-64}
    hosts: {branch: {mac: "02:00:00:00:02:03", delegate: "delegated/1c::/62"}}
`

// slow is how long a busy machine may take for what is waited for.
const slow = 2 * time.Minute

// downstreamLab is a provider, the guest with its policy, and three routers on one link behind it.
func downstreamLab(t *testing.T) (*lab, *profiles.Profile) {
	l := newLab(t, "isp", "wire", "r1", "r2", "r3")
	l.wire("eth0", macA, "isp", "p0", "2001:db8:1::1/64", "fe80::1/64")
	l.in("isp", "ip", "address", "add", "2001:db8:9::9/128", "dev", "lo")
	l.in("isp", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	l.routerd("--dhcp-range=2001:db8:1::,ra-only,64,3600", "--ra-param=p0,10,1200")
	l.in("wire", "ip", "link", "add", "name", "br0", "type", "bridge", "mcast_snooping", "0")
	l.wire("eth1", macB, "wire", "w0")
	for i, r := range []string{"r1", "r2", "r3"} {
		l.must("ip", "link", "add", "h0", "netns", l.space(r), "address", fmt.Sprintf("02:00:00:00:02:%02x", i+1), "type",
			"veth", "peer", "name", "w-"+r, "netns", l.space("wire"))
		l.in(r, "ip", "link", "add", "name", "i0", "type", "bridge") // where the router's own hosts are
		l.in(r, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.h0.accept_ra=2")
		l.in(r, "ip", "link", "set", "i0", "up")
		l.in(r, "ip", "link", "set", "h0", "up")
		l.in("wire", "ip", "link", "set", "w-"+r, "master", "br0", "up")
	}
	l.in("wire", "ip", "link", "set", "w0", "master", "br0")
	l.in("wire", "ip", "link", "set", "br0", "up")
	l.dirsOfDHCP()
	return l, l.withPolicy("down.yaml", downstreamProfile)
}

// dirsOfDHCP makes what the DHCP child writes to.
func (l *lab) dirsOfDHCP() {
	l.t.Helper()
	for _, dir := range []string{contract.DHCPDir, contract.DHCPRunDir, contract.DownstreamDir} {
		dir = filepath.Join(l.root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.Chown(dir, contract.UIDDHCP, contract.UIDDHCP); err != nil {
			l.t.Fatal(err)
		}
	}
}

// private runs a program in a namespace with folders of its own.
func (l *lab) private(space, dirs string, args ...string) *process {
	l.t.Helper()
	return l.background(space, append([]string{"unshare", "-m", "sh", "-c", `for d in ` + dirs + `; do
mkdir -p $d && mount -t tmpfs tmpfs $d || exit 1
done
exec "$@"`, "sh"}, args...)...)
}

// dhcp6c has WIDE's client ask for a prefix, and give the subnet 1 of it to the router's own link.
func (l *lab) dhcp6c(router string) *process {
	l.t.Helper()
	conf := filepath.Join(l.root, "dhcp6c.conf")
	text := `interface h0 { send ia-pd 0; };
id-assoc pd 0 { prefix ::/62 infinity; prefix-interface i0 { sla-id 1; sla-len 2; }; };
`
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return l.private(router, "/var/lib/dhcpv6", netns.Tool(l.t, "dhcp6c", "wide-dhcpv6-client"), "-f", "-D", "-c", conf,
		"-p", filepath.Join(l.root, "dhcp6c.pid"), "h0")
}

// dhcpcdPD has dhcpcd ask for a prefix, and give the subnet 2 of it to the router's own link.
func (l *lab) dhcpcdPD(router string) *process {
	l.t.Helper()
	return l.dhcpcd(router, "duid\nipv6only\nnoipv6rs\nnohook resolv.conf, hostname, timesyncd\n"+
		"allowinterfaces h0 i0\ninterface h0\nipv6rs\niaid 1\nia_pd 1/::/62 i0/2/64\n")
}

var prefixes6 = regexp.MustCompile(`iaprefix (\S+)`)

// delegated6 has ISC's dhclient ask for a prefix, and returns all that its last lease has of them.
func (l *lab) delegated6(router string) []netip.Prefix {
	l.t.Helper()
	said := l.dhclient6(router, "-P", "--prefix-len-hint", "64")
	var list []netip.Prefix
	for _, m := range prefixes6.FindAllStringSubmatch(said[strings.LastIndex(said, "lease6"):], -1) {
		list = append(list, netip.MustParsePrefix(m[1]))
	}
	return list
}

// waysOf are the routes of the guest to what it delegated, without what differs from run to run.
func (l *lab) waysOf() (out []string) {
	for _, r := range l.routes("-6") {
		if strings.Contains(r, "via") && strings.Contains(r, "metric 128") {
			out = append(out, r)
		}
	}
	return out
}

// reaches waits until packets come back from the Internet to an address of a router.
func (l *lab) reaches(router, from string) {
	l.t.Helper()
	l.eventually(router+" with "+from+" to reach the Internet", slow, func() bool {
		_, err := l.try("ip", "netns", "exec", l.space(router), "ping", "-6", "-n", "-c", "1", "-W", "2", "-I", from,
			"2001:db8:9::9")
		return err == nil
	})
}

// address waits until a router has given its own link an address that begins so.
func (l *lab) address(router, begin string) (found string) {
	l.t.Helper()
	l.eventually(router+" to have an address in "+begin, slow, func() bool {
		for line := range strings.Lines(l.of(router, "dev", "i0", "-deprecated")) {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasPrefix(f[3], begin) {
				found, _, _ = strings.Cut(f[3], "/")
			}
		}
		return found != ""
	})
	return found
}

// TestDownstream: WIDE's dhcp6c, dhcpcd and ISC's dhclient are delegated prefixes of what ISC's dhcpd delegated to the
// guest. Packets of them come back through the policy, what is forged does not; they outlive the children, follow a
// renumbered provider, and go with the lease.
func TestDownstream(t *testing.T) {
	l, p := downstreamLab(t)
	server := l.pdServer("2001:db8:100::", 3600, 1200)
	g := l.start(p)
	g.waitReady()
	l.startChild("ra", p, raUser, raGrant)
	d := l.startChild("dhcp", p, dhcpUser, dhcpGrant)
	d.waitReady()
	l.eventually("the guest to be delegated a prefix", slow, func() bool {
		return strings.Contains(strings.Join(l.addresses("lan"), " "), "2001:db8:100:1::1/64")
	})
	// The provider's router leads what it delegated to the guest.
	wan := strings.Fields(l.in("fw", "ip", "-6", "-o", "address", "show", "dev", "wan", "scope", "link"))[3]
	wan, _, _ = strings.Cut(wan, "/")
	l.in("isp", "ip", "-6", "route", "add", "2001:db8:100::/56", "via", wan, "dev", "p0")
	l.in("isp", "ip", "-6", "route", "add", "2001:db8:200::/56", "via", wan, "dev", "p0")

	wide := l.dhcp6c("r1")
	dhcpcd := l.dhcpcdPD("r2")
	first := l.address("r1", "2001:db8:100:1")
	second := l.address("r2", "2001:db8:100:1")
	third := l.delegated6("r3")
	if len(third) != 1 || third[0] != netip.MustParsePrefix("2001:db8:100:1c::/62") {
		t.Fatalf("the named router is delegated %v; want 2001:db8:100:1c::/62", third)
	}
	l.in("r3", "ip", "address", "add", third[0].Addr().Next().String()+"/64", "dev", "i0")
	slot := func(a string) netip.Prefix { p, _ := netip.MustParseAddr(a).Prefix(62); return p }
	if slot(first) == slot(second) || slot(first) == third[0] || slot(second) == third[0] {
		t.Fatalf("%s, %s and %v: two routers were delegated the same", first, second, third)
	}
	l.reaches("r1", first)
	l.reaches("r2", second)
	l.reaches("r3", third[0].Addr().Next().String())
	if _, err := l.try("ip", "netns", "exec", l.space("isp"), "ping", "-6", "-n", "-c", "3", "-i", "0.2", "-W", "20",
		first); err != nil {
		t.Errorf("from the Internet %s, which the policy lets be pinged, is not reached: %v", first, err)
	}
	l.forged(third[0])

	// Killed and started again, neither child takes a route away. An announcement of one that went would be here.
	ways := strings.Join(l.waysOf(), "\n")
	monitor := l.monitor("-6", "route")
	g.kill(syscall.SIGKILL)
	d.kill(syscall.SIGKILL)
	g = l.start(p)
	g.waitReady()
	d = l.startChild("dhcp", p, dhcpUser, dhcpGrant)
	d.waitReady()
	if again := l.delegated6("r3"); len(again) != 1 || again[0] != third[0] {
		t.Errorf("after the children were killed the named router has %v; want %v again", again, third)
	}
	if now := strings.Join(l.waysOf(), "\n"); now != ways {
		t.Errorf("after the children were killed the routes are\n%s\nwant\n%s", now, ways)
	}
	if gone := regexp.MustCompile(`(?m)^Deleted .* metric 128 .*$`).FindString(monitor.out.String()); gone != "" {
		t.Errorf("while the children were started again a route went: %s", gone)
	}
	l.reaches("r1", first)
	l.reaches("r2", second)

	// The provider renumbers, and takes the old prefix back: routers that ask have the new one, and are told to leave the
	// old.
	l.renumber(g, server, 3600, 1200)
	l.in("isp", "ip", "-6", "route", "replace", "2001:db8:100::/56", "via", wan, "dev", "p0")
	l.in("isp", "ip", "-6", "route", "replace", "2001:db8:200::/56", "via", wan, "dev", "p0")
	l.eventually("the new prefix inside", slow, func() bool {
		return strings.Contains(strings.Join(l.addresses("lan"), " "), "2001:db8:200:1::1/64")
	})
	fresh := netip.MustParsePrefix("2001:db8:200:1c::/62")
	l.eventually("the named router to be delegated "+fresh.String(), slow, func() bool {
		third = l.delegated6("r3")
		return len(third) == 2 && (third[0] == fresh || third[1] == fresh)
	})
	l.in("r3", "ip", "address", "add", fresh.Addr().Next().String()+"/64", "dev", "i0")
	l.reaches("r3", fresh.Addr().Next().String())
	if err := dhcpcd.cmd.Process.Signal(syscall.SIGHUP); err != nil { // it asks again
		t.Error(err)
	}
	wide.stop() // this one asks again when it is started
	l.dhcp6c("r1")
	for _, r := range []string{"r1", "r2"} {
		l.reaches(r, l.address(r, "2001:db8:200:1"))
	}

	// Released, its way goes; what remains of it is reached by nobody.
	l.dhclient6Release("r3")
	l.eventually("the way of what was given back to go", slow, func() bool {
		return !strings.Contains(strings.Join(l.waysOf(), "\n"), fresh.String())
	})
}

// forged has a router send from what others were delegated, from what nobody was, and from an address of the Internet.
func (l *lab) forged(own netip.Prefix) {
	l.t.Helper()
	count := func() string { return l.in("fw", "nft", "list", "counter", "inet", "rempart", "spoofed") }
	for _, from := range []string{"2001:db8:100:ee::1", "2001:db8:77::1", "2001:db8:9::9"} {
		before := count()
		l.in("r3", "ip", "address", "add", from+"/128", "dev", "i0", "nodad")
		what := fmt.Sprintf("what a router with %s sends as %s to be dropped as forged", own, from)
		l.eventually(what, patience, func() bool {
			_, _ = l.try("ip", "netns", "exec", l.space("r3"), "ping", "-6", "-n", "-c", "1", "-W", "1", "-I", from,
				"2001:db8:1::1")
			return count() != before
		})
		l.in("r3", "ip", "address", "del", from+"/128", "dev", "i0")
	}
}

// dhclient6Release has ISC's dhclient give back what it has.
func (l *lab) dhclient6Release(router string) {
	l.t.Helper()
	file := filepath.Join(l.root, router+".leases")
	l.in(router, netns.Tool(l.t, "dhclient", "isc-dhcp-client"), "-6", "-r", "-P", "-v", "-sf", "/bin/true", "-lf", file,
		"-pf", filepath.Join(l.root, router+".pid"), "-cf", "/dev/null", "h0")
}
