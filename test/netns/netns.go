// Package netns is a network on one machine for tests: nodes, each a network namespace of its own, and the Ethernet
// between them. A test binary that uses it starts itself again in new namespaces first, so nothing a test does can
// reach the machine's own network.
//
// What it deliberately does not do: filter or judge packets, or know what a firewall is. Tests do.
package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Node is a host, a router, or a piece of wire: one network namespace.
type Node struct {
	Name string
	Link *netlink.Handle
	fd   int
}

// quiet are the switches of every node: it says nothing by itself and believes nothing it was not told, so that the
// packets a test sees are those it asked for; and it answers each of them, however many.
var quiet = []string{
	"ipv6/conf/default/accept_dad=0", "ipv6/conf/default/accept_ra=0",
	"ipv6/conf/all/accept_redirects=0", "ipv6/conf/default/accept_redirects=0",
	"ipv4/conf/all/accept_redirects=0", "ipv4/conf/default/accept_redirects=0",
	"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
	"ipv4/conf/all/send_redirects=0", "ipv4/conf/default/send_redirects=0",
	"ipv4/icmp_ratelimit=0", "ipv6/icmp/ratelimit=0",
}

// NewNode makes an empty namespace with lo up. It is gone at the end of the test.
func NewNode(tb testing.TB, name string) *Node {
	tb.Helper()
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
		fd, err := ownNamespace()
		made <- result{fd, err}
	}()
	r := <-made
	if r.err != nil {
		tb.Fatalf("make namespace %s: %v", name, r.err)
	}
	return furnish(tb, &Node{Name: name, fd: r.fd})
}

// Here is the namespace that the test itself runs in.
func Here(tb testing.TB, name string) *Node {
	tb.Helper()
	fd, err := ownNamespace()
	if err != nil {
		tb.Fatal(err)
	}
	return furnish(tb, &Node{Name: name, fd: fd})
}

func ownNamespace() (fd int, err error) {
	return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

func furnish(tb testing.TB, n *Node) *Node {
	tb.Helper()
	tb.Cleanup(func() { _ = unix.Close(n.fd) })
	n.In(tb, func() error {
		for _, s := range quiet {
			if err := Sysctl(s); err != nil {
				return err
			}
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		n.Link = h
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	tb.Cleanup(n.Link.Close)
	return n
}

// Sysctl sets "path=value" below /proc/sys/net, of the calling thread's namespace.
func Sysctl(setting string) error {
	path, value, _ := strings.Cut(setting, "=")
	return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0)
}

// FD is the namespace, open as long as the test runs.
func (n *Node) FD() int { return n.fd }

// Enter runs f on a thread in the namespace; sockets f makes stay there.
func (n *Node) Enter(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", n.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// In is Enter that ends the test on an error.
func (n *Node) In(tb testing.TB, f func() error) {
	tb.Helper()
	if err := n.Enter(f); err != nil {
		tb.Fatalf("in %s: %v", n.Name, err)
	}
}

// Command is a foreign program in the namespace.
func (n *Node) Command(name string, args ...string) *exec.Cmd {
	path := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), n.fd)
	return exec.Command("nsenter", append([]string{path, name}, args...)...)
}

// Forward makes the node a router.
func (n *Node) Forward(tb testing.TB) {
	tb.Helper()
	n.In(tb, func() error {
		return errors.Join(Sysctl("ipv4/ip_forward=1"), Sysctl("ipv6/conf/all/forwarding=1"))
	})
}

// Must ends the test on an error.
func Must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Device is an interface of the node.
func (n *Node) Device(tb testing.TB, name string) netlink.Link {
	tb.Helper()
	link, err := n.Link.LinkByName(name)
	if err != nil {
		tb.Fatalf("%s: link %s: %v", n.Name, name, err)
	}
	return link
}

// Bridge makes a bridge without addresses: a switch, that says nothing itself.
func (n *Node) Bridge(tb testing.TB, name string) {
	tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snoop := false
	Must(tb, n.Link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}))
	n.silence(tb, name)
	Must(tb, n.Link.LinkSetUp(n.Device(tb, name)))
	tb.Cleanup(func() { _ = n.Link.LinkDel(&netlink.Bridge{LinkAttrs: attrs}) })
}

// silence keeps the kernel from speaking IPv6 on an interface that only passes frames on.
func (n *Node) silence(tb testing.TB, dev string) {
	tb.Helper()
	n.In(tb, func() error { return Sysctl("ipv6/conf/" + dev + "/disable_ipv6=1") })
}

// Tap makes a tap interface on a bridge of the node: a hypervisor's end of a guest's NIC. It is gone at the end of the
// test. The node must be Here: a tap belongs to the namespace of who makes it.
func (n *Node) Tap(tb testing.TB, name, bridge string) netlink.Link {
	tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}
	Must(tb, n.Link.LinkAdd(tap))
	tb.Cleanup(func() { _ = n.Link.LinkDel(tap) })
	n.silence(tb, name)
	dev := n.Device(tb, name)
	Must(tb, n.Link.LinkSetMaster(dev, n.Device(tb, bridge)))
	Must(tb, n.Link.LinkSetUp(dev))
	return dev
}

// Plug connects a node to a bridge of another by a new interface and returns it. The port's name is the kernel's
// choice: several tests plug into one node at a time.
func (n *Node) Plug(tb testing.TB, dev string, wire *Node, bridge string) netlink.Link {
	tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = dev
	Must(tb, n.Link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "p%d", PeerNamespace: netlink.NsFd(wire.fd)}))
	d := n.Device(tb, dev)
	port, err := wire.Link.LinkByIndex(d.Attrs().ParentIndex)
	Must(tb, err)
	peer := port.Attrs().Name
	wire.silence(tb, peer)
	Must(tb, wire.Link.LinkSetMaster(port, wire.Device(tb, bridge)))
	Must(tb, wire.Link.LinkSetUp(port))
	Must(tb, n.Link.LinkSetUp(d))
	wire.awaitUp(tb, peer)
	n.awaitUp(tb, dev)
	return d
}

// awaitUp waits until an interface passes frames. The kernel makes it so a moment after its other end is up, on a busy
// machine a second later; what is sent before is lost.
func (n *Node) awaitUp(tb testing.TB, name string) {
	tb.Helper()
	const bound, pause = 20 * time.Second, time.Millisecond
	for deadline := time.Now().Add(bound); n.Device(tb, name).Attrs().OperState != netlink.OperUp; time.Sleep(pause) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: link %s is not up after %v: %+v", n.Name, name, bound, n.Device(tb, name).Attrs())
		}
	}
}

// Join connects two nodes directly.
func (n *Node) Join(tb testing.TB, dev string, other *Node, otherDev string) (mine, theirs netlink.Link) {
	tb.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = dev
	Must(tb, n.Link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: otherDev,
		PeerNamespace: netlink.NsFd(other.fd)}))
	mine, theirs = n.Device(tb, dev), other.Device(tb, otherDev)
	Must(tb, n.Link.LinkSetUp(mine))
	Must(tb, other.Link.LinkSetUp(theirs))
	n.awaitUp(tb, dev)
	other.awaitUp(tb, otherDev)
	return mine, theirs
}

// Addr gives an interface an address, usable at once.
func (n *Node) Addr(tb testing.TB, dev netlink.Link, a netip.Prefix) {
	tb.Helper()
	addr := &netlink.Addr{IPNet: IPNet(a)}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := n.Link.AddrAdd(dev, addr); err != nil {
		tb.Fatalf("%s: address %v: %v", n.Name, a, err)
	}
}

// Route adds a route; without a gateway it is on the link itself. Table 0 is the main table.
func (n *Node) Route(tb testing.TB, dev netlink.Link, to netip.Prefix, via netip.Addr, table int) {
	tb.Helper()
	n.Metric(tb, dev, to, via, table, 0)
}

// Metric is Route with a metric; of several routes to one prefix the lowest is taken.
func (n *Node) Metric(tb testing.TB, dev netlink.Link, to netip.Prefix, via netip.Addr, table, metric int) {
	tb.Helper()
	r := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: IPNet(to), Table: table, Priority: metric,
		Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		r.Gw, r.Scope = via.AsSlice(), netlink.SCOPE_UNIVERSE
		r.SetFlag(netlink.FLAG_ONLINK)
	}
	if err := n.Link.RouteAdd(r); err != nil {
		tb.Fatalf("%s: route %v via %v: %v", n.Name, to, via, err)
	}
}

// Single is the prefix of one address.
func Single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Everything is the prefix of all addresses of a's family.
func Everything(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.MustParsePrefix("::/0")
	}
	return netip.MustParsePrefix("0.0.0.0/0")
}

// IPNet is p for package net.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
