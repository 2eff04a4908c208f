// Package wire reads of a query's bytes what decides its answer, and makes an answer out of one that is kept as bytes:
// what the server does for every query, without taking a message apart and without allocating.
//
// What it deliberately does not do: read records, which package dns of miekg does for what is not answered from the
// cache, or accept anything unusual: such a query is for the long way.
package wire

import (
	"encoding/binary"
)

// Lengths and offsets of a message (RFC 1035 4.1).
const (
	HeaderSize = 12
	MaxName    = 255         // bytes of a name (RFC 1035 2.3.4)
	MaxMessage = 65535       // bytes; a length of two before it in TCP (RFC 1035 4.2.2)
	MaxKey     = 4 + MaxName // bytes of what AppendKey appends
	maxLabel   = 63
	// optSize is an OPT record without options: the root, type, class, TTL, length (RFC 6891 6.1.2).
	optSize = 11
	typeOPT = 41
)

// Flags of a header, as one number (RFC 1035 4.1.1, RFC 4035 3.2).
const (
	FlagQR = 1 << 15
	FlagAA = 1 << 10
	FlagTC = 1 << 9
	FlagRD = 1 << 8
	FlagRA = 1 << 7
	FlagAD = 1 << 5
	FlagCD = 1 << 4

	maskOpcode = 0xf << 11
	maskRcode  = 0xf
	flagDO     = 1 << 15 // in the TTL of OPT (RFC 3225 3)
)

// Sizes of answers by UDP.
const (
	PlainSize = 512  // to who sent no OPT (RFC 1035 4.2.1)
	UDPSize   = 1232 // most we send and say to take: no fragments over IPv6 (DNS flag day 2020)
)

// Query is what of a query decides its answer. It holds no reference to anything: it may be copied.
type Query struct {
	ID          uint16
	Flags       uint16
	Type, Class uint16
	nameLen     int
	asked       [MaxName]byte // the name as it was written
	name        [MaxName]byte // in lower case
	EDNS        bool
	DO          bool
	size        uint16 // the client's buffer
	keepalive   bool   // the client asks how long a connection may be idle (RFC 7828)
	padding     bool   // it pads, so it wants padding (RFC 7830 4)
	cookieLen   int
	cookie      [maxCookie]byte
}

// Cookies (RFC 7873 4): the client's part, and the server's.
const (
	ClientCookie = 8
	maxCookie    = 40
	optionCookie = 10
)

// Other options that are looked at (RFC 7828 3.1, RFC 7830 3).
const (
	optionKeepalive = 11
	optionPadding   = 12
)

// Name is the name in lower case, in the form of a message.
func (q *Query) Name() []byte { return q.name[:q.nameLen] }

// Cookie is the option as it came: the client's part, and perhaps one of ours; nil: there is none.
func (q *Query) Cookie() []byte {
	if q.cookieLen == 0 {
		return nil
	}
	return q.cookie[:q.cookieLen]
}

// CD tells whether the client checks signatures itself.
func (q *Query) CD() bool { return q.Flags&FlagCD != 0 }

// Size is how many bytes the client takes in an answer by UDP.
func (q *Query) Size() int {
	if !q.EDNS {
		return PlainSize
	}
	return min(max(int(q.size), PlainSize), UDPSize)
}

// Parse reads a query. It is false for what is not an ordinary one: the long way decides what becomes of it.
func (q *Query) Parse(b []byte) bool {
	if len(b) < HeaderSize || len(b) > MaxMessage {
		return false
	}
	q.ID, q.Flags = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	additional := binary.BigEndian.Uint16(b[10:])
	if q.Flags&(FlagQR|maskOpcode|FlagTC|maskRcode) != 0 || binary.BigEndian.Uint16(b[4:]) != 1 ||
		binary.BigEndian.Uint32(b[6:]) != 0 || additional > 1 {
		return false
	}
	at := HeaderSize
	n := 0
	for {
		if at >= len(b) {
			return false
		}
		label := int(b[at])
		if label > maxLabel || n+1+label >= MaxName && label != 0 || at+1+label >= len(b) {
			return false
		}
		q.asked[n], q.name[n] = b[at], b[at]
		for i := 1; i <= label; i++ {
			c := b[at+i]
			q.asked[n+i] = c
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.name[n+i] = c
		}
		n += 1 + label
		at += 1 + label
		if label == 0 {
			break
		}
	}
	q.nameLen = n
	if at+4 > len(b) {
		return false
	}
	q.Type, q.Class = binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
	q.EDNS, q.DO, q.size, q.cookieLen, q.keepalive, q.padding = false, false, 0, 0, false, false
	b = b[at+4:]
	if additional == 0 {
		return len(b) == 0
	}
	return q.parseOPT(b)
}

// parseOPT reads the one additional record, which must be an OPT of version 0 (RFC 6891 6.1.2).
func (q *Query) parseOPT(b []byte) bool {
	if len(b) < optSize || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != typeOPT {
		return false
	}
	q.EDNS, q.size = true, binary.BigEndian.Uint16(b[3:])
	extendedRcode, version := b[5], b[6]
	q.DO = binary.BigEndian.Uint16(b[7:])&flagDO != 0
	length := int(binary.BigEndian.Uint16(b[9:]))
	b = b[optSize:]
	if extendedRcode != 0 || version != 0 || length != len(b) {
		return false
	}
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; n > len(b) {
			return false
		}
		switch code {
		case optionKeepalive:
			q.keepalive = true
		case optionPadding:
			q.padding = true
		case optionCookie:
			// RFC 7873 5.2: 8 bytes, or 8 and 8 to 32 of the server; once.
			if q.cookieLen != 0 || n != ClientCookie && (n < 2*ClientCookie || n > maxCookie) {
				return false
			}
			q.cookieLen = copy(q.cookie[:], b[:n])
		}
		b = b[n:]
	}
	return true
}

// Key appends what an answer depends on: the view (which upstreams are asked), DO and CD, type and name.
func (q *Query) Key(dst []byte, view uint8) []byte {
	return AppendKey(dst, view, q.DO, q.CD(), q.Type, q.Name())
}

// AppendKey is Query.Key of its parts; name is in lower case, in the form of a message.
func AppendKey(dst []byte, view uint8, do, cd bool, rrtype uint16, name []byte) []byte {
	flags := byte(0)
	if do {
		flags |= 1
	}
	if cd {
		flags |= 2
	}
	dst = append(dst, view, flags, byte(rrtype>>8), byte(rrtype))
	return append(dst, name...)
}
