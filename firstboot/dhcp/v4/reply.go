package v4

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Sizes of RFC 2131: what every client takes (section 2), the fixed part with the magic cookie; and of IPv4 and UDP.
const (
	leastMessage = 576
	mostMessage  = 1500 - headers
	headers      = 20 + 8
	fixedPart    = 236 + 4
	leastPadded  = 300 // BOOTP (RFC 951); relay agents are known that drop less

	portServer = 67
	portClient = 68
	etherLen   = 6
	ethernet   = 1 // hardware type
)

// serverID is what the server calls itself to clients of a subnet.
func (x *exchange) serverID(sub *subnet) netip.Addr {
	if b := suboption(x.m, suboptionServerID); len(b) == 4 && addr4(b).IsValid() {
		return addr4(b) // the relay agent passes on what is sent to it
	}
	return x.own(sub)
}

// own is our address towards clients of a subnet.
func (x *exchange) own(sub *subnet) netip.Addr {
	if sub.Server.IsValid() {
		return sub.Server
	}
	for _, s := range x.link.subnets {
		if s.Server.IsValid() {
			return s.Server
		}
	}
	return netip.Addr{}
}

// reply is a message for the client. a is the address it gets; invalid: none, for DHCPINFORM.
func (x *exchange) reply(kind dhcpv4.MessageType, sub *subnet, a netip.Addr, term uint32) Reply {
	w := x.begin(kind)
	fixed, nothing := w[:fixedPart], netip.Addr{}
	if a.IsValid() {
		copy(fixed[16:20], a.AsSlice())
	}
	if kind == dhcpv4.MessageTypeAck {
		copy(fixed[12:16], x.m.ClientIPAddr.To4())
	}
	scopes := x.scopes(sub)
	for i := len(scopes) - 1; i >= 0; i-- {
		if s := scopes[i]; s.NextServer != nothing {
			copy(fixed[20:24], s.NextServer.AsSlice())
		}
		if s := scopes[i].ServerName; s != "" {
			clear(fixed[44:108])
			copy(fixed[44:107], s)
		}
		if s := scopes[i].BootFile; s != "" {
			clear(fixed[108:236])
			copy(fixed[108:235], s)
		}
	}
	id := x.serverID(sub)
	w = append(append(w, byte(dhcpv4.OptionServerIdentifier.Code()), 4), id.AsSlice()...)
	if a.IsValid() {
		w = seconds(w, dhcpv4.OptionIPAddressLeaseTime.Code(), term)
		if term != forever { // T1 and T2: RFC 2131 section 4.4.5
			w = seconds(w, dhcpv4.OptionRenewTimeValue.Code(), term/2)
			w = seconds(w, dhcpv4.OptionRebindingTimeValue.Code(), uint32(uint64(term)*7/8))
		}
	}
	w = x.options(w, sub)
	return x.address(x.finish(w), sub, a)
}

func seconds(w []byte, code byte, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(w, code, 4), n)
}

// nak says no.
func (x *exchange) nak(why string) {
	sub := x.subnets[0]
	w := x.begin(dhcpv4.MessageTypeNak)
	w = append(append(w, byte(dhcpv4.OptionServerIdentifier.Code()), 4), x.serverID(sub).AsSlice()...)
	w = append(append(w, byte(dhcpv4.OptionMessage.Code()), byte(len(why))), why...)
	if addr4(x.m.GatewayIPAddr).IsValid() {
		w[10] |= 0x80 // RFC 2131 section 4.3.2: the relay agent is to broadcast it
	}
	r := Reply{Message: x.finish(w), Server: x.own(sub), To: netip.AddrPortFrom(broadcast, portClient),
		Hardware: allOnes}
	if relay := addr4(x.m.GatewayIPAddr); relay.IsValid() {
		r.To, r.Hardware = netip.AddrPortFrom(relay, portServer), nil
	}
	x.send(r)
}

var (
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	allOnes   = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	cookie    = []byte{99, 130, 83, 99} // RFC 2131 section 3
)

// begin is the fixed part of an answer and its type. See table 3 of RFC 2131.
func (x *exchange) begin(kind dhcpv4.MessageType) []byte {
	w := make([]byte, fixedPart, leastMessage)
	w[0], w[1], w[2] = byte(dhcpv4.OpcodeBootReply), byte(x.m.HWType), byte(len(x.m.ClientHWAddr))
	copy(w[4:8], x.m.TransactionID[:])
	binary.BigEndian.PutUint16(w[10:], x.m.Flags)
	copy(w[24:28], x.m.GatewayIPAddr.To4())
	copy(w[28:44], x.m.ClientHWAddr)
	copy(w[236:240], cookie)
	return append(w, byte(dhcpv4.OptionDHCPMessageType.Code()), 1, byte(kind))
}

// finish adds what comes last in every answer.
func (x *exchange) finish(w []byte) []byte {
	// RFC 6842: the client knows its answer by its identifier.
	if id := x.m.Options[dhcpv4.OptionClientIdentifier.Code()]; len(id) > 0 {
		w = appendOption(w, dhcpv4.OptionClientIdentifier.Code(), id)
	}
	// RFC 3046 section 2.2: what the relay agent said goes back to it, as the last option.
	if info := x.m.Options[optionRelay]; len(info) > 0 {
		w = appendOption(w, optionRelay, info)
	}
	w = append(w, byte(dhcpv4.OptionEnd.Code()))
	for len(w) < leastPadded {
		w = append(w, 0)
	}
	return w
}

// appendOption adds an option, cut as RFC 3396 has it where it is long.
func appendOption(w []byte, code byte, value []byte) []byte {
	for {
		n := min(len(value), 255)
		w = append(append(w, code, byte(n)), value[:n]...)
		if value = value[n:]; len(value) == 0 {
			return w
		}
	}
}

// room is how long the answer may be: what the client says it takes (option 57), which counts IP and UDP (RFC 2132
// section 9.10), less what finish adds.
func (x *exchange) room() int {
	n := leastMessage
	if b := x.m.Options[dhcpv4.OptionMaximumDHCPMessageSize.Code()]; len(b) == 2 {
		n = max(n, int(binary.BigEndian.Uint16(b)))
	}
	n = min(n-headers, mostMessage) - 1
	for _, code := range []byte{dhcpv4.OptionClientIdentifier.Code(), optionRelay} {
		if l := len(x.m.Options[code]); l > 0 {
			n -= l + 2*(1+l/255)
		}
	}
	return n
}

// options adds what the profile says and the subnet implies: first what the client asks for, in its order (RFC 2132
// section 9.8), then the rest.
func (x *exchange) options(w []byte, sub *subnet) []byte {
	have := map[byte][]byte{dhcpv4.OptionSubnetMask.Code(): net.CIDRMask(sub.Prefix.Bits(), 32)}
	if x.client.host != nil {
		have[dhcpv4.OptionHostName.Code()] = []byte(x.client.host.Name)
	}
	scopes := x.scopes(sub)
	var order []byte
	for i := len(scopes) - 1; i >= 0; i-- {
		for _, o := range scopes[i].Options {
			if o.Drop {
				delete(have, o.Code)
				continue
			}
			have[o.Code] = o.Value
			order = append(order, o.Code)
		}
	}
	room, left := x.room(), 0
	add := func(code byte) {
		value, ok := have[code]
		if !ok {
			return
		}
		delete(have, code)
		if next := appendOption(w, code, value); len(next) <= room {
			w = next
		} else {
			left++
		}
	}
	add(dhcpv4.OptionSubnetMask.Code()) // before the router (RFC 2132 section 3.3)
	for _, code := range x.m.Options[dhcpv4.OptionParameterRequestList.Code()] {
		add(code)
	}
	for _, code := range append(order, dhcpv4.OptionHostName.Code()) {
		add(code)
	}
	if left > 0 {
		x.s.rarely("room"+sub.Prefix.String(), "options do not fit into what a client takes and are left out", "client",
			x.m.ClientHWAddr, "left out", left, "bytes", room)
	}
	return w
}

// address is how an answer gets to the client: RFC 2131 section 4.1.
func (x *exchange) address(message []byte, sub *subnet, a netip.Addr) Reply {
	r := Reply{Message: message, Server: x.own(sub)}
	relay, has := addr4(x.m.GatewayIPAddr), addr4(x.m.ClientIPAddr)
	if !a.IsValid() && !has.IsValid() {
		has = x.packet.From.Addr().Unmap() // DHCPINFORM of a client that does not say its address
	}
	switch {
	case relay.IsValid():
		r.To = netip.AddrPortFrom(relay, portServer)
	case has.IsValid():
		r.To = netip.AddrPortFrom(has, portClient)
	case x.m.IsBroadcast() || len(x.m.ClientHWAddr) != etherLen || x.m.HWType != ethernet:
		r.To, r.Hardware = netip.AddrPortFrom(broadcast, portClient), allOnes
	default:
		r.To, r.Hardware = netip.AddrPortFrom(a, portClient), x.m.ClientHWAddr
	}
	return r
}
