package packets

import (
	"net/netip"
	"testing"

	"rempart/test/netns"
	"rempart/test/rig"
)

// newRented is scenario B: the hoster's router, whose address is in no subnet of the guest's, with the Internet behind
// it, an owner and a partner among it; and on the other side the hypervisor and four guests.
func newRented(t *testing.T, m *rig.Master) *world {
	t.Helper()
	w := newWorld(t, m)
	hoster := w.host(t, "hoster", "wan0", []string{"205.205.205.254/32", "2001:db8:205::1/128"})
	inet := w.internet(t, hoster)
	for _, a := range []string{"203.0.113.7/24", "203.0.113.9/24"} {
		inet.Addr(t, inet.Device(t, "eth0"), netip.MustParsePrefix(a))
	}
	hoster.Addr(t, hoster.Device(t, "far0"), netip.MustParsePrefix("203.0.113.1/24"))
	// The hoster knows the way to all that is behind the guest: that nothing gets there is not for want of a route.
	wan := hoster.Device(t, "eth0")
	for _, a := range []string{"10.10.10.10", "2001:db8:205::10"} {
		hoster.Route(t, wan, netns.Single(netip.MustParseAddr(a)), netip.Addr{}, 0)
	}
	route(t, hoster, "172.16.0.0/16", "10.10.10.10")
	route(t, hoster, "2001:db8:205:10::/64", "2001:db8:205::10")
	for name, addresses := range map[string][]string{"hypervisor": {"172.16.0.2/16"},
		"web": {"172.16.10.205/16", "2001:db8:205:10::205/64"}, "shop": {"172.16.10.206/16", "2001:db8:205:10::206/64"},
		"games": {"172.16.10.207/16"}, "guest": {"172.16.0.7/16", "2001:db8:205:10::7/64"}} {
		gateways := []string{"172.16.0.1", "2001:db8:205:10::1"}[:len(addresses)]
		w.host(t, name, "lan0", addresses, gateways...)
	}
	w.serve(t)
	w.open(t, "games", "172.16.10.207", 27014, 27015, 27030, 27031)
	return w
}

// rentedTruth says in a person's words what the rented-server is to do.
func rentedTruth() []row {
	const (
		inet, inet6    = "198.51.100.7", "2001:db8::7"
		owner, partner = "203.0.113.7", "203.0.113.9" // they live where the Internet does
		public         = "10.10.10.10"
		guest, guest6  = "172.16.0.7", "2001:db8:205:10::7"
		web6, shop6    = "[2001:db8:205:10::205]", "[2001:db8:205:10::206]"
	)
	return []row{
		// The public address: services on three guests, one of them at another port than it has there.
		{"internet", inet, "tcp", public + ":80", pass, "lan0 198.51.100.7 172.16.10.205:80"},
		{"internet", inet, "tcp", public + ":443", pass, "lan0 198.51.100.7 172.16.10.205:443"},
		{"internet", inet, "tcp", public + ":8443", pass, "lan0 198.51.100.7 172.16.10.206:443"},
		{"internet", inet, "udp", public + ":27015", pass, "lan0 198.51.100.7 172.16.10.207:27015"},
		{"internet", inet, "udp", public + ":27030", pass, "lan0 198.51.100.7 172.16.10.207:27030"},
		{"internet", inet, "ping", public, reach, ""},
		{"internet", inet, "udp", public + ":27014", drop, ""},
		{"internet", inet, "udp", public + ":27031", drop, ""},
		{"internet", inet, "tcp", public + ":27015", drop, ""},
		{"internet", inet, "tcp", public + ":8080", drop, ""},
		{"internet", inet, "udp", public + ":443", drop, ""},
		// A shell on the shop is for a few, the router's own for its owner.
		{"internet", partner, "tcp", public + ":2222", pass, "lan0 203.0.113.9 172.16.10.206:22"},
		{"internet", inet, "tcp", public + ":2222", drop, ""},
		{"internet", inet, "tcp", public + ":22", drop, ""},
		{"internet", partner, "tcp", public + ":22", drop, ""},
		{"internet", owner, "tcp", public + ":22", reach, ""},
		{"hypervisor", "172.16.0.2", "tcp", "172.16.0.1:22", reach, ""},
		{"guest", guest, "tcp", "172.16.0.1:22", drop, ""},
		{"guest", guest6, "tcp", "[2001:db8:205:10::1]:22", drop, ""},
		// Private addresses are nobody's outside.
		{"internet", inet, "tcp", "172.16.10.205:80", drop, ""},
		{"internet", inet, "tcp", guest + ":80", drop, ""},
		{"internet", inet, "udp", guest + ":443", drop, ""},
		{"internet", inet, "ping", "172.16.10.205", drop, ""},
		{"internet", inet, "tcp", "172.16.0.1:22", drop, ""},
		{"internet", owner, "ping", guest, drop, ""},
		// Guests leave under the public address,
		{"guest", guest, "tcp", inet + ":80", pass, "wan0 " + public + " 198.51.100.7:80"},
		{"guest", guest, "udp", inet + ":443", pass, "wan0 " + public + " 198.51.100.7:443"},
		{"guest", guest, "ping", inet, pass, "wan0 " + public + " 198.51.100.7"},
		{"games", "172.16.10.207", "tcp", inet + ":8080", pass, "wan0 " + public + " 198.51.100.7:8080"},
		// reach the services by it too, also those that are beside them,
		{"guest", guest, "tcp", public + ":80", pass, "lan0 172.16.0.1 172.16.10.205:80"},
		{"guest", guest, "tcp", public + ":8443", pass, "lan0 172.16.0.1 172.16.10.206:443"},
		{"guest", guest, "tcp", public + ":2222", drop, ""},
		{"guest", guest, "udp", public + ":27015", drop, ""},
		// and ping the router, and that is all.
		{"guest", guest, "ping", "172.16.0.1", reach, ""},
		{"guest", guest6, "ping", "2001:db8:205:10::1", reach, ""},
		{"guest", guest, "tcp", "172.16.0.1:80", drop, ""},
		{"guest", guest, "udp", "172.16.0.1:53", drop, ""},
		// In IPv6 the web servers have addresses of their own, and are all that is reached.
		{"internet", inet6, "tcp", web6 + ":80", pass, "lan0 2001:db8::7 [2001:db8:205:10::205]:80"},
		{"internet", inet6, "tcp", shop6 + ":443", pass, "lan0 2001:db8::7 [2001:db8:205:10::206]:443"},
		{"internet", inet6, "tcp", web6 + ":22", drop, ""},
		{"internet", inet6, "tcp", web6 + ":8080", drop, ""},
		{"internet", inet6, "udp", web6 + ":443", drop, ""},
		{"internet", inet6, "ping", "2001:db8:205:10::205", drop, ""},
		{"internet", inet6, "tcp", "[" + guest6 + "]:80", drop, ""},
		{"internet", inet6, "ping", guest6, drop, ""},
		{"internet", inet6, "ping", "2001:db8:205::10", reach, ""},
		{"internet", inet6, "tcp", "[2001:db8:205::10]:80", drop, ""},
		{"internet", inet6, "tcp", "[2001:db8:205::10]:22", drop, ""},
		{"internet", inet6, "tcp", "[2001:db8:205:10::1]:22", drop, ""},
		{"guest", guest6, "tcp", "[" + inet6 + "]:80", pass, "wan0 2001:db8:205:10::7 [2001:db8::7]:80"},
		{"guest", guest6, "ping", inet6, pass, "wan0 2001:db8:205:10::7 2001:db8::7"},
	}
}

// TestRentedServer boots the rented-server among its neighbours, tries its table, and has nmap look at it from the
// Internet and from a guest.
func TestRentedServer(t *testing.T) {
	m := rig.Build(t, rented)
	w := newRented(t, m)
	g := m.Boot(t, rig.Options{Backends: w.backends()})
	g.AwaitReady()
	t.Run("truth", func(t *testing.T) { w.truth(t, rentedTruth()) })
	t.Run("scan", func(t *testing.T) {
		w.scan(t, []scan{
			{"internet", "10.10.10.10", everyTCP, 65535, "80/tcp 443/tcp 8443/tcp"},
			{"internet", "2001:db8:205::10", everyTCP, 65535, ""},
			{"internet", "2001:db8:205:10::205", topTCP, 1000, "80/tcp 443/tcp"},
			{"internet", "10.10.10.10", topUDP, 100, ""},
			{"internet", "2001:db8:205::10", topUDP, 100, ""},
			{"internet", "2001:db8:205:10::205", topUDP, 100, ""},
			{"internet", "172.16.10.205", topTCP, 1000, ""}, // not by the forward, so not at all
			{"internet", "2001:db8:205:10::7", topTCP, 1000, ""},
			{"guest", "172.16.0.1", topTCP, 1000, ""},
			{"guest", "2001:db8:205:10::1", topTCP, 1000, ""},
			{"hypervisor", "172.16.0.1", topTCP, 1000, "22/tcp"},
		})
	})
	g.PowerOff()
}
