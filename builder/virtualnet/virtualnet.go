// Package virtualnet is a small internet inside this process, for a guest to be plugged into: Ethernet segments whose
// ports are QEMU's links and hosts with real TCP/IP stacks (gVisor's), which speak ARP, neighbour discovery, IPv4,
// IPv6, ICMP, TCP and UDP. It needs no root, no namespaces, no tap and no tool of the host.
//
// What a guest makes of its NICs finds its other end too: VLANs, also one in another, and bonds, with a partner that
// answers LACP.
//
// Every frame is seen by the segment's observers before it is delivered, which is how package packettest knows what a
// firewall let through, whatever the stacks at the ends made of it.
//
// What it deliberately does not do: filter, shape, lose or reorder frames, route between segments (only the guest
// does), or reach the real network.
package virtualnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MaxFrame is the largest frame a wire carries, in bytes: QEMU's own bound (NET_BUFSIZE, include/net/net.h: 4096 +
// 65536 bytes).
const MaxFrame = 4096 + 65536

// minFrame is an Ethernet header without a payload.
const minFrame = 14

// ErrFrame is returned by ReadFrame for a length no frame can have: the other end speaks something else.
var ErrFrame = errors.New("not a frame")

// ReadFrame reads one frame off a wire: QEMU's stream socket network puts the length before each frame, 4 bytes, most
// significant first (net/socket.c, net/stream.c). The frame lies in buf, which must hold MaxFrame bytes.
func ReadFrame(r io.Reader, buf []byte) ([]byte, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err // io.EOF between frames is the orderly end
	}
	n := binary.BigEndian.Uint32(prefix[:])
	if n < minFrame || n > MaxFrame {
		return nil, fmt.Errorf("%w: length %d; want %d to %d", ErrFrame, n, minFrame, MaxFrame)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf[:n], nil
}

// AppendFrame appends frame as it goes over a wire.
func AppendFrame(b, frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(frame))), frame...)
}
