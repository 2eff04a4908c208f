package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// rates bounds answers to addresses that may be forged, as others do it (response rate limiting, ISC-TN-2012-1): for
// each /24 or /56 so many a second; of those beyond every second one is an empty answer with TC set, by which an honest
// client comes back over TCP, and the others are dropped. The table is of fixed size: networks that fall together
// share their rate, which costs the honest ones a TCP connection.
type rates struct {
	seed    maphash.Seed
	begin   time.Time
	buckets []bucket
}

// bucketCount times 24 bytes is what the table takes.
const bucketCount = 4096

type bucket struct {
	mu     sync.Mutex
	tokens float32
	slips  uint8
	at     int64 // milliseconds since begin, from 1 on; 0: nobody has used it
}

type decision int

const (
	pass decision = iota
	slip
	drop
)

func newRates() rates {
	return rates{seed: maphash.MakeSeed(), begin: time.Now(), buckets: make([]bucket, bucketCount)}
}

// Networks that count as one client.
const (
	bits4 = 24
	bits6 = 56
)

// take takes one answer of the rate of an address's network, which may save up those of one second.
func (r *rates) take(from netip.Addr, rate int) decision {
	bits := bits4
	if from.Is6() {
		bits = bits6
	}
	network, err := from.Prefix(bits)
	if err != nil {
		return drop
	}
	raw := network.Addr().As16()
	b := &r.buckets[maphash.Bytes(r.seed, raw[:])%bucketCount]
	now := 1 + time.Since(r.begin).Milliseconds()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == 0 {
		b.tokens = float32(rate)
	}
	if now > b.at {
		b.tokens = min(b.tokens+float32(now-b.at)*float32(rate)/1000, float32(rate))
	}
	b.at = max(now, b.at) // another goroutine may have looked at the clock later and come first
	if b.tokens >= 1 {
		b.tokens--
		return pass
	}
	b.slips++
	if b.slips%2 == 0 {
		return slip
	}
	return drop
}

// cookies makes and knows our part of cookies (RFC 7873, in the shape of RFC 9018 4): version 1, three bytes of
// nothing, the time, and a hash of all that with the client's part and address. The hash is SHA-256 cut to eight bytes,
// for only this server reads it.
type cookies struct{ secret [32]byte }

// serverCookie is the length of our part.
const serverCookie = 16

// How old and how new a cookie of ours may be (RFC 9018 4.3), in seconds.
const (
	cookieOld = 3600
	cookieNew = 300
)

func newCookies() (c cookies) {
	_, _ = rand.Read(c.secret[:]) // never fails (crypto/rand)
	return c
}

func (c *cookies) hash(clientPart, head []byte, from netip.Addr) [8]byte {
	var b [32 + 8 + 8 + 16]byte
	copy(b[:], c.secret[:])
	copy(b[32:], clientPart)
	copy(b[40:], head)
	address := from.As16()
	copy(b[48:], address[:])
	sum := sha256.Sum256(b[:])
	return [8]byte(sum[:8])
}

// append appends our part for a client.
func (c *cookies) append(dst, clientPart []byte, from netip.Addr) []byte {
	start := len(dst)
	dst = append(dst, 1, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(time.Now().Unix()))
	sum := c.hash(clientPart, dst[start:], from)
	return append(dst, sum[:]...)
}

// ours tells whether a cookie has a part of ours that is this client's and young.
func (c *cookies) ours(cookie []byte, from netip.Addr) bool {
	const client = 8
	if len(cookie) != client+serverCookie || cookie[client] != 1 {
		return false
	}
	made := binary.BigEndian.Uint32(cookie[client+4:])
	age := int32(uint32(time.Now().Unix()) - made) // serial number arithmetic (RFC 1982)
	if age > cookieOld || age < -cookieNew {
		return false
	}
	sum := c.hash(cookie[:client], cookie[client:client+8], from)
	return sum == [8]byte(cookie[client+8:])
}
