package virtualnet

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping sends one echo request with the given payload, again each time after resend, and returns nil once the
// answer with the same payload is there. It fails with ctx.
func (h *Host) Ping(ctx context.Context, from, to netip.Addr, payload []byte, resend time.Duration) error {
	proto, local := network(from)
	_, remote := network(to)
	transport := icmp.ProtocolNumber4
	if to.Is6() {
		transport = icmp.ProtocolNumber6
	}
	var queue waiter.Queue
	ep, terr := h.stack.NewEndpoint(transport, proto, &queue)
	if terr != nil {
		return fmt.Errorf("ping %s: %s", to, terr)
	}
	defer ep.Close()
	readable, arrived := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&readable)
	defer queue.EventUnregister(&readable)
	if terr := ep.Bind(tcpip.FullAddress{NIC: nic, Addr: local}); terr != nil {
		return fmt.Errorf("ping %s from %s: %s", to, from, terr)
	}
	if terr := ep.Connect(tcpip.FullAddress{NIC: nic, Addr: remote}); terr != nil {
		return fmt.Errorf("ping %s from %s: %s", to, from, terr)
	}
	request := echoRequest(to.Is6(), payload)
	for {
		if _, terr := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); terr != nil {
			return fmt.Errorf("ping %s from %s: %s", to, from, terr)
		}
		for waiting := true; waiting; {
			var answer bytes.Buffer
			if _, terr := ep.Read(&answer, tcpip.ReadOptions{}); terr == nil {
				if bytes.HasSuffix(answer.Bytes(), payload) {
					return nil
				}
				continue
			}
			select {
			case <-arrived:
			case <-time.After(resend):
				waiting = false
			case <-ctx.Done():
				return fmt.Errorf("ping %s from %s: %w", to, from, ctx.Err())
			}
		}
	}
}

// echoRequest is an ICMP or ICMPv6 echo request; the stack fills in the identifier, and ICMPv6's checksum.
func echoRequest(six bool, payload []byte) []byte {
	const size = 8 // RFC 792, RFC 4443: type, code, checksum, identifier, sequence number
	b := append(make([]byte, size), payload...)
	if six {
		h := header.ICMPv6(b)
		h.SetType(header.ICMPv6EchoRequest)
		return b
	}
	h := header.ICMPv4(b)
	h.SetType(header.ICMPv4Echo)
	h.SetChecksum(^checksum.Checksum(b, 0))
	return b
}
