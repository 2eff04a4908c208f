package profiles

import (
	"crypto/x509"
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"rempart/profiles/blocklist"
)

// dns checks the name service.
func (v *validator) dns() {
	d := v.p.DNS
	if d == nil {
		return
	}
	if len(d.Links) == 0 && !d.Self && !v.places.spoilt("dns") {
		v.reject(d.At, "name a link: lan: {}, or write self: true", "dns: nobody is served")
	}
	if d.Cache < minCache || d.Cache > maxCache || d.Cache > v.p.Memory/4 {
		v.reject(v.places.find(d.At, "dns.cache"), "", "dns.cache: %s, expected 1M to %s, a quarter of the guest's memory",
			sizeText(d.Cache), sizeText(min(maxCache, v.p.Memory/4)))
	}
	v.upstreams(d.Upstreams, "dns.upstream")
	for i, l := range d.Links {
		if slices.ContainsFunc(d.Links[:i], func(m DNSLink) bool { return m.Link == l.Link }) {
			v.reject(l.At, "remove one", "dns: link %s comes twice", quote(l.Link))
		}
		v.dnsLink(l)
	}
	if d.Self && len(d.Upstreams) == 0 && !v.places.spoilt("dns.upstream") {
		v.reject(d.At, "add upstream: [ADDRESS], or upstream: uplink", "dns.self: there is nobody to ask")
	}
	v.domainServers(d)
	v.dnsNames(d)
	v.block(d)
	v.dnsZones(d)
	for i, name := range d.RebindOK {
		v.dnsName(v.places.find(d.At, "dns.rebind_ok[%d]", i), "dns.rebind_ok", name)
	}
	if d.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(d.CA)) {
		v.reject(v.places.find(d.At, "dns.ca"), "", "dns.ca: there is no certificate in PEM in the file")
	}
}

// dnsName tells what is wrong with a name that has to be canonical.
func (v *validator) dnsName(at Pos, what, name string) bool {
	if canonical, ok := blocklist.Canonical(name); !ok || canonical != name {
		v.reject(at, "", "%s: %s is no domain in lower case", what, quote(name))
		return false
	}
	return true
}

// dnsLink checks one link that names are served on.
func (v *validator) dnsLink(l DNSLink) {
	name := "dns." + clip(l.Link)
	link := v.link(l.Link)
	if link == nil {
		v.reject(l.At, suggest(l.Link, v.linkNames()), "dns: unknown link %s", quote(l.Link))
		return
	}
	if len(link.Addresses) == 0 && !link.DHCP && !link.Auto && !v.places.spoilt("links.%s.address", l.Link) {
		v.reject(l.At, "give the link an address, or serve another one", "%s: the link has no address to be asked at", name)
	}
	if l.Domain != "" {
		v.dnsName(l.At, name+".domain", l.Domain)
	}
	if l.NoRecursion && (len(l.Recurse) > 0 || len(l.Upstreams) > 0) {
		v.reject(l.At, "", "%s: nobody may recurse, and yet there is who may or who is asked", name)
	}
	d := v.p.DNS
	if !l.NoRecursion && len(l.Upstreams) == 0 && len(d.Upstreams) == 0 && !v.places.spoilt("dns.upstream") &&
		!v.places.spoilt("dns.%s.upstream", l.Link) {
		v.reject(l.At, "add upstream: [ADDRESS], or upstream: uplink, or recurse: none", "%s: there is nobody to ask", name)
	}
	if l.Limit < 0 || l.Limit > maxDNSLimit {
		v.reject(l.At, "", "%s.limit: %d, expected 1 to %d", name, l.Limit, maxDNSLimit)
	}
	v.askers(l, link, name)
	v.upstreams(l.Upstreams, "dns."+l.Link+".upstream")
}

// askers checks who may query and who may recurse.
func (v *validator) askers(l DNSLink, link *Link, name string) {
	for _, list := range []struct {
		key      string
		prefixes []netip.Prefix
	}{{"from", l.From}, {"recurse", l.Recurse}} {
		if len(list.prefixes) > maxPrefixes {
			v.reject(l.At, "", "%s.%s: more than %d prefixes", name, list.key, maxPrefixes)
		}
		for i, p := range list.prefixes {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				v.reject(v.places.find(l.At, "%s.%s[%d]", name, list.key, i), "", "%s.%s: %s is no prefix", name, list.key, p)
			}
		}
	}
	recurse := l.Recurse
	if len(recurse) == 0 {
		recurse = l.From
	}
	if !l.NoRecursion && link.leadsOut() {
		for i, p := range recurse {
			if p.Bits() == 0 {
				v.reject(v.places.find(l.At, "%s.recurse[%d]", name, i), "write recurse: none, or the prefixes of your own hosts",
					"%s: whoever reaches the guest by %s could have it ask others, and hit others with the answers", name,
					clip(l.Link))
				break
			}
		}
	}
	if len(l.From) == 0 {
		return
	}
	for i, p := range l.Recurse {
		if !slices.ContainsFunc(l.From, func(f netip.Prefix) bool { return f.Bits() <= p.Bits() && f.Contains(p.Addr()) }) {
			v.reject(v.places.find(l.At, "%s.recurse[%d]", name, i), "add it to from", "%s.recurse: %s is not answered at all",
				name, p)
		}
	}
}

// upstreams checks a list of name servers.
func (v *validator) upstreams(all []Upstream, name string) {
	if len(all) > maxUpstreams {
		v.reject(all[maxUpstreams].At, "", "%s: more than %d name servers", name, maxUpstreams)
		return
	}
	for i, u := range all {
		same := func(w Upstream) bool { return w.Uplink == u.Uplink && w.Addr == u.Addr && w.Port == u.Port }
		switch {
		case slices.ContainsFunc(all[:i], same):
			v.reject(u.At, "remove one", "%s: a name server comes twice", name)
		case u.Uplink:
			v.uplinkServers(u, name)
		default:
			v.upstream(u, name)
		}
	}
}

// uplinkServers checks that somebody may name servers.
func (v *validator) uplinkServers(u Upstream, name string) {
	if u.Addr.IsValid() || u.Port != 0 || u.TLS != "" || u.Pin != "" {
		v.reject(u.At, "", "%s: uplink and a server of its own", name)
	}
	if !slices.ContainsFunc(v.p.Links, func(l Link) bool { return (l.DHCP || l.Auto) && !l.Accept.NoDNS }) &&
		!v.places.spoilt("links") {
		v.reject(u.At, "write the address of a name server", "%s: uplink, but no link gets its address by DHCP or router"+
			" advertisements and accepts their name servers", name)
	}
}

func (v *validator) upstream(u Upstream, name string) {
	if problem := checkUnicast(u.Addr); problem != "" {
		hint := ""
		if u.Addr.IsLoopback() || u.Addr.IsUnspecified() {
			hint = "the guest would ask itself: write the address of another name server"
		}
		v.reject(u.At, hint, "%s: %s", name, problem)
		return
	}
	if u.Port == 0 || u.Addr.Is4In6() || u.Addr.Zone() != "" {
		v.reject(u.At, "", "%s: no port, or no plain address", name)
	}
	if u.TLS != "" {
		v.dnsName(u.At, name, u.TLS)
	}
	if u.Pin != "" {
		if raw, err := base64.StdEncoding.DecodeString(u.Pin); err != nil || len(raw) != 32 || u.TLS == "" {
			v.reject(u.At, "`openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary |"+
				" base64` makes one of a certificate", "%s: a pin is the SHA-256 of a key in base64, and needs tls", name)
		}
	}
	reached := false
	for i := range v.p.Links {
		for _, own := range v.p.Links[i].Addresses {
			if own.Addr() == u.Addr {
				v.reject(u.At, "write the address of another name server", "%s: %s is the guest itself, on link %s", name, u.Addr,
					clip(v.p.Links[i].Name))
				return
			}
		}
		p, err := u.Addr.Prefix(u.Addr.BitLen())
		reached = reached || err == nil && v.p.Links[i].reaches(p)
	}
	if !reached && !v.places.spoilt("links") {
		v.reject(u.At, "give a link an address in its subnet, or a gateway", "%s: no link reaches %s", name, u.Addr)
	}
}

// domainServers checks who is asked for which domain.
func (v *validator) domainServers(d *DNS) {
	if len(d.Domains) > maxDomains {
		v.reject(d.At, "", "dns.domains: more than %d", maxDomains)
		return
	}
	seen := map[string]Pos{}
	for _, s := range d.Domains {
		v.dnsName(s.At, "dns.domains", s.Domain)
		if first, twice := seen[s.Domain]; twice {
			v.reject(s.At, "remove one", "dns.domains: %s comes twice, first at %s", quote(s.Domain), first)
		}
		seen[s.Domain] = s.At
		v.upstreams(s.Upstreams, "dns.domains."+clip(s.Domain))
	}
}

// dnsNames checks the profile's own answers.
func (v *validator) dnsNames(d *DNS) {
	if len(d.Names) > maxDNSNames {
		v.reject(d.At, "", "dns.names: more than %d", maxDNSNames)
		return
	}
	aliases := map[string]string{}
	seen := map[string]Pos{}
	for _, n := range d.Names {
		v.dnsName(n.At, "dns.names", strings.TrimPrefix(n.Name, "*."))
		if first, twice := seen[n.Name]; twice {
			v.reject(n.At, "remove one", "dns.names: %s comes twice, first at %s", quote(n.Name), first)
		}
		seen[n.Name] = n.At
		switch {
		case n.Alias != "" && len(n.Addresses) > 0:
			v.reject(n.At, "write addresses or one other name (RFC 1034 3.6.2)", "dns.names: %s has both addresses and another"+
				" name", quote(n.Name))
		case n.Alias == "" && len(n.Addresses) == 0 && !v.places.spoilt("dns.names"):
			v.reject(n.At, "", "dns.names: %s has no address and no other name", quote(n.Name))
		case len(n.Addresses) > maxAddresses:
			v.reject(n.At, "", "dns.names: %s has more than %d addresses", quote(n.Name), maxAddresses)
		case n.Alias != "" && v.dnsName(n.At, "dns.names", n.Alias):
			aliases[n.Name] = n.Alias
		}
		for _, a := range n.Addresses {
			if !a.IsValid() || a.IsMulticast() || a.Zone() != "" || a.Is4In6() {
				v.reject(n.At, "", "dns.names: %s: %s is no address of a host", quote(n.Name), a)
			}
		}
	}
	v.aliasLoops(d, aliases)
}

// aliasLoops finds names that lead back to themselves, each loop once.
func (v *validator) aliasLoops(d *DNS, aliases map[string]string) {
	// next is the entry that a name is answered by.
	next := func(name string) string {
		if _, ok := aliases[name]; ok || slices.ContainsFunc(d.Names, func(n DNSName) bool { return n.Name == name }) {
			return name
		}
		for rest, ok := name, true; ok; {
			if _, rest, ok = strings.Cut(rest, "."); ok && aliases["*."+rest] != "" {
				return "*." + rest
			}
		}
		return ""
	}
	told := map[string]bool{}
	for _, n := range d.Names {
		path := []string{}
		for at := n.Name; at != "" && aliases[at] != "" && !told[at]; at = next(aliases[at]) {
			if i := slices.Index(path, at); i >= 0 {
				loop := path[i:]
				v.reject(n.At, "let one of them have an address", "dns.names: %s lead in a circle",
					clip(strings.Join(append(slices.Clone(loop), at), " -> ")))
				break
			}
			path = append(path, at)
		}
		for _, name := range path {
			told[name] = true
		}
	}
}

// block checks what is blocked.
func (v *validator) block(d *DNS) {
	b := d.Block
	if b == nil {
		return
	}
	if b.Answer != BlockNXDomain && b.Answer != BlockZero {
		v.reject(b.At, "", "dns.block.answer: expected %s or %s", BlockNXDomain, BlockZero)
	}
	if len(b.Names)+len(b.Allow) > 2*maxBlockNames || b.Count < 0 || b.Count > blocklist.MaxNames ||
		(b.Count > 0 && b.Digest == "") {
		v.reject(b.At, "", "dns.block: more names than %s, or files without a digest", strconv.Itoa(maxBlockNames))
	}
	for i, name := range b.Names {
		v.dnsName(v.places.find(b.At, "dns.block.names[%d]", i), "dns.block.names", name)
	}
	for i, name := range b.Allow {
		v.dnsName(v.places.find(b.At, "dns.block.allow[%d]", i), "dns.block.allow", name)
	}
	v.blockLists(b)
	if len(b.Names) == 0 && b.Digest == "" && len(b.Lists) == 0 && !v.places.spoilt("dns.block") {
		v.reject(b.At, "add files: [FILE], names: [DOMAIN] or lists", "dns.block: nothing is blocked")
	}
}

// blockLists checks the names of lists; sources checks where they come from.
func (v *validator) blockLists(b *Block) {
	if len(b.Lists) > maxBlockLists {
		v.reject(b.Lists[maxBlockLists].At, "", "dns.block.lists: more than %d", maxBlockLists)
		return
	}
	for i, l := range b.Lists {
		if len(l.Name) > maxZone || l.Name == "" || !isLower(l.Name[0]) || !allOf(l.Name, isZoneByte) {
			v.reject(l.At, "", "dns.block.lists: %s: expected a lower-case letter, then such letters, digits, _ and -, %d"+
				" at most", quote(l.Name), maxZone)
		}
		if slices.ContainsFunc(b.Lists[:i], func(m BlockList) bool { return m.Name == l.Name }) {
			v.reject(l.At, "choose another name", "dns.block.lists: %s comes twice", quote(l.Name))
		}
	}
}
