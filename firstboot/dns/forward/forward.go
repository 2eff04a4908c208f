// Package forward gets answers from others and keeps them: equal questions that come while one is under way share its
// answer, what is about to end is fetched anew before it does, and when nobody answers what was true lately is given
// for a while (RFC 8767).
//
// Of what others say only what answers the question is taken: the chain of names that begins with the one asked for,
// and the proof that something does not exist. Private addresses under public names are refused unless they are
// expected: they are how a web page reaches into a network it is shown in (DNS rebinding).
//
// What it deliberately does not do: read or send packets, check signatures (an Exchanger may), or decide who may ask.
package forward

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/upstream"
	"rempart/firstboot/dns/wire"
)

// Bounds of what is under way. A question waits with a stack and two messages: about 16 KiB, so 8 MiB in all.
const (
	MaxFlights = 384
	// maxWaiting is how many clients' questions wait for these.
	maxWaiting = 1024
	// crowded of either, a client with more than fair of them gets no more: what is left is for the others. Of the last
	// quarter an IPv6 /64 that has as many gets nothing: a host may have all its addresses.
	crowdedFlights, crowdedWaiting = MaxFlights / 2, maxWaiting / 2
	fair                           = 32
)

// clientWait is how long a client waits where there is a stale answer (RFC 8767 5: 1.8 s).
const clientWait = 1800 * time.Millisecond

// staleTTL is the TTL of an answer that is too old, in seconds (RFC 8767 5).
const staleTTL = 30

// Route is who is asked for the names of a domain. A nil Exchanger: nobody, they do not exist.
type Route struct {
	Domain string // in lower case, with its final dot
	To     answer.Exchanger
}

// Forwarder forwards; New makes one.
type Forwarder struct {
	Cache    *cache.Cache
	views    []answer.Exchanger
	routes   map[string]Route
	rebindOK map[string]bool // domains, with their final dots
	log      *slog.Logger

	mu       sync.Mutex
	flights  map[string]*flight
	waiting  int
	clients  map[netip.Addr]int
	networks map[netip.Prefix]int

	counts counters
}

// flight is one question under way.
type flight struct {
	done   chan struct{}
	answer *wire.Answer
	failed bool // nobody answered
}

// New returns a forwarder. views are who is asked where no route is for the name, by the number in a question; there
// is at least one, and nil is nobody.
func New(c *cache.Cache, views []answer.Exchanger, routes []Route, rebindOK []string, log *slog.Logger) *Forwarder {
	f := &Forwarder{Cache: c, views: views, routes: map[string]Route{}, rebindOK: map[string]bool{}, log: log,
		flights: map[string]*flight{}, clients: map[netip.Addr]int{}, networks: map[netip.Prefix]int{}}
	for _, r := range routes {
		f.routes[r.Domain] = r
		f.rebindOK[r.Domain] = true // whoever is asked for it by name may say what is inside
	}
	for _, name := range rebindOK {
		f.rebindOK[name] = true
	}
	return f
}

// Result is an answer for a client. One without an Answer: the question is dropped, there is no room for it.
type Result struct {
	Answer *wire.Answer
	Stale  uint32 // TTL of a stale answer, in seconds; 0: it is none
}

// Ask gets the answer to a client's question. found is what the cache had: nothing, or an answer that is stale.
func (f *Forwarder) Ask(ctx context.Context, q *wire.Query, view uint8, from netip.Addr, found cache.Found,
	generation uint64) Result {
	stale := func() Result {
		f.counts.stale.Add(1)
		return Result{found.Answer, staleTTL}
	}
	if found.Answer != nil && found.Failed {
		return stale()
	}
	who := shareOf(from)
	fl := f.join(q, view, who, generation)
	if fl == nil {
		if found.Answer != nil {
			return stale()
		}
		f.counts.dropped.Add(1)
		return Result{}
	}
	defer f.leave(who)
	var late <-chan time.Time
	if found.Answer != nil {
		timer := time.NewTimer(clientWait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-fl.done:
		if found.Answer != nil && fl.failed {
			return stale()
		}
		return Result{Answer: fl.answer}
	case <-late:
		return stale()
	case <-ctx.Done():
		return Result{}
	}
}

// share is whose a question counts as: an address's, and of IPv6 its /64's, which may be one host that changes its
// address, or all hosts of a link.
type share struct {
	client  netip.Addr
	network netip.Prefix // zero for IPv4
}

func shareOf(a netip.Addr) share {
	s := share{client: a}
	if a.Is6() {
		s.network, _ = a.Prefix(64)
	}
	return s
}

// more tells whether who may have another one where so many are taken; the lock is held.
func (f *Forwarder) more(who share, taken, crowded int) bool {
	return (taken < crowded || f.clients[who.client] < fair) &&
		(taken < crowded+crowded/2 || f.networks[who.network] < crowded)
}

// join finds or begins a flight, nil when there is no room for this client's.
func (f *Forwarder) join(q *wire.Query, view uint8, who share, generation uint64) *flight {
	var buf [wire.MaxKey]byte
	key := q.Key(buf[:0], view)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting >= maxWaiting || !f.more(who, f.waiting, crowdedWaiting) {
		return nil
	}
	fl := f.flights[string(key)]
	switch {
	case fl != nil:
		f.counts.shared.Add(1)
	case len(f.flights) >= MaxFlights || !f.more(who, len(f.flights), crowdedFlights):
		return nil
	default:
		fl = f.begin(q, view, string(key), generation)
	}
	f.waiting++
	f.clients[who.client]++
	if who.network.IsValid() {
		f.networks[who.network]++
	}
	return fl
}

func (f *Forwarder) leave(who share) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting--
	if f.clients[who.client]--; f.clients[who.client] <= 0 {
		delete(f.clients, who.client)
	}
	if who.network.IsValid() {
		if f.networks[who.network]--; f.networks[who.network] <= 0 {
			delete(f.networks, who.network)
		}
	}
}

// Refresh fetches an answer anew that is about to end; nobody waits for it, and when there is little room it is left.
func (f *Forwarder) Refresh(q *wire.Query, view uint8, generation uint64) {
	key := string(q.Key(nil, view))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flights[key] == nil && len(f.flights) < crowdedFlights {
		f.counts.refreshed.Add(1)
		f.begin(q, view, key, generation)
	}
}

// begin starts a flight; the lock is held.
func (f *Forwarder) begin(q *wire.Query, view uint8, key string, generation uint64) *flight {
	fl := &flight{done: make(chan struct{})}
	f.flights[key] = fl
	name, _, err := dns.UnpackDomainName(q.Name(), 0)
	msg := &dns.Msg{Question: []dns.Question{{Name: name, Qtype: q.Type, Qclass: q.Class}}}
	msg.RecursionDesired, msg.CheckingDisabled, msg.AuthenticatedData = true, q.CD(), true
	if q.DO {
		msg.SetEdns0(wire.UDPSize, true)
	}
	go func() {
		if err == nil {
			fl.answer, fl.failed = f.fetch(msg, view)
		}
		if fl.answer == nil {
			fl.answer, fl.failed = failure(msg, dns.ExtendedErrorCodeOther, ""), true
		}
		f.keep(key, fl, generation)
		f.mu.Lock()
		delete(f.flights, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// keep puts an answer into the cache. That nobody answered takes the place of nothing that was ever true.
func (f *Forwarder) keep(key string, fl *flight, generation uint64) {
	now := f.Cache.Now()
	if fl.answer == nil || fl.failed && f.Cache.Fail([]byte(key), now) {
		return
	}
	f.Cache.Put([]byte(key), fl.answer, now, generation)
}

// fetch asks, and makes an answer of what is said.
func (f *Forwarder) fetch(msg *dns.Msg, view uint8) (a *wire.Answer, failed bool) {
	q := msg.Question[0]
	to := f.views[int(view)%len(f.views)]
	if route, routed := f.route(q.Name); routed {
		to = route.To
	}
	if to == nil {
		m := new(dns.Msg)
		m.SetRcode(msg, dns.RcodeNameError)
		return pack(m, missing), false
	}
	ctx, cancel := context.WithTimeout(context.Background(), upstream.Patience+time.Second)
	defer cancel()
	f.counts.asked.Add(1)
	m, err := to.Exchange(ctx, msg)
	if err != nil {
		f.counts.failed.Add(1)
		f.log.Debug("no answer", "name", q.Name, "error", err)
		return failure(msg, dns.ExtendedErrorCodeNoReachableAuthority, "no name server answered"), true
	}
	out := clean(msg, m)
	if bad := f.rebinds(q.Name, out); bad.IsValid() {
		f.counts.rebinding.Add(1)
		f.log.Warn("a name outside has an address inside: refused; rebind_ok allows it", "name", q.Name, "address", bad)
		refusal := new(dns.Msg)
		refusal.SetRcode(msg, dns.RcodeRefused)
		if a := pack(refusal, missing); a != nil {
			a.Options = wire.AppendError(nil, dns.ExtendedErrorCodeBlocked, "private address")
			return a, false
		}
		return nil, true
	}
	empty := uint32(0)
	if out.Rcode != dns.RcodeSuccess && out.Rcode != dns.RcodeNameError {
		empty = uint32(cache.FailureTTL / time.Second)
	}
	if a = pack(out, empty); a != nil {
		a.Options = explanations(m)
	}
	return a, out.Rcode == dns.RcodeServerFailure && !refuted(m)
}

// refuted tells whether a failure is that what was answered is not true by its signatures (RFC 8914, sections 4.7 to
// 4.13). Somebody was asked then, and what was true before is not given in place of that.
func refuted(m *dns.Msg) bool {
	opt := m.IsEdns0()
	return opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool {
		e, ok := o.(*dns.EDNS0_EDE)
		return ok && e.InfoCode >= dns.ExtendedErrorCodeDNSBogus && e.InfoCode <= dns.ExtendedErrorCodeNSECMissing
	})
}

// missing is the TTL of what the forwarder itself says does not exist, in seconds.
const missing = 60

// route finds who is asked for a name: the longest domain it is in.
func (f *Forwarder) route(name string) (Route, bool) {
	if len(f.routes) == 0 {
		return Route{}, false
	}
	name = strings.ToLower(name)
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if r, ok := f.routes[name[off:]]; ok {
			return r, true
		}
	}
	return Route{}, false
}

// Routed tells whether somebody else than the upstreams is asked for a name, in lower case with its final dot.
func (f *Forwarder) Routed(name string) bool {
	_, ok := f.route(name)
	return ok
}
