package v4

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/profiles"
)

// How identities begin, so that none can be taken for one of another kind.
const (
	byHardware = "h" // then the hardware type and address
	byClientID = "i" // then option 61
	byName     = "n" // then the name of a host of the profile
)

// host is a client the profile names.
type host struct{ *profiles.DHCPHost }

func (ln *link) addHost(h *profiles.DHCPHost) {
	known := &host{h}
	ln.hosts = append(ln.hosts, known)
	for _, m := range h.MACs {
		if mac, err := net.ParseMAC(m); err == nil {
			ln.byMAC[string(mac)] = known
		}
	}
	for _, id := range h.ClientIDs {
		if b, err := hex.DecodeString(id); err == nil {
			ln.byID[string(b)] = known
		}
	}
}

// client is who sent a message, and what the profile says of it.
type client struct {
	id      string // of the lease
	plain   string // what that is where no profile names the client
	name    string // as it calls itself
	host    *profiles.DHCPHost
	classes []*profiles.DHCPClass
	ignore  bool
}

// clientOf tells who sent a message.
func (ln *link) clientOf(m *dhcpv4.DHCPv4) client {
	var c client
	option61 := m.Options[dhcpv4.OptionClientIdentifier.Code()]
	h := ln.byID[string(option61)]
	if h == nil || len(option61) == 0 {
		h = ln.byMAC[string(m.ClientHWAddr)]
	}
	if len(option61) > 1 { // a type and something: RFC 2132 section 9.14
		c.plain = byClientID + string(option61)
	} else {
		c.plain = byHardware + string([]byte{byte(m.HWType)}) + string(m.ClientHWAddr)
	}
	if c.id = c.plain; h != nil {
		c.host, c.id, c.ignore = h.DHCPHost, byName+h.Name, h.Ignore
	}
	c.name = hostName(m)
	for i := range ln.dhcp.Classes {
		if k := &ln.dhcp.Classes[i]; inClass(m, k) {
			c.classes = append(c.classes, k)
			c.ignore = c.ignore || k.Ignore && h == nil
		}
	}
	return c
}

// Option codes that are read here (RFC 2132; 77: RFC 3004; 81: RFC 4702; 93: RFC 4578).
const (
	optionVendor = 60
	optionUser   = 77
	optionFQDN   = 81
	optionArch   = 93
)

// hostName is what a client calls itself: option 12, or the name in option 81.
func hostName(m *dhcpv4.DHCPv4) string {
	if b := m.Options[dhcpv4.OptionHostName.Code()]; len(b) > 0 {
		return string(bytes.TrimRight(b[:min(len(b), 255)], "\x00"))
	}
	b := m.Options[optionFQDN]
	const head, encoded = 3, 1 << 2 // flags and two obsolete bytes; E: the name is in wire format
	if len(b) <= head {
		return ""
	}
	name := b[head:min(len(b), 255)]
	if b[0]&encoded == 0 {
		return string(name)
	}
	var labels []string
	for len(name) > 0 && name[0] > 0 && int(name[0]) < len(name) {
		end := 1 + int(name[0])
		labels = append(labels, string(name[1:end]))
		name = name[end:]
	}
	return strings.Join(labels, ".")
}

func inClass(m *dhcpv4.DHCPv4, k *profiles.DHCPClass) bool {
	if k.Vendor != "" && !like(k.Vendor, m.Options[optionVendor]) {
		return false
	}
	if k.MAC != "" && !strings.HasPrefix(m.ClientHWAddr.String(), k.MAC) {
		return false
	}
	name := bytes.ToLower(m.Options[dhcpv4.OptionHostName.Code()])
	if k.Hostname != "" && !like(strings.ToLower(k.Hostname), name) {
		return false
	}
	if k.User != "" && !userClass(k.User, m.Options[optionUser]) {
		return false
	}
	if k.Arch == nil {
		return true
	}
	for b := m.Options[optionArch]; len(b) >= 2; b = b[2:] {
		if int(binary.BigEndian.Uint16(b)) == *k.Arch {
			return true
		}
	}
	return false
}

// like compares with a pattern that may end in a star.
func like(pattern string, b []byte) bool {
	if start, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(string(b), start)
	}
	return string(b) == pattern
}

// userClass looks through the instances of option 77 (RFC 3004). Many clients, iPXE among them, send one bare text.
func userClass(pattern string, b []byte) bool {
	if like(pattern, b) {
		return true
	}
	for len(b) > 0 && int(b[0]) < len(b) {
		end := 1 + int(b[0]) // as a byte it would wrap: the option is longer than 255 bytes when it comes in parts
		if like(pattern, b[1:end]) {
			return true
		}
		b = b[end:]
	}
	return false
}
