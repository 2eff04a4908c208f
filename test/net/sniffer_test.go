package net

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"rempart/profiles"
)

// arrival is one packet that came to a host: of a connection attempt, a datagram, or an echo request.
type arrival struct {
	src, dst netip.Addr
	protocol profiles.Protocol
	port     uint16 // destination port; 0 for ping
	id       uint16 // source port, or the identifier of an echo request: what tells the tests' flows apart
	said     string // of a datagram
}

// sniffer remembers what came to a node. It sees packets before any filter of that node could.
type sniffer struct {
	mu      sync.Mutex
	arrived map[uint16][]arrival // by id
}

// of are the packets of the flow with an id that came to the node.
func (s *sniffer) of(id uint16) []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival{}, s.arrived[id]...)
}

// watch starts a node's sniffer. It ends with the test.
func (l *lab) watch(t *testing.T, n *node) {
	t.Helper()
	n.seen = &sniffer{arrived: map[uint16][]arrival{}}
	n.Sniff(t, nil, unix.SOCK_DGRAM, func(packet []byte, from *unix.SockaddrLinklayer) {
		if from.Pkttype == unix.PACKET_HOST {
			n.seen.record(packet)
		}
	})
}

func (s *sniffer) record(packet []byte) {
	a, ok := dissect(packet)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived[a.id] = append(s.arrived[a.id], a)
}

// dissect reads what the tests send: IPv4 with any options, IPv6 without extension headers.
func dissect(b []byte) (arrival, bool) {
	var a arrival
	var proto byte
	var body []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		a.src, a.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		proto, body = b[9], b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		a.src, a.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		proto, body = b[6], b[40:]
	}
	if len(body) < 8 {
		return a, false
	}
	switch {
	case proto == unix.IPPROTO_TCP && len(body) >= 14 && body[13]&0x12 == 0x02: // SYN without ACK
		a.protocol = profiles.TCP
	case proto == unix.IPPROTO_UDP:
		a.protocol, a.said = profiles.UDP, string(body[8:])
	case proto == unix.IPPROTO_ICMP && body[0] == 8, proto == unix.IPPROTO_ICMPV6 && body[0] == 128:
		a.protocol, a.id = profiles.Ping, binary.BigEndian.Uint16(body[4:])
		return a, true
	default:
		return a, false
	}
	a.id, a.port = binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
	return a, true
}
