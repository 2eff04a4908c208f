package dns_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// What is true, and what a forger wants to be believed.
const (
	trueAddr   = "203.0.113.80"
	forgedAddr = "203.0.113.66"
)

// addressOf answers a question with an address.
func addressOf(q *dns.Msg, addr string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET,
		Ttl: 300}, A: net.ParseIP(addr)}}
	return m
}

// forgers are the ways a forger has that are tried; each sends before the right answer is.
func forgers() map[string]func(q *dns.Msg, send func(m *dns.Msg), elsewhere net.PacketConn, guest net.Addr) {
	forged := func(q *dns.Msg, change func(m *dns.Msg)) *dns.Msg {
		m := addressOf(q, forgedAddr)
		change(m)
		return m
	}
	return map[string]func(q *dns.Msg, send func(m *dns.Msg), elsewhere net.PacketConn, guest net.Addr){
		"id": func(q *dns.Msg, send func(m *dns.Msg), _ net.PacketConn, _ net.Addr) {
			send(forged(q, func(m *dns.Msg) { m.Id++ }))
		},
		"ids": func(q *dns.Msg, send func(m *dns.Msg), _ net.PacketConn, _ net.Addr) {
			for i := range uint16(200) {
				send(forged(q, func(m *dns.Msg) { m.Id += 1 + i }))
			}
		},
		"letters": func(q *dns.Msg, send func(m *dns.Msg), _ net.PacketConn, _ net.Addr) {
			send(forged(q, func(m *dns.Msg) {
				b := []byte(m.Question[0].Name)
				b[0] ^= 'a' ^ 'A'
				m.Question[0].Name = string(b)
			}))
		},
		"question": func(q *dns.Msg, send func(m *dns.Msg), _ net.PacketConn, _ net.Addr) {
			send(forged(q, func(m *dns.Msg) { m.Question[0].Name = "bank.test." }))
		},
		// From another address, and with everything right but that: somebody who reads along and cannot send as the server.
		"address": func(q *dns.Msg, _ func(m *dns.Msg), elsewhere net.PacketConn, guest net.Addr) {
			if b, err := forged(q, func(*dns.Msg) {}).Pack(); err == nil {
				_, _ = elsewhere.WriteTo(b, guest)
			}
		},
	}
}

// answering has a handler answer at an address of the others, by UDP and TCP, until the test ends.
func (l *lab) answering(addr string, handler dns.HandlerFunc) {
	l.t.Helper()
	var packets net.PacketConn
	var stream net.Listener
	l.others.In(l.t, func() (err error) {
		if packets, err = net.ListenPacket("udp", addr+":53"); err != nil {
			return err
		}
		stream, err = net.Listen("tcp", addr+":53")
		return err
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: stream, Handler: handler}} {
		ended := make(chan error, 1)
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		l.t.Cleanup(func() {
			if err := s.ShutdownContext(context.Background()); err != nil {
				l.t.Error(err)
			}
			<-ended
		})
	}
}

// TestPoisoning: forged answers that come before the right one, each wrong in one thing that a forger has to guess, are
// not believed and not kept; and of a right one nothing is kept that it was not asked for.
func TestPoisoning(t *testing.T) {
	l := newLab(t)
	ways := forgers()
	var elsewhere net.PacketConn
	l.others.In(t, func() (err error) {
		elsewhere, err = net.ListenPacket("udp", upstreamB+":53")
		return err
	})
	defer elsewhere.Close()
	l.answering(upstreamA, func(w dns.ResponseWriter, q *dns.Msg) {
		name := strings.ToLower(q.Question[0].Name)
		way, _, _ := strings.Cut(name, ".")
		if forge := ways[way]; forge != nil && w.RemoteAddr().Network() == "udp" {
			forge(q, func(m *dns.Msg) { _ = w.WriteMsg(m) }, elsewhere, w.RemoteAddr())
		}
		m := addressOf(q, trueAddr)
		if q.Question[0].Qtype != dns.TypeA {
			m.Answer = nil
		}
		// What nobody asked for: another name's address, in every section, and a server for a whole domain.
		other := &dns.A{Hdr: dns.RR_Header{Name: "bank.test.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300},
			A: net.ParseIP(forgedAddr)}
		server := &dns.NS{Hdr: dns.RR_Header{Name: "test.", Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: 300},
			Ns: "bank.test."}
		if way != "bank" {
			m.Answer, m.Ns, m.Extra = append(m.Answer, other), append(m.Ns, server), append(m.Extra, other)
		}
		_ = w.WriteMsg(m)
	})
	// The name is of a domain that is left alone elsewhere: "test" is nobody's outside (RFC 6761).
	l.start("dns: {domains: {test: 192.0.2.53}, upstream: 192.0.2.53, lan0: {}}\n")
	for way := range ways {
		for _, how := range []string{"first", "from the cache"} {
			if got := l.short(way + ".with-a-long-name.example"); got != trueAddr {
				t.Errorf("with a forged answer of wrong %s, %s: %q; want %s", way, how, got, trueAddr)
			}
		}
	}
	s := l.told()
	if len(s.Servers) != 1 || s.Servers[0].Forged < 4 {
		t.Errorf("%+v; want one server, and every forged answer noticed that came by its address", s.Servers)
	}
	if s.Cached < uint64(len(ways)) {
		t.Errorf("%d answers from the cache; want %d", s.Cached, len(ways))
	}
	if got := l.short("bank.test"); got != trueAddr {
		t.Errorf("a name that only came along with others: %q; want it asked for, %s", got, trueAddr)
	}
	out := l.dig("id.with-a-long-name.example")
	if strings.Contains(out, forgedAddr) || strings.Contains(out, "bank") {
		t.Errorf("what nobody asked for is passed on:\n%s", out)
	}
}
