package packets

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"rempart/builder/hypervisor"
	"rempart/test/netns"
	"rempart/test/rig"
)

// world is a guest's surroundings: a bridge and a tap for each NIC, and hosts.
type world struct {
	number int64 // of this world: several may be there at a time
	hyper  *netns.Node
	hosts  map[string]*netns.Node
	taps   map[string]netlink.Link
	macs   map[string]net.HardwareAddr
	watch  *watch
	order  []string // links in bus order
}

var worlds atomic.Int64

// bridge and tap name a link's interfaces on the hypervisor: IFNAMSIZ leaves them 15 bytes.
func (w *world) bridge(link string) string { return fmt.Sprintf("b%d-%s", w.number, link) }
func (w *world) tap(link string) string    { return fmt.Sprintf("t%d-%s", w.number, link) }

// newWorld makes the bridges and the taps of a master's guest, and watches the taps.
func newWorld(t *testing.T, m *rig.Master) *world {
	t.Helper()
	w := &world{number: worlds.Add(1), hyper: netns.Here(t, "hypervisor"),
		hosts: map[string]*netns.Node{}, taps: map[string]netlink.Link{},
		macs: map[string]net.HardwareAddr{}, order: m.Manifest.Links}
	for i, mac := range hypervisor.MACs(m.Profile.Name, m.Manifest.Links) {
		link := m.Manifest.Links[i]
		w.hyper.Bridge(t, w.bridge(link))
		w.taps[link] = w.hyper.Tap(t, w.tap(link), w.bridge(link))
		w.macs[link] = mac
		if l := m.Profile.NICs()[i]; l.VirtualMAC != "" {
			virtual, err := net.ParseMAC(l.VirtualMAC)
			netns.Must(t, err)
			w.macs[link] = virtual
		}
	}
	bridged := map[string]bool{}
	for _, l := range m.Profile.Links {
		if l.Bridge != nil {
			for _, member := range l.Bridge.Members {
				bridged[member] = true
			}
		}
	}
	w.watch = newWatch(t, w.hyper, w.taps, w.macs, bridged)
	return w
}

// backends plug the guest's NICs into the taps.
func (w *world) backends() (out []hypervisor.Backend) {
	for _, link := range w.order {
		out = append(out, hypervisor.Backend{Kind: hypervisor.Tap, Tap: w.tap(link)})
	}
	return out
}

// host makes a host on a link's bridge, with addresses and a gateway for each family it has an address of.
func (w *world) host(t *testing.T, name, link string, addresses []string, gateways ...string) *netns.Node {
	t.Helper()
	n := netns.NewNode(t, name)
	w.hosts[name] = n
	dev := n.Plug(t, "eth0", w.hyper, w.bridge(link))
	for _, a := range addresses {
		n.Addr(t, dev, netip.MustParsePrefix(a))
	}
	for _, g := range gateways {
		gateway := netip.MustParseAddr(g)
		n.Route(t, dev, netns.Everything(gateway), gateway, 0)
	}
	return n
}

// route sends what a host has for a prefix to a gateway on its first interface.
func route(t *testing.T, n *netns.Node, prefix, gateway string) {
	t.Helper()
	n.Route(t, n.Device(t, "eth0"), netip.MustParsePrefix(prefix), netip.MustParseAddr(gateway), 0)
}

// internet makes a host of the Internet behind a router: documentation addresses, RFC 5737 and RFC 3849.
func (w *world) internet(t *testing.T, router *netns.Node) *netns.Node {
	t.Helper()
	n := netns.NewNode(t, "internet")
	w.hosts["internet"] = n
	here, there := n.Join(t, "eth0", router, "far0")
	for _, a := range []string{"198.51.100.7/24", "198.51.100.8/24", "2001:db8::7/64"} {
		n.Addr(t, here, netip.MustParsePrefix(a))
	}
	for _, a := range []string{"198.51.100.1/24", "2001:db8::1/64"} {
		gateway := netip.MustParsePrefix(a)
		router.Addr(t, there, gateway)
		n.Route(t, here, netns.Everything(gateway.Addr()), gateway.Addr(), 0)
	}
	router.Forward(t)
	return n
}

// open opens more ports of a host's address, for TCP and UDP.
func (w *world) open(t *testing.T, host, address string, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		at := netip.AddrPortFrom(netip.MustParseAddr(address), port)
		serveHTTP(t, w.hosts[host], at)
		serveUDP(t, w.hosts[host], at)
	}
}

// knownPorts are open on every host, for TCP and UDP, so that silence is the guest's doing.
var knownPorts = []uint16{22, 80, 443, 8080}

// serve opens the known ports of every host on each of its addresses. Whoever comes is told as whom the server sees
// him: by HTTP or by one datagram.
func (w *world) serve(t *testing.T) {
	t.Helper()
	for name, n := range w.hosts {
		addrs, err := n.Link.AddrList(nil, netlink.FAMILY_ALL)
		netns.Must(t, err)
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); !ok || !ip.IsGlobalUnicast() {
				continue
			}
			for _, port := range knownPorts {
				serveHTTP(t, n, netip.AddrPortFrom(ip, port))
				serveUDP(t, n, netip.AddrPortFrom(ip, port))
			}
		}
		if len(addrs) == 0 {
			t.Fatalf("host %s has no address", name)
		}
	}
}

func seenFrom(a net.Addr) string { return "seen from " + a.String() + "\n" }

func serveHTTP(t *testing.T, n *netns.Node, at netip.AddrPort) {
	t.Helper()
	var listener net.Listener
	n.In(t, func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "seen from %s\n", r.RemoteAddr)
	})}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
}

func serveUDP(t *testing.T, n *netns.Node, at netip.AddrPort) {
	t.Helper()
	var conn *net.UDPConn
	n.In(t, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			_, from, err := conn.ReadFromUDP(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteToUDP([]byte(seenFrom(from)), from)
			}
		}
	}()
}

// newHome is scenario A: on lan0's bridge the ISP's box with the Internet behind it, a web server whose gateway is
// that box, and a client; on dmz0's a bridge behind the guest with one exposed host.
func newHome(t *testing.T, m *rig.Master) *world {
	t.Helper()
	w := newWorld(t, m)
	box := w.host(t, "isp", "lan0", []string{"192.168.0.1/24", "fd00:192:168::1/64"})
	w.internet(t, box)
	web := w.host(t, "web", "lan0", []string{"192.168.0.102/24", "fd00:192:168::102/64"}, "192.168.0.1", "fd00:192:168::1")
	client := w.host(t, "home", "lan0", []string{"192.168.0.7/24", "fd00:192:168::7/64"}, "192.168.0.1", "fd00:192:168::1")
	w.host(t, "dmz", "dmz0", []string{"10.9.0.7/24", "fd00:10:9::7/64"}, "10.9.0.1", "fd00:10:9::1")
	// Everybody on the home network knows the way to the dmz: that nothing gets there is not for want of a route.
	for _, n := range []*netns.Node{box, web, client} {
		route(t, n, "10.9.0.0/24", "192.168.0.101")
		route(t, n, "fd00:10:9::/64", "fd00:192:168::101")
	}
	// One address of the Internet the client sends by the guest, which is not its gateway.
	route(t, client, "198.51.100.8/32", "192.168.0.101")
	w.serve(t)
	return w
}
