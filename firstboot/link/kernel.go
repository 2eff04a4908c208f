package link

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// claimAlias is what a claim looks like in ifalias: the kernel keeps it as long as the NIC exists, also when this
// program is killed. Nobody without CAP_NET_ADMIN can write it.
const claimAlias = "rempart:"

// kernel is the network of the namespace this process is in.
type kernel struct {
	handle  *netlink.Handle
	generic *netlink.Handle // for WireGuard
	root    string          // where /proc and /sys are
}

func newKernel(root string) (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	generic, err := netlink.NewHandle(unix.NETLINK_GENERIC)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("opening generic netlink: %w", err)
	}
	return &kernel{handle: h, generic: generic, root: root}, nil
}

func (k *kernel) close() {
	k.handle.Close()
	k.generic.Close()
}

// dumpTries is how often a dump that changes under the reader's eyes is read again before the last answer is taken
// as it is; the change that disturbed it is announced by an event, which leads here again.
const dumpTries = 5

func dump[T any](read func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		list, err := read()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			if try < dumpTries {
				continue
			}
			err = nil
		}
		return list, err
	}
}

// look reads all interfaces with their addresses and routes, and the NICs among them.
func (k *kernel) look() ([]Interface, []NIC, error) {
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var all []Interface
	var nics []NIC
	place := map[int]int{} // ifindex to place in all
	for _, l := range links {
		a := l.Attrs()
		claim, _ := strings.CutPrefix(a.Alias, claimAlias)
		if !strings.HasPrefix(a.Alias, claimAlias) {
			claim = ""
		}
		place[a.Index] = len(all)
		all = append(all, Interface{
			Index:   a.Index,
			Name:    a.Name,
			Claim:   claim,
			MTU:     a.MTU,
			Up:      a.RawFlags&unix.IFF_UP != 0,
			Running: a.RawFlags&unix.IFF_LOWER_UP != 0,
			Kept:    a.RawFlags&unix.IFF_LOOPBACK != 0,
			Device:  deviceOf(l),
			Parent:  a.ParentIndex,
			Master:  a.MasterIndex,
			Primary: primaryOf(l),
			MAC:     a.HardwareAddr.String(),
			TxQueue: a.TxQLen,
			NoARP:   a.RawFlags&unix.IFF_NOARP != 0,
		})
		if a.RawFlags&unix.IFF_LOOPBACK == 0 && len(a.HardwareAddr) == macLen {
			n := NIC{Index: a.Index, Name: a.Name, MAC: permanent(a).String(), Own: a.HardwareAddr.String(), Claim: claim}
			n.Bus, n.Port = busOf(k.root, a.Name)
			n.Driver = driverOf(k.root, a.Name)
			nics = append(nics, n)
		}
	}
	if err := k.lookCarriers(all, place); err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(all, func(i Interface) bool { return i.Device.Kind == KindBridge }) {
		if err := k.lookVLANs(all, place); err != nil {
			return nil, nil, err
		}
	}
	if err := k.lookAddresses(all, place); err != nil {
		return nil, nil, err
	}
	if err := k.lookRoutes(all, place); err != nil {
		return nil, nil, err
	}
	return all, nics, nil
}

const macLen = 6 // bytes of an Ethernet address

func (k *kernel) lookAddresses(all []Interface, place map[int]int) error {
	list, err := dump(func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range list {
		p, ok := prefixOf(a.IPNet)
		i, known := place[a.LinkIndex]
		if !ok || !known {
			continue
		}
		if a.Peer != nil { // point to point: the length belongs to the peer; never wanted, so never equal
			p = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
		}
		addr := Address{
			Prefix:    p,
			Tentative: a.Flags&unix.IFA_F_TENTATIVE != 0,
			Duplicate: a.Flags&unix.IFA_F_DADFAILED != 0,
		}
		if uint32(a.ValidLft) != math.MaxUint32 { // INFINITY_LIFE_TIME
			addr.Valid = max(time.Duration(a.ValidLft)*time.Second, time.Second)
			addr.Preferred = addr.Valid
			if uint32(a.PreferedLft) != math.MaxUint32 {
				addr.Preferred = time.Duration(a.PreferedLft) * time.Second
			}
		}
		all[i].Addresses = append(all[i].Addresses, addr)
	}
	return nil
}

// prefixOf translates a net.IPNet. The family is that of the mask, since net.IP may hold IPv4 in 16 bytes.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), a.BitLen() == bits
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// readSysctls fills in the values of the wanted switches of interfaces, under the names they have now.
func (k *kernel) readSysctls(have, want []Interface) {
	for _, w := range want {
		for i := range have {
			if have[i].Index != w.Index {
				continue
			}
			if len(w.Offloads) > 0 {
				have[i].Offloads, _ = lookOffloads(have[i].Name) // what cannot be read is set, and fails there
			}
			if w.FullDuplex {
				have[i].FullDuplex = fullDuplex(have[i].Name)
			}
			if b, ok := k.lookBridging(have[i].Name); ok {
				have[i].Bridging = &b
			}
			if w.Tunnel != nil {
				have[i].Tunnel, _ = k.lookTunnel(w.Index) // as offloads
			}
			have[i].Values = map[string]string{}
			for _, s := range w.Sysctls {
				if v, err := k.readSysctl(s.For(have[i].Name)); err == nil {
					have[i].Values[s.Path] = v
				}
			}
		}
	}
}

func (k *kernel) sysctlFile(path string) string { return filepath.Join(k.root, "proc/sys", path) }

func (k *kernel) readSysctl(path string) (string, error) {
	b, err := os.ReadFile(k.sysctlFile(path))
	return strings.TrimSpace(string(b)), err
}

// setSysctl writes s for the link called name ("" for the machine's) unless it has its value. It reports whether it
// wrote.
func (k *kernel) setSysctl(s Sysctl, name string) (bool, error) {
	path := s.For(name)
	v, err := k.readSysctl(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && s.Optional:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("reading sysctl %s: %w", path, err)
	case v == s.Value:
		return false, nil
	}
	// No O_CREATE: below a root of a test a missing switch must be as missing as in /proc.
	f, err := os.OpenFile(k.sysctlFile(path), os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(s.Value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return false, fmt.Errorf("writing %s to sysctl %s (%s): %w", s.Value, path, s.Why, err)
	}
	return true, nil
}

// apply makes the changes one after another. A change that fails does not stop the others, except that a link on
// which a Closing change failed is left alone from there on. It returns the errors by ifindex.
func (k *kernel) apply(ctx context.Context, changes []Change) map[int]error {
	failed := map[int]error{}
	closed := map[int]bool{}
	for _, c := range changes {
		if closed[c.Index] || ctx.Err() != nil {
			continue
		}
		if err := k.do(c); err != nil {
			failed[c.Index] = errors.Join(failed[c.Index], fmt.Errorf("%s: %w", c, err))
			closed[c.Index] = c.Closing() && c.Index != 0
		}
	}
	return failed
}

func (k *kernel) do(c Change) error {
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: c.Index}}
	switch c.Kind {
	case SetDown:
		return k.handle.LinkSetDown(dev)
	case SetName:
		return k.handle.LinkSetName(dev, c.Name)
	case SetClaim:
		return k.handle.LinkSetAlias(dev, claimAlias+c.Name)
	case SetMTU:
		return k.handle.LinkSetMTU(dev, c.MTU)
	case SetSysctl:
		_, err := k.setSysctl(c.Sysctl, c.Link)
		return err
	case AddAddress:
		seconds := func(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
		return k.handle.AddrReplace(dev, &netlink.Addr{IPNet: ipNet(c.Address.Prefix),
			ValidLft: seconds(c.Address.Valid), PreferedLft: seconds(c.Address.Preferred)})
	case DeleteAddress:
		err := k.handle.AddrDel(dev, &netlink.Addr{IPNet: ipNet(c.Address.Prefix)})
		return unless(err, unix.EADDRNOTAVAIL) // it went by itself
	case CreateLink:
		return k.create(c)
	case DeleteLink:
		return unless(k.handle.LinkDel(dev), unix.ENODEV) // it went with what it was on
	case SetMAC:
		mac, err := net.ParseMAC(c.MAC)
		if err != nil {
			return err
		}
		return k.handle.LinkSetHardwareAddr(dev, mac)
	case SetMaster:
		return k.handle.LinkSetMasterByIndex(dev, c.Master)
	case SetTxQueue:
		return k.handle.LinkSetTxQLen(dev, c.Number)
	case SetARP:
		if c.Switch {
			return k.handle.LinkSetARPOn(dev)
		}
		return k.handle.LinkSetARPOff(dev)
	case SetOffload:
		return setOffload(c.Link, c.Offload, c.Switch)
	case SetFullDuplex:
		return setFullDuplex(c.Link)
	case SetPrimary:
		return tellKind(KindBond, c.Index, nl.IFLA_BOND_PRIMARY, nl.Uint32Attr(uint32(c.Master)))
	case SetBridging:
		have, _ := k.lookBridging(c.Link)
		return setBridging(c.Index, have, c.Bridging)
	case AddVLANs:
		return tellVLANs(unix.RTM_SETLINK, c.Index, c.Self, c.VLANs)
	case DeleteVLANs:
		return tellVLANs(unix.RTM_DELLINK, c.Index, c.Self, c.VLANs)
	case SetTunnel:
		return k.setTunnel(c.Index, c.Tunnel)
	case SetPeer:
		return k.setPeer(c.Index, c.Peer)
	case DeletePeer:
		return k.deletePeer(c.Index, c.Peer)
	case SetUp:
		return k.handle.LinkSetUp(dev)
	case AddRoute:
		return k.handle.RouteReplace(netlinkRoute(c.Index, c.Route))
	case DeleteRoute:
		return unless(k.handle.RouteDel(netlinkRoute(c.Index, c.Route)), unix.ESRCH) // it went with its address
	case AddRule:
		return unless(k.handle.RuleAdd(newRule(c.Rule)), unix.EEXIST)
	case DeleteRule:
		return unless(k.handle.RuleDel(netlinkRule(c.Rule)), unix.ENOENT)
	default:
		return fmt.Errorf("unknown change %d", c.Kind)
	}
}

func unless(err error, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

func netlinkRoute(index int, r Route) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: index,
		Dst:       ipNet(r.Dst),
		Gw:        r.Gateway.AsSlice(),
		Src:       r.Source.AsSlice(),
		Priority:  int(r.Metric),
		Protocol:  netlink.RouteProtocol(r.Protocol),
		Table:     int(r.Table),
		Type:      routeTypes[r.Dead],
	}
	if r.OnLink {
		out.Flags = unix.RTNH_F_ONLINK
	}
	if !r.Gateway.IsValid() && r.Dst.Addr().Is4() && r.Dead == "" {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.Multipath {
		out.LinkIndex, out.Scope = 0, netlink.SCOPE_NOWHERE // by destination and metric alone
	}
	return out
}
