package v6

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/firstboot/onlink"
)

// Status codes, RFC 8415 section 21.13.
const (
	statusSuccess     = iana.StatusSuccess
	statusNoAddrs     = iana.StatusNoAddrsAvail
	statusNoBinding   = iana.StatusNoBinding
	statusNotOnLink   = iana.StatusNotOnLink
	statusNoPrefix    = iana.StatusNoPrefixAvail
	maxAssociations   = 4                // of a client in one message
	declinedFor       = 10 * time.Minute // that nobody is given an address somebody unknown has
	refresh           = 24 * time.Hour   // RFC 8415, section 21.23: when stateless clients ask again, the default
	refreshDelegated  = 15 * time.Minute // where prefixes, and with them name servers, may be replaced
	renewPart, rebind = 2, 5             // T1 is a half of the preferred lifetime, T2 four fifths (section 21.4)
)

// ours is what clients know the server by on a link.
func ours(on onlink.Link) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr(on.MAC)}
}

// work is an answer in the making.
type work struct {
	*Server
	l        *link
	req      request
	out      *dhcpv6.Message
	from     netip.Addr // who sent it: the client, or the relay agent before it
	prefixes []watch.Address
	self     watch.Link
	taken    map[netip.Addr]string // by key: the association of this message that has it
	keep     []lease.Lease         // what must be on the disk before the answer leaves
}

// answer decides what a client is told, RFC 8415 section 18.3.
func (s *Server) answer(l *link, on onlink.Link, from netip.Addr, r request, send func(*dhcpv6.Message)) error {
	w := &work{Server: s, l: l, from: from, req: r, taken: map[netip.Addr]string{}}
	w.out = &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: r.TransactionID}
	w.prefixes, w.self = l.prefixes()
	if err := w.forUs(on); err != nil {
		return err
	}
	if r.client != nil {
		w.out.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: r.client})
	}
	w.out.AddOption(dhcpv6.OptServerID(ours(on)))
	switch r.MessageType {
	case dhcpv6.MessageTypeSolicit:
		if !w.solicited() {
			return errors.New("it asks for addresses, and none are given here")
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		w.associations(true)
	case dhcpv6.MessageTypeConfirm:
		return w.confirm(send)
	case dhcpv6.MessageTypeRelease:
		w.giveBack(lease.Freed, 0)
	case dhcpv6.MessageTypeDecline:
		w.giveBack(lease.Declined, declinedFor)
	case dhcpv6.MessageTypeInformationRequest:
		w.refreshTime()
	}
	w.configuration()
	return w.commit(send)
}

// forUs tells why a message is not to be answered at all, section 16.
func (w *work) forUs(on onlink.Link) error {
	server := w.req.Options.ServerID()
	mine := server != nil && bytes.Equal(server.ToBytes(), ours(on).ToBytes())
	switch w.req.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if server != nil {
			return errors.New("it is for all servers, and names one")
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if !mine {
			return errors.New("it is for another server")
		}
	case dhcpv6.MessageTypeInformationRequest:
		if server != nil && !mine {
			return errors.New("it is for another server")
		}
		if len(w.req.Options.IANA())+len(w.req.Options.IATA())+len(w.req.Options.IAPD()) > 0 {
			return errors.New("it asks for configuration, and for addresses")
		}
		return nil
	default:
		return fmt.Errorf("%s is no message to a server", w.req.MessageType)
	}
	if w.req.client == nil {
		return errors.New("no DUID in it")
	}
	if len(w.req.Options.IANA())+len(w.req.Options.IAPD()) > maxAssociations {
		return fmt.Errorf("it has more than %d associations", maxAssociations)
	}
	return nil
}

// solicited offers, or gives at once where both sides want that.
func (w *work) solicited() bool {
	if !w.l.settings.Gives() {
		return false
	}
	rapid := w.l.settings.Rapid && w.req.GetOneOption(dhcpv6.OptionRapidCommit) != nil
	if rapid {
		w.out.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	} else {
		w.out.MessageType = dhcpv6.MessageTypeAdvertise
	}
	w.associations(rapid)
	return true
}

// associations answers each of what a client asks for; keep is set when it is to have it.
func (w *work) associations(keep bool) {
	for _, ia := range w.req.Options.IANA() {
		w.out.AddOption(w.association(ia, keep))
	}
	for _, ia := range w.req.Options.IAPD() {
		w.out.AddOption(w.delegation(ia, keep))
	}
}

// association is RFC 8415, sections 18.3.2, 18.3.4 and 18.3.5. A client that extends what nobody here remembers is
// given it if it is free: its lease was forgotten with a state disk, or the prefix is another now.
func (w *work) association(ia *dhcpv6.OptIANA, keep bool) *dhcpv6.OptIANA {
	out := &dhcpv6.OptIANA{IaId: ia.IaId}
	client := string(w.req.client) + string(ia.IaId[:])
	e, ok := w.choose(client, ia)
	if !ok {
		out.Options.Add(w.none(statusNoAddrs, "no addresses are left"))
		return out
	}
	w.taken[w.l.key(e)] = client
	given, shortest := map[netip.Addr]bool{}, time.Duration(0)
	for _, p := range w.prefixes {
		valid, preferred := w.lifetimes(p)
		a := in(p.Prefix, e)
		if preferred == 0 && !asksFor(ia, a) {
			continue // deprecated: nobody new is given an address in it
		}
		given[a] = true
		out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: preferred, ValidLifetime: valid})
		shortest = sooner(shortest, preferred)
	}
	if len(given) == 0 {
		out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: statusNoAddrs, StatusMessage: "the link has no prefix now"})
		return out
	}
	out.T1, out.T2 = again(shortest)
	if w.req.MessageType != dhcpv6.MessageTypeSolicit {
		for _, old := range ia.Options.Addresses() { // what it has and must leave
			if a, ok := netip.AddrFromSlice(old.IPv6Addr); ok && !given[a] && len(given) < 2*maxAssociations {
				given[a] = true
				out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: old.IPv6Addr})
			}
		}
	}
	if keep {
		w.remember(lease.Lease{Addr: w.l.key(e), Client: client})
		w.leave(client, w.l.key(e), func(l lease.Lease) bool { return l.Bits == 0 && w.l.key(end(l.Addr)) == l.Addr })
	}
	return out
}

// leaving is for how long a client keeps what it is told to leave, by an answer that it may not get: it asks again, a
// few times at least, before that (RFC 8415, section 7.6: REN_TIMEOUT is 10 seconds).
const leaving = time.Minute

// leave has end soon what else of the same kind a client was leased: where the profile has changed since, it is given
// another address or prefix than it had, which somebody else may be waiting for.
func (w *work) leave(client string, given netip.Addr, same func(lease.Lease) bool) {
	now := w.cfg.Store.Now()
	until := now + int64(leaving/time.Second)
	for _, l := range w.cfg.Store.Of(client) {
		if l.Addr != given && l.State == lease.Bound && l.Active(now) && l.Expires > until && same(l) {
			w.end(l, lease.Bound, until)
		}
	}
}

// none says why a client gets nothing. One that extends what nobody here remembers is told so.
func (w *work) none(status iana.StatusCode, text string) *dhcpv6.OptStatusCode {
	if w.req.MessageType == dhcpv6.MessageTypeRenew {
		status, text = statusNoBinding, "nothing is known of it"
	}
	return &dhcpv6.OptStatusCode{StatusCode: status, StatusMessage: text}
}

// lifetimes are what clients are told of something that the guest has for as long as p says.
func (w *work) lifetimes(p watch.Address) (valid, preferred time.Duration) {
	valid = min(seconds(w.l.settings.Lease), p.Valid)
	return valid, min(valid/4*3, p.Preferred)
}

// sooner is the shorter of two preferred lifetimes; one that is over is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// again is when a client extends what it has: T1 and T2.
func again(shortest time.Duration) (t1, t2 time.Duration) {
	return shortest / renewPart, shortest * (rebind - 1) / rebind
}

// remember completes the lease of what a client is given, for it to be kept.
func (w *work) remember(l lease.Lease) {
	now := w.cfg.Store.Now()
	l.Hardware, l.Name, l.State = w.macBytes(), w.req.name, lease.Bound
	l.Since, l.Expires = now, now+w.l.settings.Lease
	if before, known := w.cfg.Store.Get(l.Addr); known && before.Client == l.Client && before.Active(now) {
		l.Since = before.Since
	}
	w.keep = append(w.keep, l)
}

func asksFor(ia *dhcpv6.OptIANA, a netip.Addr) bool {
	return slices.ContainsFunc(ia.Options.Addresses(), func(o *dhcpv6.OptIAAddress) bool {
		b, ok := netip.AddrFromSlice(o.IPv6Addr)
		return ok && a == b
	})
}

func (w *work) macBytes() string {
	mac, err := net.ParseMAC(w.req.mac)
	if err != nil {
		return ""
	}
	return string(mac)
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// confirm says whether addresses are of this link, section 18.3.3.
func (w *work) confirm(send func(*dhcpv6.Message)) error {
	seen, status := 0, statusSuccess
	for _, ia := range w.req.Options.IANA() {
		for _, o := range ia.Options.Addresses() {
			seen++
			if a, ok := netip.AddrFromSlice(o.IPv6Addr); !ok || !w.l.holds(a) {
				status = statusNotOnLink
			}
		}
	}
	if seen == 0 || len(w.prefixes) == 0 {
		return errors.New("it confirms nothing, or nothing can be said of it")
	}
	w.out.AddOption(&dhcpv6.OptStatusCode{StatusCode: status})
	send(w.out)
	return nil
}

// giveBack is for addresses that clients release, or that they found to be somebody else's (sections 18.3.7 and
// 18.3.8).
func (w *work) giveBack(state lease.State, hold time.Duration) {
	now := w.cfg.Store.Now()
	if state == lease.Freed {
		w.giveBackPrefixes(now)
	}
	for _, ia := range w.req.Options.IANA() {
		client := string(w.req.client) + string(ia.IaId[:])
		known := false
		for _, o := range ia.Options.Addresses() {
			a, ok := netip.AddrFromSlice(o.IPv6Addr)
			if !ok || !w.l.holds(a) {
				continue
			}
			have, ok := w.cfg.Store.Get(w.l.key(end(a)))
			if !ok || have.Client != client || !have.Active(now) {
				continue
			}
			known = true
			w.end(have, state, now+int64(hold/time.Second))
			if state == lease.Declined {
				w.cfg.Log.Warn("somebody unknown has an address that was leased", "link", w.l.settings.Link, "address", a)
			}
		}
		if !known {
			none := &dhcpv6.OptIANA{IaId: ia.IaId}
			none.Options.Add(&dhcpv6.OptStatusCode{StatusCode: statusNoBinding})
			w.out.AddOption(none)
		}
	}
	w.out.AddOption(&dhcpv6.OptStatusCode{StatusCode: statusSuccess})
}

// end keeps what becomes of a lease that has ended, once however often its client says so.
func (w *work) end(l lease.Lease, state lease.State, until int64) {
	l.State, l.Expires = state, until
	if !slices.ContainsFunc(w.keep, func(k lease.Lease) bool { return k.Addr == l.Addr }) {
		w.keep = append(w.keep, l)
	}
}

// configuration is what clients are told beyond addresses (RFC 3646).
func (w *work) configuration() {
	if w.req.MessageType == dhcpv6.MessageTypeRelease || w.req.MessageType == dhcpv6.MessageTypeDecline {
		return
	}
	d := w.l.settings
	var list []net.IP
	if d.DNSSelf {
		own, mine := w.self.LinkLocal, w.prefixes
		if w.l.behind != nil { // of the link by which the client reaches the guest
			own = netip.Addr{}
			mine, _ = w.l.behind.prefixes()
		}
		for _, p := range mine {
			if p.Preferred > 0 {
				own = p.Prefix.Addr()
				break
			}
		}
		if own.IsValid() {
			list = append(list, own.AsSlice())
		}
	}
	for _, a := range d.DNS {
		list = append(list, a.AsSlice())
	}
	if len(list) > 0 {
		w.out.AddOption(dhcpv6.OptDNS(list...))
	}
	if len(d.Search) > 0 {
		w.out.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: d.Search}))
	}
}

func (w *work) refreshTime() {
	again := refresh
	if slices.ContainsFunc(w.prefixes, func(p watch.Address) bool { return p.Valid != watch.Forever }) {
		again = refreshDelegated
	}
	w.out.AddOption(dhcpv6.OptInformationRefreshTime(again))
}

// commit sends the answer once all that it says is kept.
func (w *work) commit(send func(*dhcpv6.Message)) error {
	if len(w.keep) == 0 {
		send(w.out)
		return nil
	}
	var mu sync.Mutex
	left, failed := len(w.keep), error(nil)
	for _, l := range w.keep {
		err := w.cfg.Store.Put(l, func(err error) {
			mu.Lock()
			left--
			failed = errors.Join(failed, err)
			last := left == 0
			mu.Unlock()
			if !last {
				return
			}
			if failed != nil {
				w.cfg.Log.Warn("a lease was not kept, its client is not told of it", "error", failed)
				return
			}
			for _, k := range w.keep {
				w.settle(k)
			}
			send(w.out)
		})
		if err != nil {
			return err // the rest is forgotten again when it expires
		}
	}
	return nil
}

// settle has names and ways follow a lease.
func (s *Server) settle(l lease.Lease) {
	if l.Bits > 0 {
		s.lead(l)
		return
	}
	if l.State == lease.Bound {
		s.name(l)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(l.Addr)
}
