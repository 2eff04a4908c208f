package link

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (k *kernel) lookRoutes(all []Interface, place map[int]int) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// RT_TABLE_UNSPEC: of every table.
		list, err := dump(func() ([]netlink.Route, error) {
			return k.handle.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
		for _, r := range list {
			if r.Type != unix.RTN_UNICAST || r.Table == unix.RT_TABLE_LOCAL {
				continue
			}
			route := routeOf(r, family)
			hops := []int{r.LinkIndex}
			for _, hop := range r.MultiPath {
				route.Multipath = true
				hops = append(hops, hop.LinkIndex)
			}
			for _, hop := range hops {
				if i, ok := place[hop]; ok {
					all[i].Routes = append(all[i].Routes, route)
					break // removing it once removes all its ways
				}
			}
		}
	}
	return nil
}

func routeOf(r netlink.Route, family int) Route {
	out := Route{
		Dst:      netip.PrefixFrom(netip.IPv4Unspecified(), 0),
		OnLink:   r.Flags&unix.RTNH_F_ONLINK != 0,
		Metric:   uint32(r.Priority),
		Protocol: Protocol(r.Protocol),
	}
	if r.Table != unix.RT_TABLE_MAIN {
		out.Table = uint32(r.Table)
	}
	if family == netlink.FAMILY_V6 {
		out.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if p, ok := prefixOf(r.Dst); ok {
		out.Dst = p
	}
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		out.Gateway = a.Unmap()
	}
	if a, ok := netip.AddrFromSlice(r.Src); ok {
		out.Source = a.Unmap()
	}
	return out
}
