package dhcp

import (
	"encoding/hex"
	"log/slog"
	"net/netip"

	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/names"
)

// feed hands the names of leases on to who resolves them.
type feed struct {
	*names.Feed
	origin string // of names
	log    *slog.Logger
}

// maxIdentity is how much of an identity is handed on, in bytes: the rest of the longest ones tells nobody apart.
const maxIdentity = names.MaxClient / 2

func (f feed) Bound(l lease.Lease, link string) {
	b := names.Binding{Name: l.Name, Addr: l.Addr, Link: link, Since: max(l.Since, 0), Until: l.Expires,
		Client: hex.EncodeToString([]byte(l.Client[:min(len(l.Client), maxIdentity)])), Origin: f.origin}
	if l.Expires == lease.Forever {
		b.Until = 0
	}
	if err := f.Put(b); err != nil {
		f.log.Warn("a lease goes without a name", "address", l.Addr, "error", err)
	}
}

func (f feed) Gone(a netip.Addr) { f.Remove(a) }
