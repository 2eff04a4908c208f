package v4

import (
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"rempart/profiles"
)

// TestLongOptions: what is in an option that came in parts may be longer than a byte counts with its header.
func TestLongOptions(t *testing.T) {
	d := home()
	d.Classes = []profiles.DHCPClass{{Name: "c", User: "x*"}}
	b := newBench(t, d)
	for i, long := range []string{"info \x01\xfe" + strings.Repeat("a", 254), "info \x01\xff" + strings.Repeat("a", 255),
		"info \x0b\xfe" + strings.Repeat("a", 254), "info \x0b\xff" + strings.Repeat("a", 255),
		"user \xff" + strings.Repeat("a", 255), "user \xff" + strings.Repeat("a", 300)} {
		m, _ := b.answer(message(dhcpv4.MessageTypeDiscover, 1, long))
		if outcome(m) != "offer 10.0.0.100" {
			t.Errorf("%d: answered %s; want an offer", i, outcome(m))
		}
		if m, _ := b.answerFrom("10.0.0.9:67", message(dhcpv4.MessageTypeDiscover, 1, "relay 10.0.0.9", long)); m != nil {
			t.Errorf("%d: relayed by a stranger: %s; want nothing", i, outcome(m))
		}
	}
}
