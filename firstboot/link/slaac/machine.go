package slaac

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Times of solicitations: RFC 4861, section 10, and, so that a router that comes late or a lost packet does not leave
// the link without addresses until the next advertisement, the growing intervals of RFC 7559.
const (
	solicitInterval = 4 * time.Second
	solicitMax      = time.Hour
)

// machine is the client without sockets and clock: events in, actions out. Its methods are the events.
type machine struct {
	cfg      *Config
	random   *rand.Rand
	state    State
	told     State
	ready    bool
	heard    bool          // a router answered since the link was ready
	interval time.Duration // until the next solicitation, before jitter
	ask      time.Duration // when to solicit; 0: not
	out      []action
}

// action is what the machine wants done. Exactly one of its fields is set.
type action struct {
	solicit bool
	state   *State
	log     string
}

func (m *machine) do(a action) { m.out = append(m.out, a) }

func (m *machine) take() []action {
	out := m.out
	m.out = nil
	return out
}

// restore starts with what an earlier run of this program heard. What another NIC heard counts nothing.
func (m *machine) restore(now time.Duration, s State) {
	if s.MAC == m.cfg.MAC.String() {
		m.state = s
		m.tell(now)
	}
}

// up is told when packets can be sent from a link-local address: now, and again after a flap. What was learnt is kept,
// and asked for again, because it may be another network: routers that do not say a word come after those that do.
func (m *machine) up(now time.Duration) {
	if m.ready {
		return
	}
	m.ready, m.heard, m.interval, m.ask = true, false, solicitInterval, now
	for i := range m.state.Routers {
		m.state.Routers[i].Stale = true
	}
	m.timer(now)
}

func (m *machine) down() { m.ready, m.ask = false, 0 }

// next is when timer shall be called; 0: never.
func (m *machine) next(now time.Duration) time.Duration {
	end := m.state.next(now)
	if m.ask == 0 || end == 0 {
		return max(m.ask, end)
	}
	return min(m.ask, end)
}

// timer is told when next has come.
func (m *machine) timer(now time.Duration) {
	if m.ask != 0 && now >= m.ask && m.ready && !m.heard {
		m.do(action{solicit: true})
		// A tenth either way, RFC 7559, section 2.
		m.ask = now + m.interval*9/10 + time.Duration(m.random.Int64N(int64(m.interval/5)))
		m.interval = min(2*m.interval, solicitMax)
	}
	m.tell(now)
}

// tell says what holds, when that is news.
func (m *machine) tell(now time.Duration) {
	m.state = m.state.current(now)
	m.state.MAC = m.cfg.MAC.String()
	if m.state.news(m.told, now) || m.told.MAC == "" {
		s := m.state.current(now) // a copy
		m.told = s
		m.do(action{state: &s})
	}
}

func (m *machine) note(a advert, format string, args ...any) {
	m.do(action{log: fmt.Sprintf("router %s: ", a.from) + fmt.Sprintf(format, args...)})
}

// advert is told every advertisement that is one.
func (m *machine) advert(now time.Duration, a advert) {
	m.state = m.state.current(now)
	if len(m.cfg.Routers) > 0 && !slices.Contains(m.cfg.Routers, a.from) {
		m.note(a, "ignored, the profile names other routers")
		return
	}
	m.router(now, a)
	for _, p := range a.prefixes {
		m.prefix(now, a, p)
	}
	for _, d := range a.dns {
		m.server(now, a, d)
	}
	for _, d := range a.search {
		m.domain(now, d)
	}
	switch {
	case a.mtu >= minMTU && a.mtu <= maxMTU:
		m.state.MTU = int(a.mtu)
	case a.mtu != 0:
		m.note(a, "MTU %d is not between %d and %d", a.mtu, minMTU, maxMTU)
	}
	m.state.Managed = a.managed
	if a.lifetime > 0 && m.ready {
		m.heard, m.ask = true, 0
	}
	m.tell(now)
}

// router takes the sender as a default router, or takes it back when its lifetime is nothing.
func (m *machine) router(now time.Duration, a advert) {
	at := slices.IndexFunc(m.state.Routers, func(r Router) bool { return r.Addr == a.from })
	r := Router{Addr: a.from, Preference: a.preference, Until: now + a.lifetime}
	switch {
	case a.lifetime == 0 && at >= 0:
		m.state.Routers = slices.Delete(m.state.Routers, at, at+1)
	case a.lifetime == 0:
	case at >= 0:
		m.state.Routers[at] = r
	case len(m.state.Routers) == maxRouters && m.state.Routers[maxRouters-1].Stale:
		m.state.Routers[maxRouters-1] = r // one that no longer answers keeps nobody out
	case len(m.state.Routers) == maxRouters:
		m.note(a, "ignored as a default router, there are %d already", maxRouters)
	default:
		m.state.Routers = append(m.state.Routers, r)
	}
	slices.SortStableFunc(m.state.Routers, func(x, y Router) int {
		if x.Stale != y.Stale {
			if x.Stale {
				return 1
			}
			return -1
		}
		return cmp.Compare(y.Preference, x.Preference)
	})
}

// refuse tells why a prefix is not taken; empty: it is.
func (m *machine) refuse(p prefixInfo) string {
	if err := checkPrefix(p.prefix, p.auto); err != nil {
		return err.Error()
	}
	if p.preferred > p.valid {
		return "it is preferred for longer than it is valid"
	}
	for _, inside := range m.cfg.inside() {
		if inside.Overlaps(p.prefix) {
			return fmt.Sprintf("it overlaps %s of another link", inside)
		}
	}
	if len(m.cfg.Prefixes) > 0 && !slices.ContainsFunc(m.cfg.Prefixes, func(allowed netip.Prefix) bool {
		return allowed.Bits() <= p.prefix.Bits() && allowed.Contains(p.prefix.Addr())
	}) {
		return "it is in none that the profile allows"
	}
	return ""
}

// prefix follows RFC 4862, section 5.5.3.
func (m *machine) prefix(now time.Duration, a advert, p prefixInfo) {
	if !p.onLink && !p.auto || p.prefix.Addr().IsLinkLocalUnicast() {
		return
	}
	if why := m.refuse(p); why != "" {
		m.note(a, "prefix %s is not taken: %s", p.prefix, why)
		return
	}
	at := slices.IndexFunc(m.state.Prefixes, func(have Prefix) bool { return have.Prefix == p.prefix })
	taken := Prefix{p.prefix, p.onLink, p.auto, now + p.valid, now + p.preferred}
	if at < 0 {
		switch {
		case p.valid == 0:
		case len(m.state.Prefixes) == maxPrefixes:
			m.note(a, "prefix %s is not taken: there are %d already", p.prefix, maxPrefixes)
		default:
			m.state.Prefixes = append(m.state.Prefixes, taken)
		}
		return
	}
	have := &m.state.Prefixes[at]
	left := have.Valid - now
	switch {
	case p.valid > twoHours || p.valid > left:
	case left <= twoHours:
		taken.Valid = have.Valid
	default:
		taken.Valid = now + twoHours
	}
	taken.Preferred = min(taken.Preferred, taken.Valid)
	taken.OnLink, taken.Auto = p.onLink || have.OnLink, p.auto || have.Auto
	*have = taken
}

func (m *machine) server(now time.Duration, a advert, d serverInfo) {
	at := slices.IndexFunc(m.state.DNS, func(s Server) bool { return s.Addr == d.addr })
	switch {
	case !usable(d.addr):
		m.note(a, "name server %s: no host has such an address", d.addr)
	case d.valid == 0 && at >= 0:
		m.state.DNS = slices.Delete(m.state.DNS, at, at+1)
	case d.valid == 0:
	case at >= 0:
		m.state.DNS[at].Until = now + d.valid
	case len(m.state.DNS) < maxDNS:
		m.state.DNS = append(m.state.DNS, Server{d.addr, now + d.valid})
	}
}

func (m *machine) domain(now time.Duration, d domainInfo) {
	at := slices.IndexFunc(m.state.Search, func(s Domain) bool { return s.Name == d.name })
	switch {
	case d.valid == 0 && at >= 0:
		m.state.Search = slices.Delete(m.state.Search, at, at+1)
	case d.valid == 0:
	case at >= 0:
		m.state.Search[at].Until = now + d.valid
	case len(m.state.Search) < maxSearch:
		m.state.Search = append(m.state.Search, Domain{d.name, now + d.valid})
	}
}
