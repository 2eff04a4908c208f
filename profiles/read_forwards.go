//go:build !guest

package profiles

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

func readHosts(r *reader, v value, p *Profile) {
	const what = "an address, a short form such as .10, or a list of these"
	if v.node.Kind != yaml.MappingNode {
		r.places.spoil("hosts")
	}
	for _, entry := range r.entries(v, "a mapping such as web: 192.168.0.102", maxHosts) {
		h := Host{Name: entry.key.Value, At: entry.keyPos()}
		before := len(r.findings)
		for _, item := range r.items(entry, what, maxAddresses) {
			text, ok := r.dotted(item, what)
			if !ok {
				continue
			}
			if a, ok := r.address(item, text); ok {
				r.places.put(item.pos(), "hosts.%s.addresses[%d]", h.Name, len(h.Addresses))
				h.Addresses = append(h.Addresses, a)
			}
		}
		if len(r.findings) > before || len(h.Addresses) == 0 {
			r.places.spoil("hosts.%s", h.Name)
		}
		p.Hosts = append(p.Hosts, h)
	}
}

// address reads an address, long or short.
func (r *reader) address(v value, text string) (netip.Addr, bool) {
	if strings.HasPrefix(text, ".") {
		return r.shortAddress(v, text)
	}
	a, problem, hint := parseAddress(text)
	if strings.HasPrefix(text, delegatedWord) {
		problem, hint = "which address "+quote(text)+" is only the running guest knows", "name it where a line of the policy"+
			" says from or to"
	}
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
		return a, false
	}
	return a, true
}

// shortAddress completes ".10" in the one IPv4 subnet of the links that it can mean.
func (r *reader) shortAddress(v value, text string) (netip.Addr, bool) {
	tail := strings.Split(text[1:], ".")
	if len(tail) > net4Bytes-1 {
		r.rejectAt(v.pos(), "", "%s: expected a short address such as .10, found %s", v.name, quote(text))
		return netip.Addr{}, false
	}
	var candidates []netip.Addr
	seen := map[netip.Prefix]bool{}
	for _, l := range r.p.Links {
		if r.places.spoilt("links.%s.address", l.Name) {
			return netip.Addr{}, false // which subnets there are is not known
		}
		for _, own := range l.Addresses {
			subnet := own.Masked()
			if !own.Addr().Is4() || seen[subnet] {
				continue
			}
			seen[subnet] = true
			head := strings.Split(subnet.Addr().String(), ".")[:net4Bytes-len(tail)]
			a, err := netip.ParseAddr(strings.Join(append(head, tail...), "."))
			if err != nil {
				r.rejectAt(v.pos(), "", "%s: expected a short address such as .10, found %s", v.name, quote(text))
				return netip.Addr{}, false
			}
			if subnet.Contains(a) && subnet.Bits() < a.BitLen() {
				candidates = append(candidates, a)
			}
		}
	}
	switch len(candidates) {
	case 1:
		return candidates[0], true
	case 0:
		r.rejectAt(v.pos(), "write the whole address", "%s: %s is in no IPv4 subnet of the links", v.name, clip(text))
		return netip.Addr{}, false
	}
	r.rejectAt(v.pos(), fmt.Sprintf("write the whole address, %s or %s", candidates[0], candidates[1]),
		"%s: %s can mean %d addresses", v.name, clip(text), len(candidates))
	return netip.Addr{}, false
}

// net4Bytes is the length of an IPv4 address.
const net4Bytes = 4

func (r *reader) hostNamed(name string) *Host {
	for i := range r.p.Hosts {
		if r.p.Hosts[i].Name == name {
			return &r.p.Hosts[i]
		}
	}
	return nil
}

// hostAddresses are the addresses of a host of the profile.
func (r *reader) hostAddresses(v value, name string) []netip.Addr {
	if h := r.hostNamed(name); h != nil {
		return h.Addresses
	}
	if r.places.spoilt("hosts") && len(r.p.Hosts) == 0 {
		return nil // hosts could not be read at all
	}
	var known []string
	for _, h := range r.p.Hosts {
		known = append(known, h.Name)
	}
	hint := suggest(name, known)
	if hint == "" {
		hint = "write its address, or declare it under hosts"
	}
	r.rejectAt(v.pos(), hint, "%s: unknown host %s", v.name, quote(name))
	return nil
}

func readForwards(r *reader, v value, p *Profile) {
	const what = "a list of forwards such as - {from: internet, tcp: 80, to: 10.9.0.2}"
	for _, item := range r.elements(v, what, maxForwards) {
		item.name = "forwards"
		var d forwardDraft
		failed := forwardFields().read(r, item, &d)
		if item.node.Kind != yaml.MappingNode {
			continue
		}
		if len(d.tcp)+len(d.udp) == 0 && !failed["tcp"] && !failed["udp"] {
			r.rejectAt(item.pos(), "write tcp: 80, or udp: [4000, 5000-5010]", "forwards: missing tcp or udp")
			continue
		}
		if len(failed) > 0 || len(d.to) == 0 {
			continue
		}
		r.addForwards(item, d, TCP, d.tcp, d.tcpAt)
		r.addForwards(item, d, UDP, d.udp, d.udpAt)
	}
}

// addForwards adds what one entry means for one protocol: a forward for each address family of its target.
func (r *reader) addForwards(item value, d forwardDraft, proto Protocol, ports []PortRange, portPlaces []Pos) {
	if len(ports) == 0 {
		return
	}
	if d.toPort != 0 && len(ports) > 1 {
		r.rejectAt(d.toAt, "write one forward for each port", "forwards: %d ports lead to the one port %d",
			len(ports), d.toPort)
		return
	}
	for _, from := range d.from {
		byFamily := targetsByFamily(d.to)
		for _, targets := range byFamily {
			to := targets[0]
			if len(byFamily) > 1 && !(r.arrives(from.text, to) && d.speaks(to)) {
				continue // hosts with both families, reached in one
			}
			i := len(r.p.Forwards)
			r.places.put(from.at, "forwards[%d].from", i)
			r.places.put(d.toAt, "forwards[%d].to", i)
			r.places.put(d.snatAt, "forwards[%d].snat", i)
			r.places.put(d.addressAt, "forwards[%d].address", i)
			for j, at := range portPlaces {
				r.places.put(at, "forwards[%d].ports[%d]", i, j)
			}
			for j, at := range d.sourcePlaces {
				r.places.put(at, "forwards[%d].sources[%d]", i, j)
			}
			r.p.Forwards = append(r.p.Forwards, Forward{From: from.text, Protocol: proto, Ports: ports, To: to,
				Others: append([]netip.Addr(nil), targets[1:]...), ToPort: d.toPort, SNAT: d.snat, Address: d.address,
				Sources: d.sources, SourceSets: d.sourceSets, Helper: d.helper,
				SynProxy: d.synproxy, At: item.pos()})
		}
	}
}

// targetsByFamily parts targets, IPv4 first.
func targetsByFamily(all []netip.Addr) (parts [][]netip.Addr) {
	var v4, v6 []netip.Addr
	for _, a := range all {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	for _, part := range [][]netip.Addr{v4, v6} {
		if len(part) > 0 {
			parts = append(parts, part)
		}
	}
	return parts
}

// speaks tells whether what an entry says of addresses leaves room for the family of a.
func (d *forwardDraft) speaks(a netip.Addr) bool {
	return (!d.address.IsValid() || d.address.Is4() == a.Is4()) && (len(d.sources) == 0 || len(d.sourceSets) > 0 ||
		slices.ContainsFunc(d.sources, func(p netip.Prefix) bool { return p.Addr().Is4() == a.Is4() }))
}

// arrives tells whether a zone that could be read has links with addresses of the family of a.
func (r *reader) arrives(zone string, a netip.Addr) bool {
	v := validator{p: r.p, places: r.places}
	return v.hasFamily(zone, a)
}

func readForwardFrom(r *reader, v value, d *forwardDraft) {
	for _, item := range r.items(v, "a zone or a list of zones", maxZones) {
		if text, ok := r.word(item, "a zone"); ok {
			d.from = append(d.from, place{text, item.pos()})
		}
	}
}

func readForwardAddress(r *reader, v value, d *forwardDraft) {
	d.addressAt = v.pos()
	if text, ok := r.dotted(v, "an address of the guest"); ok {
		d.address, _ = r.address(v, text)
	}
}

func readForwardSource(r *reader, v value, d *forwardDraft) {
	d.sources, d.sourcePlaces, d.sourceSets = r.ends(v)
}

// ports reads a port, a range, or a list of these.
func (r *reader) ports(v value) (all []PortRange, places []Pos) {
	what := fmt.Sprintf("a port from 1 to %d, a range such as 8000-8010, or a list", maxPort)
	for _, item := range r.items(v, what, maxPorts) {
		if item.node.Kind != yaml.ScalarNode || item.node.Tag != "!!int" && item.node.Tag != "!!str" {
			r.expected(item, what, "")
			continue
		}
		p, problem := parsePorts(item.node.Value)
		if problem != "" {
			r.rejectAt(item.pos(), "", "%s: %s", item.name, problem)
			continue
		}
		all, places = append(all, p), append(places, item.pos())
	}
	return all, places
}

// balanceSource is what balance says: by the address of the client.
const balanceSource = "source"

func readBalance(r *reader, v value, _ *forwardDraft) {
	if text, ok := r.word(v, balanceSource); ok && text != balanceSource {
		r.expected(v, balanceSource, "")
	}
}

const targetForms = "an address or a host of this profile, with :PORT for another port"

func readTargets(r *reader, v value, d *forwardDraft) {
	d.toAt = v.pos()
	for _, item := range r.items(v, targetForms, maxTargets) {
		to, port, ok := r.target(item)
		switch {
		case !ok:
		case len(d.to) > 0 && port != d.toPort:
			r.rejectAt(item.pos(), "write the same port after each, or none", "%s: the targets have different ports", v.name)
		default:
			d.to, d.toPort = append(d.to, to...), port
		}
	}
}

// target reads one target: an address, or the addresses of a host, one of each family.
func (r *reader) target(v value) (to []netip.Addr, port uint16, ok bool) {
	text, ok := r.dotted(v, targetForms)
	if !ok {
		return nil, 0, false
	}
	host, digits := splitTarget(text)
	if digits != "" {
		if port, ok = parsePort(digits); !ok {
			r.rejectAt(v.pos(), "", "%s: expected a port from 1 to %d after the colon, found %s", v.name, maxPort,
				quote(digits))
			return nil, 0, false
		}
	}
	if strings.HasPrefix(host, delegatedWord+"/") || strings.HasPrefix(host, delegatedWord+"::") {
		r.rejectAt(v.pos(), "write a line of the policy such as internet -> inside: {https: {to: "+clip(host)+"}}",
			"%s: hosts in what is delegated are reached under their own addresses, without a forward", v.name)
		return nil, 0, false
	}
	if !strings.HasPrefix(host, ".") && !looksNumeric(host) || r.hostNamed(host) != nil {
		to = r.hostTargets(v, host)
		return to, port, len(to) > 0
	}
	a, ok := r.address(v, host)
	return []netip.Addr{a}, port, ok
}

// splitTarget parts "10.9.0.2:8080", "[fd00::2]:8080" and "web:8080"; a bare IPv6 address is whole.
func splitTarget(text string) (host, port string) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		host, rest, closed := strings.Cut(inner, "]")
		switch {
		case closed && rest == "":
			return host, ""
		case closed && len(rest) > 1 && rest[0] == ':':
			return host, rest[1:]
		}
		return text, ""
	}
	if strings.Count(text, ":") == 1 {
		host, port, _ = strings.Cut(text, ":")
		if port == "" {
			return text, ""
		}
	}
	if host == "" {
		return text, ""
	}
	return host, port
}

// hostTargets are the addresses a forward to a host means: one of each family.
func (r *reader) hostTargets(v value, name string) []netip.Addr {
	all := r.hostAddresses(v, name)
	for _, part := range targetsByFamily(all) {
		if len(part) > 1 {
			r.rejectAt(v.pos(), "write the address meant", "%s: host %s has several addresses of one family",
				v.name, quote(name))
			return nil
		}
	}
	return all
}

func readSNAT(r *reader, v value, d *forwardDraft) {
	d.snatAt = v.pos()
	if text, ok := r.word(v, "self"); ok {
		if text != Self {
			r.expected(v, "self", "the guest's own address is the only one it can answer under")
			return
		}
		d.snat = true
	}
}
