package profiles

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Bounds of a machine.
const (
	minMemory  = 64 * mebibyte // the cloud kernel does not start with less
	snugMemory = 96 * mebibyte // below, READY was not reached by every way of booting
	maxMemory  = tebibyte
	minState   = 16 * mebibyte // the least that holds an ext4 with a journal and the skeleton of /var
	maxState   = 16 * tebibyte // ext4 with 4 KiB blocks and 32-bit block numbers
)

// Bounds of a link.
const (
	minMTU     = 68   // RFC 791, 3.2: every internet module must be able to forward 68 octets
	minMTUIPv6 = 1280 // RFC 8200, 5
	maxMTU     = 9216 // the usual jumbo limit of NICs and switches
	maxLink    = 15   // IFNAMSIZ-1, linux/if.h
	maxLabel   = 63   // RFC 1123, 2.1; RFC 1035, 2.3.4
	maxHost    = 253  // RFC 1035, 2.3.4, written without the last dot
	maxZone    = 31   // leaves room for it in names of nftables chains and sets, which take 128 bytes
)

func (v *validator) machine() {
	at := v.places.find(Pos{}, "name")
	if !v.places.spoilt("name") {
		if problem, hint := checkLabel(v.p.Name); problem != "" {
			v.reject(at, hint, "name: %s", problem)
		}
	}
	at = v.places.find(Pos{}, "memory")
	switch m := v.p.Memory; {
	case v.places.spoilt("memory"):
	case m < minMemory || m > maxMemory:
		v.reject(at, "", "memory: %s, expected %s to %s", sizeText(m), sizeText(minMemory), sizeText(maxMemory))
	case m < snugMemory:
		v.warn(at, "", "memory: with less than %s not every way of booting comes up", sizeText(snugMemory))
	}
	if v.p.Kernel != KernelCloud && v.p.Kernel != KernelFull && !v.places.spoilt("kernel") {
		v.reject(v.places.find(Pos{}, "kernel"), "", "kernel: expected %s or %s, found %s", KernelCloud, KernelFull,
			quote(v.p.Kernel))
	}
	at = v.places.find(Pos{}, "state")
	if s := v.p.State.Size; s != 0 && (s < minState || s > maxState) && !v.places.spoilt("state") {
		v.reject(at, "", "state: %s, expected %s to %s, or none", sizeText(s), sizeText(minState), sizeText(maxState))
	}
}

// checkLabel tells what is wrong with a host name of one label.
func checkLabel(name string) (problem, hint string) {
	switch {
	case name == "":
		return "the host name is empty", "for example fw-1"
	case len(name) > maxLabel:
		return fmt.Sprintf("the host name has %d bytes, expected at most %d", len(name), maxLabel), ""
	case name != strings.ToLower(name):
		lower := strings.ToLower(name)
		if problem, _ := checkLabel(lower); problem != "" {
			return problem, ""
		}
		return "the host name " + quote(name) + " has capitals", "write " + lower
	case !allOf(name, isLabelByte):
		return "the host name " + quote(name) + " has other than letters, digits and -", ""
	case name[0] == '-' || name[len(name)-1] == '-':
		return "the host name " + quote(name) + " begins or ends with -", ""
	}
	return "", ""
}

func isLower(c byte) bool     { return c >= 'a' && c <= 'z' }
func isLabelByte(c byte) bool { return isLower(c) || isDigit(c) || c == '-' }
func isZoneByte(c byte) bool  { return isLabelByte(c) || c == '_' }
func isLinkByte(c byte) bool  { return isZoneByte(c) || c >= 'A' && c <= 'Z' || c == '.' }

func allOf(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

// checkLinkName tells what is wrong with a name for a network interface. The kernel takes more (dev_valid_name in
// net/core/dev.c); what it takes beyond this breaks sysctl paths, nft text or eyes.
func checkLinkName(name string) (problem, hint string) {
	switch {
	case name == "":
		return "the name of a link is empty", ""
	case len(name) > maxLink:
		return fmt.Sprintf("link %s: the name has %d bytes, the kernel takes %d", quote(name), len(name), maxLink), ""
	case name == "lo", name == "all", name == "default", name == ".", name == "..":
		return "link " + quote(name) + ": the kernel uses that name itself", "choose another, such as lan0"
	case !allOf(name, isLinkByte) || !isLower(name[0]|0x20):
		return "link " + quote(name) + ": expected a letter, then letters, digits, and any of . _ -", ""
	}
	return "", ""
}

// links checks each link by itself, and names and hardware addresses among each other.
func (v *validator) links() {
	if len(v.p.Links) == 0 && !v.places.spoilt("links") {
		v.reject(Pos{}, "", "there are no links")
	}
	if n := len(v.p.Links); n > maxLinks {
		v.reject(v.p.Links[maxLinks].At, "", "%d links, expected at most %d", n, maxLinks)
	}
	names, macs := map[string]Link{}, map[string]Link{}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if problem, hint := checkLinkName(l.Name); problem != "" {
			v.reject(l.At, hint, "%s", problem)
		}
		if first, twice := names[l.Name]; twice {
			v.reject(l.At, "", "link %s is declared twice, first at %s", quote(l.Name), first.At)
		}
		names[l.Name] = *l
		if l.MAC != "" {
			at := v.places.find(l.At, "links.%s.mac", l.Name)
			if problem := checkMAC(l.MAC); problem != "" {
				v.reject(at, "", "links.%s.mac: %s", clip(l.Name), problem)
			} else if first, twice := macs[l.MAC]; twice {
				v.reject(at, "", "links.%s.mac: %s is that of link %s already", clip(l.Name), l.MAC, clip(first.Name))
			}
			macs[l.MAC] = *l
		}
		v.mtu(l)
		v.instance(l)
		unsaid := len(l.Addresses) == 0 && !l.DHCP && !l.Learns6() && !l.Instance
		if unsaid && !v.places.spoilt("links.%s.address", l.Name) && !v.silent(l) {
			v.reject(l.At, "an address with prefix length such as 192.168.0.1/24, or dhcp, or auto", "missing links.%s.address",
				clip(l.Name))
		}
		for j, own := range l.Addresses {
			if problem, hint := checkOwnAddress(own); problem != "" {
				v.reject(v.places.find(l.At, "links.%s.addresses[%d]", l.Name, j), hint,
					"links.%s.address: %s", clip(l.Name), problem)
			}
		}
	}
}

func (v *validator) mtu(l *Link) {
	if l.MTU == 0 || v.places.spoilt("links.%s.mtu", l.Name) {
		return
	}
	at := v.places.find(l.At, "links.%s.mtu", l.Name)
	if l.MTU < minMTU || l.MTU > maxMTU {
		v.reject(at, "", "links.%s.mtu: %d, expected %d to %d", clip(l.Name), l.MTU, minMTU, maxMTU)
		return
	}
	if l.MTU >= minMTUIPv6 {
		return
	}
	for _, own := range l.Addresses {
		if own.Addr().Is6() {
			v.reject(at, fmt.Sprintf("write %d or more, or remove %s", minMTUIPv6, own),
				"links.%s.mtu: %d, IPv6 needs %d", clip(l.Name), l.MTU, minMTUIPv6)
			return
		}
	}
}

// checkMAC tells what is wrong with a hardware address in canonical form.
func checkMAC(text string) string {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != macBytes || mac.String() != text:
		return "expected a hardware address such as 52:54:00:12:34:56, found " + quote(text)
	case mac[0]&1 != 0: // the I/G bit, IEEE 802
		return text + " is a group address, no NIC has it"
	case text == "00:00:00:00:00:00":
		return text + " is no NIC's address"
	}
	return ""
}

// Prefix lengths of subnets that a link can sensibly be in: the shortest are those of the largest networks there are,
// so that 192.168.0.1/2 is a slip.
const (
	minBits4 = 8
	minBits6 = 16
)

func leastBits(a netip.Addr) int {
	if a.Is4() {
		return minBits4
	}
	return minBits6
}

// checkOwnAddress tells what is wrong with an address for the guest itself.
func checkOwnAddress(p netip.Prefix) (problem, hint string) {
	a, bits := p.Addr(), p.Bits()
	if !p.IsValid() || a.Zone() != "" || a.Is4In6() {
		return fmt.Sprintf("%s is no address with prefix length", p), ""
	}
	if problem := checkUnicast(a); problem != "" {
		return problem, ""
	}
	if least := leastBits(a); bits < least {
		return fmt.Sprintf("%s: no subnet is as large as /%d, expected /%d to /%d", p, bits, least, a.BitLen()), ""
	}
	return checkHostPart(a, p.Masked())
}

// checkHostPart tells whether an address cannot be a host's in its subnet. Subnets of one or two addresses have hosts
// only (RFC 3021 for IPv4, RFC 6164 for IPv6).
func checkHostPart(a netip.Addr, subnet netip.Prefix) (problem, hint string) {
	if subnet.Bits() >= a.BitLen()-1 {
		return "", ""
	}
	switch {
	case a == subnet.Addr() && a.Is4():
		return fmt.Sprintf("%s is the address of the network %s itself", a, subnet), "for example " + a.Next().String()
	case a == subnet.Addr():
		return fmt.Sprintf("%s is the subnet-router anycast address of %s", a, subnet), "for example " + a.Next().String()
	case a.Is4() && a == lastAddress(subnet):
		return fmt.Sprintf("%s is the broadcast address of %s", a, subnet), "for example " + a.Prev().String()
	}
	return "", ""
}

// checkUnicast tells what is wrong with an address that one host should have.
func checkUnicast(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "there is no address"
	case a.IsUnspecified(), a.Is4() && a.As4()[0] == 0: // RFC 1122, 3.2.1.3
		return fmt.Sprintf("%s stands for no host", a)
	case a.IsLoopback():
		return fmt.Sprintf("%s is a loopback address", a)
	case a.IsMulticast():
		return fmt.Sprintf("%s is a multicast address", a)
	case a.Is4() && a.As4()[0] >= 240: // RFC 1112, 4, and RFC 919, 7
		return fmt.Sprintf("%s is a reserved or broadcast address", a)
	case a.Is6() && a.IsLinkLocalUnicast():
		return fmt.Sprintf("%s is link-local, the kernel gives each link one by itself", a)
	}
	return ""
}

// subnets compares the addresses of all links with each other.
func (v *validator) subnets() {
	type held struct {
		link *Link
		at   Pos
		p    netip.Prefix
	}
	var all []held
	for i := range v.p.Links {
		l := &v.p.Links[i]
		for j, own := range l.Addresses {
			at := v.places.find(l.At, "links.%s.addresses[%d]", l.Name, j)
			if !own.IsValid() {
				continue // told by links
			}
			for _, other := range all {
				switch {
				case other.p.Addr() == own.Addr():
					v.reject(at, "remove one", "links.%s.address: %s comes twice, first on link %s at %s",
						clip(l.Name), own.Addr(), clip(other.link.Name), other.at)
				case other.link != l && other.p.Overlaps(own):
					v.reject(at, "each link needs a subnet of its own",
						"links.%s.address: the subnet %s overlaps %s of link %s at %s",
						clip(l.Name), own.Masked(), other.p.Masked(), clip(other.link.Name), other.at)
				default:
					continue
				}
				break
			}
			all = append(all, held{l, at, own})
		}
	}
}

// gateways checks the default routes: of a family there is one, or it is said which of several is taken.
func (v *validator) gateways() {
	first := map[bool][]defaultRoute{} // by whether it is IPv4
	for i := range v.p.Links {
		l := &v.p.Links[i]
		for _, learnt := range []struct {
			on, four   bool
			word, what string
		}{{l.DHCP, true, "dhcp", "that by DHCP on link "}, {l.Auto, false, "auto", "that of the routers on link "}} {
			if !learnt.on || l.Accept.NoDefault {
				continue
			}
			at := v.places.find(l.At, "links.%s.%s", l.Name, learnt.word)
			d := defaultRoute{learnt.what + clip(l.Name), l.Accept.Metric}
			v.secondDefault(first[learnt.four], d, at, "links."+clip(l.Name)+".address")
			first[learnt.four] = append(first[learnt.four], d)
		}
	}
	for i := range v.p.Links {
		l := &v.p.Links[i]
		for j, g := range l.Gateways {
			at := v.places.find(l.At, "links.%s.gateways[%d]", l.Name, j)
			name := "links." + clip(l.Name) + ".gateway"
			if !v.gateway(l, g, at, name) {
				continue
			}
			if g.Metric > maxMetric {
				v.reject(at, "", "%s: metric %d, expected 1 to %d", name, g.Metric, maxMetric)
			}
			d := defaultRoute{fmt.Sprintf("%s of link %s", g.Addr, clip(l.Name)), g.Metric}
			v.secondDefault(first[g.Addr.Is4()], d, at, name)
			first[g.Addr.Is4()] = append(first[g.Addr.Is4()], d)
		}
	}
}

// gateway checks one gateway by itself.
func (v *validator) gateway(l *Link, g Gateway, at Pos, name string) bool {
	linkLocal := g.Addr.Is6() && g.Addr.IsLinkLocalUnicast() && g.Addr.Zone() == ""
	if problem := checkUnicast(g.Addr); problem != "" && !linkLocal {
		v.reject(at, "", "%s: %s", name, problem)
		return false
	}
	for k := range v.p.Links {
		for _, own := range v.p.Links[k].Addresses {
			if own.Addr() == g.Addr {
				v.reject(at, "write the address of the next router", "%s: %s is the guest's own address", name, g.Addr)
				return false
			}
		}
	}
	if v.places.spoilt("links.%s.address", l.Name) {
		return true // whether it fits is not known
	}
	if !l.has(g.Addr) {
		v.reject(at, "add an address of that family to the link", "%s: %s, but the link has no %s address",
			name, g.Addr, family(g.Addr))
		return false
	}
	subnet, inside := l.subnetOf(g.Addr)
	switch {
	case inside:
		if problem, _ := checkHostPart(g.Addr, subnet); problem != "" {
			v.reject(at, "", "%s: %s", name, problem)
			return false
		}
	case !g.OnLink && !linkLocal:
		v.reject(at, fmt.Sprintf("if it answers on this link all the same write {via: %s, onlink: true}", g.Addr),
			"%s: %s is in no subnet of link %s", name, g.Addr, clip(l.Name))
		return false
	}
	return true
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// String is line:column.
func (p Pos) String() string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// silent tells whether a link needs no address: others speak over it.
func (v *validator) silent(l *Link) bool {
	return l.Bridge != nil || v.p.MasterOf(l.Name) != nil || v.p.Carries(l.Name)
}
