package profiles

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxPort is the largest port: 16 bits in TCP (RFC 9293, 3.1) and UDP (RFC 768).
const maxPort = 65535

// parsePorts reads "80" or "8000-8010". The problem is empty when it is one.
func parsePorts(text string) (PortRange, string) {
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	low, ok1 := parsePort(first)
	high, ok2 := parsePort(last)
	switch {
	case !ok1 || !ok2:
		return PortRange{}, fmt.Sprintf("expected a port from 1 to %d or a range such as 8000-8010, found %s",
			maxPort, quote(text))
	case low > high:
		return PortRange{}, fmt.Sprintf("the range %d-%d is upside down", low, high)
	}
	return PortRange{low, high}, ""
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
		return 0, false
	}
	return uint16(n), true
}

// String is "80" or "8000-8010".
func (p PortRange) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (p PortRange) overlaps(q PortRange) bool { return p.First <= q.Last && q.First <= p.Last }
func (p PortRange) covers(q PortRange) bool   { return p.First <= q.First && q.Last <= p.Last }

// Units of sizes, in bytes. M and G are the binary ones, as in QEMU's -m and qemu-img.
const (
	mebibyte = 1 << 20
	gibibyte = 1 << 30
	tebibyte = 1 << 40
)

// parseSize reads "128M", "1G", "128MiB", "128 MiB" into bytes.
func parseSize(text string) (int64, bool) {
	digits := strings.TrimRight(text, "MGTiB ")
	n, err := strconv.ParseUint(digits, 10, 20) // 20 bits of TiB fit an int64 with room
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	unit := strings.TrimPrefix(text[len(digits):], " ")
	switch strings.TrimSuffix(unit, "iB") {
	case "M":
		return int64(n) * mebibyte, true
	case "G":
		return int64(n) * gibibyte, true
	case "T":
		return int64(n) * tebibyte, true
	}
	return 0, false
}

// sizeText writes bytes the way parseSize reads them, in the largest unit that divides them.
func sizeText(n int64) string {
	switch {
	case n != 0 && n%tebibyte == 0:
		return fmt.Sprintf("%dT", n/tebibyte)
	case n != 0 && n%gibibyte == 0:
		return fmt.Sprintf("%dG", n/gibibyte)
	case n%mebibyte == 0:
		return fmt.Sprintf("%dM", n/mebibyte)
	}
	return fmt.Sprintf("%d bytes", n)
}

// parseAddress reads an address without prefix length.
func parseAddress(text string) (a netip.Addr, problem, hint string) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		return a, "expected an address without prefix length, found " + quote(text),
			"write " + clip(text[:strings.Index(text, "/")])
	case err != nil:
		return a, "expected an IPv4 or IPv6 address, found " + quote(text), ""
	case a.Zone() != "":
		return a, "the address " + quote(text) + " names an interface", "remove %" + clip(a.Zone())
	case a.Is4In6():
		return a, "the address " + quote(text) + " is IPv4 in IPv6 clothes", "write " + a.Unmap().String()
	}
	return a, "", ""
}

// parsePrefix reads the prefix of a network, or an address, which is a network of one.
func parsePrefix(text string) (p netip.Prefix, problem, hint string) {
	if !strings.Contains(text, "/") {
		a, problem, hint := parseAddress(text)
		if problem != "" {
			return p, strings.Replace(problem, "an IPv4 or IPv6 address", "an address or prefix", 1), hint
		}
		return netip.PrefixFrom(a, a.BitLen()), "", ""
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, "expected an address or prefix such as 192.168.0.0/24, found " + quote(text), ""
	case p.Addr().Is4In6():
		return p, "the prefix " + quote(text) + " is IPv4 in IPv6 clothes", "write it as IPv4"
	case p.Masked() != p:
		return p, fmt.Sprintf("the prefix %s has bits set beyond its length", p), "write " + p.Masked().String()
	}
	return p, "", ""
}

// lastAddress is the highest address of a prefix: the broadcast address of an IPv4 subnet.
func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	a, _ := netip.AddrFromSlice(b) // as long as it was
	return a
}

// looksNumeric tells an address, right or wrong, from a name of a zone or host label.
func looksNumeric(text string) bool {
	return strings.ContainsAny(text, ":/") || text != "" && isDigit(text[0])
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
