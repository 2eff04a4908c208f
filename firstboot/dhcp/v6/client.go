package v6

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/firstboot/onlink"
	"rempart/profiles"
)

// maxHops bounds how many relay agents stand one behind the other, RFC 8415 section 7.6 (HOP_COUNT_LIMIT).
const maxHops = 8

// maxDUID is the length of a DUID with its type, RFC 8415 section 11.1.
const maxDUID = 130

// request is a message of a client, and what is known of who sent it.
type request struct {
	*dhcpv6.Message
	client []byte // DUID; nil: it says none
	mac    string // lower case with colons; empty: nobody says
	name   string // what it calls itself
	host   *profiles.DHCP6Host
}

// message answers one datagram, by calling reply once or never. What is in it was written by a stranger.
func (s *Server) message(l *link, on onlink.Link, from netip.Addr, b []byte, reply func([]byte)) error {
	if len(b) < dhcpv6.MessageHeaderSize {
		return errors.New("shorter than a header")
	}
	outer, err := dhcpv6.FromBytes(b)
	if err != nil {
		return err
	}
	mac := macOfAddress(from)
	inner, ok := outer.(*dhcpv6.Message)
	relay, relayed := outer.(*dhcpv6.RelayMessage)
	if relayed {
		if l, inner, mac, err = l.unwrap(relay, from); err != nil {
			return err
		}
	} else if !ok || !from.IsLinkLocalUnicast() && !l.holds(from) {
		return fmt.Errorf("%s is no client of the link", from)
	}
	r, err := l.read(inner, mac)
	if err != nil {
		return err
	}
	return s.answer(l, on, from, r, func(m *dhcpv6.Message) {
		if !relayed {
			reply(m.ToBytes())
			return
		}
		if wrapped, err := dhcpv6.NewRelayReplFromRelayForw(relay, m); err == nil {
			reply(wrapped.ToBytes())
		}
	})
}

// unwrap reads what relay agents forward, and finds where the client is: by the agent closest to it that says so (RFC
// 8415, section 13.1), on this very link or in a subnet that the profile has behind agents at such an address.
func (l *link) unwrap(outer *dhcpv6.RelayMessage, from netip.Addr) (in *link, inner *dhcpv6.Message, mac string,
	err error) {
	relay, place := outer, netip.Addr{}
	for range maxHops {
		if relay.MessageType != dhcpv6.MessageTypeRelayForward {
			return nil, nil, "", errors.New("relayed, but not forwarded")
		}
		if a, ok := netip.AddrFromSlice(relay.LinkAddr); ok && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			place = a
		}
		switch next := relay.Options.RelayMessage().(type) {
		case *dhcpv6.RelayMessage:
			relay = next
			continue
		case *dhcpv6.Message:
			if peer, ok := netip.AddrFromSlice(relay.PeerAddr); ok {
				mac = macOfAddress(peer)
			}
			if _, hw := relay.Options.ClientLinkLayerAddress(); len(hw) == macLen { // RFC 6939
				mac = hw.String()
			}
			in, err = l.place(place, from)
			return in, next, mac, err
		}
		return nil, nil, "", errors.New("relayed, and nothing in it")
	}
	return nil, nil, "", fmt.Errorf("relayed by more than %d agents", maxHops)
}

// place is where a client is that an agent speaks for: its link, by an address there; none is that of the agent.
func (l *link) place(a, agent netip.Addr) (*link, error) {
	if !a.IsValid() || l.holds(a) {
		if !agent.IsLinkLocalUnicast() && !l.holds(agent) {
			return nil, fmt.Errorf("relayed by %s, which is not on the link", agent)
		}
		return l, nil
	}
	for _, sub := range l.relayed {
		if sub.subnet.Contains(a) && slices.ContainsFunc(sub.from, func(p netip.Prefix) bool { return p.Contains(agent) }) {
			return sub, nil
		}
	}
	return nil, fmt.Errorf("relayed by %s from a link with %s: no subnet of the profile that such an agent serves", agent,
		a)
}

// holds tells whether an address is in one of the link's prefixes.
func (l *link) holds(a netip.Addr) bool {
	prefixes, _ := l.prefixes()
	for _, p := range prefixes {
		if p.Prefix.Contains(a) {
			return true
		}
	}
	return false
}

// read takes from a message who sends it.
func (l *link) read(m *dhcpv6.Message, mac string) (request, error) {
	r := request{Message: m, mac: mac}
	if id := m.Options.ClientID(); id != nil {
		r.client = id.ToBytes()
		if len(r.client) < 3 || len(r.client) > maxDUID {
			return r, fmt.Errorf("a DUID of %d bytes", len(r.client))
		}
		switch id := id.(type) {
		case *dhcpv6.DUIDLL:
			r.mac = hardware(id.LinkLayerAddr, mac)
		case *dhcpv6.DUIDLLT:
			r.mac = hardware(id.LinkLayerAddr, mac)
		}
	}
	if fqdn := m.Options.FQDN(); fqdn != nil && fqdn.DomainName != nil && len(fqdn.DomainName.Labels) > 0 {
		r.name = fqdn.DomainName.Labels[0]
		r.name = r.name[:min(len(r.name), 255)]
	}
	// What says most of all about who it is comes first: the DUID, then who sees the client's hardware address.
	if r.host = l.byDUID[hex.EncodeToString(r.client)]; r.host == nil && mac != "" {
		r.host = l.byMAC[mac]
	}
	if r.host == nil {
		r.host = l.byMAC[r.mac]
	}
	if r.host != nil && r.name == "" {
		r.name = r.host.Name
	}
	return r, nil
}

const macLen = 6 // bytes of an Ethernet address

func hardware(addr net.HardwareAddr, otherwise string) string {
	if len(addr) != macLen {
		return otherwise
	}
	return addr.String()
}

// macOfAddress is the hardware address in an address that was made of one (RFC 4291, appendix A); empty: none is.
func macOfAddress(a netip.Addr) string {
	b := a.As16()
	if b[11] != 0xff || b[12] != 0xfe {
		return ""
	}
	return net.HardwareAddr{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}.String()
}
