package clock

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// Sizes and modes of NTP messages (RFC 5905 section 7.3).
const (
	messageSize = 48 // bytes, without extensions
	modeClient  = 3
	modeServer  = 4
	leapUnknown = 3
	oldest      = 1 // versions that are answered
	newest      = 4
	precision   = -20 // log2 seconds: a microsecond, what a virtual machine's clock is read in at worst
)

// Drift and validity of a clock that nobody corrects.
const (
	driftPPM = 15 // RFC 5905 section 7.2, PHI
)

// ntpEpoch is the Unix time of the NTP era 0, 1900-01-01, in seconds before it.
const ntpEpoch = 2208988800

// Reference is what the guest's own answers rest on.
type Reference struct {
	Stratum                   uint8 // of the guest: 2 to 15; 0: nobody told the time
	Leap                      uint8
	ID                        uint32        // of the server the time is from
	RootDelay, RootDispersion time.Duration // at the time Set
	Set                       time.Time     // when the clock was last compared, by the guest's clock
	Age                       time.Duration // since then; not by a clock that is set
}

// reference makes of a sample what the guest answers with.
func reference(s Sample, now time.Time) Reference {
	return Reference{Stratum: s.Stratum + 1, Leap: s.Leap, ID: referenceID(s.Server), RootDelay: s.RootDelay,
		RootDispersion: s.RootDispersion + leastDistance, Set: now}
}

// referenceID names a server: its IPv4 address, or the first octets of a hash of its IPv6 one. RFC 5905 section 7.3
// says MD5; any other hash serves as well to find loops of two, and is no MD5.
func referenceID(server netip.Addr) uint32 {
	if server.Is4() {
		b := server.As4()
		return binary.BigEndian.Uint32(b[:])
	}
	b := server.As16()
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint32(sum[:])
}

// distance bounds how wrong the guest's clock is.
func (r Reference) distance() time.Duration {
	return r.RootDelay/2 + r.RootDispersion + r.Age/1000000*driftPPM
}

// synced tells whether the guest may say that it knows the time.
func (r Reference) synced() bool {
	return r.Stratum > 1 && r.Stratum < 16 && r.distance() < maxDistance
}

// answer makes the answer to a client's question that came at the time received and is answered at the time sent; ok
// is false for what is no question. It is never longer than the question.
func answer(question []byte, ref Reference, received, sent time.Time) (reply [messageSize]byte, ok bool) {
	if len(question) < messageSize {
		return reply, false
	}
	version, mode := question[0]>>3&7, question[0]&7
	if version < oldest || version > newest || mode != modeClient && (version != oldest || mode != 0) {
		return reply, false
	}
	leap, stratum := ref.Leap, ref.Stratum
	if !ref.synced() {
		leap, stratum = leapUnknown, 0
	}
	lowest := int8(precision)
	reply[0] = leap<<6 | version<<3 | modeServer
	reply[1] = stratum
	reply[2] = question[2] // poll
	reply[3] = byte(lowest)
	binary.BigEndian.PutUint32(reply[4:], short(ref.RootDelay))
	binary.BigEndian.PutUint32(reply[8:], short(ref.RootDispersion+ref.Age/1000000*driftPPM))
	binary.BigEndian.PutUint32(reply[12:], ref.ID)
	binary.BigEndian.PutUint64(reply[16:], timestamp(ref.Set))
	copy(reply[24:32], question[40:48]) // origin: what the client sent
	binary.BigEndian.PutUint64(reply[32:], timestamp(received))
	binary.BigEndian.PutUint64(reply[40:], timestamp(sent))
	return reply, true
}

// short is a duration in the NTP short format: 16 bits of seconds, 16 of their fraction.
func short(d time.Duration) uint32 {
	const most = math.MaxUint32
	if d <= 0 {
		return 0
	}
	if d >= 65536*time.Second {
		return most
	}
	return uint32(uint64(d) << 16 / uint64(time.Second))
}

// timestamp is a time in the NTP timestamp format: seconds since 1900 modulo 2^32, and 32 bits of their fraction; zero
// for no time.
func timestamp(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	seconds := uint64(t.Unix() + ntpEpoch)
	return seconds<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}
