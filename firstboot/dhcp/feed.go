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
		Client: f.identity(l), Origin: f.origin}
	if l.Expires == lease.Forever {
		b.Until = 0
	}
	if err := f.Put(b); err != nil {
		f.log.Warn("a lease goes without a name", "address", l.Addr, "error", err)
	}
}

// iaidLen is what stands behind the DUID in the identity of a DHCPv6 lease, in bytes (RFC 8415, section 21.4).
const iaidLen = 4

// identity is what names know the client by, see names.Binding: its client identifier, DUID or hardware address,
// without what packages v4 and v6 tell kinds and associations apart by. So a host is one client by either family.
func (f feed) identity(l lease.Lease) string {
	id := l.Client
	switch {
	case f.origin == names.DHCP6:
		id = id[:max(len(id)-iaidLen, 0)]
	case id != "" && id[0] == 'i': // see package v4: by its client identifier
		id = id[1:]
	case l.Hardware != "":
		id = l.Hardware
	}
	return hex.EncodeToString([]byte(id[:min(len(id), maxIdentity)]))
}

func (f feed) Gone(a netip.Addr) { f.Remove(a) }
