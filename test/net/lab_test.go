// Package net tests the packet filter with packets: a firewall in a network namespace with the links of a profile,
// real hosts around it in namespaces of their own, and every flow that a profile's probes and hand-written tables
// name.
//
// The test binary starts itself again in new network and mount namespaces, so nothing it does can reach the machine's
// own network.
package net

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// insideVar tells the second start of the test binary that it already is in its namespaces.
const insideVar = "REMPART_TEST_NET_INSIDE"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("SKIPPED: test/net needs root to make network namespaces; nothing was tested")
		os.Exit(0)
	}
	for tool, pkg := range map[string]string{"nft": "nftables", "nsenter": "util-linux", "curl": "curl",
		"nc": "netcat-openbsd", "ping": "iputils-ping", "nmap": "nmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Printf("%s is missing: apt-get install %s\n", tool, pkg)
			os.Exit(1)
		}
	}
	if os.Getenv(insideVar) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig speaks of the thread that started the child, not of the process
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	fmt.Println("start the test again in new namespaces:", err)
	os.Exit(1)
}

// node is a network namespace: the firewall, a host, or the wire between them.
type node struct {
	name string
	fd   int
	link *netlink.Handle
	seen *sniffer // what arrived; nil for the firewall and the wires
}

// newNode makes an empty namespace with lo up. It is gone at the end of the test.
func newNode(t *testing.T, name string) *node {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	made := make(chan result)
	go func() {
		// The thread stays locked and so ends with the goroutine, still in the new namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		made <- result{fd, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatalf("make namespace %s: %v", name, r.err)
	}
	n := &node{name: name, fd: r.fd}
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	n.in(t, func() error {
		for _, s := range []string{"ipv6/conf/default/accept_dad=0", "ipv6/conf/default/accept_ra=0",
			"ipv6/conf/all/accept_redirects=0", "ipv6/conf/default/accept_redirects=0",
			"ipv4/conf/all/accept_redirects=0", "ipv4/conf/default/accept_redirects=0",
			"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
			"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
			"ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0"} {
			if err := sysctl(s); err != nil {
				return err
			}
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		n.link = h
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	t.Cleanup(n.link.Close)
	return n
}

// sysctl sets "path=value" below /proc/sys/net, of the calling thread's namespace.
func sysctl(setting string) error {
	path, value, _ := strings.Cut(setting, "=")
	return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
}

// enter runs f on a thread in the namespace; sockets f makes stay there.
func (n *node) enter(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", n.name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (n *node) in(t *testing.T, f func() error) {
	t.Helper()
	if err := n.enter(f); err != nil {
		t.Fatalf("in %s: %v", n.name, err)
	}
}

// command is a foreign program in the namespace.
func (n *node) command(name string, args ...string) *exec.Cmd {
	path := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.fd)
	return exec.Command("nsenter", append([]string{path, name}, args...)...)
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
	l := &lab{profile: p, fw: newNode(t, "firewall"), hosts: map[netip.Addr]*node{}, wires: map[string]*node{},
		routers: map[string]*node{}, own: map[string]netip.Prefix{}}
	l.fw.in(t, func() error {
		return errors.Join(sysctl("ipv4/ip_forward=1"), sysctl("ipv6/conf/all/forwarding=1"))
	})
	for i := range p.Links {
		l.addLink(t, &p.Links[i])
	}
	for _, probe := range filter.Probes(p) {
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
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br"
	must(t, wire.link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	must(t, wire.link.LinkSetUp(byName(t, wire, "br")))
	dev := l.plug(t, l.fw, link.Name, wire)
	if link.MTU != 0 {
		must(t, l.fw.link.LinkSetMTU(dev, link.MTU))
	}
	addresses, gateways := link.Addresses, link.Gateways
	if link.DHCP {
		addresses, gateways = append(addresses, lease), append(gateways, profiles.Gateway{Addr: leaseGateway})
	}
	for _, a := range addresses {
		addAddr(t, l.fw, dev, a)
		key := link.Name + version(a.Addr())
		if _, ok := l.own[key]; !ok {
			l.own[key] = a
		}
	}
	for _, g := range gateways {
		if l.routers[link.Name] == nil {
			l.routers[link.Name] = newNode(t, "router "+link.Name)
			l.plug(t, l.routers[link.Name], "eth0", wire)
			l.routers[link.Name].in(t, func() error {
				return errors.Join(sysctl("ipv4/ip_forward=1"), sysctl("ipv6/conf/all/forwarding=1"))
			})
			l.watch(t, l.routers[link.Name])
		}
		r := l.routers[link.Name]
		addAddr(t, r, byName(t, r, "eth0"), netip.PrefixFrom(g.Addr, l.own[link.Name+version(g.Addr)].Bits()))
		addRoute(t, l.fw, dev, everything(g.Addr), g.Addr, 0)
		// What the router's own hosts send goes by the firewall, even to the router's own subnet.
		addRoute(t, r, byName(t, r, "eth0"), everything(g.Addr), l.own[link.Name+version(g.Addr)].Addr(), farTable)
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
	if !own.Contains(a) {
		r := l.routers[link]
		if r == nil {
			t.Fatalf("a host %v behind link %s, which has no gateway", a, link)
		}
		addAddr(t, r, byName(t, r, "lo"), single(a))
		rule := netlink.NewRule()
		rule.Src, rule.Table = ipNet(single(a)), farTable
		rule.Family = family(a)
		must(t, r.link.RuleAdd(rule))
		l.hosts[a] = r
		return r
	}
	n := newNode(t, a.String())
	dev := l.plug(t, n, "eth0", l.wires[link])
	gateway := own.Addr()
	if l.isTarget(a) {
		addAddr(t, n, dev, netip.PrefixFrom(a, own.Bits()))
		for _, g := range l.link(link).Gateways {
			if version(g.Addr) == version(a) {
				gateway = g.Addr
			}
		}
	} else {
		addAddr(t, n, dev, single(a))
		addRoute(t, n, dev, single(gateway), netip.Addr{}, 0)
	}
	addRoute(t, n, dev, everything(a), gateway, 0)
	l.watch(t, n)
	l.hosts[a] = n
	return n
}

func (l *lab) isTarget(a netip.Addr) bool {
	for _, f := range l.profile.Forwards {
		if f.To == a {
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

// plug connects a node to a wire by a new device and returns it.
func (l *lab) plug(t *testing.T, n *node, dev string, wire *node) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = dev
	ports, err := wire.link.LinkList()
	must(t, err)
	peer := fmt.Sprintf("p%d", len(ports))
	must(t, n.link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(wire.fd)}))
	port := byName(t, wire, peer)
	must(t, wire.link.LinkSetMaster(port, byName(t, wire, "br")))
	must(t, wire.link.LinkSetUp(port))
	d := byName(t, n, dev)
	must(t, n.link.LinkSetUp(d))
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func byName(t *testing.T, n *node, name string) netlink.Link {
	t.Helper()
	link, err := n.link.LinkByName(name)
	if err != nil {
		t.Fatalf("%s: link %s: %v", n.name, name, err)
	}
	return link
}

func addAddr(t *testing.T, n *node, dev netlink.Link, a netip.Prefix) {
	t.Helper()
	addr := &netlink.Addr{IPNet: ipNet(a)}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := n.link.AddrAdd(dev, addr); err != nil {
		t.Fatalf("%s: address %v: %v", n.name, a, err)
	}
}

func addRoute(t *testing.T, n *node, dev netlink.Link, to netip.Prefix, via netip.Addr, table int) {
	t.Helper()
	r := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: ipNet(to), Table: table, Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Scope = via.AsSlice(), netlink.SCOPE_UNIVERSE
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := n.link.RouteAdd(r); err != nil {
		t.Fatalf("%s: route %v via %v: %v", n.name, to, via, err)
	}
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

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func everything(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.MustParsePrefix("::/0")
	}
	return netip.MustParsePrefix("0.0.0.0/0")
}

func ipNet(p netip.Prefix) *stdnet.IPNet {
	return &stdnet.IPNet{IP: p.Addr().AsSlice(), Mask: stdnet.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
