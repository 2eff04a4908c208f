package dnssec

import (
	"testing"

	"github.com/miekg/dns"
)

// BenchmarkExchange is what validating one answer costs once the chain to its zone is known.
func BenchmarkExchange(b *testing.B) {
	u := &upstream{tree: theTree(b)}
	v := validator(b, u)
	for what, name := range map[string]string{"positive": "www.nsec.test.", "denied by NSEC3": "nothing.nsec3.test.",
		"unsigned": "www.insecure.test."} {
		b.Run(what, func(b *testing.B) {
			q := question(name, dns.TypeA, false)
			for b.Loop() {
				if m, err := v.Exchange(b.Context(), q); err != nil || m.Rcode == dns.RcodeServerFailure {
					b.Fatal(m, err)
				}
				u.asked = u.asked[:0]
			}
		})
	}
}
