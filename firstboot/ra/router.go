package ra

import (
	"net/netip"
	"slices"
	"time"

	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// router is what is said on one link and when, without sockets and clock.
type router struct {
	advert *profiles.Advert
	schedule
	up     bool // there is a link to speak on
	link   watch.Link
	seen   time.Duration // when link was looked at
	uplink bool
	said   []promise
	named  []server6
}

// server6 is a name server hosts were told of.
type server6 struct {
	addr  netip.Addr
	until time.Duration // when nobody asks it any more
	from  time.Duration // when it is taken back first, if it is none then
}

// promise is a prefix hosts may have an address in.
type promise struct {
	prefix prefix        // as it was last said
	until  time.Duration // when nobody keeps it any more
	from   time.Duration // when it is taken back first, if it is gone then
}

// deprecating bounds how long hosts keep addresses in a prefix that is gone: below two hours no advertisement shortens
// the life of an address (RFC 4862, section 5.5.3 e).
const deprecating = 2 * time.Hour

// Bounds of what is remembered of a link whose prefixes, and with them the guest's own address for names, keep
// changing. Name servers beside those there are now are the latest few: a host uses three (glibc's MAXNS).
const (
	maxPromises = 2 * profiles.MaxAdvertPrefixes
	maxLeft     = 8
)

// look is told what the link is; ok is false while there is none to speak on. It reports whether there is news.
func (r *router) look(now time.Duration, l watch.Link, ok, uplink bool) {
	switch {
	case !ok:
	case !r.up || r.link.Index != l.Index:
		r.begin(now)
	case !r.link.Same(l, now-r.seen) || r.uplink != uplink:
		r.news(now)
	}
	r.up, r.link, r.seen, r.uplink = ok, l, now, uplink
}

// next is when the next advertisement goes out; false: never.
func (r *router) next() (time.Duration, bool) { return r.at, r.up }

// message is what is to be said now.
func (r *router) message(now time.Duration) message {
	var gone []prefix
	for _, s := range r.said {
		if left := s.until - now; left > 0 && s.from <= now {
			gone = append(gone, prefix{s.prefix.prefix, min(left, deprecating), 0})
		}
	}
	m := compose(r.advert, r.link.After(now-r.seen), r.uplink, gone)
	for _, s := range r.named {
		if s.until > now && s.from <= now && !slices.Contains(m.servers, s.addr) {
			m.left = append(m.left, s.addr)
		}
	}
	m.left = m.left[max(0, len(m.left)-maxLeft):]
	return m
}

// spoke is told what went out.
func (r *router) spoke(now time.Duration, m message) {
	r.sent(now)
	r.said = slices.DeleteFunc(r.said, func(s promise) bool { return s.until <= now })
	r.named = slices.DeleteFunc(r.named, func(s server6) bool {
		return s.until <= now || slices.Contains(m.servers, s.addr)
	})
	r.named = r.named[max(0, len(r.named)-maxLeft):]
	for _, a := range m.servers {
		r.named = append(r.named, server6{addr: a, until: now + m.naming})
	}
	soonest := r.at - now
	for _, p := range m.prefixes {
		if p.preferred > 0 {
			soonest = min(soonest, p.preferred/2)
		}
		at := slices.IndexFunc(r.said, func(s promise) bool { return s.prefix.prefix == p.prefix })
		switch {
		case at >= 0:
			r.said[at] = promise{prefix: p, until: now + p.valid}
		case len(r.said) < maxPromises:
			r.said = append(r.said, promise{prefix: p, until: now + p.valid})
		}
	}
	back := func(from time.Duration) {
		if from > now {
			soonest = min(soonest, from-now)
		}
	}
	for _, s := range r.said {
		back(s.from)
	}
	for _, s := range r.named {
		back(s.from)
	}
	// A prefix that was delegated for a short time is renewed in time on hosts too.
	r.at = now + max(soonest, minDelay)
}
