package server

import (
	"sync/atomic"

	"github.com/miekg/dns"
)

// Counts count queries.
type Counts struct {
	queries, cached, forwarded, local, refused, unusual, limited, any, failed atomic.Uint64
	nxdomain, servfail, connections, secure, handshakes                       atomic.Uint64
}

func (c *Counts) rcode(rcode int) {
	switch rcode {
	case dns.RcodeNameError:
		c.nxdomain.Add(1)
	case dns.RcodeServerFailure:
		c.servfail.Add(1)
	}
}

// Totals are Counts as they are told.
type Totals struct {
	Queries     uint64 `json:"queries"`
	Cached      uint64 `json:"cached"`    // answered from the cache
	Forwarded   uint64 `json:"forwarded"` // after others were asked
	Local       uint64 `json:"local"`     // by what the guest itself knows, blocked names among them
	Refused     uint64 `json:"refused"`   // by who may not, or for what nobody may
	Unusual     uint64 `json:"unusual"`   // no ordinary queries
	Limited     uint64 `json:"limited"`   // too many for one network
	Any         uint64 `json:"any"`       // queries for all there is
	NXDomain    uint64 `json:"nxdomain"`
	ServFail    uint64 `json:"servfail"`
	Connections uint64 `json:"connections"` // TCP
	Secure      uint64 `json:"secure"`      // of them by TLS
	Handshakes  uint64 `json:"handshakes"`  // of TLS that failed
	Ended       uint64 `json:"ended"`       // connections closed to make room for others
}

// Totals since the start.
func (s *Server) Totals() Totals {
	c := &s.Counts
	return Totals{c.queries.Load(), c.cached.Load(), c.forwarded.Load(), c.local.Load(), c.refused.Load(),
		c.unusual.Load(), c.limited.Load(), c.any.Load(), c.nxdomain.Load(), c.servfail.Load() + c.failed.Load(),
		c.connections.Load(), c.secure.Load(), c.handshakes.Load(), s.places.made()}
}
