package dhcp4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"rempart/firstboot/link/packet"
)

// Numbers of ARP over Ethernet (RFC 826).
const (
	hardwareEth = 1
	arpRequest  = 1
	arpLen      = 28
)

// everything and nothing are filters for ARP, which the protocol of the socket already selects.
var (
	everything = []bpf.Instruction{bpf.RetConstant{Val: maxPacket}}
	nothing    = []bpf.Instruction{bpf.RetConstant{Val: 0}}
)

// Probing by ARP, as RFC 5227 section 2.1.1 does but faster: three probes within 0.6 s instead of up to 7 s, because
// the whole guest waits for its uplink.
const (
	probes        = 3
	probeInterval = 200 * time.Millisecond
	announcements = 2
)

// probe asks whether another host on the link has addr, or is just about to take it. It takes 0.6 s.
func probe(ctx context.Context, index int, mac net.HardwareAddr, addr netip.Addr) (conflict bool, err error) {
	s, err := packet.Open(index, unix.ETH_P_ARP, everything)
	if err != nil {
		return false, err
	}
	defer s.Close()
	buf := make([]byte, maxPacket)
	for range probes {
		if err := s.Send(arp(mac, netip.IPv4Unspecified(), addr), packet.Broadcast()); err != nil {
			return false, fmt.Errorf("sending ARP probe: %w", err)
		}
		if err := s.SetReadDeadline(time.Now().Add(probeInterval)); err != nil {
			return false, err
		}
		for ctx.Err() == nil {
			p, _, err := s.Receive(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return false, fmt.Errorf("receiving ARP: %w", err)
			}
			if claims(p, mac, addr) {
				return true, nil
			}
		}
	}
	return false, nil
}

// claims reports whether an ARP packet says that another host than mac has or probes for addr.
func claims(p []byte, mac net.HardwareAddr, addr netip.Addr) bool {
	if len(p) < arpLen || binary.BigEndian.Uint16(p) != hardwareEth || binary.BigEndian.Uint16(p[2:]) != unix.ETH_P_IP ||
		p[4] != macLen || p[5] != 4 {
		return false
	}
	if sender := net.HardwareAddr(p[8:14]); sender.String() == mac.String() {
		return false
	}
	from, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	probing := from.IsUnspecified() && binary.BigEndian.Uint16(p[6:]) == arpRequest
	return from == addr || probing && target == addr
}

// announce tells the neighbours that addr is at mac now (RFC 5227 section 2.3).
func announce(index int, mac net.HardwareAddr, addr netip.Addr) error {
	s, err := packet.Open(index, unix.ETH_P_ARP, nothing)
	if err != nil {
		return err
	}
	defer s.Close()
	for range announcements {
		if err := s.Send(arp(mac, addr, addr), packet.Broadcast()); err != nil {
			return fmt.Errorf("sending ARP announcement: %w", err)
		}
	}
	return nil
}

// arp is an ARP request (RFC 826).
func arp(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b := make([]byte, 0, arpLen)
	b = binary.BigEndian.AppendUint16(b, hardwareEth)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, macLen, 4)
	b = binary.BigEndian.AppendUint16(b, arpRequest)
	b = append(append(b, mac...), sender.AsSlice()...)
	return append(append(b, make([]byte, macLen)...), target.AsSlice()...)
}
