package profiles

import (
	"net/netip"
	"slices"
)

// DNS is the name service: for the hosts on some links, and for the guest itself. Nil: there is none.
type DNS struct {
	Links []DNSLink `json:"links,omitempty"` // in the order of the file
	// Upstreams are asked what the guest does not know itself, by links that have none of their own.
	Upstreams []Upstream     `json:"upstreams,omitempty"`
	Domains   []DomainServer `json:"domains,omitempty"` // the longest that a name is in decides
	Names     []DNSName      `json:"names,omitempty"`   // answered as written, whatever others say
	Block     *Block         `json:"block,omitempty"`   // nil: nothing is blocked
	Zones     []DNSZone      `json:"zones,omitempty"`   // the guest is authoritative for them
	// DNSSEC has answers of others validated, but for the names of Domains: those are the profile's own servers'.
	DNSSEC bool `json:"dnssec,omitempty"`
	// RebindOK are domains whose names may have addresses of private networks although an upstream said so.
	RebindOK []string `json:"rebind_ok,omitempty"`
	Cache    int64    `json:"cache"`          // bytes of answers kept
	CA       string   `json:"ca,omitempty"`   // PEM: who may vouch for upstreams asked by TLS; empty: the root's own list
	Log      bool     `json:"log,omitempty"`  // every query, with who asked, goes to the guest's log
	Self     bool     `json:"self,omitempty"` // the guest itself resolves names by it
	At       Pos      `json:"at"`
}

// DNSLink is a link on which names are served.
type DNSLink struct {
	Link   string `json:"link"`
	Domain string `json:"domain,omitempty"` // local domain of the hosts on it, without a final dot; empty: none
	// From are the sources whose queries are answered at all; empty: those in the subnets of the link.
	From []netip.Prefix `json:"from,omitempty"`
	// Recurse are those of them for whom others are asked; empty: all of them, or nobody with NoRecursion.
	Recurse     []netip.Prefix `json:"recurse,omitempty"`
	NoRecursion bool           `json:"no_recursion,omitempty"`
	Upstreams   []Upstream     `json:"upstreams,omitempty"` // in place of those of DNS
	// Limit is how many answers a second those get by UDP who may not recurse, for each /24 or /56; 0: DefaultDNSLimit.
	Limit int `json:"limit,omitempty"`
	// TLS has the link served by DNS over TLS (RFC 7858) too; the certificate is on the guest's identity disk.
	TLS bool `json:"tls,omitempty"`
	At  Pos  `json:"at"`
}

// ServesTLS tells whether names are served by TLS on some link.
func (d *DNS) ServesTLS() bool {
	return d != nil && slices.ContainsFunc(d.Links, func(l DNSLink) bool { return l.TLS })
}

// Upstream is a name server that is asked, or with Uplink set those that DHCP and router advertisements name.
type Upstream struct {
	Uplink bool       `json:"uplink,omitempty"`
	Addr   netip.Addr `json:"addr,omitzero"`
	Port   uint16     `json:"port,omitempty"`
	TLS    string     `json:"tls,omitempty"` // name its certificate must be for (RFC 7858, 8310); empty: no TLS
	// Pin is the SHA-256 of its SubjectPublicKeyInfo, base64 (RFC 7858 4.2), in place of a certificate authority; TLS may
	// then be any name.
	Pin string `json:"pin,omitempty"`
	At  Pos    `json:"at"`
}

// DomainServer says who is asked for the names of a domain, in place of other upstreams.
type DomainServer struct {
	Domain    string     `json:"domain"`              // without a final dot
	Upstreams []Upstream `json:"upstreams,omitempty"` // empty: nobody, its names do not exist
	At        Pos        `json:"at"`
}

// DNSName is a name with an answer of the profile's own: addresses, or another name.
type DNSName struct {
	Name      string       `json:"name"` // without a final dot; "*.DOMAIN" is every name below the domain
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Alias     string       `json:"alias,omitempty"` // CNAME
	At        Pos          `json:"at"`
}

// Block says which names are kept from clients.
type Block struct {
	Answer BlockAnswer `json:"answer"`
	Names  []string    `json:"names,omitempty"` // with all below them
	Allow  []string    `json:"allow,omitempty"` // never blocked, nor what is below them
	Lists  []BlockList `json:"lists,omitempty"` // in the order of the file
	// Count is how many names of files there are, and Digest the SHA-256 in hex of Compiled; 0 and empty: no files.
	Count  int    `json:"count,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Compiled are these names as package blocklist has them. A guest finds them in a file beside its profile, where
	// they cost no memory of every child: there is nothing of them in the JSON.
	Compiled []byte `json:"-"`
	At       Pos    `json:"at"`
}

// BlockList is names that are taken from elsewhere again and again while the guest runs. Names in a local domain or in
// a zone of the guest are not blocked by it.
type BlockList struct {
	Name   string     `json:"name"`
	Source ListSource `json:"source"`
	At     Pos        `json:"at"`
}

// BlockLists are the lists of blocked names that change while the guest runs.
func (p *Profile) BlockLists() []BlockList {
	if p.DNS == nil || p.DNS.Block == nil {
		return nil
	}
	return p.DNS.Block.Lists
}

// BlockAnswer is what is said of a blocked name.
type BlockAnswer string

// The answers. BlockZero is 0.0.0.0 and ::, which clients that try again elsewhere take for an answer.
const (
	BlockNXDomain BlockAnswer = "nxdomain"
	BlockZero     BlockAnswer = "zero"
)

// Ports of name servers (RFC 1035 4.2, RFC 7858 3.1).
const (
	PortDNS    = 53
	PortDNSTLS = 853
)

// DefaultDNSLimit is DNSLink.Limit where a profile says nothing: what a server with a zone of its own sees from one
// resolver is far below.
const DefaultDNSLimit = 50

// Bounds of the name service.
const (
	maxUpstreams  = 16
	maxDomains    = 256
	maxDNSNames   = 4096
	maxBlockNames = 1024    // written in the profile itself
	minCache      = 1 << 20 // bytes
	maxCache      = 1 << 28
	defaultCache  = 4 << 20
	maxDNSLimit   = 100000
	maxCAFile     = 512 << 10 // bytes; Debian's whole list has 220 KiB
	maxBlockFiles = 16
	MaxBlockFile  = 64 << 20 // bytes
	maxBlockLists = 16
	maxName       = 253 // bytes of a name in text without its final dot (RFC 1035 2.3.4)
)
