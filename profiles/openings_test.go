//go:build !guest

package profiles

import (
	"fmt"
	"strings"
	"testing"
)

// TestDNSOpenings: the name service opens its ports on the links that are served and for who may ask there, and DNS
// over TLS where it is declared; nothing anywhere else.
func TestDNSOpenings(t *testing.T) {
	p, err := Parse("p.yaml", []byte(`rempart: 1
name: gw
links:
  wan: {address: 192.0.2.2/24, gateway: 192.0.2.1}
  a: {address: [10.0.0.1/24, "fd00::1/64"]}
  b: {address: 10.0.1.1/24}
zones: {internet: wan, home: [a, b]}
admin: none
policy: [home -> internet: any]
dns: {upstream: 192.0.2.53, a: {tls: true}, b: {from: 10.0.1.7}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range p.Openings() {
		got = append(got, fmt.Sprint(o.Link, " ", o.Protocol, " ", o.Ports, " ", o.IPv4, " ", o.IPv6, " ", o.Sources))
	}
	want := []string{
		"a udp [53] true true [10.0.0.0/24 fd00::/64 fe80::/10]", "a tcp [53] true true [10.0.0.0/24 fd00::/64 fe80::/10]",
		"a tcp [853] true true [10.0.0.0/24 fd00::/64 fe80::/10]",
		"b udp [53] true false [10.0.1.7/32]", "b tcp [53] true false [10.0.1.7/32]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("openings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
