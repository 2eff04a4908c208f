package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Answer is an answer as bytes: a whole message with one question and without an OPT record, and where its TTLs are.
// It never changes.
type Answer struct {
	Msg  []byte
	ttls []uint16 // offsets
	// TTL is the lowest of its TTLs, in seconds; what has no records has the one it was made with.
	TTL uint32
	// Options go into the OPT record of those who sent one: extended errors (RFC 8914), as AppendError makes them.
	Options []byte
}

// AppendError appends an extended error (RFC 8914 2) to options.
func AppendError(options []byte, code uint16, text string) []byte {
	options = append(options, 0, optionError, 0, 0, byte(code>>8), byte(code))
	options = append(options, text...)
	binary.BigEndian.PutUint16(options[len(options)-len(text)-4:], uint16(2+len(text)))
	return options
}

const optionError = 15

// staleError is that of an answer whose TTL is over.
var staleError = AppendError(nil, 3, "")

// Errors of NewAnswer.
var errShape = errors.New("not an answer with one question")

// maxTTL bounds TTLs: a larger one is a slip, or forgery for ever (RFC 8767 4: a week at most; a day does).
const maxTTL = 86400

// NewAnswer takes a packed message apart as far as its TTLs, which it cuts at a day; empty is the TTL of an answer
// without records. The bytes are its own from then on. They are what a packer made: a name that leads into a TTL would
// be another one each second.
func NewAnswer(msg []byte, empty uint32) (*Answer, error) {
	if len(msg) < HeaderSize || len(msg) > MaxMessage || binary.BigEndian.Uint16(msg[4:]) != 1 {
		return nil, errShape
	}
	a := &Answer{Msg: msg, TTL: min(empty, maxTTL)}
	at, ok := skipName(msg, HeaderSize)
	if !ok || at+4 > len(msg) {
		return nil, errShape
	}
	at += 4
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) +
		int(binary.BigEndian.Uint16(msg[10:]))
	if records*optSize > len(msg) {
		return nil, fmt.Errorf("%w: %d records in %d bytes", errShape, records, len(msg))
	}
	a.ttls = make([]uint16, 0, records)
	for i := range records {
		at, ok = skipName(msg, at)
		if !ok || at+10 > len(msg) || binary.BigEndian.Uint16(msg[at:]) == typeOPT {
			return nil, fmt.Errorf("%w: record %d is cut or an OPT", errShape, i)
		}
		ttl := min(binary.BigEndian.Uint32(msg[at+4:]), maxTTL)
		binary.BigEndian.PutUint32(msg[at+4:], ttl)
		if i == 0 || ttl < a.TTL {
			a.TTL = ttl
		}
		a.ttls = append(a.ttls, uint16(at+4))
		at += 10 + int(binary.BigEndian.Uint16(msg[at+8:]))
	}
	if at != len(msg) {
		return nil, fmt.Errorf("%w: %d bytes follow the last record", errShape, len(msg)-at)
	}
	return a, nil
}

// skipName is the offset after a name.
func skipName(msg []byte, at int) (int, bool) {
	for at < len(msg) {
		switch n := int(msg[at]); {
		case n == 0:
			return at + 1, true
		case n >= 0xc0: // a pointer ends it (RFC 1035 4.1.4)
			return at + 2, at+2 <= len(msg)
		case n > maxLabel:
			return 0, false
		default:
			at += 1 + n
		}
	}
	return 0, false
}

// Rcode is the answer's, without the bits an OPT record would add.
func (a *Answer) Rcode() int { return int(a.Msg[3] & maskRcode) }

// Size is about how much memory the answer takes, in bytes.
func (a *Answer) Size() int { return cap(a.Msg) + 2*cap(a.ttls) + cap(a.Options) + answerOverhead }

// answerOverhead is the answer itself with its two slices' heads.
const answerOverhead = 88

// Reply says how an answer becomes that of one query.
type Reply struct {
	Age       uint32 // seconds since it was fresh
	Stale     uint32 // not 0: it is too old, and every TTL is this
	Recursion bool   // RA
	TCP       bool   // as long as it is; else cut when it is longer than the client takes
	Padded    bool   // to who pads too: nobody on the way is to learn from its length what it says
	Cookie    []byte // of the server, appended to the client's; nil: none
	// Idle is how long a connection may say nothing, for who asks by TCP.
	Idle time.Duration
}

// block is what lengths of answers are rounded up to where they are padded (RFC 8467 4.1).
const block = 468

// keepaliveUnit is that of the option's timeout (RFC 7828 3.1).
const keepaliveUnit = 100 * time.Millisecond

// Append appends the answer to q, as r says, to dst. What does not fit is left out and TC set: the client comes again
// by TCP (RFC 2181 9).
func (a *Answer) Append(dst []byte, q *Query, r Reply) []byte {
	start := len(dst)
	dst = append(dst, a.Msg...)
	msg := dst[start:]
	flags := binary.BigEndian.Uint16(msg[2:]) &^ (FlagRD | FlagCD | FlagRA | FlagTC)
	flags |= FlagQR | q.Flags&(FlagRD|FlagCD)
	if r.Recursion {
		flags |= FlagRA
	}
	if !q.DO && q.Flags&FlagAD == 0 {
		flags &^= FlagAD // only for who asked (RFC 6840 5.8)
	}
	extra, options := 0, a.Options
	if q.EDNS {
		extra = optSize
		if r.Cookie != nil && q.cookieLen != 0 {
			extra += 4 + ClientCookie + len(r.Cookie)
		}
		extra += len(options)
		if r.Stale != 0 {
			extra += len(staleError)
		}
		if r.TCP && q.keepalive {
			extra += 4 + 2
		}
	}
	most := MaxMessage
	if !r.TCP {
		most = q.Size()
	}
	if len(msg)+extra > most {
		flags |= FlagTC
		end := HeaderSize + q.nameLen + 4
		dst = dst[:start+end]
		msg = dst[start:]
		binary.BigEndian.PutUint32(msg[6:], 0)
		binary.BigEndian.PutUint16(msg[10:], 0)
		options = nil
	} else {
		for _, at := range a.ttls {
			ttl := r.Stale
			if ttl == 0 {
				if old := binary.BigEndian.Uint32(msg[at:]); old > r.Age {
					ttl = old - r.Age
				}
			}
			binary.BigEndian.PutUint32(msg[at:], ttl)
		}
	}
	binary.BigEndian.PutUint16(msg, q.ID)
	binary.BigEndian.PutUint16(msg[2:], flags)
	copy(msg[HeaderSize:], q.asked[:q.nameLen]) // in the letters it was asked in
	if q.EDNS {
		binary.BigEndian.PutUint16(msg[10:], binary.BigEndian.Uint16(msg[10:])+1)
		dst = appendOPT(dst, start, q, r, options)
	}
	return dst
}

// appendOPT appends the last record of a message that begins at start.
func appendOPT(dst []byte, start int, q *Query, r Reply, options []byte) []byte {
	do := byte(0)
	if q.DO {
		do = flagDO >> 8
	}
	dst = append(dst, 0, 0, typeOPT, UDPSize>>8, UDPSize&0xff, 0, 0, do, 0, 0, 0)
	length := len(dst) - 2
	if r.Stale != 0 {
		dst = append(dst, staleError...)
	}
	dst = append(dst, options...)
	if r.Cookie != nil && q.cookieLen != 0 {
		dst = append(dst, 0, optionCookie, 0, byte(ClientCookie+len(r.Cookie)))
		dst = append(dst, q.cookie[:ClientCookie]...)
		dst = append(dst, r.Cookie...)
	}
	if r.TCP && q.keepalive {
		dst = append(dst, 0, optionKeepalive, 0, 2)
		dst = binary.BigEndian.AppendUint16(dst, uint16(r.Idle/keepaliveUnit))
	}
	if size := len(dst) - start + 4; r.Padded && q.padding && size <= MaxMessage {
		most := min((size+block-1)/block*block, MaxMessage)
		dst = append(dst, 0, optionPadding, byte((most-size)>>8), byte(most-size))
		dst = append(dst, zeros[:most-size]...)
	}
	binary.BigEndian.PutUint16(dst[length:], uint16(len(dst)-length-2))
	return dst
}

// zeros are what is padded with (RFC 7830 3).
var zeros [block]byte

// AppendEmpty appends an answer without records, such as a refusal, or one cut short with FlagTC in flags.
func (q *Query) AppendEmpty(dst []byte, rcode int, flags uint16, r Reply, options []byte) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = append(dst, q.asked[:q.nameLen]...)
	dst = binary.BigEndian.AppendUint16(dst, q.Type)
	dst = binary.BigEndian.AppendUint16(dst, q.Class)
	msg := dst[start:]
	binary.BigEndian.PutUint16(msg, q.ID)
	binary.BigEndian.PutUint16(msg[2:], FlagQR|q.Flags&(FlagRD|FlagCD)|flags|uint16(rcode&maskRcode))
	binary.BigEndian.PutUint16(msg[4:], 1)
	if q.EDNS {
		binary.BigEndian.PutUint16(msg[10:], 1)
		r.Stale = 0
		dst = appendOPT(dst, start, q, r, options)
	}
	return dst
}
