package profiles

import (
	"strings"
	"testing"
)

// TestTunnelBelowItsOwnPeers: a link on a tunnel is refused, also where the tunnel's own packets would leave by it.
func TestTunnelBelowItsOwnPeers(t *testing.T) {
	const key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	_, err := Parse("loop.yaml", []byte(`rempart: 1
name: fw
admin: none
links:
  wg0:
    address: 10.9.0.1/24
    wireguard: {peers: {far: {key: `+key+`, allowed: 10.9.0.2, endpoint: "192.0.2.9:7"}}}
  v: {vlan: {parent: wg0, id: 7}, address: 192.0.2.1/24}
zones: {a: wg0, b: v}
`))
	if err == nil || !strings.Contains(err.Error(), "parent wg0 is a wireguard") {
		t.Errorf("Parse = %v; want the parent refused", err)
	}
}
