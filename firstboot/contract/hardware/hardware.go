// Package hardware says which hardware addresses a guest and its host agree on. It is pure. It is no part of package
// contract because the boot stage, which must stay small, has no use for it.
package hardware

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
)

// oui is the prefix registered for virtual machines of the Xen project, which others use alike: 00:16:3e. A random
// locally administered address would do as well; one that is known for what it is helps whoever reads a switch's table.
var oui = [3]byte{0x00, 0x16, 0x3e}

// MACs derives one hardware address for each link of a guest from nothing but their names: the same names give the
// same addresses on every host, and adding a link leaves the others alone. The host gives them to the NICs, and the
// guest finds by them which NIC is which link, wherever on the bus it is. Two links of one guest never share an
// address; two guests may (24 bits), so a site checks its guests against each other.
func MACs(guest string, links []string) []net.HardwareAddr {
	macs := make([]net.HardwareAddr, len(links))
	taken := map[[3]byte]bool{}
	for i, link := range links {
		var tail [3]byte
		for try := uint32(0); ; try++ {
			seed := binary.BigEndian.AppendUint32([]byte(guest+"\x00"+link+"\x00"), try)
			sum := sha256.Sum256(seed)
			copy(tail[:], sum[:3])
			if !taken[tail] {
				break
			}
		}
		taken[tail] = true
		macs[i] = net.HardwareAddr{oui[0], oui[1], oui[2], tail[0], tail[1], tail[2]}
	}
	return macs
}

// Address is the IPv6 address that a NIC gives itself in a prefix of 64 bits: the modified EUI-64 of its hardware
// address (RFC 4291, appendix A).
func Address(prefix netip.Prefix, mac net.HardwareAddr) netip.Addr {
	a := prefix.Masked().Addr().As16()
	copy(a[8:], []byte{mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
	return netip.AddrFrom16(a)
}
