//go:build !guest

package profiles

import (
	"net"
	"net/netip"
	"strings"

	"gopkg.in/yaml.v3"
)

// profile reads the whole. It is false when nothing more can be said than what was found already.
func (r *reader) profile(root *yaml.Node) bool {
	v := value{node: root}
	if root.Kind != yaml.MappingNode {
		r.rejectAt(v.pos(), "`rempart new home-firewall` prints a profile to start from",
			"expected a profile, a mapping with rempart, name, links, ..., found %s", describe(root))
		return false
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if n := root.Content[i+1]; root.Content[i].Value == "rempart" && (n.Tag != "!!int" || n.Value != "1") {
			// Another version is another language: what else seems wrong in it may be right.
			r.expected(value{node: n, name: "rempart"}, "1, the version of the profile language this rempart reads", "")
			return false
		}
	}
	r.p.Memory, r.p.Kernel, r.p.State.Size = defaultMemory, KernelCloud, defaultState
	r.p.Links, r.p.Zones, r.p.Policy = []Link{}, []Zone{}, []Rule{}
	for name := range profileFields().read(r, v, r.p) {
		r.places.spoil("%s", name)
	}
	return true
}

func readName(r *reader, v value, p *Profile) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" {
		r.expected(v, "a host name", "write \""+clip(v.node.Value)+"\" if that is meant")
		return
	}
	p.Name, _ = r.word(v, "a host name")
	r.places.put(v.pos(), "name")
}

func readMemory(r *reader, v value, p *Profile) {
	r.places.put(v.pos(), "memory")
	r.size(v, "", &p.Memory)
}

func readState(r *reader, v value, p *Profile) {
	r.places.put(v.pos(), "state")
	if v.node.Kind == yaml.ScalarNode && v.node.Value == "none" {
		p.State.Size = 0
		return
	}
	if r.size(v, " or none", &p.State.Size) && p.State.Size == 0 {
		r.rejectAt(v.pos(), "write none for a guest without a state disk", "state: the size is 0")
	}
}

func (r *reader) size(v value, or string, into *int64) bool {
	what := "a size such as 128M (MiB) or 1G (GiB)" + or
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" {
		r.expected(v, what, "write "+clip(v.node.Value)+"M if MiB are meant")
		return false
	}
	text, ok := r.word(v, what)
	if !ok {
		return false
	}
	n, ok := parseSize(text)
	if !ok {
		hint := ""
		if unit := strings.TrimLeft(text, "0123456789 "); len(unit) > 0 && len(unit) <= 2 && unit != text {
			hint = "write " + text[:len(text)-len(unit)] + strings.ToUpper(unit[:1])
		}
		r.expected(v, what, hint)
		return false
	}
	*into = n
	return true
}

func readKernel(r *reader, v value, p *Profile) {
	r.places.put(v.pos(), "kernel")
	if text := r.choice(v, KernelCloud, KernelFull); text != "" {
		p.Kernel = text
	}
}

func readLinks(r *reader, v value, p *Profile) {
	const what = "a mapping such as lan0: {address: 192.168.0.1/24}"
	r.filled(v, what)
	for _, entry := range r.entries(v, what, maxLinks) {
		i := len(p.Links)
		p.Links = append(p.Links, Link{Name: entry.key.Value, At: entry.keyPos()})
		for field := range linkFields().read(r, entry, &p.Links[i]) {
			r.places.spoil("links.%s.%s", entry.key.Value, field)
		}
	}
}

func readMAC(r *reader, v value, l *Link) {
	if mac, ok := r.hardware(v); ok {
		l.MAC = mac
		r.places.put(v.pos(), "links.%s.mac", l.Name)
	}
}

// hardware reads a hardware address and returns it in canonical form.
func (r *reader) hardware(v value) (string, bool) {
	const what = "a hardware address such as 52:54:00:12:34:56"
	text, ok := r.word(v, what)
	if !ok {
		return "", false
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != macBytes || strings.Count(text, ":") != macBytes-1 {
		r.expected(v, what, "")
		return "", false
	}
	return mac.String(), true
}

// instanceWord stands for what is on the identity disk of each guest.
const instanceWord = "instance"

func readAddresses(r *reader, v value, l *Link) {
	const what = "an address with prefix length such as 192.168.0.1/24, or dhcp, or auto, or a list"
	for _, item := range r.items(v, what, maxAddresses) {
		text, ok := r.dotted(item, what)
		if !ok {
			continue
		}
		switch text {
		case "dhcp":
			if l.DHCP {
				r.rejectAt(item.pos(), "remove one", "%s: dhcp comes twice", item.name)
			}
			l.DHCP = true
			r.places.put(item.pos(), "links.%s.dhcp", l.Name)
			continue
		case "auto":
			if l.Auto {
				r.rejectAt(item.pos(), "remove one", "%s: auto comes twice", item.name)
			}
			l.Auto = true
			r.places.put(item.pos(), "links.%s.auto", l.Name)
			continue
		case instanceWord:
			if v.node.Kind == yaml.SequenceNode {
				r.rejectAt(item.pos(), "write address: instance; the identity disk may hold several", "%s: instance stands alone",
					item.name)
			}
			l.Instance = true
			r.places.put(item.pos(), "links.%s.instance", l.Name)
			continue
		case "dhcp6":
			if l.DHCP6 {
				r.rejectAt(item.pos(), "remove one", "%s: dhcp6 comes twice", item.name)
			}
			l.DHCP6 = true
			r.places.put(item.pos(), "links.%s.dhcp6", l.Name)
			continue
		case "ra":
			r.rejectAt(item.pos(), "write the address itself, or dhcp for IPv4 from a DHCP server, or auto for IPv6 from"+
				" router advertisements",
				"%s: %s: not in this version", item.name, text)
			continue
		}
		if rest, ok := strings.CutPrefix(text, delegatedWord); ok {
			r.delegatedLink(item, rest, l)
			continue
		}
		p, problem, hint := parseInterfaceAddress(text)
		if problem != "" {
			r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
			continue
		}
		r.places.put(item.pos(), "links.%s.addresses[%d]", l.Name, len(l.Addresses))
		l.Addresses = append(l.Addresses, p)
	}
}

// parseInterfaceAddress reads an address of the guest, which needs the length of its subnet's prefix.
func parseInterfaceAddress(text string) (p netip.Prefix, problem, hint string) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		bits := 64
		if a.Is4() {
			bits = 24
		}
		return p, "the address " + text + " lacks the length of its subnet's prefix",
			"write " + netip.PrefixFrom(a, bits).String() + " if that is its subnet"
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, "expected an address with prefix length such as 192.168.0.1/24, or dhcp, or auto, found " + quote(text),
			nearest(text, []string{"dhcp", "auto"})
	case p.Addr().Is4In6():
		return p, "the address " + quote(text) + " is IPv4 in IPv6 clothes", "write it as IPv4"
	}
	return p, "", ""
}

func readGateways(r *reader, v value, l *Link) {
	const what = "the address of a gateway, {via: ADDRESS, onlink: true}, or a list"
	for _, item := range r.items(v, what, maxAddresses) {
		g := Gateway{}
		switch {
		case item.node.Kind == yaml.MappingNode:
			if len(gatewayFields().read(r, item, &g)) > 0 {
				continue
			}
		case item.node.Value == instanceWord:
			if v.node.Kind == yaml.SequenceNode {
				r.rejectAt(item.pos(), "write gateway: instance; the identity disk may hold several", "%s: instance stands alone",
					item.name)
			}
			l.InstanceGateway = true
			r.places.put(item.pos(), "links.%s.instance", l.Name)
			continue
		case item.node.Value == "dhcp":
			r.rejectAt(item.pos(), "remove it, address: dhcp brings the gateway along", "%s: dhcp is no gateway", item.name)
			continue
		default:
			a, ok := r.fullAddress(item, what)
			if !ok {
				continue
			}
			g.Addr = a
		}
		r.places.put(item.pos(), "links.%s.gateways[%d]", l.Name, len(l.Gateways))
		l.Gateways = append(l.Gateways, g)
	}
}

func readVia(r *reader, v value, g *Gateway) {
	text, ok := r.dotted(v, "the address of a gateway")
	if !ok {
		return
	}
	a, problem, hint := parseAddress(text)
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
		return
	}
	g.Addr = a
}

func readOnLink(r *reader, v value, g *Gateway) { g.OnLink, _ = r.boolean(v) }

func readMTU(r *reader, v value, l *Link) {
	l.MTU, _ = r.integer(v, minMTU, maxMTU, "bytes")
	r.places.put(v.pos(), "links.%s.mtu", l.Name)
}
