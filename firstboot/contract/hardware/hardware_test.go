package hardware

import (
	"net"
	"net/netip"
	"testing"
)

func TestAddress(t *testing.T) {
	// RFC 4291, appendix A: the universal bit is inverted.
	nic := net.HardwareAddr{0x00, 0x16, 0x3e, 0x01, 0x02, 0x03}
	want := netip.MustParseAddr("2001:db8::216:3eff:fe01:203")
	if got := Address(netip.MustParsePrefix("2001:db8::/64"), nic); got != want {
		t.Errorf("Address = %s; want %s", got, want)
	}
}
