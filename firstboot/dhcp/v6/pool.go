package v6

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/firstboot/dhcp/lease"
)

// maxTries bounds how many ends are looked at for one client: in a pool that is larger, most are free.
const maxTries = 1 << 12

// choose finds the end of the addresses of a client: its own by the profile, the one it has or had, the one it wants,
// the one that follows from who it is, or the first free one after that. It changes nothing, and finds the same again
// as long as nobody else takes it.
func (w *work) choose(client string, ia *dhcpv6.OptIANA) (netip.Addr, bool) {
	if w.req.host != nil && w.req.host.Host.IsValid() {
		e := w.req.host.Host
		// A second interface of the host, or a second association, is somebody else: the end is taken once.
		if w.free(w.l.key(e), client) {
			return e, true
		}
	}
	for _, have := range w.cfg.Store.Of(client) {
		if e := end(have.Addr); w.l.key(e) == have.Addr && have.State != lease.Declined && w.l.pooled(e) &&
			w.free(have.Addr, client) {
			return e, true
		}
	}
	for _, o := range ia.Options.Addresses() {
		if a, ok := netip.AddrFromSlice(o.IPv6Addr); ok && a.Is6() && w.l.pooled(end(a)) && w.free(w.l.key(end(a)), client) {
			return end(a), true
		}
	}
	return w.fresh(client)
}

// pooled tells whether an end is for whoever asks.
func (l *link) pooled(e netip.Addr) bool {
	if l.reserved[e] {
		return false
	}
	for _, r := range l.settings.Pools {
		if !e.Less(r.First) && !r.Last.Less(e) {
			return true
		}
	}
	return false
}

// free tells whether a client may have what a key of the store stands for.
func (w *work) free(key netip.Addr, client string) bool {
	if by, taken := w.taken[key]; taken && by != client {
		return false
	}
	have, known := w.cfg.Store.Get(key)
	return !known || have.Client == client && have.State != lease.Declined || !have.Active(w.cfg.Store.Now())
}

// fresh finds an end that nobody has.
func (w *work) fresh(client string) (netip.Addr, bool) {
	var spans []span
	for _, r := range w.l.settings.Pools {
		low := lower(r.First)
		spans = append(spans, span{low, lower(r.Last) - low + 1}) // never 0: no pool has the end 0, so none has them all
	}
	n, ok := w.unused(client, spans, func(n uint64) (netip.Addr, bool) {
		e := suffix(n)
		return w.l.key(e), !w.l.reserved[e]
	})
	if !ok && len(spans) > 0 {
		w.l.full.Do(func() {
			w.cfg.Log.Warn("the pool is full: only clients that have an address are served", "link", w.l.settings.Link)
		})
	}
	return suffix(n), ok
}

// span is a range of numbers.
type span struct{ first, size uint64 }

// unused finds a number that nobody has, by the key of its lease; false: it is for nobody. Those nobody ever had come
// before those whose lease has ended, and of these the one that ended first.
func (w *work) unused(client string, spans []span, key func(uint64) (netip.Addr, bool)) (oldest uint64, found bool) {
	now := w.cfg.Store.Now()
	h := fnv.New64a()
	h.Write([]byte(client))
	start := mix(h.Sum64())
	since := int64(0)
	for _, s := range spans {
		for i := range min(s.size, maxTries) {
			n := s.first + (start%s.size+i)%s.size
			k, open := key(n)
			if by, taken := w.taken[k]; !open || taken && by != client {
				continue
			}
			have, known := w.cfg.Store.Get(k)
			switch {
			case !known:
				return n, true
			case !have.Active(now) && (!found || have.Expires < since):
				oldest, since, found = n, have.Expires, true
			}
		}
	}
	return oldest, found
}

// mix spreads what FNV leaves close together (the finaliser of SplitMix64), so that clients do not crowd.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func lower(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

func suffix(n uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], n)
	return netip.AddrFrom16(b)
}
