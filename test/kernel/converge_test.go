package kernel

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

func parseMAC(text string) (net.HardwareAddr, error) { return net.ParseMAC(text) }

// world is a profile of every kind of link that other kernels may lack. %s are the public keys of two peers.
const world = `rempart: 1
name: world
admin: none
links:
  p1: {mac: 02:00:00:00:01:01}
  p2: {mac: 02:00:00:00:01:02}
  b1: {mac: 02:00:00:00:01:03}
  b2: {mac: 02:00:00:00:01:04}
  br0:
    bridge: {members: [p1, p2], vlan_filtering: {p1: {pvid: 10}, p2: {tagged: [10, 20-29, 4094]}, br0: {pvid: 10}}}
    address: 10.1.0.1/24
  v20: {vlan: {parent: br0, id: 20}, address: 10.2.0.1/24}
  lag: {bond: {members: [b1, b2], mode: active-backup, primary: b2, miimon: 50}, address: 10.3.0.1/24}
  wg0:
    address: [10.4.0.1/24, "fd04::1/64"]
    wireguard:
      port: 51820
      from: inside
      peers:
        office: {key: %s, allowed: [10.4.0.2, "fd04::2", 10.5.0.0/16], preshared: true, endpoint: "10.3.0.9:7"}
        phone: {key: %s, allowed: 10.4.0.3, keepalive: 25}
zones: {inside: [br0, v20, lag], far: wg0}
`

// keys are those of the tunnel.
type keys struct{ own, office, phone, preshared wgtypes.Key }

func newKeys(t *testing.T) (k keys) {
	t.Helper()
	for _, into := range []*wgtypes.Key{&k.own, &k.office, &k.phone, &k.preshared} {
		key, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		*into = key
	}
	return k
}

// layOut writes secrets as the identity child does.
func (k keys) layOut(t *testing.T) {
	t.Helper()
	for name, key := range map[string]wgtypes.Key{"wg0": k.own, "wg0/office": k.preshared} {
		path := identity.SecretPath(identity.ConsumerWireGuard, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key[:])), 0o400); err != nil {
			t.Fatal(err)
		}
	}
}

// wrong says what of the world is not as declared; empty: nothing.
func wrong(wg *wgctrl.Client, k keys) string {
	for _, name := range []string{"p1", "p2", "b1", "b2", "br0", "v20", "lag", "wg0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return name + ": " + err.Error()
		}
		if l.Attrs().Flags&net.FlagUp == 0 {
			return name + " is down"
		}
	}
	return wrongBridge() + wrongBond() + wrongTunnel(wg, k)
}

func wrongBridge() string {
	all, err := netlink.BridgeVlanList()
	if err != nil {
		return err.Error()
	}
	want := map[string]string{"p1": "10pu", "br0": "10pu 20", "p2": "10"}
	for id := 20; id < 30; id++ {
		want["p2"] += fmt.Sprint(" ", id)
	}
	want["p2"] += " 4094"
	for name, want := range want {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err.Error()
		}
		var words []string
		for _, v := range all[int32(l.Attrs().Index)] {
			word := fmt.Sprint(v.Vid)
			if v.PortVID() {
				word += "p"
			}
			if v.EngressUntag() {
				word += "u"
			}
			words = append(words, word)
		}
		if got := strings.Join(words, " "); got != want {
			return fmt.Sprintf("%s has the VLANs %s, want %s; ", name, got, want)
		}
		br, err := netlink.LinkByName("br0")
		if err != nil || name != "br0" && l.Attrs().MasterIndex != br.Attrs().Index {
			return name + " is not in br0; "
		}
		if b := br.(*netlink.Bridge); b.VlanFiltering == nil || !*b.VlanFiltering || *b.VlanDefaultPVID != 0 {
			return "br0 does not filter; "
		}
	}
	return ""
}

func wrongBond() string {
	l, err := netlink.LinkByName("lag")
	if err != nil {
		return err.Error()
	}
	lag := l.(*netlink.Bond)
	b2, err := netlink.LinkByName("b2")
	if err != nil {
		return err.Error()
	}
	if lag.Mode != netlink.BOND_MODE_ACTIVE_BACKUP || lag.Miimon != 50 || lag.Primary != b2.Attrs().Index ||
		lag.ActiveSlave != b2.Attrs().Index {
		return fmt.Sprintf("lag has mode %v, miimon %d, primary %d, active %d; ", lag.Mode, lag.Miimon, lag.Primary,
			lag.ActiveSlave)
	}
	return ""
}

func wrongTunnel(wg *wgctrl.Client, k keys) string {
	d, err := wg.Device("wg0")
	if err != nil {
		return err.Error()
	}
	l, err := netlink.LinkByName("wg0")
	if err != nil {
		return err.Error()
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_V4)
	if err != nil || !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst.String() == "10.5.0.0/16" }) {
		return fmt.Sprintf("wg0 has no route to 10.5.0.0/16: %v; ", err)
	}
	if d.PrivateKey != k.own || d.ListenPort != 51820 || len(d.Peers) != 2 {
		return fmt.Sprintf("wg0 listens on %d, has its key: %t, and %d peers; ", d.ListenPort, d.PrivateKey == k.own,
			len(d.Peers))
	}
	for _, p := range d.Peers {
		var allowed []string
		for _, a := range p.AllowedIPs {
			allowed = append(allowed, a.String())
		}
		slices.Sort(allowed)
		got := fmt.Sprint(allowed, p.PersistentKeepaliveInterval, p.PresharedKey == k.preshared)
		want := "[10.4.0.2/32 10.5.0.0/16 fd04::2/128] 0s true"
		if p.PublicKey == k.phone.PublicKey() {
			want = "[10.4.0.3/32] 25s false"
		}
		if got != want {
			return fmt.Sprintf("peer %s is %s, want %s; ", p.PublicKey, got, want)
		}
	}
	return ""
}

// converge changes one thing after another behind the child's back.
func converge(t *testing.T) {
	k := newKeys(t)
	k.layOut(t)
	p, err := profiles.Parse("world.yaml", fmt.Appendf(nil, world, k.office.PublicKey(), k.phone.PublicKey()))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"p1", "p2", "b1", "b2"} {
		wire(t, name, fmt.Sprintf("02:00:00:00:01:%02x", i+1))
	}
	wg, err := wgctrl.New()
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, p)
	if text := wrong(wg, k); text != "" {
		t.Fatalf("READY, and %s", text)
	}

	// Once more: nothing is to be done.
	r.stop(t)
	r = start(t, p)
	if list := changed(r.said()); len(list) > 0 {
		t.Errorf("the next run changed %q; want nothing", list)
	}

	peer := func(c wgtypes.PeerConfig) func() error {
		return func() error { return wg.ConfigureDevice("wg0", wgtypes.Config{Peers: []wgtypes.PeerConfig{c}}) }
	}
	everything := net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	set := func(name, value string) error { return os.WriteFile("/sys/class/net/"+name, []byte(value), 0) }
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"a VLAN more", func() error { return netlink.BridgeVlanAdd(named(t, "p1"), 30, false, false, false, true) }},
		{"thousands more", func() error {
			return netlink.BridgeVlanAddRange(named(t, "p2"), 100, 4093, false, true, false, true)
		}},
		{"a VLAN less", func() error { return netlink.BridgeVlanDel(named(t, "p2"), 25, false, false, false, true) }},
		{"another PVID", func() error { return netlink.BridgeVlanAdd(named(t, "p2"), 20, true, true, false, true) }},
		{"no PVID", func() error { return netlink.BridgeVlanAdd(named(t, "p1"), 10, false, false, false, true) }},
		{"the bridge itself in a VLAN more", func() error {
			return netlink.BridgeVlanAdd(named(t, "br0"), 99, false, false, true, false)
		}},
		{"no filtering", func() error { return set("br0/bridge/vlan_filtering", "0") }},
		{"no filtering, and a default PVID", func() error {
			err := set("br0/bridge/vlan_filtering", "0")
			// The child may have switched it on again already, and then this is refused: all the better.
			_ = set("br0/bridge/default_pvid", "1")
			return err
		}},
		{"a port taken out", func() error { return netlink.LinkSetNoMaster(named(t, "p2")) }},
		{"the bridge deleted", func() error { return netlink.LinkDel(named(t, "br0")) }},
		{"a member taken out", func() error { return netlink.LinkSetNoMaster(named(t, "b2")) }},
		{"another primary", func() error { return set("lag/bonding/primary", "b1") }},
		{"the bond deleted", func() error { return netlink.LinkDel(named(t, "lag")) }},
		{"a stranger in the tunnel", peer(wgtypes.PeerConfig{PublicKey: k.preshared.PublicKey(),
			AllowedIPs: []net.IPNet{everything}})},
		{"a peer allowed everything", peer(wgtypes.PeerConfig{PublicKey: k.phone.PublicKey(), UpdateOnly: true,
			AllowedIPs: []net.IPNet{everything}})},
		{"a peer removed", peer(wgtypes.PeerConfig{PublicKey: k.office.PublicKey(), Remove: true})},
		{"no preshared key", peer(wgtypes.PeerConfig{PublicKey: k.office.PublicKey(), UpdateOnly: true,
			PresharedKey: &wgtypes.Key{}})},
		{"another key and port", func() error {
			port := 1
			return wg.ConfigureDevice("wg0", wgtypes.Config{PrivateKey: &k.preshared, ListenPort: &port})
		}},
		{"the tunnel deleted", func() error { return netlink.LinkDel(named(t, "wg0")) }},
	} {
		before := time.Now()
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		text := ""
		nudge(t)
		if !within(time.Minute, func() bool { text = wrong(wg, k); return text == "" }) {
			t.Fatalf("%s: not changed back: %s", c.name, text)
		}
		t.Logf("%s: changed back after %v", c.name, time.Since(before).Round(time.Millisecond))
	}

	// Where a peer has moved to is its own business.
	moved := &net.UDPAddr{IP: net.IPv4(10, 3, 0, 77), Port: 7777}
	if err := peer(wgtypes.PeerConfig{PublicKey: k.office.PublicKey(), UpdateOnly: true, Endpoint: moved})(); err != nil {
		t.Fatal(err)
	}
	r.stop(t)
	r = start(t, p)
	if list := changed(r.said()); len(list) > 0 {
		t.Errorf("after all that the next run changed %q; want nothing", list)
	}
	d, err := wg.Device("wg0")
	if err != nil || !slices.ContainsFunc(d.Peers, func(p wgtypes.Peer) bool {
		return p.Endpoint != nil && p.Endpoint.String() == moved.String()
	}) {
		t.Errorf("office was sent back from %v: %v", moved, err)
	}

	// Without its key the tunnel goes, and comes back with it.
	if err := os.Remove(identity.SecretPath(identity.ConsumerWireGuard, "wg0")); err != nil {
		t.Fatal(err)
	}
	nudge(t)
	if !within(time.Minute, func() bool { _, err := netlink.LinkByName("wg0"); return err != nil }) {
		t.Error("the tunnel is still there without its key")
	}
	k.layOut(t)
	nudge(t)
	if !within(time.Minute, func() bool { return wrong(wg, k) == "" }) {
		t.Errorf("the tunnel did not come back: %s", wrong(wg, k))
	}
	r.stop(t)
}
