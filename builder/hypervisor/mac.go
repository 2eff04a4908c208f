package hypervisor

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
)

// oui is the prefix registered for virtual machines of the Xen project, which others use alike: 00:16:3e.
var oui = [3]byte{0x00, 0x16, 0x3e}

// MACs derives one hardware address for each link of a guest from nothing but their names: the same names give the
// same addresses on every host, and adding a link leaves those before it alone. Two links of one guest never share
// an address; two guests may (24 bits), so a site checks its guests against each other.
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
