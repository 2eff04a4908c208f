// Package link brings the guest's interfaces to the state the profile declares and keeps them there: names, MTU,
// addresses, routes, the kernel's network switches, and the DHCPv4 and IPv6 autoconfiguration clients of
// uplinks.
//
// It works in three steps, each a function from value to value but the last: Compile turns a profile into a Plan,
// Match says which NIC is which link, Changes compares what the kernel has with what is wanted, and only the
// differences are told to the kernel. So applying twice changes nothing, a child that was killed carries on without
// a lost packet, and what somebody else changes is changed back.
//
// It is a child of PID 1 and starts when the policy is loaded: until then every link stays down.
//
// What it deliberately does not do: filter packets (package filter), answer DHCP (package dhcp), load drivers (PID 1
// does), touch interfaces that are no NICs and that the profile does not name (a bridge of containers, say), or keep
// the secrets of tunnels (the identity does).
package link

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"rempart/firstboot/contract/hardware"
	"rempart/profiles"
)

// Plan is everything Compile found in a profile about links.
type Plan struct {
	HostName string   // what DHCP servers are told (option 12)
	Links    []Link   // in the order of the profile, which is the bus order of NICs without a MAC
	Sysctls  []Sysctl // of the whole machine, in the order to be written, before any link is up
	Routing  Routing
}

// Link is one wanted interface.
type Link struct {
	Name     string
	MAC      string // lower case with colons: which NIC it is, or what it is made with; empty: the next free NIC
	Match    profiles.NICMatch
	Derived  string // of a NIC: the MAC derived from the names of the guest and the link
	MTU      int    // bytes; 0: leave the NIC's own (or what DHCP says)
	DHCP     bool   // ask for an IPv4 address
	ClientID string // what DHCP servers know the link by; empty: its hardware address
	Auto     bool   // listen to router advertisements
	DHCP6    bool   // ask for an IPv6 address
	Accept   profiles.Believed
	// Delegation: ask for a prefix; Delegated are the addresses in it.
	Delegation *profiles.Delegation
	Delegated  []profiles.Delegated
	Downstream netip.Prefix // of the guest's own, what routers behind are delegated; zero: nothing
	Addresses  []netip.Prefix
	Routes     []Route
	Sysctls    []Sysctl // of this link, in the order to be written, before it is up

	Device   Device   // what this program makes it as; zero: a NIC
	Parent   string   // the link a VLAN or macvlan is on
	Master   string   // the bond or bridge it is a member of
	Members  []string // of a bond or bridge
	Own      string   // hardware address it uses, whatever it came with; empty: any
	TxQueue  int      // packets; 0: any
	NoARP    bool
	Offloads map[Offload]bool // those that matter
	Primary  string           // of a bond: the member it prefers
	LACP     bool             // a member of a bond that speaks LACP
	Filters  bool             // a bridge that looks at VLANs
	VLANs    []VLANs          // of a bridge that does, or of a port of one
	Tunnel   *TunnelPlan      // of WireGuard
	Lacking  string           // what its profile leaves to the guest's identity disk, which has not got it
	Closed   string           // why it must not be there for now; empty: it may
}

// Metrics of default routes. They are explicit in both families, because the kernel turns an IPv6 metric of 0 into
// 1024 (IP6_RT_PRIO_USER) and because two gateways of one family must differ in metric. Declared gateways come
// before learnt ones, earlier lines of the profile before later ones.
const (
	metricStatic = 100
	metricDHCP   = 512
)

// Compile is the plan of a checked profile. It is pure.
func Compile(p *profiles.Profile) Plan {
	plan := Plan{HostName: p.Name, Sysctls: machineSysctls(p), Routing: routing(p)}
	loose := ways(p) > 1 || policyRouted(p)
	gateways := 0
	derived := derivedMACs(p)
	for _, pl := range p.Links {
		l := Link{
			Name:      pl.Name,
			MAC:       strings.ToLower(strings.ReplaceAll(pl.MAC, "-", ":")),
			Match:     pl.Match,
			Derived:   derived[pl.Name],
			MTU:       pl.MTU,
			DHCP:      pl.DHCP,
			Auto:      pl.Auto,
			DHCP6:     pl.DHCP6,
			Accept:    pl.Accept,
			ClientID:  pl.ClientID,
			Addresses: append([]netip.Prefix(nil), pl.Addresses...),
			Device:    device(pl),

			Delegation: pl.Delegation,
			Delegated:  pl.Delegated,
			Parent:     pl.Parent(),
			Members:    pl.Members(),
			Own:        pl.VirtualMAC,
			TxQueue:    pl.TxQueue,
			NoARP:      pl.NoARP || pl.Dummy || pl.WireGuard != nil, // the last two never have it
			Offloads:   wantedOffloads(pl.Offloads),
		}
		if d := p.DHCP6Of(pl.Name); d != nil && d.Delegate != nil && !d.Delegate.Delegated {
			l.Downstream = d.Delegate.Prefix
		}
		if master := p.MasterOf(pl.Name); master != nil {
			l.Master = master.Name
			l.MTU = cmp.Or(master.MTU, pl.MTU)
			l.LACP = master.Bond != nil && master.Bond.Mode == profiles.BondLACP
			l.VLANs = portVLANs(p, master, l.Name)
		}
		if pl.Bond != nil {
			l.Primary = pl.Bond.Primary
		}
		if pl.Bridge != nil {
			l.Filters, l.VLANs = len(pl.Bridge.Ports) > 0, portVLANs(p, &pl, pl.Name)
		}
		if pl.Instance && len(pl.Addresses) == 0 {
			l.Lacking = "an address (--address " + pl.Name + "=ADDRESS/LENGTH)"
		} else if pl.InstanceGateway && len(pl.Gateways) == 0 {
			l.Lacking = "a gateway (--gateway " + pl.Name + "=ADDRESS)"
		}
		if l.Tunnel = tunnelPlan(pl.WireGuard); l.Tunnel != nil {
			l.MTU = p.EffectiveMTU(&pl)
		}
		if l.Device.Kind != "" && l.Device.Kind != KindVLAN {
			l.Own = l.MAC
		}
		for _, g := range pl.Gateways {
			gateway := g.Addr.Unmap().WithZone("")
			l.Routes = append(l.Routes, Route{
				Dst:      netip.PrefixFrom(unspecified(gateway), 0),
				Gateway:  gateway,
				OnLink:   g.OnLink,
				Metric:   cmp.Or(g.Metric, metricStatic+uint32(gateways)),
				Protocol: ProtocolStatic,
			})
			gateways++
		}
		for _, r := range pl.Routes {
			l.Routes = append(l.Routes, staticRoute(r))
		}
		l.Sysctls = linkSysctls(hasIPv6(pl), loose)
		if l.Tunnel != nil {
			l.Sysctls = slices.Clone(l.Sysctls)
			tunnelSysctls(l.Sysctls)
		}
		plan.Links = append(plan.Links, l)
	}
	plan.Routing.Dead = append(plan.Routing.Dead, withoutLink(plan.Links, plan.Routing.Dead)...)
	return plan
}

// derivedMACs are the MACs that rempart gives the NICs of a guest with the profile's name, by link.
func derivedMACs(p *profiles.Profile) map[string]string {
	var names []string
	for _, l := range p.NICs() {
		names = append(names, l.Name)
	}
	out := map[string]string{}
	for i, mac := range hardware.MACs(p.Name, names) {
		out[names[i]] = mac.String()
	}
	return out
}

// ways counts the links an IPv4 default route may lead out by.
func ways(p *profiles.Profile) int {
	n := 0
	for _, l := range p.Links {
		out := l.DHCP && !l.Accept.NoDefault
		for _, g := range l.Gateways {
			out = out || g.Addr.Unmap().Is4()
		}
		if out {
			n++
		}
	}
	return n
}

func hasIPv6(l profiles.Link) bool {
	if l.Learns6() {
		return true
	}
	for _, a := range l.Addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
