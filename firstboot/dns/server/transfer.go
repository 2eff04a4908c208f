package server

import (
	"context"
	"encoding/binary"
	"iter"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/answer"
)

// Transferer gives whole zones (RFC 5936).
type Transferer interface {
	// Transfer returns the messages of a transfer, false for a query that is to be answered, or refused, like any other.
	Transfer(q *answer.Query) (iter.Seq[*dns.Msg], bool)
}

// maxTransfers is how many whole zones are on their way at a time, by all links together.
const maxTransfers = 4

// transfer sends a whole zone by a connection if that is what the query asks for and the client may have it; done tells
// whether it did, or failed to, and nothing else is to be sent.
func (s *Server) transfer(ctx context.Context, from netip.Addr, access *Access, in []byte, conn net.Conn,
	write *sync.Mutex) (done bool, err error) {
	if s.Zones == nil {
		return false, nil
	}
	r := &request{from: from, access: access, tcp: true}
	if ask, _ := access.may(from); !ask || !r.Parse(in) || r.Type != dns.TypeAXFR && r.Type != dns.TypeIXFR {
		return false, nil
	}
	q := &answer.Query{Msg: new(dns.Msg), From: from, Link: access.Link, TCP: true}
	if err := q.Msg.Unpack(in); err != nil || len(q.Msg.Question) != 1 || r.Class != dns.ClassINET {
		return false, nil
	}
	messages, ok := s.Zones.Transfer(q)
	if !ok {
		return false, nil
	}
	select {
	case s.transfers <- struct{}{}:
		defer func() { <-s.transfers }()
	default:
		return false, nil // refused: who copies a zone comes again
	}
	s.Counts.queries.Add(1)
	s.Counts.local.Add(1)
	write.Lock()
	defer write.Unlock()
	for m := range messages {
		packed, err := m.Pack()
		if err != nil {
			return true, err
		}
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		if err := conn.SetWriteDeadline(time.Now().Add(slow)); err != nil {
			return true, err
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)); err != nil {
			return true, err
		}
	}
	return true, nil
}
