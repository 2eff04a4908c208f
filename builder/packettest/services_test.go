package packettest

import (
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/miekg/dns"

	"rempart/builder/virtualnet"
	"rempart/firstboot/filter"
	"rempart/profiles"
)

// TestQuestions: what services are asked is what their libraries read, and the flow is known by it again.
func TestQuestions(t *testing.T) {
	for port, reads := range map[uint16]func([]byte) bool{
		53: func(b []byte) bool {
			var m dns.Msg
			return m.Unpack(b) == nil && len(m.Question) == 1 && dns.IsSubDomain("invalid.", m.Question[0].Name)
		},
		67: func(b []byte) bool {
			m, err := dhcpv4.FromBytes(b)
			return err == nil && m.MessageType() == dhcpv4.MessageTypeInform && m.ClientIPAddr.String() == "10.0.0.7"
		},
		547: func(b []byte) bool {
			m, err := dhcpv6.MessageFromBytes(b)
			return err == nil && m.MessageType == dhcpv6.MessageTypeInformationRequest && m.Options.ClientID() != nil
		},
		123:  func(b []byte) bool { return len(b) == 48 && b[0]>>3&7 == 4 && b[0]&7 == 3 },
		4444: func(b []byte) bool { return len(b) == tokenSize },
	} {
		p := filter.Probe{To: profiles.Self, Protocol: profiles.UDP, Port: port, Pass: true,
			Src: netip.MustParseAddr("10.0.0.7")}
		token := newToken()
		b := question(p, token)
		if !reads(b) {
			t.Errorf("the question to port %d does not read as one: % x", port, b)
		}
		if got := tokenOf(virtualnet.Dissection{Protocol: virtualnet.UDP, DstPort: port, Payload: b}); got != token {
			t.Errorf("the question to port %d is known by %q; want %q", port, got, token)
		}
		p.Pass = false // what must not pass says nothing that a service could answer
		if got := string(question(p, token)); got != token {
			t.Errorf("what must not pass to port %d is %q; want the token alone", port, got)
		}
	}
	for _, port := range []uint16{53, 67, 123, 4444} { // whatever its length, it is no danger
		for n := range 300 {
			d := virtualnet.Dissection{Protocol: virtualnet.UDP, DstPort: port, Payload: make([]byte, n)}
			if got := tokenOf(d); (got == "") != (n < tokenSize) {
				t.Errorf("the token of %d bytes to port %d is %q", n, port, got)
			}
		}
	}
}
