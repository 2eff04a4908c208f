package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// server is a name server on loopback that answers as its handler says, by UDP and TCP of the same port, or by TLS.
func server(t *testing.T, config *tls.Config, handler dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	var addr netip.AddrPort
	listen := func(s *dns.Server) {
		up := make(chan struct{})
		s.Handler, s.NotifyStartedFunc = handler, func() { close(up) }
		ended := make(chan error, 1)
		go func() { ended <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			if err := s.ShutdownContext(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().(*net.TCPAddr).AddrPort()
	if config != nil {
		listen(&dns.Server{Listener: tls.NewListener(l, config)})
		return addr
	}
	p, err := net.ListenPacket("udp", addr.String())
	if err != nil {
		t.Skipf("SKIPPED, NOT PASSED: no port for both UDP and TCP: %v", err)
	}
	listen(&dns.Server{Listener: l})
	listen(&dns.Server{PacketConn: p})
	return addr
}

func ask(name string) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeA)
	return m
}

// reply answers with one address.
func reply(r *dns.Msg, a string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(r)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60},
		A: net.ParseIP(a)}}
	return m
}

func address(m *dns.Msg) string {
	if m == nil || len(m.Answer) == 0 {
		return ""
	}
	a, ok := m.Answer[0].(*dns.A)
	if !ok {
		return ""
	}
	return a.A.String()
}

func newServer(addr netip.AddrPort, t *TLS) *Server {
	return NewServer(addr, t, Sockets(16), slog.New(slog.DiscardHandler))
}

const good, bad = "192.0.2.1", "192.0.2.66"

// TestForged: answers that do not fit in one of the ways a forger has to guess are not taken, and after enough of them
// the question goes over TCP.
func TestForged(t *testing.T) {
	for name, forge := range map[string]func(m *dns.Msg){
		"id":     func(m *dns.Msg) { m.Id++ },
		"name":   func(m *dns.Msg) { m.Question[0].Name = "other." },
		"type":   func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":  func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"query":  func(m *dns.Msg) { m.Response = false },
		"opcode": func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		"letters": func(m *dns.Msg) {
			if m.Question[0].Name = strings.ToLower(m.Question[0].Name); m.Question[0].Name == asked.Load().(string) {
				m.Id++
			}
		},
		"no question": func(m *dns.Msg) { m.Question = nil },
	} {
		for _, many := range []int{1, forgedMost} {
			addr := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
				if w.LocalAddr().Network() == "tcp" {
					_ = w.WriteMsg(reply(r, "192.0.2.2"))
					return
				}
				asked.Store(r.Question[0].Name)
				for range many {
					m := reply(r, bad)
					forge(m)
					_ = w.WriteMsg(m)
				}
				_ = w.WriteMsg(reply(r, good))
			})
			s := newServer(addr, nil)
			m, err := s.Exchange(t.Context(), ask("www.example-of-a-long-name.org."))
			want, forged := good, uint64(many)
			switch {
			case name == "letters":
				want, forged = "192.0.2.2", 1 // by TCP at once
			case many >= forgedMost:
				want = "192.0.2.2"
			}
			if err != nil || address(m) != want || s.Counts().Forged != forged {
				t.Errorf("%d answers with wrong %s: %s, %v, %+v; want %s", many, name, address(m), err, s.Counts(), want)
			}
		}
	}
}

// asked is the last name in the letters it came in.
var asked atomic.Value

// TestNobodyCanKnow: ids, ports and letters of a hundred equal questions.
func TestNobodyCanKnow(t *testing.T) {
	var mu sync.Mutex
	ids, ports, letters := map[uint16]bool{}, map[string]bool{}, map[string]bool{}
	addr := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		mu.Lock()
		defer mu.Unlock()
		ids[r.Id], ports[w.RemoteAddr().String()], letters[r.Question[0].Name] = true, true, true
		_ = w.WriteMsg(reply(r, good))
	})
	s := newServer(addr, nil)
	const asks = 100
	for range asks {
		if _, err := s.Exchange(t.Context(), ask("some-long-name.example.org.")); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	// Of 100 from 65536 two are equal with 7 %, of 28232 ports (ip_local_port_range) with 16 %, of 2^22 letters never.
	if len(ids) < asks-4 || len(ports) < asks-5 || len(letters) < asks-1 {
		t.Errorf("%d ids, %d ports, %d mixtures of letters; want nearly %d each", len(ids), len(ports), len(letters), asks)
	}
}

func TestTruncated(t *testing.T) {
	addr := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		m := reply(r, good)
		if w.LocalAddr().Network() == "udp" {
			m.Answer, m.Truncated = nil, true
		}
		_ = w.WriteMsg(m)
	})
	s := newServer(addr, nil)
	if m, err := s.Exchange(t.Context(), ask("a.example.")); err != nil || address(m) != good || s.Counts().TCP != 1 {
		t.Errorf("Exchange = %v, %v", m, err)
	}
}

// TestNoEDNS: a server that does not know OPT is asked again without, and from then on at once.
func TestNoEDNS(t *testing.T) {
	var with, without atomic.Int32
	addr := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.IsEdns0() != nil {
			with.Add(1)
			m := new(dns.Msg)
			m.SetRcode(r, dns.RcodeFormatError)
			_ = w.WriteMsg(m)
			return
		}
		without.Add(1)
		_ = w.WriteMsg(reply(r, good))
	})
	s := newServer(addr, nil)
	for range 3 {
		if m, err := s.Exchange(t.Context(), ask("a.example.")); err != nil || address(m) != good {
			t.Fatalf("Exchange = %v, %v", m, err)
		}
	}
	if with.Load() != 1 || without.Load() != 3 {
		t.Errorf("%d questions with OPT, %d without; want 1 and 3", with.Load(), without.Load())
	}
}

// TestFailover: one that fails, one that says no and one that is silent do not keep the answer of the fourth away, and
// the silent one is left alone until it answers a probe.
func TestFailover(t *testing.T) {
	refusing := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetRcode(r, dns.RcodeRefused)
		_ = w.WriteMsg(m)
	})
	var speaks atomic.Bool
	var heard atomic.Int32
	silent := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		heard.Add(1)
		if speaks.Load() {
			_ = w.WriteMsg(reply(r, "192.0.2.3"))
		}
	})
	working := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) { _ = w.WriteMsg(reply(r, good)) })
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	var all []*Server
	for _, addr := range []netip.AddrPort{closed, refusing, silent, working} {
		all = append(all, newServer(addr, nil))
	}
	g := NewGroup(slog.New(slog.DiscardHandler), all)
	for range 5 {
		if m, err := g.Exchange(t.Context(), ask("a.example.")); err != nil || address(m) != good {
			t.Fatalf("Exchange = %v, %v; want the one that works", m, err)
		}
	}
	for range downAfter {
		all[2].note(time.Now(), errors.New("silent"))
	}
	if down, _ := all[2].standing(time.Now()); !down || g.order(time.Now())[0] == all[2] {
		t.Error("a server that does not answer is not left alone")
	}
	speaks.Store(true)
	if all[2].dueForProbe(time.Now()) || !all[2].dueForProbe(time.Now().Add(firstProbe)) {
		t.Error("the probe is not due after its time")
	}
	g.probe(t.Context(), all[2])
	if down, _ := all[2].standing(time.Now()); down {
		t.Error("a server that answers its probe is still left alone")
	}
}

// TestSilentIsFoundOut: one that is silent beside one that works is found out by the questions themselves.
func TestSilentIsFoundOut(t *testing.T) {
	silent := newServer(server(t, nil, func(dns.ResponseWriter, *dns.Msg) {}), nil)
	working := newServer(server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) { _ = w.WriteMsg(reply(r, good)) }), nil)
	g := NewGroup(slog.New(slog.DiscardHandler), []*Server{silent, working})
	if m, err := g.Exchange(t.Context(), ask("a.example.")); err != nil || address(m) != good {
		t.Fatalf("Exchange = %v, %v; want the one that works", m, err)
	}
	for end := time.Now().Add(time.Minute); silent.Counts().Failed == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a server that did not answer while another did is not noted; it stays the first to be asked")
		}
	}
	if !silent.dueForProbe(time.Now().Add(firstProbe)) {
		t.Error("a server that did not answer is not probed")
	}
}

// TestAllRefuse: what all say is the answer.
func TestAllRefuse(t *testing.T) {
	addr := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetRcode(r, dns.RcodeServerFailure)
		_ = w.WriteMsg(m)
	})
	g := NewGroup(slog.New(slog.DiscardHandler), []*Server{newServer(addr, nil)})
	if m, err := g.Exchange(t.Context(), ask("a.example.")); err != nil || m.Rcode != dns.RcodeServerFailure {
		t.Errorf("Exchange = %v, %v; want SERVFAIL", m, err)
	}
	if _, err := NewGroup(slog.New(slog.DiscardHandler), nil).Exchange(t.Context(), ask("a.")); !errors.Is(err,
		ErrNobody) {
		t.Errorf("Exchange of nobody = %v; want ErrNobody", err)
	}
}

// identity is a certificate for a name, made now.
func identity(t *testing.T, name string) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		DNSNames:  []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, cert
}

// TestTLS: only who proves its name, or has the key that is pinned, is believed; nothing goes in the clear.
func TestTLS(t *testing.T) {
	pair, cert := identity(t, "dns.example")
	_, other := identity(t, "dns.example")
	var lengths atomic.Int32
	addr := server(t, &tls.Config{Certificates: []tls.Certificate{pair}}, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Len()%128 != 0 {
			lengths.Add(1)
		}
		m := reply(r, good)
		m.AuthenticatedData = true
		_ = w.WriteMsg(m)
	})
	pool, wrong := x509.NewCertPool(), x509.NewCertPool()
	pool.AddCert(cert)
	wrong.AddCert(other)
	pin := func(c *x509.Certificate) []byte { sum := sha256.Sum256(c.RawSubjectPublicKeyInfo); return sum[:] }
	for name, c := range map[string]struct {
		tls  TLS
		want string
	}{
		"right":          {TLS{Name: "dns.example", Roots: pool}, ""},
		"pinned":         {TLS{Name: "other.example", Pin: pin(cert)}, ""},
		"another name":   {TLS{Name: "other.example", Roots: pool}, "not other.example"},
		"another root":   {TLS{Name: "dns.example", Roots: wrong}, "unknown authority"},
		"another key":    {TLS{Name: "dns.example", Pin: pin(other)}, errPin.Error()},
		"nobody vouches": {TLS{Name: "dns.example", Roots: x509.NewCertPool()}, "unknown authority"},
	} {
		s := newServer(addr, &c.tls)
		for range 3 {
			m, err := s.Exchange(t.Context(), ask("a.example."))
			if c.want == "" && (err != nil || address(m) != good || !m.AuthenticatedData) {
				t.Errorf("%s: Exchange = %v, %v", name, m, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: Exchange = %v, %v; want an error with %q", name, m, err, c.want)
			}
		}
	}
	if lengths.Load() > 0 {
		t.Errorf("%d queries were not padded", lengths.Load())
	}
}

// TestPipelined: many questions at once over one connection, answered out of order.
func TestPipelined(t *testing.T) {
	pair, cert := identity(t, "dns.example")
	addr := server(t, &tls.Config{Certificates: []tls.Certificate{pair}}, func(w dns.ResponseWriter, r *dns.Msg) {
		_ = w.WriteMsg(reply(r, good))
	})
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	s := newServer(addr, &TLS{Name: "dns.example", Roots: pool})
	if _, err := s.Exchange(t.Context(), ask("first.example.")); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	const many = 100
	for range many {
		go func() {
			_, err := s.Exchange(t.Context(), ask("a.example."))
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := len(s.sockets); n != 1 {
		t.Errorf("%d connections; want 1", n)
	}
}

func TestPlainAnswersAreNotAuthentic(t *testing.T) {
	addr := server(t, nil, func(w dns.ResponseWriter, r *dns.Msg) {
		m := reply(r, good)
		m.AuthenticatedData = true
		_ = w.WriteMsg(m)
	})
	if m, err := newServer(addr, nil).Exchange(t.Context(), ask("a.example.")); err != nil || m.AuthenticatedData {
		t.Errorf("Exchange = %v, %v; want no AD: anybody could have set it", m, err)
	}
}
