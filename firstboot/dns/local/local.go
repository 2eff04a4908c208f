// Package local answers for the names of a guest's own networks: the hosts of its profile, the clients that hold
// leases, and the guest itself, short and qualified, forward and reverse. What a client says its name is becomes one
// label of the domain of its link and nothing else: it takes no name of the profile, of another zone or of another
// client. For the local domains, and the addresses of the links, the answer is final: a name that is not there does not
// exist, and nobody else is asked.
//
// What it deliberately does not do: lease (package names feeds what the DHCP servers did), or keep anything over a
// restart. Names of clients that are gone go with the lease.
package local

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/boottime"
	"rempart/firstboot/dns/answer"
	"rempart/profiles/zonefile"
)

// Config is what the profile says.
type Config struct {
	Self  string // label of the guest
	Links []Link
	Hosts []Host
	// Zones are the origins of the guest's own zones: what is in them is left to them, but for clients of a local domain
	// that has the same name. Taken tells names of them, and others, that clients must not have; nil: none.
	Zones []string
	Taken func(name string) bool
	Fed   bool                 // names of clients come by Apply, the whole of them first
	Now   func() time.Time     // nil: time.Now
	Boot  func() time.Duration // the clock that nobody sets; nil: boottime.Now
}

// Link is a link on which names are served.
type Link struct {
	Name      string
	Domain    string         // of the hosts on it, absolute, in lower case; empty: none, only addresses are mapped
	Addresses []netip.Prefix // the guest's own, with their subnets
}

// Host is a host of the profile.
type Host struct {
	Name      string // label
	Addresses []netip.Addr
}

// Times to live in seconds. A name may be gone with its lease or new with the next: a minute is what a client waits at
// most, and a few seconds for one that it asked for too early.
const (
	ttlPositive = 60
	ttlNegative = 5
)

// domain is a local domain, of one or more links.
type domain struct {
	name    string // absolute
	hosts   map[string][]netip.Addr
	clients map[string]*client // by label
	links   []Link
}

// Names is the Source of local names.
type Names struct {
	config     Config
	domains    []*domain // in the order of the links
	links      map[string]*domain
	reverse    map[netip.Addr]string // names of hosts and of the guest
	generation atomic.Uint64

	began   time.Duration // by Config.Boot
	mu      sync.RWMutex
	clients map[string]*client
	leased  map[netip.Addr]*client
	whole   bool // the names of clients have come
}

// feedWait is how long nothing is said of names that may be a client's while they have not come: what serves leases may
// be starting, too, and clients ask again. After that whoever has no name by then does not exist.
const feedWait = 5 * time.Second

// early tells whether it is not known yet which names clients have; n.mu is held.
func (n *Names) early() bool {
	return n.config.Fed && !n.whole && n.config.Boot()-n.began < feedWait
}

// New returns the names of the profile; Apply adds those of clients.
func New(c Config) *Names {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Boot == nil {
		c.Boot = boottime.Now
	}
	n := &Names{config: c, links: map[string]*domain{}, reverse: map[netip.Addr]string{}, clients: map[string]*client{},
		leased: map[netip.Addr]*client{}}
	n.began = c.Boot()
	byName := map[string]*domain{}
	for _, l := range c.Links {
		if l.Domain == "" {
			continue
		}
		d := byName[l.Domain]
		if d == nil {
			d = &domain{name: l.Domain, hosts: map[string][]netip.Addr{}, clients: map[string]*client{}}
			byName[l.Domain] = d
			n.domains = append(n.domains, d)
		}
		d.links = append(d.links, l)
		n.links[l.Name] = d
		for _, own := range l.Addresses {
			n.map1(own.Addr(), c.Self+"."+d.name)
		}
	}
	for _, h := range c.Hosts {
		n.host(h)
	}
	return n
}

// host adds a host to the domains of the links its addresses are on, or to the first where they are on none.
func (n *Names) host(h Host) {
	if len(n.domains) == 0 {
		return
	}
	label := strings.ToLower(h.Name)
	for _, a := range h.Addresses {
		d := n.domains[0]
		if i := slices.IndexFunc(n.domains, func(d *domain) bool { return d.holds(a) }); i >= 0 {
			d = n.domains[i]
		}
		if !slices.Contains(d.hosts[label], a) { // a host of the profile that has a lease of its own, too
			d.hosts[label] = append(d.hosts[label], a)
		}
		n.map1(a, label+"."+d.name)
	}
}

// map1 gives an address its one name: the first.
func (n *Names) map1(a netip.Addr, name string) {
	if _, has := n.reverse[a]; !has {
		n.reverse[a] = name
	}
}

// holds tells whether an address is in a subnet of one of the domain's links.
func (d *domain) holds(a netip.Addr) bool {
	return slices.ContainsFunc(d.links, func(l Link) bool { return l.holds(a) })
}

func (l Link) holds(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// now is the time by which leases end, in seconds.
func (n *Names) now() int64 { return int64(n.config.Boot() / time.Second) }

// until is when a lease ends that is told to end at a time of day. What is left of it is left of it also when the wall
// clock is set meanwhile: nobody's name is gone until DHCP, which notices a little later, tells of the new time.
func (n *Names) until(unix int64) int64 {
	if unix == 0 {
		return 0
	}
	return max(1, n.now()+unix-n.config.Now().Unix())
}

// Generation changes with the clients' names: a short one is only known while somebody has it.
func (n *Names) Generation() uint64 { return n.generation.Load() }

// Answer answers for local names and addresses. No message for what is its own: nothing is known yet.
func (n *Names) Answer(_ context.Context, q *answer.Query) (*dns.Msg, bool) {
	name := q.Name()
	if strings.HasSuffix(name, ".arpa.") {
		if m, mine := n.answerReverse(q, name); mine {
			return m, true
		}
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	label, rest, _ := strings.Cut(name, ".")
	if label != "" && rest == "" {
		return n.short(q, label)
	}
	d := n.within(name)
	if d == nil {
		return nil, false
	}
	if name == d.name {
		return n.apex(q, d), true
	}
	found := []netip.Addr(nil)
	exists := false
	var ttl uint32
	if rest == d.name {
		found, ttl, exists = n.addresses(d, label, q.Link)
	}
	switch {
	case exists:
		return n.positive(q, d, found, ttl), true
	case rest == d.name && n.early() && !n.taken(name):
		return nil, true
	case n.zoned(name):
		return nil, false
	}
	return n.negative(q, d.name, dns.RcodeNameError), true
}

// within is the local domain a name is in: the longest.
func (n *Names) within(name string) (in *domain) {
	for _, d := range n.domains {
		if dns.IsSubDomain(d.name, name) && (in == nil || len(d.name) > len(in.name)) {
			in = d
		}
	}
	if in == nil || name == in.name && slices.Contains(n.config.Zones, name) {
		return nil
	}
	// A zone below the domain is nobody's business here.
	for _, zone := range n.config.Zones {
		if len(zone) > len(in.name) && dns.IsSubDomain(zone, name) {
			return nil
		}
	}
	return in
}

// zoned tells whether one of the guest's zones has the last word on a name.
func (n *Names) zoned(name string) bool {
	return slices.ContainsFunc(n.config.Zones, func(zone string) bool { return dns.IsSubDomain(zone, name) })
}

// short answers for a name without a domain: that of the client's own link first.
func (n *Names) short(q *answer.Query, label string) (*dns.Msg, bool) {
	switch q.Question().Qtype {
	case dns.TypeNS, dns.TypeDS, dns.TypeDNSKEY, dns.TypeSOA:
		return nil, false // about a top-level domain, whatever a client calls itself (package override lets them by, too)
	}
	domains := n.domains
	if own := n.links[q.Link]; own != nil {
		domains = append([]*domain{own}, domains...)
	}
	for _, d := range domains {
		if found, ttl, exists := n.addresses(d, label, q.Link); exists {
			return n.positive(q, d, found, ttl), true
		}
	}
	return nil, n.early() && len(n.domains) > 0 && !n.taken(label+".")
}

// taken tells whether a name is one that no client can have.
func (n *Names) taken(name string) bool { return n.config.Taken != nil && n.config.Taken(name) }

// addresses are those of a label of a domain.
func (n *Names) addresses(d *domain, label, link string) (found []netip.Addr, ttl uint32, exists bool) {
	if label == n.config.Self {
		return d.own(link), ttlPositive, true
	}
	if host := d.hosts[label]; host != nil {
		return host, ttlPositive, true
	}
	c := d.clients[label]
	if c == nil {
		return nil, 0, false
	}
	now := n.now()
	ttl = ttlPositive
	for _, l := range c.leases {
		if !l.holds(now) {
			continue
		}
		found = append(found, l.addr)
		if l.until > 0 {
			ttl = min(ttl, uint32(min(l.until-now, ttlPositive)))
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return found, ttl, len(found) > 0
}

// own are the guest's addresses in a domain: those on the link of the client if the domain is that link's.
func (d *domain) own(link string) (all []netip.Addr) {
	for _, l := range d.links {
		var its []netip.Addr
		for _, p := range l.Addresses {
			its = append(its, p.Addr())
		}
		if l.Name == link {
			return its
		}
		all = append(all, its...)
	}
	return all
}

// positive answers for a name that is there, with its addresses of the family asked for.
func (n *Names) positive(q *answer.Query, d *domain, found []netip.Addr, ttl uint32) *dns.Msg {
	m := answer.Reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	kind := q.Question().Qtype
	for _, a := range found {
		h := dns.RR_Header{Name: q.Question().Name, Class: dns.ClassINET, Ttl: ttl}
		switch {
		case a.Is4() && (kind == dns.TypeA || kind == dns.TypeANY):
			h.Rrtype = dns.TypeA
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		case a.Is6() && (kind == dns.TypeAAAA || kind == dns.TypeANY):
			h.Rrtype = dns.TypeAAAA
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	if len(m.Answer) == 0 {
		return n.negative(q, d.name, dns.RcodeSuccess)
	}
	return m
}

// apex answers for a domain itself.
func (n *Names) apex(q *answer.Query, d *domain) *dns.Msg {
	return n.origin(q, d.name, n.config.Self+"."+d.name)
}

// origin answers for the name of a zone that is made here.
func (n *Names) origin(q *answer.Query, zone, server string) *dns.Msg {
	m := answer.Reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	kind := q.Question().Qtype
	if kind == dns.TypeSOA || kind == dns.TypeANY {
		m.Answer = append(m.Answer, n.soa(zone, server, ttlPositive))
	}
	if kind == dns.TypeNS || kind == dns.TypeANY {
		h := dns.RR_Header{Name: zone, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: ttlPositive}
		m.Answer = append(m.Answer, &dns.NS{Hdr: h, Ns: server})
	}
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, n.soa(zone, server, ttlNegative))
	}
	return m
}

// soa is the SOA of a zone that is made here. Nobody copies it, so that its times but the last mean little.
func (n *Names) soa(zone, server string, ttl uint32) dns.RR {
	h := dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}
	return &dns.SOA{Hdr: h, Ns: server, Mbox: "hostmaster." + server, Serial: uint32(n.generation.Load()) + 1,
		Refresh: 3600, Retry: 900, Expire: 1209600, Minttl: ttlNegative}
}

// negative says that a name, or a type of it, is not there.
func (n *Names) negative(q *answer.Query, zone string, rcode int) *dns.Msg {
	m := answer.Reply(q, rcode)
	m.Authoritative = true
	m.Ns = []dns.RR{n.soa(zone, n.config.Self+"."+zone, ttlNegative)}
	return m
}

// answerReverse answers for names of addresses on the links.
func (n *Names) answerReverse(q *answer.Query, name string) (*dns.Msg, bool) {
	p, ok := zonefile.ReversePrefix(name)
	if !ok {
		return nil, false
	}
	link, within := n.linkOf(p)
	ptr, found := n.pointer(p)
	if link == nil && !found || n.zoned(name) {
		return nil, false
	}
	zone := name
	server := n.config.Self + "."
	if link != nil {
		zone = zonefile.ReverseZone(within)
		if link.Domain != "" {
			server += link.Domain
		}
	}
	kind := q.Question().Qtype
	m := answer.Reply(q, dns.RcodeSuccess)
	m.Authoritative = true
	switch {
	case name == zone && !found:
		return n.origin(q, zone, server), true
	case found && (kind == dns.TypePTR || kind == dns.TypeANY):
		h := dns.RR_Header{Name: q.Question().Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttlPositive}
		m.Answer = []dns.RR{&dns.PTR{Hdr: h, Ptr: ptr}}
		return m, true
	case p.IsSingleIP() && !found:
		n.mu.RLock()
		early := n.early()
		n.mu.RUnlock()
		if early {
			return nil, true
		}
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = []dns.RR{n.soa(zone, server, ttlNegative)}
	return m, true
}

// linkOf is the link that all of a prefix is on, and the largest part of its subnet around the prefix that is a zone:
// what is beyond the subnet is not the guest's to deny.
func (n *Names) linkOf(p netip.Prefix) (*Link, netip.Prefix) {
	label := 4 // bits of a label in ip6.arpa, 8 in in-addr.arpa
	if p.Addr().Is4() {
		label = 8
	}
	for i, l := range n.config.Links {
		for _, own := range l.Addresses {
			if own.Bits() <= p.Bits() && own.Contains(p.Addr()) {
				return &n.config.Links[i], netip.PrefixFrom(p.Addr(), (own.Bits()+label-1)/label*label).Masked()
			}
		}
	}
	return nil, netip.Prefix{}
}

// pointer is the name of an address.
func (n *Names) pointer(p netip.Prefix) (string, bool) {
	if !p.IsSingleIP() {
		return "", false
	}
	if name, ok := n.reverse[p.Addr()]; ok {
		return name, true
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	c := n.leased[p.Addr()]
	if c == nil || c.label == "" {
		return "", false
	}
	if i := c.at(p.Addr()); i < 0 || !c.leases[i].holds(n.now()) {
		return "", false
	}
	return c.label + "." + c.domain.name, true
}
