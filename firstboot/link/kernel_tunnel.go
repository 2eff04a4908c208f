package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The generic netlink family of WireGuard, linux/wireguard.h.
const (
	wgFamily  = "wireguard" // WG_GENL_NAME
	wgVersion = 1
)

// WG_CMD_*.
const (
	wgGet = 0
	wgSet = 1
)

// WGDEVICE_A_*, of a device.
const (
	wgIndex      = 1
	wgPrivateKey = 3
	wgPort       = 6
	wgPeers      = 8
)

// WGPEER_A_*, of a peer, and WGPEER_F_*, its flags.
const (
	wgPeerKey       = 1
	wgPeerPreshared = 2
	wgPeerFlags     = 3
	wgPeerEndpoint  = 4
	wgPeerKeepalive = 5
	wgPeerAllowed   = 9

	wgRemove         = 1 << 0
	wgReplaceAllowed = 1 << 1
)

// WGALLOWEDIP_A_*, of a prefix.
const (
	wgAllowedFamily  = 1
	wgAllowedAddress = 2
	wgAllowedBits    = 3
)

// tellWireGuard sends one command about the interface with an index.
func (k *kernel) tellWireGuard(command uint8, flags, index int, attrs ...*nl.RtAttr) ([][]byte, error) {
	family, err := k.generic.GenlFamilyGet(wgFamily)
	if errors.Is(err, unix.ENOENT) {
		return nil, errors.New("this kernel has no WireGuard")
	}
	if err != nil {
		return nil, fmt.Errorf("asking for WireGuard: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), flags)
	req.AddData(&nl.Genlmsg{Command: command, Version: wgVersion})
	req.AddData(nl.NewRtAttr(wgIndex, nl.Uint32Attr(uint32(index))))
	for _, a := range attrs {
		req.AddData(a)
	}
	return req.Execute(unix.NETLINK_GENERIC, 0)
}

// lookTunnel reads what WireGuard knows of an interface.
func (k *kernel) lookTunnel(index int) (*Tunnel, error) {
	messages, err := dump(func() ([][]byte, error) { return k.tellWireGuard(wgGet, unix.NLM_F_DUMP, index) })
	if err != nil {
		return nil, err
	}
	t := &Tunnel{}
	for _, m := range messages {
		if len(m) < nl.SizeofGenlmsg {
			return nil, fmt.Errorf("WireGuard: a message of %d bytes", len(m))
		}
		if err := t.parse(m[nl.SizeofGenlmsg:]); err != nil {
			return nil, fmt.Errorf("WireGuard: %w", err)
		}
	}
	for i := range t.Peers {
		sortPrefixes(t.Peers[i].Allowed)
	}
	return t, nil
}

// parse adds what one message says: a device, or more of one. What one peer is allowed may go over several.
func (t *Tunnel) parse(b []byte) error {
	for a, err := range attributes(b) {
		if err != nil {
			return err
		}
		switch {
		case a.kind == wgPrivateKey && len(a.value) == keyLen:
			t.Key = tunnelKey(a.value)
		case a.kind == wgPort && len(a.value) == 2:
			t.Port = int(binary.NativeEndian.Uint16(a.value))
		case a.kind == wgPeers:
			for one, err := range attributes(a.value) {
				if err != nil {
					return err
				}
				p, err := parsePeer(one.value)
				if err != nil {
					return err
				}
				if n := len(t.Peers); n > 0 && t.Peers[n-1].Key == p.Key {
					t.Peers[n-1].Allowed = append(t.Peers[n-1].Allowed, p.Allowed...)
					continue
				}
				t.Peers = append(t.Peers, p)
			}
		}
	}
	return nil
}

func parsePeer(b []byte) (p Peer, err error) {
	for a, err := range attributes(b) {
		if err != nil {
			return p, err
		}
		switch {
		case a.kind == wgPeerKey && len(a.value) == keyLen:
			p.Key = key(a.value)
		case a.kind == wgPeerPreshared && len(a.value) == keyLen:
			p.Preshared = tunnelKey(a.value)
		case a.kind == wgPeerEndpoint:
			p.Endpoint = parseSockaddr(a.value)
		case a.kind == wgPeerKeepalive && len(a.value) == 2:
			p.Keepalive = int(binary.NativeEndian.Uint16(a.value))
		case a.kind == wgPeerAllowed:
			for one, err := range attributes(a.value) {
				if err != nil {
					return p, err
				}
				prefix, err := parseAllowed(one.value)
				if err != nil {
					return p, err
				}
				p.Allowed = append(p.Allowed, prefix)
			}
		}
	}
	return p, nil
}

func parseAllowed(b []byte) (netip.Prefix, error) {
	var addr netip.Addr
	bits := -1
	for a, err := range attributes(b) {
		if err != nil {
			return netip.Prefix{}, err
		}
		switch {
		case a.kind == wgAllowedAddress:
			addr, _ = netip.AddrFromSlice(a.value)
		case a.kind == wgAllowedBits && len(a.value) == 1:
			bits = int(a.value[0])
		}
	}
	if p := netip.PrefixFrom(addr, bits); p.IsValid() {
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("an allowed prefix of %v and %d bits", addr, bits)
}

// Sizes of struct sockaddr_in and sockaddr_in6, and where their parts are (ip(7), ipv6(7)): the family in the machine's
// byte order, at 2 the port in that of the network, the IPv4 address at 4, the IPv6 address at 8.
const (
	sockaddr4 = 16
	sockaddr6 = 28
)

func parseSockaddr(b []byte) netip.AddrPort {
	if len(b) < sockaddr4 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case family == unix.AF_INET6 && len(b) >= sockaddr6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	}
	return netip.AddrPort{}
}

func sockaddr(a netip.AddrPort) []byte {
	b := make([]byte, sockaddr4, sockaddr6)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		copy(b[4:], a.Addr().AsSlice())
		return b
	}
	b = b[:sockaddr6]
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	copy(b[8:], a.Addr().AsSlice())
	return b
}

// setTunnel tells the private key and the port.
func (k *kernel) setTunnel(index int, t *Tunnel) error {
	attrs := []*nl.RtAttr{nl.NewRtAttr(wgPrivateKey, slices.Clone(t.Key[:]))}
	if t.Port != 0 {
		attrs = append(attrs, nl.NewRtAttr(wgPort, nl.Uint16Attr(uint16(t.Port))))
	}
	_, err := k.tellWireGuard(wgSet, unix.NLM_F_ACK, index, attrs...)
	return err
}

// setPeer adds a peer or changes it; where it is only when that is given.
func (k *kernel) setPeer(index int, p *Peer) error {
	_, err := k.tellWireGuard(wgSet, unix.NLM_F_ACK, index, peerMessage(p))
	return err
}

func (k *kernel) deletePeer(index int, p *Peer) error {
	peers := nl.NewRtAttr(wgPeers|unix.NLA_F_NESTED, nil)
	one := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	one.AddRtAttr(wgPeerKey, slices.Clone(p.Key[:]))
	one.AddRtAttr(wgPeerFlags, nl.Uint32Attr(wgRemove))
	_, err := k.tellWireGuard(wgSet, unix.NLM_F_ACK, index, peers)
	return err
}

func peerMessage(p *Peer) *nl.RtAttr {
	peers := nl.NewRtAttr(wgPeers|unix.NLA_F_NESTED, nil)
	one := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	one.AddRtAttr(wgPeerKey, slices.Clone(p.Key[:]))
	one.AddRtAttr(wgPeerFlags, nl.Uint32Attr(wgReplaceAllowed))
	one.AddRtAttr(wgPeerPreshared, slices.Clone(p.Preshared[:]))
	if p.Endpoint.IsValid() {
		one.AddRtAttr(wgPeerEndpoint, sockaddr(p.Endpoint))
	}
	one.AddRtAttr(wgPeerKeepalive, nl.Uint16Attr(uint16(p.Keepalive)))
	allowed := one.AddRtAttr(wgPeerAllowed|unix.NLA_F_NESTED, nil)
	for _, a := range p.Allowed {
		family := uint16(unix.AF_INET)
		if a.Addr().Is6() {
			family = unix.AF_INET6
		}
		entry := allowed.AddRtAttr(unix.NLA_F_NESTED, nil)
		entry.AddRtAttr(wgAllowedFamily, nl.Uint16Attr(family))
		entry.AddRtAttr(wgAllowedAddress, a.Addr().AsSlice())
		entry.AddRtAttr(wgAllowedBits, []byte{byte(a.Bits())})
	}
	return peers
}
