package link

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/hardware"
	"rempart/firstboot/link/slaac"
)

// advertised are the clients of routers' advertisements: one for each link that the profile lets configure itself and
// that is there.
type advertised struct {
	*uplinks
	news    chan advertChange
	running map[string]*listener // by link
	states  map[string]slaac.State
}

type listener struct {
	nic    NIC
	cancel context.CancelFunc
	ready  chan netip.Addr // holds the last value not yet read
}

// advertChange is news from a client.
type advertChange struct {
	link  string
	state slaac.State
}

func newAdvertised(u *uplinks) *advertised {
	a := &advertised{uplinks: u, news: make(chan advertChange), running: map[string]*listener{},
		states: map[string]slaac.State{}}
	for _, l := range u.env.Profile.Links {
		if !l.Auto {
			continue
		}
		// What the run before this one heard holds from the first look on, so that it finds nothing to change.
		var k keptAdvert
		err := loadKept(a.file(l.Name), &k)
		if err == nil && k.Link != l.Name {
			err = errors.New("it is for link " + k.Link)
		}
		if err == nil {
			err = k.State.Check(u.now())
		}
		if err == nil {
			a.states[l.Name] = k.State
		} else if !errors.Is(err, fs.ErrNotExist) {
			u.env.Log.Warn("ignored a kept advertisement", "link", l.Name, "error", err)
		}
	}
	u.adverts = a.current
	u.writeResolv()
	return a
}

// keptAdvert is a state in a file, which /run forgets at the next boot, as CLOCK_BOOTTIME does its times.
type keptAdvert struct {
	Link  string      `json:"link"`
	State slaac.State `json:"state"`
}

func (a *advertised) file(link string) string {
	return a.path(filepath.Join(contract.LinkDir, link+".advert"))
}

// current is a copy of the states by link.
func (a *advertised) current() map[string]slaac.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]slaac.State, len(a.states))
	for name, s := range a.states {
		out[name] = s
	}
	return out
}

// take notes news from a client.
func (a *advertised) take(c advertChange) {
	a.mu.Lock()
	before := a.states[c.link]
	a.states[c.link] = c.state
	a.mu.Unlock()
	// Nothing is taken from a stranger silently: what is new is said once.
	for _, r := range c.state.Routers {
		if !slices.ContainsFunc(before.Routers, func(o slaac.Router) bool { return o.Addr == r.Addr }) {
			a.env.Log.Info("default router", "link", c.link, "router", r.Addr)
		}
	}
	for _, p := range c.state.Prefixes {
		if !slices.ContainsFunc(before.Prefixes, func(o slaac.Prefix) bool { return o.Prefix == p.Prefix }) {
			a.env.Log.Info("advertised prefix", "link", c.link, "prefix", p.Prefix)
		}
	}
	if err := keepFile(a.file(c.link), keptAdvert{c.link, c.state}); err != nil {
		a.env.Log.Warn("what routers advertised will not be known to the next run", "link", c.link, "error", err)
	}
	a.writeResolv()
}

// insideOf are the subnets that an advertisement on the link called name must not touch: those of all other links, and
// what the profile routes by them. Subnets of what was delegated by the link called giver do not count: they are in
// what it is to extend.
func (a *advertised) insideOf(name, giver string) []netip.Prefix {
	var out []netip.Prefix
	for _, l := range a.env.Profile.Links {
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
	for link, s := range a.current() {
		for _, p := range s.Prefixes {
			if link != name {
				out = append(out, p.Prefix)
			}
		}
	}
	for from, s := range a.given6() {
		if from == giver {
			continue
		}
		for _, p := range s.Prefixes {
			for _, l := range a.env.Profile.Links {
				for _, d := range l.Delegated {
					if subnet, ok := d.Of(p.Prefix); ok && l.Name != name {
						out = append(out, subnet.Masked())
					}
				}
			}
		}
	}
	return slices.DeleteFunc(out, func(p netip.Prefix) bool { return p.Addr().Is4() })
}

// follow starts and stops clients so that just the links that are there have one, and tells them what they send from.
func (a *advertised) follow(ctx context.Context, plan Plan, assigned []Assignment, have []Interface,
	poke chan<- struct{}) {
	present := map[string]bool{}
	for _, as := range assigned {
		l := plan.Links[as.Link]
		at := slices.IndexFunc(have, func(h Interface) bool { return h.Index == as.NIC.Index })
		if !l.Auto || at < 0 || have[at].Name != l.Name {
			continue
		}
		present[l.Name] = true
		c := a.running[l.Name]
		if c != nil && (c.nic.Index != as.NIC.Index || c.nic.MAC != as.NIC.MAC) {
			c.cancel()
			c = nil
		}
		if c == nil {
			c = a.start(ctx, l, as.NIC, poke)
			a.running[l.Name] = c
		}
		select { // only the newest value matters
		case <-c.ready:
		default:
		}
		c.ready <- speaker(have[at])
	}
	for name, c := range a.running {
		if !present[name] {
			c.cancel()
			delete(a.running, name)
		}
	}
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

func (a *advertised) start(ctx context.Context, l Link, nic NIC, poke chan<- struct{}) *listener {
	ctx, cancel := context.WithCancel(ctx)
	c := &listener{nic: nic, cancel: cancel, ready: make(chan netip.Addr, 1)}
	mac, _ := net.ParseMAC(nic.MAC) // it came from the kernel; the client checks its length
	cfg := slaac.Config{
		Index:    nic.Index,
		Name:     l.Name,
		MAC:      mac,
		Ready:    c.ready,
		Inside:   func() []netip.Prefix { return a.insideOf(l.Name, "") },
		Routers:  l.Accept.Routers,
		Prefixes: l.Accept.Prefixes,
		Changed: func(s slaac.State) {
			select {
			case a.news <- advertChange{l.Name, s}:
			case <-ctx.Done():
			}
		},
		Log: a.env.Log,
	}
	a.done.Go(func() {
		for ctx.Err() == nil {
			cfg.Restored = nil
			if s, ok := a.current()[l.Name]; ok {
				cfg.Restored = &s
			}
			if err := slaac.Run(ctx, cfg); err != nil {
				a.env.Log.Warn("the client of router advertisements ended and is started again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(restartPause):
			}
			select { // so that the next one is told of its address
			case poke <- struct{}{}:
			default:
			}
		}
	})
	return c
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
