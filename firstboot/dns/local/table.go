package local

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"rempart/firstboot/names"
)

// client is one that has leases in a domain.
type client struct {
	key    string // what tells it apart from others, for good
	wanted string // label its bindings say; empty: none
	label  string // the one it has; empty: none
	domain *domain
	leases []lease // one or two: a list is a tenth of what a map takes
}

// lease is an address, and when it ends in seconds since the machine started; 0: never.
type lease struct {
	addr  netip.Addr
	until int64
}

// Bytes is what a client with one lease and a name takes at most (281 were measured).
const Bytes = 400

// maxOfClient bounds the leases of one client: one a family and network is ordinary.
const maxOfClient = 32

// alive tells whether any of its leases has not ended.
func (c *client) alive(now int64) bool {
	return slices.ContainsFunc(c.leases, func(l lease) bool { return l.holds(now) })
}

func (l lease) holds(now int64) bool { return l.until == 0 || l.until > now }

// at is where the lease of an address is among a client's, -1 where it is none of them.
func (c *client) at(addr netip.Addr) int {
	return slices.IndexFunc(c.leases, func(l lease) bool { return l.addr == addr })
}

// keep takes a lease up, or over.
func (c *client) keep(l lease) {
	if i := c.at(l.addr); i >= 0 {
		c.leases[i] = l
	} else {
		c.leases = append(c.leases, l)
	}
}

// Identity is what a client is known by whatever it leased: its hardware address where its identifier holds one. So a
// host is one client, though DHCPv4 tells of its hardware address and DHCPv6 of its DUID.
func Identity(id string) string {
	b, err := hex.DecodeString(id)
	if err != nil {
		return id
	}
	if len(b) > 5 && b[0] == 255 { // RFC 4361 section 6.1: type, IAID, DUID
		b = b[5:]
	}
	const mac = 6
	switch {
	case len(b) == mac+1 && b[0] == 1: // RFC 2132 section 9.14: hardware type, address
		b = b[1:]
	case len(b) == mac+8 && b[0] == 0 && b[1] == 1 && b[2] == 0 && b[3] == 1: // DUID-LLT, RFC 8415 section 11.2
		b = b[8:]
	case len(b) == mac+4 && b[0] == 0 && b[1] == 3 && b[2] == 0 && b[3] == 1: // DUID-LL, RFC 8415 section 11.4
		b = b[4:]
	}
	return hex.EncodeToString(b)
}

// Apply takes over what became of the bindings of leases.
func (n *Names) Apply(c names.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.generation.Add(1)
	put := c.Put
	if c.Whole {
		n.whole = true
		put = slices.Clone(put)
		// Whoever had an address first is asked for its name first, so that the same names come out after a restart.
		slices.SortStableFunc(put, func(a, b names.Binding) int {
			return cmp.Or(cmp.Compare(a.Since, b.Since), strings.Compare(a.Client, b.Client), a.Addr.Compare(b.Addr))
		})
		still := make(map[netip.Addr]string, len(put))
		for _, b := range put {
			still[b.Addr] = b.Link + " " + Identity(b.Client)
		}
		for addr, holder := range n.leased {
			if still[addr] != holder.key {
				n.drop(addr)
			}
		}
	}
	for _, addr := range c.Gone {
		n.drop(addr)
	}
	for _, b := range put {
		n.put(b)
	}
}

// put takes one binding up.
func (n *Names) put(b names.Binding) {
	d := n.links[b.Link]
	if d == nil {
		n.drop(b.Addr) // no names on that link
		return
	}
	key := b.Link + " " + Identity(b.Client)
	if old := n.leased[b.Addr]; old != nil && old.key != key {
		n.drop(b.Addr)
	}
	c := n.clients[key]
	if c == nil {
		if len(n.leased) >= names.MaxBindings {
			return
		}
		c = &client{key: key, domain: d}
		n.clients[key] = c
	}
	if len(c.leases) >= maxOfClient && c.at(b.Addr) < 0 {
		return
	}
	wanted := Label(b.Name)
	c.keep(lease{b.Addr, n.until(b.Until)})
	n.leased[b.Addr] = c
	if wanted == "" || wanted == c.wanted && c.label != "" {
		return // a lease without a name, of the other family perhaps, goes by the name the client has
	}
	n.release(c)
	c.wanted = wanted
	n.name(c)
}

// drop forgets the lease of an address.
func (n *Names) drop(addr netip.Addr) {
	c := n.leased[addr]
	if c == nil {
		return
	}
	delete(n.leased, addr)
	if i := c.at(addr); i >= 0 {
		c.leases = slices.Delete(c.leases, i, i+1)
	}
	if len(c.leases) == 0 {
		n.release(c)
		delete(n.clients, c.key)
	}
}

func (n *Names) release(c *client) {
	if c.label != "" {
		delete(c.domain.clients, c.label)
		c.label = ""
	}
}

// name gives a client the label it wants or, where that is another's, one with a suffix that is always the same for it.
func (n *Names) name(c *client) {
	if n.hostHas(c) {
		return // the profile says so already
	}
	sum := sha256.Sum256([]byte(c.key))
	digits := hex.EncodeToString(sum[:])
	for _, label := range []string{c.wanted, suffixed(c.wanted, digits[:4]), suffixed(c.wanted, digits[:8]),
		suffixed(c.wanted, digits[:16])} {
		if !n.free(c.domain, label) {
			continue
		}
		if old := c.domain.clients[label]; old != nil {
			old.label = ""
		}
		c.domain.clients[label], c.label = c, label
		return
	}
}

// hostHas tells whether the name a client wants is a host's of the profile, and the client is that host.
func (n *Names) hostHas(c *client) bool {
	return slices.ContainsFunc(c.domain.hosts[c.wanted], func(a netip.Addr) bool { return c.at(a) >= 0 })
}

// free tells whether nobody has a label.
func (n *Names) free(d *domain, label string) bool {
	if label == n.config.Self || d.hosts[label] != nil || n.elsewhere(label+"."+d.name) {
		return false
	}
	holder := d.clients[label]
	return holder == nil || !holder.alive(n.now())
}

// elsewhere tells whether a name is another zone's, or answered by others before: a client cannot have it.
func (n *Names) elsewhere(name string) bool {
	if n.config.Taken != nil && n.config.Taken(name) {
		return true
	}
	return slices.ContainsFunc(n.config.Zones, func(zone string) bool {
		return zone == name || strings.HasSuffix(zone, "."+name)
	})
}
