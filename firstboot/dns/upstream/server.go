package upstream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/wire"
)

// Health of a server.
const (
	// downAfter so many questions in a row without an answer a server is left alone.
	downAfter = 3
	// firstProbe after the first failure it is tried again; doubles up to longProbe.
	firstProbe = 2 * time.Second
	longProbe  = 30 * time.Second
	// forged answers to one question, after which it goes over TCP (RFC 5452 9.1).
	forgedMost = 8
	// plainFor is how long a server that does not understand OPT is asked without.
	plainFor = time.Hour
)

// TLS says how a server asked by TLS proves who it is.
type TLS struct {
	Name  string         // its certificate's
	Roots *x509.CertPool // nil: those of the machine
	Pin   []byte         // SHA-256 of its SubjectPublicKeyInfo, in place of Roots; nil: none
}

// Server is one name server.
type Server struct {
	addr    netip.AddrPort
	name    string
	tls     *tls.Config
	log     *slog.Logger
	sockets chan struct{} // room for sockets, shared with other servers
	streams streams

	mu         sync.Mutex
	rtt, dev   time.Duration // smoothed time of an answer, and how much it varies (RFC 6298)
	failures   int           // in a row
	probeAt    time.Time
	probeAfter time.Duration
	plainUntil time.Time // it does not understand OPT
	counts     Counts
}

// Counts are what became of the questions to a server.
type Counts struct {
	Server   string `json:"server"`
	Asked    uint64 `json:"asked"`
	Answered uint64 `json:"answered"`
	Failed   uint64 `json:"failed"` // no answer in time, or none that fits
	Forged   uint64 `json:"forged"` // packets that did not fit the question
	TCP      uint64 `json:"tcp"`    // questions by TCP or TLS
	Micros   int64  `json:"micros"` // time of an answer, smoothed, in microseconds
	Down     bool   `json:"down"`   // left alone until it answers a probe
}

// Sockets returns room for so many sockets of servers.
func Sockets(n int) chan struct{} { return make(chan struct{}, n) }

// NewServer returns a server at an address. With t it is asked by TLS only; sockets is from Sockets.
func NewServer(addr netip.AddrPort, t *TLS, sockets chan struct{}, log *slog.Logger) *Server {
	s := &Server{addr: addr, name: addr.String(), log: log, sockets: sockets}
	if t != nil {
		s.name += "#" + t.Name
		s.tls = t.config()
	}
	s.streams.dial, s.streams.dialing = s.dial, make(chan struct{}, 1)
	return s
}

// config is what TLS is spoken by (RFC 8310 8.1: version 1.2 at least).
func (t *TLS) config() *tls.Config {
	c := &tls.Config{ServerName: t.Name, RootCAs: t.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"dot"},
		ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	if t.Pin != nil {
		// The key is looked at instead of who vouches for it, at every handshake, resumed ones among them.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errPin
			}
			// The server's own is the first (RFC 8446 4.4.2).
			if sum := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo); string(sum[:]) != string(t.Pin) {
				return errPin
			}
			return nil
		}
	}
	return c
}

var errPin = errors.New("the server's key is not the one that is pinned")

// Name is address and port, and the name it proves by TLS.
func (s *Server) Name() string { return s.name }

// Counts are those since the server was made.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts
	c.Server, c.Micros, c.Down = s.name, s.rtt.Microseconds(), s.failures >= downAfter
	return c
}

// standing tells whether the server is left alone, and how long it takes.
func (s *Server) standing(now time.Time) (down bool, rtt time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures >= downAfter {
		return true, time.Duration(s.failures)
	}
	return false, s.rtt + time.Duration(s.failures)*unknown
}

// patience is how long to wait for the server before another try.
func (s *Server) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rtt == 0 {
		return unknown
	}
	return min(max(s.rtt+4*s.dev, least), most)
}

func (s *Server) dueForProbe(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == 0 || now.Before(s.probeAt) {
		return false
	}
	s.probeAt = now.Add(s.probeAfter)
	s.probeAfter = min(2*s.probeAfter, longProbe)
	return true
}

// note learns from a question that was asked.
func (s *Server) note(began time.Time, err error) {
	took := time.Since(began)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Asked++
	if err != nil {
		s.counts.Failed++
		if s.failures++; s.failures == 1 {
			s.probeAfter = firstProbe
			s.probeAt = time.Now().Add(firstProbe)
		}
		if s.failures == downAfter {
			s.log.Warn("name server does not answer; others are asked until it does", "server", s.name, "error", err)
		}
		return
	}
	s.counts.Answered++
	s.failures = 0
	if s.rtt == 0 {
		s.rtt, s.dev = took, took/2
		return
	}
	// RFC 6298 2.3: beta 1/4, alpha 1/8.
	s.dev += ((s.rtt - took).Abs() - s.dev) / 4
	s.rtt += (took - s.rtt) / 8
}

// Exchange asks the server once: by UDP, and by TCP when the answer was cut or might be forged; or by TLS.
func (s *Server) Exchange(ctx context.Context, query *dns.Msg) (answer *dns.Msg, err error) {
	began, wait := time.Now(), s.patience()
	defer func() {
		// Who asked no longer wants to know: another server was faster. That says nothing about this one unless it had about
		// as long as it may take before another is asked: one that is silent would stay the first to be asked for ever.
		if err != nil && ctx.Err() != nil && time.Since(began) < wait/2 {
			return
		}
		s.note(began, err)
	}()
	plain := s.plain()
	q := s.question(query, plain)
	if answer, err = s.send(ctx, q); err != nil {
		return nil, fmt.Errorf("name server %s: %w", s.name, err)
	}
	if !plain && q.IsEdns0() != nil && answer.IsEdns0() == nil &&
		(answer.Rcode == dns.RcodeFormatError || answer.Rcode == dns.RcodeNotImplemented) {
		// RFC 6891 7: it does not know OPT.
		if answer, err = s.send(ctx, s.question(query, true)); err != nil {
			return nil, fmt.Errorf("name server %s: %w", s.name, err)
		}
		s.mu.Lock()
		s.plainUntil = time.Now().Add(plainFor)
		s.mu.Unlock()
	}
	answer.Question = query.Question // in the letters of who asked
	// Whoever could forge an answer could say that it was validated.
	answer.AuthenticatedData = answer.AuthenticatedData && s.tls != nil
	return answer, nil
}

func (s *Server) plain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.plainUntil)
}

func (s *Server) send(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if s.tls == nil {
		answer, err := s.udp(ctx, q)
		if err == nil && !answer.Truncated {
			return answer, nil
		}
		if err != nil && !errors.Is(err, errForged) {
			return nil, err
		}
	}
	s.mu.Lock()
	s.counts.TCP++
	s.mu.Unlock()
	return s.streams.exchange(ctx, q)
}

// question is what is sent: id, letters and OPT are our own.
func (s *Server) question(query *dns.Msg, plain bool) *dns.Msg {
	q := &dns.Msg{Question: []dns.Question{query.Question[0]}}
	var random [2 + wire.MaxName/8 + 1]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	q.Id = binary.BigEndian.Uint16(random[:])
	q.RecursionDesired, q.CheckingDisabled = true, query.CheckingDisabled
	q.AuthenticatedData = query.AuthenticatedData
	q.Question[0].Name = mixed(query.Question[0].Name, random[2:])
	if plain {
		return q
	}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(wire.UDPSize)
	if old := query.IsEdns0(); old != nil && old.Do() {
		opt.SetDo()
	}
	if s.tls != nil {
		// RFC 8467 4.1: queries of TLS are padded to a multiple of 128 bytes. The option itself has four.
		const block = 128
		length := q.Len() + 11 + 4
		opt.Option = append(opt.Option, &dns.EDNS0_PADDING{Padding: make([]byte, (block-length%block)%block)})
	}
	q.Extra = []dns.RR{opt}
	return q
}

// mixed writes a name in letters of random cases: one bit of random each.
func mixed(name string, random []byte) string {
	b := []byte(name)
	bit := 0
	for i, c := range b {
		if c |= 0x20; c < 'a' || c > 'z' || bit >= 8*len(random) {
			continue
		}
		if random[bit/8]>>(bit%8)&1 != 0 {
			b[i] &^= 0x20
		} else {
			b[i] |= 0x20
		}
		bit++
	}
	return string(b)
}

var (
	errForged   = errors.New("several answers did not fit the question")
	errMismatch = errors.New("an answer to another question")
)

// buffers are for answers by UDP: more than we ask for, since some send more.
var buffers = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}

// udp asks from a socket of its own, which the kernel gives a port nobody can know and no packet from elsewhere.
func (s *Server) udp(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	select {
	case s.sockets <- struct{}{}:
		defer func() { <-s.sockets }()
	case <-ctx.Done():
		return nil, fmt.Errorf("no socket is free: %w", ctx.Err())
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	packed, err := q.PackBuffer(*buf)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for range forgedMost {
		n, err := conn.Read(*buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, err
		}
		answer := new(dns.Msg)
		if err := answer.Unpack((*buf)[:n]); err == nil || answer.Truncated {
			if fits(q, answer) == nil {
				return answer, nil
			}
		}
		s.mu.Lock()
		s.counts.Forged++
		s.mu.Unlock()
		if answer.Opcode == dns.OpcodeQuery && len(answer.Question) == 1 && sameLetters(q, answer) == nil {
			// All fits but the letters: some servers do not keep them, and would never be heard. Over TCP they need not.
			return nil, errForged
		}
	}
	s.log.Warn("answers that do not fit their question: somebody may be forging them", "server", s.name)
	return nil, errForged
}

// fits tells whether an answer is one to the question: id, name to the letter, type, class (RFC 5452 9.1).
func fits(q, answer *dns.Msg) error {
	if answer.Id != q.Id || !answer.Response || answer.Opcode != dns.OpcodeQuery {
		return errMismatch
	}
	if len(answer.Question) == 0 && (answer.Rcode == dns.RcodeFormatError || answer.Rcode == dns.RcodeNotImplemented ||
		answer.Rcode == dns.RcodeRefused) {
		return nil // some leave it out when they did not read it
	}
	if len(answer.Question) != 1 || answer.Question[0] != q.Question[0] {
		return errMismatch
	}
	return nil
}

// sameLetters is fits for TCP and TLS, where nobody forges and some servers do not keep the letters.
func sameLetters(q, answer *dns.Msg) error {
	if answer.Id == q.Id && answer.Response && len(answer.Question) == 1 &&
		strings.EqualFold(answer.Question[0].Name, q.Question[0].Name) &&
		answer.Question[0].Qtype == q.Question[0].Qtype && answer.Question[0].Qclass == q.Question[0].Qclass {
		return nil
	}
	return fits(q, answer)
}
