package v4

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/firstboot/dhcp/lease"
)

// A client that a changed profile names, names otherwise, or names no more has its lease by what it was known as. It is
// the same machine, and goes on with what it has as far as the profile lets it.

// adopt takes over what the client was leased as somebody else: by its own account, where the profile names it now; and
// of what it has or asks for whatever it was leased as a host that the profile no longer says it is.
func (x *exchange) adopt() {
	wish := addr4(x.m.Options[dhcpv4.OptionRequestedIPAddress.Code()])
	look := []netip.Addr{addr4(x.m.ClientIPAddr), wish}
	if h := x.client.host; h != nil {
		for _, l := range x.s.Store.Of(x.client.plain) {
			x.takeOver(l)
		}
		look = append(look, h.Address)
	}
	for _, a := range look {
		if l, known := x.s.Store.Get(a); known && x.formerly(l) {
			x.takeOver(l)
		}
	}
}

// formerly tells whether a lease is that of a host which was this machine by another profile. A host that is known by
// identifiers may be it still: one machine may be two hosts, by what runs on it.
func (x *exchange) formerly(l lease.Lease) bool {
	name, named := strings.CutPrefix(l.Client, byName)
	if !named || l.Client == x.client.id || l.Hardware == "" || l.Hardware != x.hardware() {
		return false
	}
	return !slices.ContainsFunc(x.link.hosts, func(h *host) bool {
		return h.Name == name && (len(h.ClientIDs) > 0 || x.link.byMAC[l.Hardware] == h)
	})
}

func (x *exchange) takeOver(l lease.Lease) {
	if l.State != lease.Bound || !l.Active(x.now) || x.in(l.Addr) == nil {
		return
	}
	if err := x.s.Store.Pass(l.Addr, l.Client, x.client.id); err != nil {
		x.s.Log.Warn("lease not taken over by its client's new name", "address", l.Addr, "error", err)
	}
}

// elsewhere tells whether the profile gives the client another address than the one it has, and it can have that. Where
// somebody unknown was found at that one it cannot, until it begins anew and the network is asked again: each refusal
// takes a client what it has, and would be in vain.
func (x *exchange) elsewhere(has netip.Addr) bool {
	h := x.client.host
	if h == nil || !h.Address.IsValid() || h.Address == has || x.in(h.Address) == nil {
		return false
	}
	l, known := x.s.Store.Get(h.Address)
	return !known || l.State != lease.Declined && (!l.Active(x.now) || l.Client == x.client.id)
}

// leave frees what else the client has in a subnet where it is granted an address: it has one. The interfaces of a host
// that has several may each have theirs.
func (x *exchange) leave(sub *subnet, granted netip.Addr) {
	several := x.client.host != nil && len(x.client.host.MACs) > 1
	for _, l := range x.s.Store.Of(x.client.id) {
		if l.Addr != granted && sub.Prefix.Contains(l.Addr) && l.State == lease.Bound && l.Active(x.now) &&
			(!several || l.Hardware == x.hardware()) {
			x.s.free(sub, l, nil)
		}
	}
}
