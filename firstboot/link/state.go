package link

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/link/dhcp4"
	"rempart/firstboot/link/dhcp6"
	"rempart/firstboot/link/slaac"
	"rempart/profiles"
)

// Interface is one network interface, as the kernel has it or as it is wanted.
type Interface struct {
	Index     int
	Name      string
	Claim     string // the link it was given to; kept in ifalias
	MTU       int    // wanted: 0 means any
	Up        bool   // administratively
	Running   bool   // has carrier; only observed
	Flaps     uint32 // how often the carrier came or went; only observed
	Addresses []Address
	Routes    []Route // of every table but the kernel's local one
	// Sysctls: wanted, in the order to be written. Observed: see Values.
	Sysctls []Sysctl
	// Values of the wanted sysctls by their Path; missing files are missing here. Only observed.
	Values map[string]string
	// Kept: addresses and routes are nobody's business here (lo, interfaces the profile does not name).
	Kept bool

	Device  Device
	Parent  int    // ifindex of what it is made on; only observed
	Master  int    // ifindex of its bond or bridge; 0: none
	Primary int    // of a bond: ifindex of the member it prefers, once that is one; 0: none
	MAC     string // the hardware address it uses; wanted: empty means any
	TxQueue int    // wanted: 0 means any
	NoARP   bool
	// Offloads: wanted, those that matter.
	Offloads map[Offload]bool
	Bridging *Bridging // of a bridge; observed: nil where it cannot be read
	VLANs    []VLANs   // of a bridge or a port of one; normal
	Tunnel   *Tunnel   // of WireGuard; wanted: nil means any, observed: nil where it cannot be read
	// FullDuplex: wanted of members of bonds that speak LACP, which passes over a NIC of unknown duplex.
	FullDuplex bool
	// Enslaves: its master is a bond, which takes it only while it is down. Only wanted.
	Enslaves bool
}

// Address is an address on an interface.
type Address struct {
	Prefix netip.Prefix
	// Valid is how long it stays, from now; 0: for ever.
	Valid time.Duration
	// Preferred is how long new connections use it; it counts only with Valid.
	Preferred time.Duration
	// Tentative: the kernel still asks whether somebody else has it (RFC 4862 5.4). Only observed.
	Tentative bool
	// Duplicate: somebody else has it. Only observed.
	Duplicate bool
}

// Protocol says who made a route (rtm_protocol, rtnetlink(7)).
type Protocol uint8

// The protocols, from linux/rtnetlink.h.
const (
	ProtocolKernel Protocol = 2
	ProtocolStatic Protocol = 4
	ProtocolRA     Protocol = 9
	ProtocolDHCP   Protocol = 16
)

// Route is a unicast route by one interface, or one that leads nowhere.
type Route struct {
	Dst      netip.Prefix
	Table    uint32             // 0: the main table
	Dead     profiles.RouteType // set for a route that leads nowhere
	Gateway  netip.Addr         // zero: directly on the link
	OnLink   bool               // the gateway is on the link although in no subnet of it
	Source   netip.Addr         // preferred source; zero: the kernel's choice
	Metric   uint32
	Protocol Protocol
	// Multipath: one of several ways to Dst. Never wanted; only observed.
	Multipath bool
}

// slot is what the kernel allows only one route for.
type slot struct {
	dst           netip.Prefix
	table, metric uint32
}

func (r Route) slot() slot { return slot{r.Dst, r.Table, r.Metric} }

// Learnt is what others say of links, by link.
type Learnt struct {
	Leases  map[string]dhcp4.Lease
	Adverts map[string]slaac.State
	Given6  map[string]dhcp6.State // prefixes and addresses by DHCPv6
	Ways    []downstream.Way       // to what is delegated to routers behind
}

// Want is how the assigned interfaces shall be: the plan, and what was learnt. NICs of spare are closed. It is pure;
// now is the clock of what was learnt.
func Want(plan Plan, assigned []Assignment, spare []NIC, learnt Learnt, now time.Duration) []Interface {
	var want []Interface
	index := map[string]int{}
	var delegated dhcp6.State
	for _, a := range assigned {
		l := plan.Links[a.Link]
		index[l.Name] = a.NIC.Index
		if s := learnt.Given6[l.Name]; l.Delegation != nil && s.MAC == a.NIC.MAC {
			delegated = s
		}
	}
	for _, a := range assigned {
		l := plan.Links[a.Link]
		w := Interface{
			Index:   a.NIC.Index,
			Name:    l.Name,
			Claim:   l.Name,
			MTU:     l.MTU,
			Up:      true,
			Routes:  slices.Clone(l.Routes),
			Sysctls: l.Sysctls,

			Device:   l.Device,
			Master:   index[l.Master],
			Primary:  index[l.Primary],
			MAC:      l.Own,
			TxQueue:  l.TxQueue,
			NoARP:    l.NoARP,
			Offloads: l.Offloads,
			VLANs:    l.VLANs,

			FullDuplex: l.LACP,
		}
		if l.Master != "" {
			// Down until its bond or bridge is there: it has nothing to say by itself.
			w.Up = w.Master != 0
			w.Enslaves = slices.ContainsFunc(plan.Links, func(m Link) bool {
				return m.Name == l.Master && m.Device.Kind == KindBond
			})
			if w.Enslaves {
				w.MAC = "" // the bond's
			}
		}
		if l.Device.Kind == KindBridge {
			w.Bridging = &Bridging{VLANs: l.Filters}
		}
		for _, p := range l.Addresses {
			w.Addresses = append(w.Addresses, Address{Prefix: p})
		}
		if lease, ok := learnt.Leases[l.Name]; ok && lease.MAC == a.NIC.MAC && lease.Expires > now {
			w.lease(lease, l, uint32(a.Link), now)
		}
		if s, ok := learnt.Adverts[l.Name]; ok && l.Auto && s.MAC == a.NIC.MAC {
			if mac, err := net.ParseMAC(a.NIC.MAC); err == nil && len(mac) == macLen {
				w.advertised(s, mac, l, uint32(a.Link), now)
			}
		}
		if s := learnt.Given6[l.Name]; l.DHCP6 && s.MAC == a.NIC.MAC {
			w.given6(s, now)
		}
		w.delegated(l.Delegated, delegated, now)
		w.downstream(learnt.Ways, delegated, now)
		want = append(want, w)
	}
	for _, n := range spare {
		want = append(want, Interface{Index: n.Index, Name: n.Name, Sysctls: spareSysctls()})
	}
	return want
}

// lease adds what DHCP gave. The address carries the lease's end, so that it goes even when this program is dead;
// the routes name the address as their source, so that the kernel removes them together.
func (w *Interface) lease(lease dhcp4.Lease, l Link, place uint32, now time.Duration) {
	w.Addresses = append(w.Addresses, Address{Prefix: lease.Address, Valid: lease.Expires - now,
		Preferred: lease.Expires - now})
	for _, r := range lease.Routes {
		if r.Dst.Bits() == 0 && l.Accept.NoDefault {
			continue
		}
		w.Routes = append(w.Routes, Route{
			Dst:      r.Dst,
			Gateway:  r.Gateway,
			OnLink:   r.Gateway.IsValid() && !lease.Address.Contains(r.Gateway),
			Source:   lease.Address.Addr(),
			Metric:   cmp.Or(l.Accept.Metric, metricDHCP+place),
			Protocol: ProtocolDHCP,
		})
	}
	if w.MTU == 0 && lease.MTU != 0 && (lease.MTU >= minMTUIPv6 || !anyIPv6(l.Addresses)) {
		w.MTU = lease.MTU
	}
}

// minMTUIPv6 is the smallest MTU a link may have that carries IPv6 (RFC 8200 section 5). Below it Linux takes IPv6
// off the link.
const minMTUIPv6 = 1280

func anyIPv6(list []netip.Prefix) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Addr().Is6() })
}
