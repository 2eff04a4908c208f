//go:build !guest

package profiles

import "slices"

// Patterns of the words of dns, for editors.
const (
	domainPattern   = `^([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?$`
	wildPattern     = `^(\*\.)?([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?$`
	upstreamPattern = `^(uplink|[0-9a-fA-F.:]+(@[0-9]{1,5})?(#[A-Za-z0-9.-]{1,253})?)$`
	listNamePattern = `^[a-z][a-z0-9_-]{0,30}$`
	pinPattern      = `^[A-Za-z0-9+/]{43}=$`
)

// dnsFields are the keys of dns that are no link. Every other key is one.
func dnsFields() table[DNS] {
	return table[DNS]{
		{name: "upstream", doc: "Who is asked what the guest does not know: ADDRESS[@PORT], with #NAME by TLS of a server" +
			" whose certificate is for that name; uplink for the servers that DHCP and router advertisements name; or a list." +
			" The fastest that works is asked.", kind: upstreamsSchema(),
			decode: func(r *reader, v value, d *DNS) { d.Upstreams = r.upstreams(v, "dns.upstream") }},
		{name: "domains", doc: "Who is asked for the names of a domain instead: DOMAIN: ADDRESS, or a list; or none: they" +
			" do not exist. Their answers may have private addresses.",
			kind: named(domainPattern, eitherOf(oneWordOf("none"), upstreamsSchema())), decode: readDomainServers},
		{name: "names", doc: "Answers of your own: NAME: ADDRESS, a list of them, or another name. *.DOMAIN is every" +
			" name below it.", kind: named(wildPattern, oneOrMore(eitherOf(hostAddress(), textLike(domainPattern)))),
			decode: readDNSNames},
		{name: "block", doc: "Names kept from clients: {files: [FILE], lists: {NAME: {url: URL}}, names: [DOMAIN]," +
			" allow: [DOMAIN], answer: nxdomain}.",
			kind: filled(blockFields().schema()), decode: readBlock},
		{name: "zones", doc: "Zones the guest is authoritative for: DOMAIN: {file: FILE}, or {records: TEXT}, as zone files" +
			" have them.", kind: named(domainPattern, dnsZoneFields().schema()), decode: readDNSZones},
		{name: "dnssec", doc: "true: what others answer is validated by its signatures, from the root's keys down; what is" +
			" wrong is answered SERVFAIL. Names of domains are left out.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *DNS) { d.DNSSEC, _ = r.boolean(v) }},
		{name: "rebind_ok", doc: "Domains that may have private addresses although an upstream says so. Other such answers" +
			" are refused: they let web pages reach into your network.", kind: oneOrMore(textLike(domainPattern)),
			decode: func(r *reader, v value, d *DNS) { d.RebindOK = r.domainList(v, "dns.rebind_ok") }},
		{name: "cache", doc: "Memory for answers: a number and M (MiB). Default 4M.", kind: textLike(sizePattern),
			decode: func(r *reader, v value, d *DNS) {
				r.places.put(v.pos(), "dns.cache")
				r.size(v, "", &d.Cache)
			}},
		{name: "ca", doc: "PEM file with the certificate authorities of upstreams asked by TLS. Default: Debian's list.",
			kind: schema{"type": "string"}, decode: readCA},
		{name: "log", doc: "true: every query, with who asked, goes to the guest's log.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *DNS) { d.Log, _ = r.boolean(v) }},
		{name: "self", doc: "true: the guest itself resolves names by this service.", kind: yesOrNo(),
			decode: func(r *reader, v value, d *DNS) { d.Self, _ = r.boolean(v) }},
	}
}

// dnsLinkFields are the keys of a link that names are served on.
func dnsLinkFields() table[DNSLink] {
	sources := oneOrMore(eitherOf(oneWordOf("any"), textLike(hostPattern), textLike(prefixPattern)))
	return table[DNSLink]{
		{name: "domain", doc: "Local domain of the hosts on this link, such as home.arpa.", kind: textLike(domainPattern),
			decode: func(r *reader, v value, l *DNSLink) { l.Domain, _ = r.domain(v) }},
		{name: "from", doc: "Who is answered at all: addresses, prefixes, hosts, or any. Default: the link's subnets.",
			kind: sources, decode: func(r *reader, v value, l *DNSLink) { l.From = r.askers(v) }},
		{name: "recurse", doc: "For which of them others are asked: addresses, prefixes or hosts; or none, and the link" +
			" gets to hear only what the guest knows itself. Default: all of them.",
			kind: eitherOf(oneWordOf("none"), sources), decode: readRecurse},
		{name: "upstream", doc: "Who is asked for this link, in place of dns.upstream.", kind: upstreamsSchema(),
			decode: func(r *reader, v value, l *DNSLink) {
				l.Upstreams = r.upstreams(v, "dns."+l.Link+".upstream")
			}},
		{name: "limit", doc: "Answers a second by UDP for each /24 or /56 of those who may not recurse. Default 50.",
			kind: numberIn(1, maxDNSLimit), decode: func(r *reader, v value, l *DNSLink) {
				l.Limit, _ = r.integer(v, 1, maxDNSLimit, "answers")
			}},
		{name: "tls", doc: "true: DNS over TLS too, on port 853. The certificate is on the guest's identity disk: one that" +
			" is made there, or yours (rempart run --dns-key).", kind: yesOrNo(),
			decode: func(r *reader, v value, l *DNSLink) { l.TLS, _ = r.boolean(v) }},
	}
}

// upstreamFields are the keys of an upstream that is more than a word.
func upstreamFields() table[Upstream] {
	return table[Upstream]{
		{name: "address", doc: "Address of the name server.", kind: textLike(addressPattern), required: true,
			decode: func(r *reader, v value, u *Upstream) {
				if text, ok := r.dotted(v, "an address"); ok {
					u.Addr, _ = r.address(v, text)
				}
			}},
		{name: "tls", doc: "Name its certificate must be for; it is then asked by TLS.", kind: textLike(domainPattern),
			decode: func(r *reader, v value, u *Upstream) { u.TLS, _ = r.domain(v) }},
		{name: "pin", doc: "SHA-256 of its public key (SPKI) in base64, in place of certificate authorities. With tls.",
			kind: textLike(pinPattern), decode: func(r *reader, v value, u *Upstream) {
				u.Pin, _ = r.word(v, "44 characters of base64, as `openssl dgst -sha256 -binary | base64` writes them")
			}},
		{name: "port", doc: "Its port. Default 53, with tls 853.", kind: numberIn(1, maxPort),
			decode: func(r *reader, v value, u *Upstream) {
				n, _ := r.integer(v, 1, maxPort, "")
				u.Port = uint16(n)
			}},
	}
}

func upstreamsSchema() schema {
	return oneOrMore(eitherOf(textLike(upstreamPattern), upstreamFields().schema()))
}

// blockDraft is what is blocked as written.
type blockDraft struct {
	files []value
	Block
}

// blockListFields are the keys of one of dns.block.lists: those of a set's list, whose file is always the guest's.
func blockListFields() table[setDraft] {
	all := slices.Clone(setFields())
	for i := range all {
		switch all[i].name {
		case "file":
			all[i].doc = ListsDir + "/NAME, a file on the guest's state disk that is looked at again and again."
			all[i].kind, all[i].decode = textLike("^"+ListsDir+"/[^/]+$"), readListFile
		case "every":
			all[i].doc = "How often, such as 6h (the default) or 1d; a file every minute if nothing is said."
		case "least":
			all[i].doc = "How much of the last good list a new one must have, in per cent of its names; what has less is" +
				" refused. Default: 50%."
		case "insecure":
			all[i].doc = "true: url is http, and whoever is on the way decides which names are blocked."
		}
	}
	return all
}

// blockFields are the keys of dns.block.
func blockFields() table[blockDraft] {
	return table[blockDraft]{
		{name: "files", doc: "Lists below the profile's directory, read when the profile is: hosts files, one domain a" +
			" line, dnsmasq's, or an ad blocker's.", kind: oneOrMore(schema{"type": "string"}),
			decode: func(r *reader, v value, b *blockDraft) {
				b.files = r.items(v, "a file, or a list of files", maxBlockFiles)
			}},
		{name: "lists", doc: "Lists that the guest takes anew while it runs, of the same forms: NAME: {url:" +
			" https://HOST/PATH, every: 1d}. The last good one is kept on the state disk. What they name in a local domain" +
			" or a zone of the guest is not blocked.", kind: filled(named(listNamePattern, blockListFields().schema())),
			decode: readBlockLists},
		{name: "names", doc: "Domains that are blocked with all below them.", kind: oneOrMore(textLike(domainPattern)),
			decode: func(r *reader, v value, b *blockDraft) { b.Names = r.domainList(v, "dns.block.names") }},
		{name: "allow", doc: "Domains that are never blocked, nor anything below them.",
			kind:   oneOrMore(textLike(domainPattern)),
			decode: func(r *reader, v value, b *blockDraft) { b.Allow = r.domainList(v, "dns.block.allow") }},
		{name: "answer", doc: "nxdomain, the default: the name does not exist; or zero: it has the addresses 0.0.0.0 and ::.",
			kind: oneWordOf(string(BlockNXDomain), string(BlockZero)), decode: func(r *reader, v value, b *blockDraft) {
				if word := r.choice(v, string(BlockNXDomain), string(BlockZero)); word != "" {
					b.Answer = BlockAnswer(word)
				}
			}},
	}
}
