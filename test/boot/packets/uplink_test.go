package packets

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/test/netns"
	"rempart/test/rig"
)

// leased is the one address the provider has to give; RFC 5737.
const leased = "203.0.113.10"

// newUplink is a provider with a DHCP server and the Internet behind it, one of its other customers, and on the inside
// a client and a web server.
func newUplink(t *testing.T, m *rig.Master) (w *world, leases string) {
	t.Helper()
	w = newWorld(t, m)
	isp := w.host(t, "isp", "wan", []string{"203.0.113.1/24"})
	w.internet(t, isp)
	// The provider knows the way to the inside: that nothing gets there is not for want of a route.
	route(t, isp, "10.10.10.0/24", leased)
	w.host(t, "neighbour", "wan", []string{"203.0.113.50/24"}, "203.0.113.1")
	w.host(t, "inside", "lan", []string{"10.10.10.7/24", "fd00:10:10::7/64"}, "10.10.10.1", "fd00:10:10::1")
	w.host(t, "web", "lan", []string{"10.10.10.10/24"}, "10.10.10.1")
	w.serve(t)
	return w, dnsmasq(t, isp)
}

// dnsmasq serves DHCP on a node and returns the file of its leases.
func dnsmasq(t *testing.T, n *netns.Node) (leases string) {
	t.Helper()
	leases = filepath.Join(t.TempDir(), "leases")
	var said bytes.Buffer
	cmd := n.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-",
		"--interface=eth0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--dhcp-leasefile="+leases,
		"--dhcp-range="+leased+","+leased+",255.255.255.0,1h", "--dhcp-option=option:router,203.0.113.1",
		"--dhcp-option=option:dns-server,198.51.100.7", "--user=root", "--group=", "--pid-file=")
	cmd.Stdout, cmd.Stderr = &said, &said
	netns.Must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq said:\n%s", said.String())
		}
	})
	return leases
}

// uplinkTruth says in a person's words what the dhcp-uplink is to do.
func uplinkTruth() []row {
	const (
		inet, neighbour = "198.51.100.7", "203.0.113.50"
		in, in6, web    = "10.10.10.7", "fd00:10:10::7", "10.10.10.10"
	)
	return []row{
		// The web server sees its visitors' own addresses.
		{"internet", inet, "tcp", leased + ":80", pass, "lan 198.51.100.7 10.10.10.10:80"},
		{"internet", inet, "tcp", leased + ":443", pass, "lan 198.51.100.7 10.10.10.10:443"},
		{"neighbour", neighbour, "tcp", leased + ":80", pass, "lan 203.0.113.50 10.10.10.10:80"},
		// The inside reaches the Internet under the leased address.
		{"inside", in, "tcp", inet + ":80", pass, "wan " + leased + " 198.51.100.7:80"},
		{"inside", in, "tcp", inet + ":8080", pass, "wan " + leased + " 198.51.100.7:8080"},
		{"inside", in, "udp", inet + ":443", pass, "wan " + leased + " 198.51.100.7:443"},
		{"inside", in, "ping", inet, pass, "wan " + leased + " 198.51.100.7"},
		{"inside", in, "tcp", neighbour + ":80", pass, "wan " + leased + " 203.0.113.50:80"},
		{"web", web, "tcp", inet + ":80", pass, "wan " + leased + " 198.51.100.7:80"},
		// It administers and pings the firewall, and that is all.
		{"inside", in, "tcp", "10.10.10.1:22", reach, ""},
		{"inside", in, "ping", "10.10.10.1", reach, ""},
		{"inside", in6, "tcp", "[fd00:10:10::1]:22", reach, ""},
		{"inside", in6, "ping", "fd00:10:10::1", reach, ""},
		{"inside", in, "tcp", "10.10.10.1:80", drop, ""},
		{"inside", in, "udp", "10.10.10.1:53", drop, ""},
		{"inside", in6, "tcp", "[fd00:10:10::1]:80", drop, ""},
		{"inside", in, "tcp", leased + ":80", drop, ""}, // the forward is for the Internet
		// Nothing else from outside reaches the firewall, by whichever of its addresses, or what is behind it.
		{"internet", inet, "tcp", leased + ":22", drop, ""},
		{"internet", inet, "tcp", leased + ":8080", drop, ""},
		{"internet", inet, "udp", leased + ":80", drop, ""},
		{"internet", inet, "udp", leased + ":68", drop, ""},
		{"internet", inet, "ping", leased, drop, ""},
		{"internet", inet, "tcp", "10.10.10.1:22", drop, ""},
		{"internet", inet, "ping", "10.10.10.1", drop, ""},
		{"internet", inet, "tcp", web + ":80", drop, ""}, // not by the forward, so not at all
		{"internet", inet, "tcp", in + ":80", drop, ""},
		{"internet", inet, "udp", in + ":443", drop, ""},
		{"internet", inet, "ping", in, drop, ""},
		{"neighbour", neighbour, "tcp", leased + ":22", drop, ""},
		{"neighbour", neighbour, "ping", leased, drop, ""},
	}
}

func uplinkKnocks() []knock {
	return []knock{
		{link: "wan", src: "198.51.100.7", flow: "tcp", to: leased + ":80", kind: allowed},
		{link: "wan", src: "203.0.113.50", flow: "tcp", to: leased + ":443", kind: allowed},
		{link: "lan", src: "10.10.10.7", flow: "udp", to: "198.51.100.7:443", kind: allowed},
		{link: "lan", src: "10.10.10.7", flow: "ping", to: "198.51.100.7", kind: allowed},
		{link: "lan", src: "10.10.10.7", flow: "tcp", to: "10.10.10.1:22", kind: allowed},
		{link: "lan", src: "fd00:10:10::7", flow: "ping", to: "fd00:10:10::1", kind: allowed},
		{link: "wan", src: "198.51.100.7", flow: "tcp", to: leased + ":22"},
		{link: "wan", src: "198.51.100.7", flow: "ping", to: leased},
		{link: "wan", src: "198.51.100.7", flow: "udp", to: leased + ":53"},
		{link: "wan", src: "198.51.100.7", flow: "tcp", to: "10.10.10.10:80"},
		{link: "wan", src: "203.0.113.50", flow: "tcp", to: "10.10.10.7:80"},
		{link: "wan", src: "203.0.113.50", flow: "ping", to: "10.10.10.7"},
		{link: "wan", src: "2001:db8::7", flow: "tcp", to: "[fd00:10:10::7]:80"},
		{link: "wan", src: "2001:db8::7", flow: "udp", to: "[fd00:10:10::7]:443"},
		{link: "wan", src: "2001:db8::7", flow: "ping", to: "fd00:10:10::7"},
		{link: "wan", src: "2001:db8::7", flow: "ping", to: "fd00:10:10::1"},
		{link: "lan", src: "10.10.10.7", flow: "tcp", to: "10.10.10.1:80"},
		{link: "lan", src: "fd00:10:10::7", flow: "tcp", to: "[fd00:10:10::1]:80"},
		// Sources that belong elsewhere.
		{link: "wan", src: "10.10.10.7", flow: "ping", to: "10.10.10.1", kind: spoofed},
		{link: "wan", src: "10.10.10.7", flow: "udp", to: "10.10.10.10:443", kind: spoofed},
		{link: "lan", src: "198.51.100.7", flow: "udp", to: "203.0.113.50:443", kind: spoofed},
	}
}

// TestUplink boots the dhcp-uplink among foreign ones: its address comes from dnsmasq, which learns its name, and not
// one frame, its own question included, leaves it before its policy is there.
func TestUplink(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, uplink)
	w, leases := newUplink(t, m)
	knocking := w.knock(t, uplinkKnocks())
	const delay = slow / 2
	g := m.Boot(t, rig.Options{Backends: w.backends(), Append: contract.KeyInject + "=slow:policy:" + delay.String()})
	g.AwaitConsole("made slow by the kernel command line")
	opened := time.Now().Add(delay / 2)
	r := g.AwaitReady()
	if frames, first := w.watch.spoken(); frames == 0 || first.Before(opened) {
		t.Errorf("the guest sent its first of %d frames at %v; want none before its policy, after %v", frames, first,
			opened)
	}
	if got := strings.Join(r.Links[0].Addresses, " "); got != leased+"/24" {
		t.Errorf("link %s has addresses %q; want the leased %s/24", r.Links[0].Name, got, leased)
	}
	checkLease(t, leases, w.macs["wan"].String(), m.Profile.Name)
	knocking.more(1)
	t.Run("truth", func(t *testing.T) { w.truth(t, uplinkTruth()) })
	t.Run("visitor", func(t *testing.T) { w.visit(t) })
	g.PowerOff() // nor does a guest that shuts down open anything
	knocking.end()
	knocking.judge(t, opened)
}

// visit has a foreign client on the inside ask the guest for an address, and go to the Internet with it.
func (w *world) visit(t *testing.T) {
	visitor := w.host(t, "visitor", "lan", nil)
	script := filepath.Join(t.TempDir(), "script")
	const body = `#!/bin/sh
case $1 in bound)
	ip address add "$ip/$mask" dev "$interface" && ip route add default via "$router" && echo "got $ip of $serverid" ;;
esac
`
	netns.Must(t, os.WriteFile(script, []byte(body), 0o755))
	out, err := visitor.Command("udhcpc", "-f", "-n", "-q", "-i", "eth0", "-s", script, "-t", "10", "-T", "2").
		CombinedOutput()
	if err != nil || !strings.Contains(string(out), "got 10.10.10.100 of 10.10.10.1") {
		t.Errorf("udhcpc on the inside: %v\n%s\nwant 10.10.10.100 from the guest", err, out)
		return
	}
	if out, err := visitor.Command("ping", "-c", "1", "-W", "5", "198.51.100.7").CombinedOutput(); err != nil {
		t.Errorf("the visitor does not reach the Internet: %v\n%s", err, out)
	}
}

// checkLease reads dnsmasq's lines of "EXPIRY MAC ADDRESS NAME CLIENT-ID".
func checkLease(t *testing.T, file, mac, name string) {
	t.Helper()
	b, err := os.ReadFile(file)
	netns.Must(t, err)
	words := strings.Fields(string(b))
	if len(words) != 5 || words[1] != mac || words[3] != name || words[2] != netip.MustParseAddr(leased).String() {
		t.Errorf("the server's leases are %q; want %s for %s, named %q", b, leased, mac, name)
	}
	if _, err := fmt.Sscan(words[0], new(int64)); err != nil {
		t.Errorf("lease %q: %v", words, err)
	}
}
