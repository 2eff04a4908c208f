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
	if w.req.host != nil {
		e := w.req.host.Host
		have, known := w.cfg.Store.Get(w.l.key(e))
		// A second interface of the host, or a second association, is somebody else: the end is taken once.
		if !known || have.Client == client || !have.Active(w.cfg.Store.Now()) {
			return e, true
		}
	}
	for _, have := range w.cfg.Store.Of(client) {
		if e := end(have.Addr); w.l.key(e) == have.Addr && have.State != lease.Declined && w.l.pooled(e) &&
			w.free(e, client) {
			return e, true
		}
	}
	for _, o := range ia.Options.Addresses() {
		if a, ok := netip.AddrFromSlice(o.IPv6Addr); ok && a.Is6() && w.l.pooled(end(a)) && w.free(end(a), client) {
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

// free tells whether a client may have an end.
func (w *work) free(e netip.Addr, client string) bool {
	have, known := w.cfg.Store.Get(w.l.key(e))
	return !known || have.Client == client && have.State != lease.Declined || !have.Active(w.cfg.Store.Now())
}

// fresh finds an end that nobody has. Ends nobody ever had come before those whose lease has ended, and of these the
// one that ended first.
func (w *work) fresh(client string) (netip.Addr, bool) {
	now := w.cfg.Store.Now()
	h := fnv.New64a()
	h.Write([]byte(client))
	start := mix(h.Sum64())
	var oldest netip.Addr
	since := int64(0)
	for _, r := range w.l.settings.Pools {
		low := lower(r.First)
		size := lower(r.Last) - low + 1 // 0: all of them, which no pool is, for it has no end 0
		for i := range min(size, maxTries) {
			e := suffix(low + (start%size+i)%size)
			if w.l.reserved[e] {
				continue
			}
			have, known := w.cfg.Store.Get(w.l.key(e))
			switch {
			case !known:
				return e, true
			case !have.Active(now) && (!oldest.IsValid() || have.Expires < since):
				oldest, since = e, have.Expires
			}
		}
	}
	if !oldest.IsValid() {
		w.l.full.Do(func() {
			w.cfg.Log.Warn("the pool is full: only clients that have an address are served", "link", w.l.settings.Link)
		})
	}
	return oldest, oldest.IsValid()
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
