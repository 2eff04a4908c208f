package link_test

import (
	"fmt"
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

// uplink is a firewall whose wan asks for its address.
func uplink() *profiles.Profile {
	return &profiles.Profile{
		Name: "fw-dhcp",
		Links: []profiles.Link{
			{Name: "wan", MAC: macA, DHCP: true},
			{Name: "lan", MAC: macB, Addresses: pfx("10.10.10.1/24")},
		},
		Zones: []profiles.Zone{{Name: "internet", External: true}, {Name: "inside"}},
	}
}

func uplinkLab(t *testing.T) *lab {
	l := newLab(t, "isp", "lan")
	l.wire("eth0", macA, "isp", "p0", "198.51.100.1/24")
	l.wire("eth1", macB, "lan", "p1", "10.10.10.2/24")
	l.in("isp", "ip", "address", "add", "8.8.8.8/32", "dev", "lo")
	l.in("isp", "ip", "route", "add", "10.10.10.0/24", "via", "198.51.100.50")
	l.in("lan", "ip", "route", "add", "default", "via", "10.10.10.1")
	return l
}

// dhcpd starts ISC dhcpd in the namespace isp.
func (l *lab) dhcpd(config string) *process {
	l.t.Helper()
	file, leases := filepath.Join(l.root, "dhcpd.conf"), filepath.Join(l.root, "dhcpd.leases")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		l.t.Fatal(err)
	}
	f, err := os.OpenFile(leases, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		l.t.Fatal(err)
	}
	_ = f.Close()
	p := l.background("isp", netns.Tool(l.t, "dhcpd", "isc-dhcp-server"), "-4", "-f", "-d", "--no-pid", "-cf", file, "-lf",
		leases, "p0")
	l.eventually("dhcpd listens", patience, func() bool { return strings.Contains(p.out.String(), "Sending on   LPF") })
	return p
}

const iscConfig = `
authoritative;
default-lease-time %[1]d;
max-lease-time %[1]d;
min-lease-time %[1]d;
ping-check false;
option mtu code 26 = unsigned integer 16;
subnet 198.51.100.0 netmask 255.255.255.0 {
  range %[2]s;
  option routers 198.51.100.1;
  option domain-name-servers 8.8.8.8, 198.51.100.1;
  option domain-name "isp.example";
  option mtu 1480;
  %[3]s
}
`

const leasedDefault = "default via 198.51.100.1 dev wan proto dhcp src 198.51.100.50 metric 512"

func TestISCDhcpd(t *testing.T) {
	l := uplinkLab(t)
	server := l.dhcpd(fmt.Sprintf(iscConfig, 20, "198.51.100.50", ""))
	g := l.start(uplink())
	g.waitReady()
	t.Logf("ready after %s", time.Since(g.begun).Round(time.Millisecond))
	if got, want := l.addresses("wan"), []string{"198.51.100.50/24"}; !slices.Equal(got, want) {
		t.Errorf("addresses of wan = %q; want %q", got, want)
	}
	if got, want := l.routes("-4"), []string{leasedDefault}; !slices.Equal(got, want) {
		t.Errorf("routes = %q; want %q", got, want)
	}
	if got := l.in("fw", "ip", "address", "show", "wan"); !strings.Contains(got, "mtu 1480") || !strings.Contains(got,
		" dynamic ") {
		t.Errorf("wan = %s; want mtu 1480 and a lifetime", got)
	}
	resolv, err := os.ReadFile(filepath.Join(l.root, contract.ResolvPath))
	if want := "search isp.example\nnameserver 8.8.8.8\nnameserver 198.51.100.1\n"; err != nil ||
		!strings.HasSuffix(string(resolv), want) {
		t.Errorf("resolv.conf = %q, %v; want %q at its end", resolv, err, want)
	}
	if got := server.out.String(); !strings.Contains(got, "(fw-dhcp)") {
		t.Errorf("the server did not hear the host name:\n%s", got)
	}
	leases, err := os.ReadFile(filepath.Join(l.root, "dhcpd.leases"))
	if err != nil || !strings.Contains(string(leases), `client-hostname "fw-dhcp"`) {
		t.Errorf("dhcpd.leases = %s, %v; want the host name", leases, err)
	}
	l.in("lan", "ping", "-c1", "-W20", "8.8.8.8")

	// Renewing by unicast at T1 = 10 s, killed and started again meanwhile, loses no packet.
	loss := l.background("lan", netns.Tool(t, "ping", "iputils-ping"), "-qi0.02", "-c900", "-W1", "8.8.8.8")
	before := strings.Count(server.out.String(), "DHCPACK")
	asked := strings.Count(server.out.String(), "DHCPDISCOVER") // twice where the answer came late
	g.kill(syscall.SIGKILL)
	g = l.start(uplink())
	g.waitReady()
	l.eventually("confirmed by INIT-REBOOT", patience, func() bool {
		return strings.Count(server.out.String(),
			"DHCPACK") > before
	})
	before = strings.Count(server.out.String(), "DHCPACK")
	l.eventually("renewed", patience, func() bool { return strings.Count(server.out.String(), "DHCPACK") > before })
	if got := server.out.String(); strings.Count(got, "DHCPDISCOVER") != asked {
		t.Errorf("discovered again:\n%s", got)
	}
	// The server dies and misses T1, 10 s later; one with its leases is found before the end, at 20 s.
	server.stop()
	time.Sleep(12 * time.Second)
	if !l.same("wan", "198.51.100.50/24") {
		t.Error("the address went before its lease ended")
	}
	server = l.dhcpd(fmt.Sprintf(iscConfig, 20, "198.51.100.50", ""))
	l.eventually("rebound", patience, func() bool { return strings.Contains(server.out.String(), "DHCPACK") })
	time.Sleep(time.Second)
	if !l.same("wan", "198.51.100.50/24") || strings.Contains(g.log.String(), "lost the lease") {
		t.Errorf("the lease was lost although a server renewed it: %s", g.log.String())
	}

	_ = loss.cmd.Wait()
	if !strings.Contains(loss.out.String(), " 0% packet loss") {
		t.Errorf("over kill, confirmation, renewal and the server's death: %s", loss.out.String())
	}

	// The server dies for good, and so does the child: the kernel takes the address and its routes away.
	server.stop()
	g.kill(syscall.SIGKILL)
	l.eventually("the address expires without anybody", patience, func() bool { return l.same("wan") })
	if got := l.routes("-4"); len(got) != 0 {
		t.Errorf("routes of an expired lease = %q; want none", got)
	}
}

func TestServerDies(t *testing.T) {
	l := uplinkLab(t)
	server := l.dhcpd(fmt.Sprintf(iscConfig, 20, "198.51.100.50", ""))
	g := l.start(uplink())
	g.waitReady()
	server.stop()
	l.eventually("the address expires", patience, func() bool { return l.same("wan") })
	g.waitLink("wan", "no lease", func(r contract.LinkReport) bool { return strings.Contains(r.Error, "no DHCP lease") })
	g.waitLink("lan", "still well", func(r contract.LinkReport) bool { return r.Error == "" && r.Up })
	l.in("lan", "ping", "-c1", "-W20", "10.10.10.1")
	l.dhcpd(fmt.Sprintf(iscConfig, 20, "198.51.100.50", ""))
	l.eventually("found the server again", patience, func() bool { return l.same("wan", "198.51.100.50/24") })
}

func TestNAK(t *testing.T) {
	l := uplinkLab(t)
	server := l.dhcpd(fmt.Sprintf(iscConfig, 600, "198.51.100.50", ""))
	g := l.start(uplink())
	g.waitReady()
	// The network is renumbered; the cable flaps, which is when a client asks.
	server.stop()
	_ = os.Remove(filepath.Join(l.root, "dhcpd.leases"))
	l.in("isp", "ip", "address", "flush", "dev", "p0")
	l.in("isp", "ip", "address", "add", "192.0.2.1/24", "dev", "p0")
	server = l.dhcpd(strings.ReplaceAll(fmt.Sprintf(iscConfig, 600, "198.51.100.50", ""), "198.51.100.", "192.0.2."))
	l.in("isp", "ip", "link", "set", "p0", "down")
	g.waitLink("wan", "no carrier", func(r contract.LinkReport) bool {
		return strings.Contains(r.Error, "no carrier") &&
			!r.Up
	})
	if !l.same("wan", "198.51.100.50/24") {
		t.Error("the address went with the carrier")
	}
	l.in("isp", "ip", "link", "set", "p0", "up")
	l.eventually("moved to the new network", patience, func() bool { return l.same("wan", "192.0.2.50/24") })
	if !strings.Contains(server.out.String(), "DHCPNAK") {
		t.Errorf("the server never refused:\n%s", server.out.String())
	}
	g.waitLink("wan", "well", func(r contract.LinkReport) bool { return r.Error == "" })
	if got, want := l.routes("-4"),
		[]string{"default via 192.0.2.1 dev wan proto dhcp src 192.0.2.50 metric 512"}; !slices.Equal(got, want) {
		t.Errorf("routes = %q; want %q", got, want)
	}
	// And back again, by a flap so short that nobody sees the link without carrier.
	server.stop()
	_ = os.Remove(filepath.Join(l.root, "dhcpd.leases"))
	l.in("isp", "ip", "address", "flush", "dev", "p0")
	l.in("isp", "ip", "address", "add", "198.51.100.1/24", "dev", "p0")
	l.dhcpd(fmt.Sprintf(iscConfig, 600, "198.51.100.50", ""))
	l.in("isp", "sh", "-c", "printf 'link set p0 down\\nlink set p0 up\\n' | ip -batch -")
	l.eventually("moved back after a short flap", patience, func() bool { return l.same("wan", "198.51.100.50/24") })
}

// TestDnsmasq: another server, whose answers on a veth carry no UDP checksum yet, with classless routes, a reserved
// address by MAC, and a gateway outside the subnet.
func TestDnsmasq(t *testing.T) {
	l := uplinkLab(t)
	server := l.background("isp", netns.Tool(t, "dnsmasq", "dnsmasq-base"), "--no-daemon", "--port=0",
		"--conf-file=/dev/null",
		"--interface=p0", "--bind-interfaces", "--dhcp-range=198.51.100.50,198.51.100.60,255.255.255.0,2m", "--log-dhcp",
		"--dhcp-host="+macA+",198.51.100.55", "--dhcp-leasefile="+filepath.Join(l.root, "dnsmasq.leases"), "--user=root",
		"--dhcp-option=121,0.0.0.0/0,203.0.113.1,192.0.2.0/24,198.51.100.1,10.10.10.0/25,198.51.100.1",
		"--dhcp-option=3,198.51.100.9", "--no-ping")
	l.in("isp", "ip", "address", "add", "203.0.113.1/32", "dev", "p0")
	g := l.start(uplink())
	g.waitReady()
	want := []string{
		"default via 203.0.113.1 dev wan proto dhcp src 198.51.100.55 metric 512 onlink",
		"192.0.2.0/24 via 198.51.100.1 dev wan proto dhcp src 198.51.100.55 metric 512",
	}
	if got := l.routes("-4"); !slices.Equal(got, want) {
		t.Errorf("routes = %q; want %q: option 121 over option 3, nothing into the inside subnet", got, want)
	}
	if got := server.out.String(); !strings.Contains(got, "client provides name: fw-dhcp") {
		t.Errorf("dnsmasq did not hear the name:\n%s", got)
	}
	l.in("fw", "ping", "-c1", "-W20", "8.8.8.8")
	if !strings.Contains(g.log.String(), "10.10.10.0/25") {
		t.Error("nothing was said about the route into the inside subnet")
	}
}
