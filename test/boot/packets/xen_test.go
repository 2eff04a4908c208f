package packets

import (
	"fmt"
	"testing"

	"rempart/test/rig"
)

// newXen is the firewall with many networks: on each of its links a host, a router with the Internet behind it, and
// behind the members of its bridge the servers. Nobody is on the bond: its VLANs need a switch that speaks LACP, which
// test/run has.
func newXen(t *testing.T, m *rig.Master) *world {
	t.Helper()
	w := newWorld(t, m)
	isp := w.host(t, "isp", "ethwan1", []string{"203.0.113.1/24", "2001:db8:1::1/64"})
	w.internet(t, isp)
	// The provider knows the way inside: that nothing gets there is not for want of a route.
	route(t, isp, "10.0.0.0/8", "203.0.113.2")
	route(t, isp, "fd00::/8", "2001:db8:1::2")
	for _, h := range []struct{ name, link, net, net6, host string }{
		{"admin", "ethadm1", "10.0.0.", "fd00:a::", "7"},
		{"office", "ethlan3", "10.1.3.", "fd00:1:3::", "7"}, {"neighbours", "ethlan4", "10.1.4.", "fd00:1:4::", "7"},
		{"shop", "ethdmz1", "10.2.1.", "fd00:2:1::", "10"}, {"mail", "ethdmz2", "10.2.2.", "fd00:2:2::", "25"},
		{"web", "ethsrv1", "10.4.0.", "fd00:4::", "11"}, {"data", "ethsrv3", "10.4.0.", "fd00:4::", "13"},
		{"files", "ethsrv5", "10.4.0.", "fd00:4::", "15"}, {"build", "ethsrv7", "10.4.0.", "fd00:4::", "17"},
		{"backup", "ethsrv8", "10.4.0.", "fd00:4::", "18"},
	} {
		w.host(t, h.name, h.link, []string{h.net + h.host + "/24", h.net6 + h.host + "/64"}, h.net+"1", h.net6+"1")
	}
	w.serve(t)
	w.open(t, "mail", "10.2.2.25", 25)
	for i, host := range []string{"web", "data", "files"} {
		for _, a := range []string{"10.4.0.1", "fd00:4::1"} {
			w.open(t, host, fmt.Sprint(a, 2*i+1), 445, 2049, 5432)
		}
	}
	return w
}

// xenTruth says in a person's words what the xen-firewall is to do.
func xenTruth() []row {
	const (
		admin, admin6   = "10.0.0.7", "fd00:a::7"
		inet, inet6     = "198.51.100.7", "2001:db8::7"
		office, office6 = "10.1.3.7", "fd00:1:3::7"
		public          = "203.0.113.2"
		shop, mail      = "10.2.1.10", "10.2.2.25"
		web, web6       = "10.4.0.11", "fd00:4::11"
		data, data6     = "10.4.0.13", "fd00:4::13"
		files           = "10.4.0.15"
		build, backup   = "10.4.0.17", "10.4.0.18"
	)
	return []row{
		// The way in is the admin's network, and nobody else's.
		{"admin", admin, "tcp", "10.0.0.1:22", reach, ""},
		{"admin", admin6, "tcp", "[fd00:a::1]:22", reach, ""},
		{"admin", admin, "ping", "10.0.0.1", reach, ""},
		{"admin", admin, "tcp", "10.0.0.1:80", drop, ""},
		{"admin", admin, "tcp", inet + ":80", drop, ""},
		{"office", office, "tcp", "10.1.3.1:22", drop, ""},
		{"office", office, "tcp", "10.0.0.1:22", drop, ""},
		{"office", office6, "tcp", "[fd00:1:3::1]:22", drop, ""},
		{"web", web, "tcp", "10.4.0.1:22", drop, ""},
		{"shop", shop, "ping", "10.2.1.1", drop, ""},
		{"office", office, "ping", "10.1.3.1", reach, ""},
		{"office", office6, "ping", "fd00:1:3::1", reach, ""},
		// Offices reach servers and the Internet, and not each other.
		{"office", office, "tcp", web + ":80", pass, "ethsrv1 10.1.3.7 10.4.0.11:80"},
		{"office", office6, "tcp", "[" + web6 + "]:443", pass, "ethsrv1 fd00:1:3::7 [fd00:4::11]:443"},
		{"office", office, "tcp", files + ":445", pass, "ethsrv5 10.1.3.7 10.4.0.15:445"},
		{"office", office, "tcp", data + ":5432", drop, ""},
		{"office", office, "tcp", data + ":22", drop, ""},
		{"office", office, "udp", web + ":443", drop, ""},
		{"office", office, "ping", web, drop, ""},
		{"office", office, "tcp", inet + ":80", pass, "ethwan1 203.0.113.2 198.51.100.7:80"},
		{"office", office, "udp", inet + ":8080", pass, "ethwan1 203.0.113.2 198.51.100.7:8080"},
		{"office", office6, "tcp", "[" + inet6 + "]:80", pass, "ethwan1 fd00:1:3::7 [2001:db8::7]:80"},
		{"office", office, "tcp", "10.1.4.7:80", drop, ""},
		{"office", office6, "tcp", "[fd00:1:4::7]:80", drop, ""},
		{"neighbours", "10.1.4.7", "ping", office, drop, ""},
		{"office", office, "tcp", shop + ":80", drop, ""},
		{"admin", admin, "tcp", data + ":22", pass, "ethsrv3 10.0.0.7 10.4.0.13:22"},
		{"admin", admin6, "ping", data6, pass, "ethsrv3 fd00:a::7 fd00:4::13"},
		{"admin", admin, "tcp", data + ":80", drop, ""},
		// Servers fetch from the Internet, and begin nothing else outside their own network.
		{"web", web, "tcp", inet + ":443", pass, "ethwan1 203.0.113.2 198.51.100.7:443"},
		{"web", web, "tcp", inet + ":8080", drop, ""},
		{"web", web, "ping", inet, drop, ""},
		{"data", data, "tcp", office + ":80", drop, ""},
		{"data", data, "tcp", shop + ":80", drop, ""},
		// Between the servers, past the firewall's own address.
		{"web", web, "tcp", data + ":5432", pass, "ethsrv3 10.4.0.11 10.4.0.13:5432"},
		{"web", web6, "tcp", "[" + data6 + "]:5432", pass, "ethsrv3 fd00:4::11 [fd00:4::13]:5432"},
		{"web", web, "ping", data, pass, "ethsrv3 10.4.0.11 10.4.0.13"},
		{"web", web, "tcp", data + ":22", drop, ""},
		{"web", web6, "tcp", "[" + data6 + "]:22", drop, ""},
		{"web", web, "tcp", files + ":2049", pass, "ethsrv5 10.4.0.11 10.4.0.15:2049"},
		{"web", web, "tcp", files + ":445", drop, ""},
		{"data", data, "tcp", web + ":80", drop, ""},
		{"data", data, "ping", web, drop, ""},
		{"build", build, "tcp", web + ":443", pass, "ethsrv1 10.4.0.17 10.4.0.11:443"},
		{"build", build, "tcp", web + ":80", drop, ""},
		{"backup", backup, "tcp", files + ":22", pass, "ethsrv5 10.4.0.18 10.4.0.15:22"},
		{"backup", backup, "tcp", files + ":2049", drop, ""},
		// The exposed ones: asked from the Internet by the forwards only, and with business with one port of the servers.
		{"internet", inet, "tcp", public + ":80", pass, "ethdmz1 198.51.100.7 10.2.1.10:80"},
		{"internet", inet, "tcp", public + ":443", pass, "ethdmz1 198.51.100.7 10.2.1.10:443"},
		{"internet", inet, "tcp", public + ":25", pass, "ethdmz2 198.51.100.7 10.2.2.25:25"},
		{"internet", inet, "tcp", public + ":22", drop, ""},
		{"internet", inet, "udp", public + ":443", drop, ""},
		{"internet", inet, "ping", public, drop, ""},
		{"internet", inet, "tcp", shop + ":80", drop, ""},
		{"internet", inet, "tcp", web + ":80", drop, ""},
		{"internet", inet, "tcp", "10.0.0.1:22", drop, ""},
		{"internet", inet6, "tcp", "[" + web6 + "]:80", drop, ""},
		{"internet", inet6, "ping", "2001:db8:1::2", drop, ""},
		{"internet", inet6, "tcp", "[2001:db8:1::2]:22", drop, ""},
		{"shop", shop, "tcp", data + ":5432", pass, "ethsrv3 10.2.1.10 10.4.0.13:5432"},
		{"shop", shop, "tcp", web + ":80", drop, ""},
		{"shop", shop, "tcp", mail + ":25", drop, ""},
		{"shop", shop, "tcp", inet + ":80", drop, ""},
		{"mail", mail, "tcp", office + ":80", drop, ""},
	}
}

// TestXenFirewall boots the xen-firewall among its networks, tries its table, and has nmap look at it from the Internet
// and from some of them.
func TestXenFirewall(t *testing.T) {
	m := rig.Build(t, xen)
	w := newXen(t, m)
	g := m.Boot(t, rig.Options{Backends: w.backends()})
	g.AwaitReady()
	t.Run("truth", func(t *testing.T) { w.truth(t, xenTruth()) })
	t.Run("scan", func(t *testing.T) {
		w.scan(t, []scan{
			{"internet", "203.0.113.2", everyTCP, 65535, "25/tcp 80/tcp 443/tcp"},
			{"internet", "2001:db8:1::2", everyTCP, 65535, ""},
			{"internet", "203.0.113.2", topUDP, 100, ""},
			{"internet", "2001:db8:1::2", topUDP, 100, ""},
			{"internet", "10.4.0.11", topTCP, 1000, ""},
			{"internet", "fd00:4::11", topTCP, 1000, ""},
			{"admin", "10.0.0.1", topTCP, 1000, "22/tcp"},
			{"admin", "fd00:a::1", topTCP, 1000, "22/tcp"},
			{"office", "10.1.3.1", topTCP, 1000, ""},
			{"shop", "10.2.1.1", topTCP, 1000, ""},
		})
	})
	g.PowerOff()
}
