// Package net tests the packet filter with packets: a firewall in a network namespace with the links of a profile,
// real hosts around it in namespaces of their own, and every flow that a profile's probes and hand-written tables
// name.
//
// The test binary starts itself again in new network and mount namespaces, so nothing it does can reach the machine's
// own network.
package net

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/profiles"
	"rempart/test/netns"
)

func TestMain(m *testing.M) {
	for tool, pkg := range map[string]string{"nft": "nftables", "nsenter": "util-linux", "curl": "curl",
		"nc": "netcat-openbsd", "ping": "iputils-ping", "nmap": "nmap", "iperf3": "iperf3"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Printf("%s is missing: apt-get install %s\n", tool, pkg)
			os.Exit(1)
		}
	}
	if netns.Inside() {
		netns.CheckPowers()
		os.Exit(m.Run())
	}
	os.Exit(netns.Isolate())
}

// node is a network namespace: the firewall, a host, or the wire between them.
type node struct {
	*netns.Node
	seen *sniffer // what arrived; nil for the firewall and the wires
}

// bridge is the name of the switch of each wire.
const bridge = "br"

func newNode(t *testing.T, name string) *node {
	t.Helper()
	return &node{Node: netns.NewNode(t, name)}
}

// lab is a firewall with everything around it.
type lab struct {
	profile *profiles.Profile
	fw      *node
	hosts   map[netip.Addr]*node // by every address a probe uses
	wires   map[string]*node     // link -> its segment
	routers map[string]*node     // link -> who stands for its gateway and all that is behind it
	own     map[string]netip.Prefix
}

// What a DHCP link gets in the lab: its lease and its gateway, RFC 5737.
var (
	lease        = netip.MustParsePrefix("203.0.113.10/24")
	leaseGateway = netip.MustParseAddr("203.0.113.1")
)

// newLab builds the namespaces for a profile: the firewall's links, a gateway where the profile has one, and a host
// for every address that the probes use. No rules are loaded.
func newLab(t *testing.T, p *profiles.Profile) *lab {
	t.Helper()
	p = p.Supposed() // what is delegated is there, as the link's own subnets are
	l := &lab{profile: p, fw: newNode(t, "firewall"), hosts: map[netip.Addr]*node{}, wires: map[string]*node{},
		routers: map[string]*node{}, own: map[string]netip.Prefix{}}
	l.fw.Forward(t)
	if p.SynProxies() { // as package link sets it
		l.fw.In(t, func() error { return netns.Sysctl("netfilter/nf_conntrack_tcp_loose=0") })
	}
	for i := range p.Links {
		l.addLink(t, &p.Links[i])
	}
	for _, probe := range routed(filter.Probes(p)) {
		l.host(t, probe.Link, probe.Src)
		if probe.To != profiles.Self {
			l.host(t, probe.OutLink, probe.SeenDst)
		}
	}
	return l
}

func (l *lab) addLink(t *testing.T, link *profiles.Link) {
	t.Helper()
	wire := newNode(t, "wire "+link.Name)
	l.wires[link.Name] = wire
	wire.Bridge(t, bridge)
	dev := l.fw.Plug(t, link.Name, wire.Node, bridge)
	if link.MTU != 0 {
		netns.Must(t, l.fw.Link.LinkSetMTU(dev, link.MTU))
	}
	addresses, gateways := link.Addresses, link.Gateways
	if link.DHCP {
		addresses, gateways = append(addresses, lease), append(gateways, profiles.Gateway{Addr: leaseGateway})
	}
	for _, a := range addresses {
		l.fw.Addr(t, dev, a)
		key := link.Name + version(a.Addr())
		if _, ok := l.own[key]; !ok {
			l.own[key] = a
		}
	}
	for _, g := range gateways {
		if l.routers[link.Name] == nil {
			l.routers[link.Name] = newNode(t, "router "+link.Name)
			l.routers[link.Name].Plug(t, "eth0", wire.Node, bridge)
			l.routers[link.Name].Forward(t)
			l.watch(t, l.routers[link.Name])
		}
		r := l.routers[link.Name]
		r.Addr(t, r.Device(t, "eth0"), netip.PrefixFrom(g.Addr, l.own[link.Name+version(g.Addr)].Bits()))
		l.fw.Metric(t, dev, netns.Everything(g.Addr), g.Addr, 0, int(g.Metric))
		// What the router's own hosts send goes by the firewall, even to the router's own subnet.
		r.Route(t, r.Device(t, "eth0"), netns.Everything(g.Addr), l.own[link.Name+version(g.Addr)].Addr(), farTable)
	}
}

// farTable is the routing table of what is behind a router.
const farTable = 100

// host makes the host of an address unless there is one. An address in a subnet of the link is a host of its own,
// that talks to nobody but by the firewall; the target of a forward is in the subnet like any server, and has the
// link's gateway if it has one. Every other address is behind the link's router.
func (l *lab) host(t *testing.T, link string, a netip.Addr) *node {
	t.Helper()
	if l.hosts[a] != nil {
		return l.hosts[a]
	}
	own, ok := l.own[link+version(a)]
	if !ok {
		t.Fatalf("a host %v on link %s, which has no address of its family", a, link)
	}
	for _, x := range l.link(link).Addresses { // of several subnets, its own
		if x.Contains(a) {
			own = x
		}
	}
	if !own.Contains(a) {
		r := l.routers[link]
		if r == nil {
			t.Fatalf("a host %v behind link %s, which has no gateway", a, link)
		}
		r.Addr(t, r.Device(t, "lo"), netns.Single(a))
		rule := netlink.NewRule()
		rule.Src, rule.Table = netns.IPNet(netns.Single(a)), farTable
		rule.Family = family(a)
		netns.Must(t, r.Link.RuleAdd(rule))
		l.hosts[a] = r
		return r
	}
	n := newNode(t, a.String())
	dev := n.Plug(t, "eth0", l.wires[link].Node, bridge)
	gateway := own.Addr()
	if l.isTarget(a) {
		n.Addr(t, dev, netip.PrefixFrom(a, own.Bits()))
		for _, g := range l.link(link).Gateways {
			if version(g.Addr) == version(a) {
				gateway = g.Addr
			}
		}
	} else {
		n.Addr(t, dev, netns.Single(a))
		n.Route(t, dev, netns.Single(gateway), netip.Addr{}, 0)
	}
	n.Route(t, dev, netns.Everything(a), gateway, 0)
	l.watch(t, n)
	l.hosts[a] = n
	return n
}

func (l *lab) isTarget(a netip.Addr) bool {
	for _, f := range l.profile.Forwards {
		if slices.Contains(f.Targets(), a) {
			return true
		}
	}
	return false
}

func (l *lab) link(name string) *profiles.Link {
	for i := range l.profile.Links {
		if l.profile.Links[i].Name == name {
			return &l.profile.Links[i]
		}
	}
	return nil
}

func version(a netip.Addr) string {
	if a.Is6() {
		return " v6"
	}
	return " v4"
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}
