package link_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/netns"
)

func pfx(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

const (
	macA = "02:00:00:00:00:0a"
	macB = "02:00:00:00:00:0b"
)

// home is a firewall between two links, with a gateway outside every subnet.
func home() *profiles.Profile {
	return &profiles.Profile{
		Name: "fw-1",
		Links: []profiles.Link{
			{Name: "lan0", MAC: macA, MTU: 1400, Addresses: pfx("192.168.0.101/24", "fd00:192:168::101/64"),
				Gateways: []profiles.Gateway{
					{Addr: netip.MustParseAddr("203.0.113.1"), OnLink: true},
					{Addr: netip.MustParseAddr("fd00:192:168::1")},
				}},
			{Name: "dmz0", MAC: macB, Addresses: pfx("10.9.0.1/24")},
		},
		Zones: []profiles.Zone{{Name: "home"}, {Name: "dmz"}},
	}
}

func homeLab(t *testing.T) *lab {
	l := newLab(t, "lan", "dmz")
	l.wire("eth0", macA, "lan", "p0", "192.168.0.1/24", "203.0.113.1/32", "fd00:192:168::1/64")
	l.wire("eth1", macB, "dmz", "p1", "10.9.0.2/24")
	l.in("lan", "ip", "route", "add", "10.9.0.0/24", "via", "192.168.0.101")
	l.in("dmz", "ip", "route", "add", "default", "via", "10.9.0.1")
	return l
}

func checkHome(t *testing.T, l *lab) {
	t.Helper()
	if got, want := l.addresses("lan0"), []string{"192.168.0.101/24", "fd00:192:168::101/64"}; !slices.Equal(got, want) {
		t.Errorf("addresses of lan0 = %q; want %q", got, want)
	}
	if got, want := l.addresses("dmz0"), []string{"10.9.0.1/24"}; !slices.Equal(got, want) {
		t.Errorf("addresses of dmz0 = %q; want %q", got, want)
	}
	if got, want := l.routes("-4"),
		[]string{"default via 203.0.113.1 dev lan0 proto static metric 100 onlink"}; !slices.Equal(got, want) {
		t.Errorf("IPv4 routes = %q; want %q", got, want)
	}
	if got, want := l.routes("-6"),
		[]string{"default via fd00:192:168::1 dev lan0 proto static metric 101 pref medium"}; !slices.Equal(got, want) {
		t.Errorf("IPv6 routes = %q; want %q", got, want)
	}
	if got := l.in("fw", "ip", "-o", "link", "show", "lan0"); !strings.Contains(got, "mtu 1400") {
		t.Errorf("lan0 = %s; want mtu 1400", got)
	}
}

func TestStatic(t *testing.T) {
	l := homeLab(t)
	tap := l.background("dmz", netns.Tool(t, "tcpdump", "tcpdump"), "-lnni", "p1", "ip6")
	time.Sleep(300 * time.Millisecond)
	g := l.start(home())
	g.waitReady()
	t.Logf("ready after %s, of which one second is duplicate address detection",
		time.Since(g.begun).Round(time.Millisecond))
	checkHome(t, l)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid)); err == nil {
		_, peak, _ := strings.Cut(string(b), "VmHWM:")
		peak, _, _ = strings.Cut(peak, "\n")
		t.Logf("the child's memory at most: %s", strings.TrimSpace(peak))
	}
	for path, want := range map[string]string{
		"ipv4/ip_forward":                    "1",
		"ipv6/conf/all/forwarding":           "1",
		"ipv4/conf/all/send_redirects":       "0",
		"ipv4/conf/lan0/send_redirects":      "0",
		"ipv4/conf/lan0/accept_redirects":    "0",
		"ipv4/conf/lan0/rp_filter":           "1",
		"ipv4/conf/dmz0/arp_ignore":          "1",
		"ipv4/conf/dmz0/arp_announce":        "2",
		"ipv6/conf/lan0/accept_ra":           "0",
		"ipv6/conf/lan0/disable_ipv6":        "0",
		"ipv6/conf/dmz0/disable_ipv6":        "1",
		"ipv6/conf/default/disable_ipv6":     "1",
		"ipv6/conf/lan0/accept_redirects":    "0",
		"ipv4/conf/lan0/accept_source_route": "0",
	} {
		if got := l.sysctl(path); got != want {
			t.Errorf("sysctl %s = %s; want %s", path, got, want)
		}
	}
	l.in("lan", "ping", "-c1", "-W20", "192.168.0.101")
	l.in("lan", "ping", "-c1", "-W20", "fd00:192:168::101")
	l.in("lan", "ping", "-c1", "-W20", "10.9.0.2") // forwarded
	l.in("fw", "ping", "-c1", "-W20", "203.0.113.1")
	tap.stop()
	for line := range strings.Lines(tap.out.String()) {
		// The other end of the cable has IPv6 and talks; the guest's end, which has no IPv6 address, must not.
		if strings.Contains(line, "fe80::ff:fe00:b ") || strings.Contains(line, "IP6 :: >") && strings.Contains(line,
			"fe00:b") {
			t.Errorf("on a link without IPv6 the guest said: %s", line)
		}
	}
}

// TestOneArmed sends from one host of a LAN to another host of it by way of the guest, which must forward, and must
// not tell the sender that there is a shorter way.
func TestOneArmed(t *testing.T) {
	p := &profiles.Profile{Name: "fw-1", Zones: []profiles.Zone{{Name: "home"}, {Name: "internet"}},
		Links: []profiles.Link{{Name: "lan0", MAC: macA, Addresses: pfx("192.168.0.101/24"),
			Gateways: []profiles.Gateway{{Addr: netip.MustParseAddr("192.168.0.1")}}}}}
	l := newLab(t, "switch", "host", "box")
	l.in("switch", "ip", "link", "add", "br0", "type", "bridge")
	l.in("switch", "ip", "link", "set", "br0", "up")
	l.wire("eth0", macA, "switch", "p0")
	for name, address := range map[string]string{"host": "192.168.0.50/24", "box": "192.168.0.1/24"} {
		l.must("ip", "link", "add", "e0", "netns", l.space(name), "type", "veth", "peer", "name", name, "netns",
			l.space("switch"))
		l.in("switch", "ip", "link", "set", name, "up")
		l.in("switch", "ip", "link", "set", name, "master", "br0")
		l.in(name, "ip", "address", "add", address, "dev", "e0")
		l.in(name, "ip", "link", "set", "e0", "up")
	}
	l.in("switch", "ip", "link", "set", "p0", "master", "br0")
	l.in("box", "ip", "address", "add", "8.8.8.8/32", "dev", "lo")
	l.in("host", "ip", "route", "add", "default", "via", "192.168.0.101")
	g := l.start(p)
	g.waitReady()
	redirects := func() int {
		tap := l.background("host", netns.Tool(t, "tcpdump", "tcpdump"), "-lnni", "e0", "icmp[0] == 5")
		l.eventually("tcpdump listens", patience, func() bool { return strings.Contains(tap.out.String(), "listening on") })
		l.in("host", "ping", "-c3", "-i0.2", "-W20", "8.8.8.8")
		time.Sleep(500 * time.Millisecond)
		tap.stop()
		return strings.Count(tap.out.String(), "ICMP redirect")
	}
	if got := redirects(); got != 0 {
		t.Errorf("%d redirects around the firewall; want none", got)
	}
	l.in("fw", "sysctl", "-qw", "net.ipv4.conf.all.send_redirects=1") // so would it be without the switch
	if got := redirects(); got == 0 {
		t.Error("no redirect although they were switched on: this test sees nothing")
	}
}

func TestTwiceChangesNothing(t *testing.T) {
	l := homeLab(t)
	l.start(home()).waitReady()
	mon := l.background("fw", "ip", "-ts", "monitor", "link", "address", "route")
	time.Sleep(300 * time.Millisecond)
	l.in("fw", "ip", "address", "add", "192.0.2.1/32", "dev", "lo") // shows that the monitor listens
	again := l.start(home())
	again.waitReady()
	time.Sleep(500 * time.Millisecond)
	mon.stop()
	for line := range strings.Lines(mon.out.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "192.0.2.1") && !strings.HasPrefix(line,
			"valid_lft") {
			t.Errorf("applied again, the kernel announced: %s", line)
		}
	}
	if !strings.Contains(mon.out.String(), "192.0.2.1") {
		t.Errorf("ip monitor heard nothing at all: %q", mon.out.String())
	}
}

func TestForeignChangesAreReverted(t *testing.T) {
	l := homeLab(t)
	g := l.start(home())
	g.waitReady()
	for _, change := range [][]string{
		{"ip", "address", "add", "198.51.100.7/24", "dev", "lan0"},
		{"ip", "address", "del", "192.168.0.101/24", "dev", "lan0"},
		{"ip", "address", "change", "192.168.0.101/24", "dev", "lan0", "valid_lft", "100", "preferred_lft", "100"},
		{"ip", "-6", "address", "add", "2001:db8::7/64", "dev", "lan0"},
		{"ip", "-6", "address", "del", "fd00:192:168::101/64", "dev", "lan0"},
		{"ip", "route", "add", "198.51.100.0/24", "via", "192.168.0.1"},
		{"ip", "route", "add", "198.51.100.0/24", "nexthop", "via", "192.168.0.1", "nexthop", "via", "10.9.0.2"},
		{"ip", "-6", "route", "add", "2001:db8::/32", "via", "fd00:192:168::1"},
		{"ip", "-6", "route", "add", "default", "via", "fd00:192:168::2", "dev", "lan0", "metric", "1"},
		{"ip", "route", "replace", "default", "via", "192.168.0.1", "metric", "100"},
		{"ip", "route", "del", "default"},
		{"ip", "link", "set", "lan0", "mtu", "1300"},
		{"ip", "link", "set", "lan0", "down"},
		// By the time its new name is used it may have its old one again, which is just as well.
		{"sh", "-c", "ip link set lan0 down && ip link set lan0 name evil0; ip link set evil0 up || ip link show lan0"},
	} {
		t.Run(strings.Join(change, " "), func(t *testing.T) {
			l.in("fw", change...)
			l.eventually("converged back", patience, func() bool {
				return l.same("lan0", "192.168.0.101/24", "fd00:192:168::101/64") &&
					slices.Equal(l.routes("-4"), []string{"default via 203.0.113.1 dev lan0 proto static metric 100 onlink"}) &&
					slices.Equal(l.routes("-6"),
						[]string{"default via fd00:192:168::1 dev lan0 proto static metric 101 pref medium"}) &&
					strings.Contains(l.in("fw", "ip", "-o", "link", "show", "lan0"), "mtu 1400") &&
					!strings.Contains(l.in("fw", "ip", "-4", "address", "show", "lan0"), "dynamic")
			})
		})
	}
	g.waitLink("lan0", "well again", func(r contract.LinkReport) bool { return r.Error == "" })
	l.in("lan", "ping", "-c1", "-W20", "10.9.0.2")
}

// same reports whether an interface is there with just these addresses.
func (l *lab) same(dev string, want ...string) bool {
	out, err := l.try("ip", "netns", "exec", l.space("fw"), "ip", "-o", "address", "show", "dev", dev, "scope", "global")
	if err != nil {
		return false
	}
	var got []string
	for line := range strings.Lines(out) {
		got = append(got, strings.Fields(line)[3])
	}
	return slices.Equal(got, want)
}

func TestNamesSwap(t *testing.T) {
	l := newLab(t, "lan", "dmz")
	// The kernel's names are the profile's, the wrong way round, and both are up.
	l.wire("dmz0", macA, "lan", "p0", "192.168.0.1/24", "fd00:192:168::1/64")
	l.wire("lan0", macB, "dmz", "p1", "10.9.0.2/24")
	l.in("fw", "ip", "link", "set", "dmz0", "up")
	l.in("fw", "ip", "link", "set", "lan0", "up")
	l.in("fw", "ip", "address", "add", "10.9.0.1/24", "dev", "lan0")
	g := l.start(home())
	g.waitReady()
	checkHome(t, l)
	l.in("dmz", "ping", "-c1", "-W20", "10.9.0.1")
}

// Whichever link fails, by what it is itself and by where it leads, the other one works, and what could be done of the
// one that fails is.
func TestFailingLinkLeavesTheOthers(t *testing.T) {
	hosts := map[string][2]string{"lan0": {"lan", "192.168.0.101"}, "dmz0": {"dmz", "10.9.0.1"}}
	for k := range home().Links {
		p := home()
		failing, other := p.Links[k].Name, p.Links[1-k].Name
		p.Links[k].MTU = 70000 // more than any veth takes
		p.Links[k].Gateways = []profiles.Gateway{{Addr: netip.MustParseAddr("198.51.100.1")}}
		t.Run(failing, func(t *testing.T) {
			l := homeLab(t)
			g := l.start(p)
			g.waitLink(other, "up", func(r contract.LinkReport) bool { return r.Up && r.Error == "" })
			g.waitLink(failing, "named errors", func(r contract.LinkReport) bool {
				return strings.Contains(r.Error, "mtu 70000") && strings.Contains(r.Error, "via 198.51.100.1") && r.Up
			})
			for _, h := range hosts {
				l.in(h[0], "ping", "-c1", "-W20", h[1])
			}
			if g.ready {
				t.Error("ready although a link failed")
			}
		})
	}
}

func TestLateNIC(t *testing.T) {
	l := newLab(t, "lan", "dmz")
	l.wire("eth0", macA, "lan", "p0", "192.168.0.1/24", "203.0.113.1/32", "fd00:192:168::1/64")
	g := l.start(home())
	g.waitLink("lan0", "up", func(r contract.LinkReport) bool { return r.Up && r.Error == "" })
	g.waitLink("dmz0", "missing", func(r contract.LinkReport) bool {
		return strings.Contains(r.Error,
			"no NIC has the MAC "+macB)
	})
	if g.ready {
		t.Error("ready although a NIC is missing")
	}
	l.wire("eth1", macB, "dmz", "p1", "10.9.0.2/24")
	g.waitReady()
	checkHome(t, l)
	l.in("fw", "ip", "link", "del", "dmz0")
	g.waitLink("dmz0", "missing again", func(r contract.LinkReport) bool { return !r.Up && r.Error != "" })
	l.in("dmz", "sh", "-c", "! ip link show p1 2>/dev/null")
	l.wire("eth7", macB, "dmz", "p1", "10.9.0.2/24")
	g.waitLink("dmz0", "back", func(r contract.LinkReport) bool { return r.Up && r.Error == "" })
	checkHome(t, l)
}

func TestDuplicateIPv6Address(t *testing.T) {
	l := newLab(t, "lan", "dmz")
	l.wire("eth0", macA, "lan", "p0", "192.168.0.1/24", "203.0.113.1/32", "fd00:192:168::101/64")
	l.wire("eth1", macB, "dmz", "p1", "10.9.0.2/24")
	g := l.start(home())
	g.waitLink("lan0", "says who is in the way", func(r contract.LinkReport) bool {
		return strings.Contains(r.Error, "another host has fd00:192:168::101")
	})
	if g.ready {
		t.Error("ready with an address somebody else has")
	}
}

// TestKilledWithoutLoss kills the child again and again under traffic, forwarded and to the guest.
func TestKilledWithoutLoss(t *testing.T) {
	l := homeLab(t)
	g := l.start(home())
	g.waitReady()
	const packets = "600"
	through := l.background("lan", netns.Tool(t, "ping", "iputils-ping"), "-qi0.01", "-c"+packets, "-W1", "10.9.0.2")
	six := l.background("lan", "ping", "-qi0.01", "-c"+packets, "-W1", "fd00:192:168::101")
	for range 5 {
		time.Sleep(500 * time.Millisecond)
		g.kill(syscall.SIGKILL)
		time.Sleep(200 * time.Millisecond)
		g = l.start(home())
		g.waitReady()
		for _, word := range []string{"down", "rename", "remove", "address", "route"} {
			if strings.Contains(g.log.String(), `msg="lan0: `+word) {
				t.Errorf("the next run changed something:\n%s", g.log.String())
			}
		}
	}
	for _, p := range []*process{through, six} {
		_ = p.cmd.Wait()
		if !strings.Contains(p.out.String(), " 0% packet loss") || !strings.Contains(p.out.String(),
			packets+" packets transmitted") {
			t.Errorf("ping says %s", p.out.String())
		}
	}
}

// TestBusOrder gives NICs without a MAC in the profile a place on a bus, by a /sys made for the test, and wants them
// taken in that order whatever the kernel numbered them, and kept when a NIC comes late.
func TestBusOrder(t *testing.T) {
	p := home()
	p.Links[0].MAC, p.Links[1].MAC = "", ""
	l := newLab(t, "lan", "dmz", "other")
	sys := filepath.Join(l.root, "sys")
	if err := os.Remove(sys); err != nil {
		t.Fatal(err)
	}
	place := func(slot string, names ...string) {
		dev := filepath.Join(sys, "devices/pci0000:00", slot, "virtio0")
		if err := os.MkdirAll(dev, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			class := filepath.Join(sys, "class/net", n)
			if err := os.MkdirAll(class, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(dev, filepath.Join(class, "device")); err != nil {
				t.Fatal(err)
			}
		}
	}
	place("0000:00:0a.0", "eth1", "lan0")
	place("0000:00:10.0", "eth0", "dmz0")
	place("0000:00:03.0", "eth2")
	l.wire("eth0", macB, "dmz", "p1", "10.9.0.2/24")
	g := l.start(p)
	time.Sleep(time.Second) // the other NIC comes, but not yet: the first must not be taken for lan0 meanwhile
	if got := l.in("fw", "ip", "-o", "link", "show"); strings.Contains(got, "lan0") {
		t.Fatalf("a link without a MAC was given away before the NICs were there:\n%s", got)
	}
	l.wire("eth1", macA, "lan", "p0", "192.168.0.1/24", "203.0.113.1/32", "fd00:192:168::1/64")
	g.waitReady()
	p.Links[0].MTU = 1400
	checkHome(t, l)

	// A third NIC, in front of the others on the bus, changes nothing, also for a child that starts afresh.
	l.wire("eth2", "02:00:00:00:00:0c", "other", "p2")
	l.in("fw", "ip", "link", "set", "eth2", "up")
	g.wait("a warning about the NIC", func() bool {
		return slices.ContainsFunc(g.warns, func(w string) bool {
			return strings.Contains(w, "eth2") && strings.Contains(w,
				"no link")
		})
	})
	g.kill(syscall.SIGKILL)
	g = l.start(p)
	g.waitReady()
	checkHome(t, l)
	l.eventually("the spare NIC is closed", patience, func() bool {
		return !strings.Contains(l.in("fw", "ip", "-o", "link", "show", "eth2"), ",UP")
	})
}
