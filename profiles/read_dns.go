//go:build !guest

package profiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"rempart/profiles/blocklist"
)

// dnsSchema is a mapping of settings, and of links under their own names.
func dnsSchema() schema {
	s := dnsFields().schema()
	s["additionalProperties"] = dnsLinkFields().schema()
	return filled(s)
}

func readDNS(r *reader, v value, p *Profile) {
	const what = "a mapping such as {upstream: 9.9.9.9, lan: {domain: home.arpa}}"
	r.filled(v, what)
	entries := r.entries(v, what, maxLinks+len(dnsFields()))
	if len(entries) == 0 {
		return
	}
	d := &DNS{Cache: defaultCache, At: v.keyPos()}
	p.DNS = d
	general := *v.node
	general.Content = nil
	for _, e := range entries {
		switch {
		case dnsFields().knows(e.key.Value):
			general.Content = append(general.Content, e.key, e.node)
		case r.linkNamed(e.key.Value):
			l := DNSLink{Link: e.key.Value, At: e.keyPos()}
			for field := range dnsLinkFields().read(r, e, &l) {
				r.places.spoil("dns.%s.%s", l.Link, field)
			}
			d.Links = append(d.Links, l)
		case !r.places.spoilt("links"):
			known := dnsFields().names()
			for _, l := range p.Links {
				known = append(known, l.Name)
			}
			r.rejectAt(e.keyPos(), suggest(e.key.Value, known), "dns: %s is neither a link nor a setting", quote(e.key.Value))
		}
	}
	for field := range dnsFields().read(r, value{node: &general, key: v.key, name: v.name}, d) {
		r.places.spoil("dns.%s", field)
	}
}

func (r *reader) linkNamed(name string) bool {
	for _, l := range r.p.Links {
		if l.Name == name {
			return true
		}
	}
	return false
}

// domain reads a name and returns it in lower case without its final dot.
func (r *reader) domain(v value) (string, bool) {
	const what = "a domain such as home.arpa"
	text, ok := r.dotted(v, what)
	if !ok {
		return "", false
	}
	name, ok := blocklist.Canonical(text)
	if !ok {
		r.expected(v, what, "labels of letters, digits, - and _, at most 63 each, the last no number")
		return "", false
	}
	return name, true
}

// domainList reads a list of names whose places are kept under a path.
func (r *reader) domainList(v value, path string) (all []string) {
	for _, item := range r.items(v, "a domain, or a list of domains", maxBlockNames) {
		if name, ok := r.domain(item); ok {
			r.places.put(item.pos(), "%s[%d]", path, len(all))
			all = append(all, name)
		}
	}
	return all
}

// upstreams reads name servers.
func (r *reader) upstreams(v value, path string) (all []Upstream) {
	const what = "a name server such as 9.9.9.9 or 9.9.9.9#dns.quad9.net, uplink, or a list"
	for _, item := range r.items(v, what, maxUpstreams) {
		u := Upstream{At: item.pos()}
		if item.node.Kind == yaml.MappingNode {
			if len(upstreamFields().read(r, item, &u)) > 0 {
				continue
			}
		} else {
			text, ok := r.dotted(item, what)
			if !ok || !r.upstream(item, text, &u) {
				continue
			}
		}
		if u.Port == 0 && !u.Uplink {
			u.Port = PortDNS
			if u.TLS != "" {
				u.Port = PortDNSTLS
			}
		}
		all = append(all, u)
	}
	if len(all) == 0 {
		r.places.spoil("%s", path)
	}
	return all
}

// upstream reads ADDRESS[@PORT][#NAME], as unbound.conf(5) has it, or uplink.
func (r *reader) upstream(v value, text string, u *Upstream) bool {
	if text == "uplink" {
		u.Uplink = true
		return true
	}
	text, name, tls := strings.Cut(text, "#")
	if tls {
		canonical, ok := blocklist.Canonical(name)
		if !ok {
			r.rejectAt(v.pos(), "write the name its certificate is for after #", "%s: %s is no name of a server", v.name,
				quote(name))
			return false
		}
		u.TLS = canonical
	}
	text, port, given := strings.Cut(text, "@")
	if given {
		n, ok := parsePort(port)
		if !ok {
			r.rejectAt(v.pos(), "", "%s: expected a port from 1 to %d after @, found %s", v.name, maxPort, quote(port))
			return false
		}
		u.Port = n
	}
	a, ok := netip.Addr{}, false
	switch host, port, found := strings.Cut(text, ":"); {
	case text != "" && !looksNumeric(text) && text[0] != '.' && r.hostNamed(text) == nil:
		r.rejectAt(v.pos(), "write its address, a name server cannot be found by its name", "%s: %s is no address", v.name,
			quote(text))
	case r.hostNamed(text) != nil:
		a = r.oneHost(value{node: scalar(v.node, text), name: v.name})
		ok = a.IsValid()
	case found && strings.Contains(host, ".") && allOf(port, isDigit) && port != "":
		r.rejectAt(v.pos(), "write "+clip(host)+"@"+clip(port), "%s: the port follows an @", v.name)
	default:
		a, ok = r.address(v, text)
	}
	u.Addr = a
	return ok
}

// scalar is a text standing at the place of a node.
func scalar(at *yaml.Node, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Line: at.Line, Column: at.Column}
}

// anywhere is what "any" means as sources.
func anywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

// askers reads who may query.
func (r *reader) askers(v value) []netip.Prefix {
	if v.node.Kind == yaml.ScalarNode && v.node.Value == Any {
		return anywhere()
	}
	all, places, sets := r.ends(v)
	for i, at := range places {
		r.places.put(at, "%s[%d]", v.name, i)
	}
	if len(sets) > 0 {
		r.rejectAt(v.pos(), "write its prefixes", "%s: sets are for the policy, %s is one", v.name, quote(sets[0]))
	}
	return all
}

func readRecurse(r *reader, v value, l *DNSLink) {
	if v.node.Kind == yaml.ScalarNode && v.node.Value == "none" {
		l.NoRecursion = true
		return
	}
	l.Recurse = r.askers(v)
}

func readDomainServers(r *reader, v value, d *DNS) {
	const what = "a mapping such as {corp.example: 10.0.0.53}"
	for _, e := range r.entries(v, what, maxDomains) {
		name, ok := r.domain(value{node: e.key, name: v.name})
		if !ok {
			continue
		}
		s := DomainServer{Domain: name, At: e.keyPos()}
		if e.node.Kind != yaml.ScalarNode || e.node.Value != "none" {
			if s.Upstreams = r.upstreams(e, e.name); len(s.Upstreams) == 0 {
				continue
			}
		}
		d.Domains = append(d.Domains, s)
	}
}

func readDNSNames(r *reader, v value, d *DNS) {
	const what = "a mapping such as {printer.example.org: 10.9.0.7, www.example.org: printer.example.org}"
	for _, e := range r.entries(v, what, maxDNSNames) {
		wild := strings.HasPrefix(e.key.Value, "*.")
		name, ok := r.domain(value{node: scalar(e.key, strings.TrimPrefix(e.key.Value, "*.")), name: v.name})
		if !ok {
			continue
		}
		if wild {
			name = "*." + name
		}
		n := DNSName{Name: name, At: e.keyPos()}
		for _, item := range r.items(e, "an address, another name, or a list of addresses", maxAddresses) {
			text, ok := r.dotted(item, "an address, or another name")
			switch {
			case !ok:
			case text == "" || text[0] == '.' || looksLikeAddress(text):
				if a, ok := r.address(item, text); ok {
					n.Addresses = append(n.Addresses, a)
				}
			case n.Alias != "":
				r.rejectAt(item.pos(), "write one name, or addresses", "%s: a name stands for one other name only", item.name)
			default:
				n.Alias, _ = r.domain(item)
			}
		}
		d.Names = append(d.Names, n)
	}
}

// looksLikeAddress tells an address, right or wrong, from a domain, which may begin with a digit.
func looksLikeAddress(text string) bool {
	last := text[strings.LastIndexByte(text, '.')+1:]
	return strings.Contains(text, ":") || allOf(last, isDigit)
}

func readCA(r *reader, v value, d *DNS) {
	name, ok := r.word(v, "the name of a file")
	if !ok {
		return
	}
	src, err := r.besideOf(name, maxCAFile)
	if err != nil {
		r.rejectAt(v.pos(), "name a file below the directory of the profile", "%s: %v", v.name, err)
		return
	}
	r.places.put(v.pos(), "dns.ca")
	d.CA = string(src)
}

func readBlock(r *reader, v value, d *DNS) {
	draft := blockDraft{Block: Block{Answer: BlockNXDomain, At: v.keyPos()}}
	const what = "a mapping such as {files: [ads.txt]}"
	r.filled(v, what)
	blockFields().read(r, v, &draft)
	var b blocklist.Builder
	for _, file := range draft.files {
		name, ok := r.word(file, "the name of a file")
		if !ok {
			continue
		}
		src, err := r.besideOf(name, MaxBlockFile)
		if err != nil {
			r.rejectAt(file.pos(), "name a file below the directory of the profile", "%s: %v", file.name, err)
			continue
		}
		said, err := b.Read(bytes.NewReader(src))
		switch {
		case err != nil:
			r.rejectAt(file.pos(), "", "%s: %s: %v", file.name, clip(name), err)
		case said.Names <= said.Foreign:
			r.rejectAt(file.pos(), "want a hosts file, or one domain a line",
				"%s: %s has %s names and %s lines that are none, the first is line %d", file.name, clip(name),
				strconv.Itoa(said.Names), strconv.Itoa(said.Foreign), said.First)
		}
	}
	if len(draft.files) > 0 {
		raw, n, err := b.Table()
		if err != nil {
			r.rejectAt(v.pos(), "", "%s: %v", v.name, err)
			return
		}
		sum := sha256.Sum256(raw)
		draft.Compiled, draft.Count, draft.Digest = raw, n, hex.EncodeToString(sum[:])
	}
	d.Block = &draft.Block
}

// readBlockLists reads the lists that are taken from elsewhere.
func readBlockLists(r *reader, v value, b *blockDraft) {
	const what = "a mapping such as ads: {url: https://lists.example/ads.txt}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxBlockLists) {
		var d setDraft
		path := "dns.block.lists." + entry.key.Value
		before := len(r.findings)
		blockListFields().read(r, entry, &d)
		source := d.taken(r, entry, path)
		switch {
		case len(r.findings) > before:
			r.places.spoil("dns.block")
		case source == nil:
			r.rejectAt(entry.keyPos(), asHint(blockListFields()[0].doc), "missing %s.url or file", entry.name)
			r.places.spoil("dns.block")
		default:
			b.Lists = append(b.Lists, BlockList{Name: entry.key.Value, Source: *source, At: entry.keyPos()})
		}
	}
}

// readListFile reads the name of a list on the guest's state disk.
func readListFile(r *reader, v value, d *setDraft) {
	name, ok := r.word(v, "the name of a file in "+ListsDir+" of the guest")
	if !ok {
		return
	}
	d.note(v)
	if d.source.File, ok = strings.CutPrefix(name, ListsDir+"/"); !ok {
		r.rejectAt(v.pos(), "write "+ListsDir+"/NAME, or give the file under files: those are read when the profile is",
			"%s: %s is no file that the guest looks at again and again", v.name, quote(name))
	}
}

// besideOf is beside for files of another size.
func (r *reader) besideOf(name string, most int) ([]byte, error) {
	src, err := r.below(name, most)
	if err == nil && len(src) > most {
		err = fmt.Errorf("%s is larger than %d KiB", clip(name), most>>10)
	}
	return src, err
}
