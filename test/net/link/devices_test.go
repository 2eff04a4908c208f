package link_test

import (
	"strings"
	"syscall"
	"testing"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/netns"
)

// The kinds of links that this machine's kernel may lack (VLANs, bonds, dummies) are tested in guests: test/boot.

const (
	macBridge  = "02:00:00:00:00:b0"
	macMacvlan = "02:00:00:00:00:b1"
)

// joined is a bridge of two NICs, and a macvlan on a third whose settings are not the usual ones.
func joined() *profiles.Profile {
	return &profiles.Profile{Name: "fw-1", Zones: []profiles.Zone{{Name: "a"}}, Links: []profiles.Link{
		{Name: "lan", Bridge: &profiles.Bridge{Members: []string{"p1", "p2"}}, MAC: macBridge,
			Addresses: pfx("10.2.0.1/24", "fd02::1/64")},
		{Name: "p1", MAC: macA},
		{Name: "p2", MAC: macB},
		{Name: "hub", MAC: "02:00:00:00:00:0c", TxQueue: 500, Addresses: pfx("10.5.0.1/24"),
			Offloads: profiles.Offloads{TX: "off", SG: "off", TSO: "off", GSO: "off", GRO: "on", LRO: "off"}},
		{Name: "side", Macvlan: &profiles.Macvlan{Parent: "hub"}, MAC: macMacvlan, Addresses: pfx("10.6.0.1/24")},
		{Name: "mute", MAC: "02:00:00:00:00:0d", NoARP: true, Addresses: pfx("10.7.0.1/24")},
	}}
}

func joinedLab(t *testing.T) *lab {
	l := newLab(t, "one", "two", "three", "four")
	netns.Tool(t, "ethtool", "ethtool")
	l.wire("eth0", macA, "one", "e0", "10.2.0.9/24", "fd02::9/64")
	l.wire("eth1", macB, "two", "e0", "10.2.0.10/24")
	l.wire("eth2", "02:00:00:00:00:0c", "three", "e0", "10.5.0.9/24", "10.6.0.9/24")
	l.wire("eth3", "02:00:00:00:00:0d", "four", "e0", "10.7.0.9/24")
	return l
}

// asJoined says what of the profile is not so; empty: nothing.
func (l *lab) asJoined() string {
	detail := func(dev string) string {
		out, _ := l.try("ip", "netns", "exec", l.space("fw"), "ip", "-d", "-o", "link", "show", dev)
		return out
	}
	for _, c := range []struct{ dev, want string }{
		{"lan", "link/ether " + macBridge}, {"lan", "stp_state 0"}, {"lan", "forward_delay 0 "}, {"lan", ",UP"},
		{"p1", "master lan"}, {"p2", "master lan"}, {"p1", "state forwarding"},
		{"hub", "qlen 500"}, {"side", "macvlan mode bridge"}, {"side", "side@hub"}, {"side", "link/ether " + macMacvlan},
		{"mute", "NOARP"},
	} {
		if got := detail(c.dev); !strings.Contains(got, c.want) {
			return "ip link show " + c.dev + " = " + got + "; want " + c.want
		}
	}
	if strings.Contains(detail("hub"), "NOARP") {
		return "hub has no ARP"
	}
	features, err := l.try("ip", "netns", "exec", l.space("fw"), "ethtool", "-k", "hub")
	if err != nil {
		return err.Error()
	}
	for _, want := range []string{"tx-checksumming: off", "scatter-gather: off", "tx-tcp-segmentation: off",
		"tx-tcp6-segmentation: off", "generic-segmentation-offload: off", "generic-receive-offload: on",
		"large-receive-offload: off"} {
		if !strings.Contains(features, want) {
			return "ethtool -k hub = " + features + "; want " + want
		}
	}
	for dev, want := range map[string][]string{"lan": {"10.2.0.1/24", "fd02::1/64"}, "side": {"10.6.0.1/24"}, "p1": nil} {
		if !l.same(dev, want...) {
			return dev + " has other addresses than " + strings.Join(want, " ")
		}
	}
	return ""
}

func TestMadeLinks(t *testing.T) {
	l := joinedLab(t)
	g := l.start(joined())
	g.waitReady()
	if wrong := l.asJoined(); wrong != "" {
		t.Fatal(wrong)
	}
	talk := func() {
		t.Helper()
		l.in("one", "ping", "-c1", "-W20", "10.2.0.1")
		l.in("one", "ping", "-c1", "-W20", "fd02::1")
		l.in("one", "ping", "-c1", "-W20", "10.2.0.10") // across the bridge
		l.in("three", "ping", "-c1", "-W20", "10.5.0.1")
		l.in("three", "ping", "-c1", "-W20", "10.6.0.1")
	}
	talk()
	if out, err := l.try("ip", "netns", "exec", l.space("four"), "ping", "-c1", "-W1", "10.7.0.1"); err == nil {
		t.Errorf("a link without ARP answers one who has to ask: %s", out)
	}

	through := l.background("one", netns.Tool(t, "ping", "iputils-ping"), "-qi0.01", "-c200", "-W1", "10.2.0.10")
	g.kill(syscall.SIGKILL)
	g = l.start(joined())
	g.waitReady()
	for _, word := range []string{"make a", "remove", "member", "down", "hardware", "arp", "tx ",
		"sg ", "tso ", "gso ", "gro ", "lro "} {
		for line := range strings.Lines(g.log.String()) {
			if strings.Contains(line, "level=INFO") && strings.Contains(line, ": "+word) {
				t.Errorf("the next run changed something: %s", line)
			}
		}
	}
	_ = through.cmd.Wait()
	if !strings.Contains(through.out.String(), " 0% packet loss") {
		t.Errorf("ping across the bridge says %s", through.out.String())
	}

	for _, change := range [][]string{
		{"ip", "link", "set", "p1", "nomaster"},
		{"ip", "link", "del", "lan"},
		{"ip", "link", "set", "lan", "type", "bridge", "stp_state", "1"},
		{"ip", "link", "set", "lan", "type", "bridge", "forward_delay", "200"},
		{"ip", "link", "set", "lan", "address", "02:00:00:00:00:ff"},
		{"sh", "-c", "ip link set lan down && ip link set lan name evil && ip link set evil up"},
		{"ip", "link", "del", "side"},
		{"ip", "link", "set", "side", "type", "macvlan", "mode", "vepa"},
		{"sh", "-c", "ip link add old type bridge && ip link set old alias rempart:old && ip link set p2 master old"},
		{"ip", "link", "set", "hub", "arp", "off"},
		{"ip", "link", "set", "mute", "arp", "on"},
		{"ip", "link", "set", "hub", "txqueuelen", "9"},
		{"sh", "-c", "ethtool -K hub tx on gro off && ip link set hub mtu 1500"},
	} {
		t.Run(strings.Join(change, " "), func(t *testing.T) {
			l.in("fw", change...)
			// What nobody announces (offloads) is found at the next change of anything.
			wrong := ""
			for range 3 {
				l.in("fw", "ip", "address", "add", "192.0.2.1/32", "dev", "lo")
				l.in("fw", "ip", "address", "del", "192.0.2.1/32", "dev", "lo")
			}
			l.eventually("converged back", patience, func() bool { wrong = l.asJoined(); return wrong == "" })
		})
	}
	if _, err := l.try("ip", "netns", "exec", l.space("fw"), "ip", "link", "show", "old"); err == nil {
		t.Error("a bridge made for a link that is no longer in the profile is still there")
	}
	// A bridge that was made again first asks whether another host has its IPv6 address.
	l.eventually("IPv6 answers again", patience, func() bool {
		_, err := l.try("ip", "netns", "exec", l.space("one"), "ping", "-c1", "-W1", "fd02::1")
		return err == nil
	})
	talk()
	g.waitLink("lan", "well again", func(r contract.LinkReport) bool { return r.Error == "" && r.MAC == macBridge })
}

// TestParentComesLate makes a link on a NIC that is not there yet, and again when it went and came back.
func TestParentComesLate(t *testing.T) {
	l := newLab(t, "one", "two", "three", "four")
	l.wire("eth0", macA, "one", "e0", "10.2.0.9/24", "fd02::9/64")
	l.wire("eth1", macB, "two", "e0", "10.2.0.10/24")
	l.wire("eth3", "02:00:00:00:00:0d", "four", "e0")
	g := l.start(joined())
	g.waitLink("side", "waiting for its parent", func(r contract.LinkReport) bool {
		return strings.Contains(r.Error, "waiting for link hub")
	})
	g.waitLink("lan", "up all the same", func(r contract.LinkReport) bool { return r.Up && r.Error == "" })
	for range 2 {
		l.wire("eth2", "02:00:00:00:00:0c", "three", "e0", "10.5.0.9/24", "10.6.0.9/24")
		g.waitLink("side", "made", func(r contract.LinkReport) bool { return r.Up && r.Error == "" })
		l.in("three", "ping", "-c1", "-W20", "10.6.0.1")
		l.in("fw", "ip", "link", "del", "hub")
		g.waitLink("side", "gone", func(r contract.LinkReport) bool { return !r.Up })
	}
	l.in("one", "ping", "-c1", "-W20", "10.2.0.10")
}
