package link

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"rempart/firstboot/contract/hardware"
	"rempart/firstboot/link/slaac"
)

// slaac is the protocol by which links that configure themselves learn from routers.
func (u *uplinks) slaac() protocol[slaac.State, netip.Addr] {
	return protocol[slaac.State, netip.Addr]{
		name: "router advertisement", what: "advertisement", suffix: ".advert",
		asks:  func(l Link) bool { return l.Auto },
		check: slaac.State.Check,
		tell:  speaker,
		run: func(ctx context.Context, l Link, on wire[netip.Addr], restored *slaac.State,
			changed func(*slaac.State)) error {
			return slaac.Run(ctx, slaac.Config{
				Index:    on.index,
				Name:     l.Name,
				MAC:      on.mac,
				Ready:    on.told,
				Restored: restored,
				Inside:   func() []netip.Prefix { return u.inside6(l.Name, "") },
				Routers:  l.Accept.Routers,
				Prefixes: l.Accept.Prefixes,
				Changed:  func(s slaac.State) { changed(&s) },
				Log:      u.env.Log,
			})
		},
		take: u.heard,
	}
}

// heard says what is new: nothing is taken from a stranger silently.
func (u *uplinks) heard(link string, before, now slaac.State) {
	for _, r := range now.Routers {
		if !slices.ContainsFunc(before.Routers, func(o slaac.Router) bool { return o.Addr == r.Addr }) {
			u.env.Log.Info("default router", "link", link, "router", r.Addr)
		}
	}
	for _, p := range now.Prefixes {
		if !slices.ContainsFunc(before.Prefixes, func(o slaac.Prefix) bool { return o.Prefix == p.Prefix }) {
			u.env.Log.Info("advertised prefix", "link", link, "prefix", p.Prefix)
		}
	}
	u.writeResolv()
}

// inside6 are the subnets that an advertisement on the link called name must not touch: those of all other links, what
// the profile routes by them, and what routers inside are delegated. Subnets of what was delegated by the link called
// giver do not count: they are in what it is to extend.
func (u *uplinks) inside6(name, giver string) []netip.Prefix {
	var out []netip.Prefix
	for _, l := range u.env.Profile.Links {
		if l.Name == name {
			continue
		}
		for _, p := range l.Addresses {
			out = append(out, p.Masked())
		}
		for _, r := range l.Routes {
			if r.To.Bits() > 0 {
				out = append(out, r.To)
			}
		}
	}
	for _, l := range u.plan.Links {
		if l.Downstream.IsValid() {
			out = append(out, l.Downstream)
		}
	}
	for link, s := range u.adverts.current() {
		for _, p := range s.Prefixes {
			if link != name {
				out = append(out, p.Prefix)
			}
		}
	}
	for from, s := range u.given6.current() {
		if from == giver {
			continue
		}
		for _, p := range s.Prefixes {
			for _, l := range u.env.Profile.Links {
				for _, d := range l.Delegated {
					if subnet, ok := d.Of(p.Prefix); ok && l.Name != name {
						out = append(out, subnet.Masked())
					}
				}
			}
			for _, d := range u.env.Profile.DHCP6 {
				if d.Delegate == nil || !d.Delegate.Delegated {
					continue
				}
				if part, ok := d.Delegate.In(p.Prefix); ok {
					out = append(out, part)
				}
			}
		}
	}
	return slices.DeleteFunc(out, func(p netip.Prefix) bool { return p.Addr().Is4() })
}

// speaker is the link-local address that an interface can send from; zero: none yet. The kernel announces the end of
// its duplicate detection, which leads here again.
func speaker(h Interface) netip.Addr {
	for _, a := range h.Addresses {
		if ip := a.Prefix.Addr(); h.Up && h.Running && ip.Is6() && ip.IsLinkLocalUnicast() && !a.Tentative && !a.Duplicate {
			return ip
		}
	}
	return netip.Addr{}
}

// Metrics of advertised routes: behind those of DHCP, which has no IPv6, and of the profile. Each link has room for as
// many routers as are believed.
const (
	metricRA       = 1024 // as the kernel's own client: IP6_RT_PRIO_USER
	metricsPerLink = 8
	metricOnLink   = 256 // as the kernel's own prefix routes: IP6_RT_PRIO_ADDRCONF
)

// advertised adds what routers said. Addresses carry their lifetimes, so that they go even when this program is dead.
func (w *Interface) advertised(s slaac.State, mac net.HardwareAddr, l Link, place uint32, now time.Duration) {
	for _, p := range s.Prefixes {
		if p.Valid <= now {
			continue
		}
		if p.Auto {
			a := Address{Prefix: netip.PrefixFrom(hardware.Address(p.Prefix, mac), p.Prefix.Bits()), Valid: p.Valid - now,
				Preferred: max(p.Preferred-now, 0)}
			if !p.OnLink {
				a.Prefix = netip.PrefixFrom(a.Prefix.Addr(), a.Prefix.Addr().BitLen())
			}
			if !slices.ContainsFunc(w.Addresses, func(o Address) bool { return o.Prefix.Addr() == a.Prefix.Addr() }) {
				w.Addresses = append(w.Addresses, a)
			}
		} else {
			w.Routes = append(w.Routes, Route{Dst: p.Prefix, Metric: metricOnLink, Protocol: ProtocolRA})
		}
	}
	metric := cmp.Or(l.Accept.Metric, metricRA+place*metricsPerLink)
	for i, r := range s.Routers {
		if r.Until > now && !l.Accept.NoDefault {
			w.Routes = append(w.Routes, Route{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Gateway: r.Addr,
				Metric: metric + uint32(i), Protocol: ProtocolRA})
		}
	}
}

// mtu6 wants the MTU that routers advertise for IPv6, and without one that of the link: the kernel keeps the two apart,
// and IPv4 has nothing to do with it.
func mtu6(want, have []Interface, plan Plan, states map[string]slaac.State) {
	for i := range want {
		w := &want[i]
		at := slices.IndexFunc(plan.Links, func(l Link) bool { return l.Name == w.Claim })
		now := slices.IndexFunc(have, func(h Interface) bool { return h.Index == w.Index })
		if w.Claim == "" || at < 0 || now < 0 || !plan.Links[at].Auto {
			continue
		}
		mtu := have[now].MTU
		if w.MTU != 0 {
			mtu = w.MTU
		}
		if said := states[w.Claim].MTU; said != 0 && states[w.Claim].MAC == have[now].MAC {
			mtu = min(mtu, said)
		}
		if mtu >= minMTUIPv6 {
			w.Sysctls = append(slices.Clip(w.Sysctls), Sysctl{"net/ipv6/conf/" + anyLink + "/mtu", strconv.Itoa(mtu),
				"what the routers of the link can carry", true})
		}
	}
}

// autoFault says what a link that configures itself lacks; empty: nothing.
func autoFault(auto, dhcp6 bool, s slaac.State, addresses []string) string {
	if !auto {
		return ""
	}
	if slices.ContainsFunc(addresses, func(a string) bool {
		p, err := netip.ParsePrefix(a)
		return err == nil && slices.ContainsFunc(s.Prefixes, func(o slaac.Prefix) bool {
			return o.Auto && o.Prefix.Contains(p.Addr())
		})
	}) {
		return ""
	}
	switch {
	case slices.ContainsFunc(s.Prefixes, func(p slaac.Prefix) bool { return p.Auto }):
		return "an advertised address is not on it yet"
	case s.Managed && dhcp6:
		return "" // told of beside
	case s.Managed:
		return "its router gives addresses by DHCPv6 only; add dhcp6 to its address"
	case len(s.Routers) > 0:
		return "its router advertises no prefix to make an address in"
	}
	return "no router advertisement yet"
}
