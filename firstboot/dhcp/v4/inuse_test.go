package v4

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestInUseByItsClient: an address whose lease has ended, or was given back by somebody in its client's name, is kept
// for the client as long as it is seen to use it; the client has it back by renewing and by asking anew.
func TestInUseByItsClient(t *testing.T) {
	for name, ends := range map[string]func(b *bench){
		"ended": func(b *bench) { b.pass(2 * time.Hour) },
		"given back": func(b *bench) {
			b.answer(message(dhcpv4.MessageTypeRelease, 1, "has 10.0.0.100", "server 10.0.0.1"))
		},
	} {
		d := home()
		d.NoProbe = false
		d.Subnets[0].Pools = span("10.0.0.100", "10.0.0.100")
		b := newBench(t, d)
		b.lease(1, "10.0.0.100")
		b.used[netip.MustParseAddr("10.0.0.100")] = true
		ends(b)
		b.Sweep()
		if got := b.silently(3); got != "" {
			t.Errorf("%s: a stranger is answered %s; want nothing", name, got)
		}
		if said := b.said.String(); !strings.Contains(said, "answered by\"="+squatter) {
			t.Errorf("%s: nobody is told who uses the address:\n%s", name, said)
		}
		b.want(name+": renewed", message(dhcpv4.MessageTypeRequest, 1, "has 10.0.0.100"), "ack 10.0.0.100")
		ends(b)
		b.Sweep()
		b.want(name+": asked for anew", message(dhcpv4.MessageTypeDiscover, 1), "offer 10.0.0.100")
	}
}

// silently has the nth client discover, and returns the answer when the network has been asked; empty: none came.
func (b *bench) silently(n int) (answer string) {
	sent := make(chan Reply, 1)
	b.Handle(Packet{Link: "lan", From: netip.MustParseAddrPort("0.0.0.0:68"),
		Message: message(dhcpv4.MessageTypeDiscover, n)}, func(r Reply) { sent <- r })
	for asking := true; asking; runtime.Gosched() {
		b.mu.Lock()
		asking = false
		for _, sub := range b.links["lan"].subnets {
			for _, o := range sub.pool.offers {
				asking = asking || o.asking
			}
		}
		b.mu.Unlock()
	}
	select {
	case r := <-sent:
		return r.To.String()
	default:
		return ""
	}
}
