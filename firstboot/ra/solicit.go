package ra

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"

	"rempart/firstboot/link/packet"
)

const (
	solicitHeader = 8
	// maxPacket bounds what is read: a solicitation is never fragmented (RFC 6980).
	maxPacket = 1500
)

// solicitsOnly lets ICMPv6 of that type through, when no extension header stands before it.
var solicitsOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocolICMP6, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 7, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hopLimit, SkipTrue: 3},
	bpf.LoadAbsolute{Off: ipHeader, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: typeSolicit, SkipTrue: 1},
	bpf.RetConstant{Val: maxPacket},
	bpf.RetConstant{Val: 0},
}

var errNotForUs = errors.New("not a router solicitation")

// checkSolicit reads an IPv6 packet as it came off the wire and judges it by RFC 4861, section 6.1.1. Nothing in it is
// used: answers go to everybody. summed is false where the checksum cannot be checked; see packet.Receive.
func checkSolicit(b []byte, summed bool) error {
	if len(b) < ipHeader+solicitHeader || b[0]>>4 != 6 || b[6] != protocolICMP6 || b[ipHeader] != typeSolicit {
		return errNotForUs
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < solicitHeader || ipHeader+length > len(b) {
		return fmt.Errorf("IPv6 payload of %d bytes in a packet of %d", length, len(b))
	}
	b = b[:ipHeader+length] // what is behind it is Ethernet padding
	from := netip.AddrFrom16([16]byte(b[8:24]))
	body := b[ipHeader:]
	switch {
	case b[7] != hopLimit:
		return fmt.Errorf("hop limit %d: it was forwarded, or pretends to be from this link", b[7])
	case !from.IsUnspecified() && (from.IsMulticast() || from.IsLoopback()):
		return fmt.Errorf("no host is %s", from)
	case body[1] != 0:
		return fmt.Errorf("ICMPv6 code %d", body[1])
	case summed && packet.Sum(packet.Pseudo6(b), body) != 0xffff:
		return errors.New("wrong ICMPv6 checksum")
	}
	for options := body[solicitHeader:]; len(options) > 0; {
		if len(options) < 2 || options[1] == 0 || int(options[1])*optionUnit > len(options) {
			return errors.New("an option of no length, or longer than the packet")
		}
		if options[0] == optionSource && from.IsUnspecified() {
			return errors.New("a hardware address of a host without an address")
		}
		options = options[int(options[1])*optionUnit:]
	}
	return nil
}
