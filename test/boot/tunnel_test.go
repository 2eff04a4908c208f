package boot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rempart/builder/virtualnet"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/test/rig"
)

// tunnelProfile is a firewall with a tunnel: office knows a preshared key and begins, phone is begun with by IPv6.
const tunnelProfile = `rempart: 1
name: gate
admin: none
links:
  wan: {address: [192.0.2.1/24, "2001:db8::1/64"]}
  lan: {address: [10.1.0.1/24, "fd01::1/64"]}
  wg0:
    address: [10.9.0.1/24, "fd09::1/64"]
    wireguard:
      port: 51820
      from: internet
      peers:
        office: {key: %s, allowed: [10.9.0.2, "fd09::2", 10.20.0.0/16], preshared: true}
        phone: {key: %s, allowed: [10.9.0.3, "fd09::3"], endpoint: "[2001:db8::7]:4500", keepalive: 1}
zones: {internet: wan, home: lan, far: wg0}
policy:
  - far -> self: ping
  - far -> home: ping
  - home -> far: ping
`

// TestTunnel boots a guest with WireGuard and lets wireguard-go be its peers: who has the keys exchanges packets of
// both families with the guest and through it, whoever begins; who has not, or sends from what it is not allowed,
// passes nothing.
func TestTunnel(t *testing.T) {
	t.Parallel()
	own, office, phone, stranger := keysOf(t, "own"), keysOf(t, "office"), keysOf(t, "phone"), keysOf(t, "stranger")
	preshared := sha256.Sum256([]byte("preshared"))
	profile := filepath.Join(t.TempDir(), "gate.yaml")
	text := fmt.Sprintf(tunnelProfile, base64Of(office.public), base64Of(phone.public))
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m := rig.Build(t, profile)
	id := &identity.Identity{}
	id.SetSecret(identity.ConsumerWireGuard, "wg0", []byte(base64Of(own.private)+"\n"))
	id.SetSecret(identity.ConsumerWireGuard, "wg0/office", []byte(base64Of(preshared)))
	image, err := id.Encode()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "identity.raw")
	if err := os.WriteFile(disk, image, 0o600); err != nil {
		t.Fatal(err)
	}

	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	wan, lan := virtualnet.NewSegment("wan", log), virtualnet.NewSegment("lan", log)
	t.Cleanup(wan.Close)
	t.Cleanup(lan.Close)
	var largest atomic.Int64
	var plain atomic.Bool
	wan.Observe(func(_ time.Time, frame []byte, _ bool) {
		largest.Store(max(largest.Load(), int64(len(frame))))
		if bytes.Contains(frame, []byte("through the tunnel")) {
			plain.Store(true)
		}
	})
	host := func(s *virtualnet.Segment, number byte, gateways []string,
		addresses ...string) (*virtualnet.Host, []netip.Addr) {
		var prefixes []netip.Prefix
		var own []netip.Addr
		for _, a := range addresses {
			prefixes = append(prefixes, netip.MustParsePrefix(a))
			own = append(own, netip.MustParsePrefix(a).Addr())
		}
		h, err := s.NewHost(addresses[0], net.HardwareAddr{2, 0, 0x5e, 0, 0x66, number}, prefixes)
		if err != nil {
			t.Fatal(err)
		}
		for i, to := range []string{"0.0.0.0/0", "::/0"}[:len(gateways)] {
			via := virtualnet.Route{Prefix: netip.MustParsePrefix(to), Via: netip.MustParseAddr(gateways[i])}
			if err := h.AddRoute(via); err != nil {
				t.Fatal(err)
			}
		}
		return h, own
	}
	server, _ := host(lan, 1, []string{"10.1.0.1", "fd01::1"}, "10.1.0.9/24", "fd01::9/64")
	officeHost, officeOwn := host(wan, 2, nil, "192.0.2.6/24")
	phoneHost, phoneOwn := host(wan, 3, nil, "2001:db8::7/64")
	strangerHost, strangerOwn := host(wan, 4, nil, "192.0.2.66/24")
	wrongHost, wrongOwn := host(wan, 5, nil, "192.0.2.67/24")
	everything := []string{"0.0.0.0/0", "::/0"}
	guest4 := netip.MustParseAddrPort("192.0.2.1:51820")
	// The phone knows no endpoint: it can only speak once the guest has begun.
	phoneEnd := newForeign(t, phoneHost, phoneOwn, 4500, phone, foreignPeer{key: own.public, allowed: everything})

	g := m.Boot(t, rig.Options{Backends: wires(2), Identity: disk})
	wan.PlugGuest(g.Guest.Wires[0])
	lan.PlugGuest(g.Guest.Wires[1])
	if r := g.AwaitReady(); len(r.Failures)+len(r.Warnings) > 0 {
		t.Errorf("report %+v; want every link well", r)
	}
	officeEnd := newForeign(t, officeHost, officeOwn, 7777, office, foreignPeer{key: own.public, preshared: preshared,
		endpoint: guest4, allowed: everything})
	strangerEnd := newForeign(t, strangerHost, strangerOwn, 7777, stranger, foreignPeer{key: own.public, endpoint: guest4,
		preshared: preshared, allowed: everything})
	wrongEnd := newForeign(t, wrongHost, wrongOwn, 7777, office, foreignPeer{key: own.public, endpoint: guest4,
		preshared: sha256.Sum256([]byte("another")), allowed: everything})

	payload := func(what string) []byte { return []byte("through the tunnel: " + what) }
	answered := func(f *foreign, what, from, to string, size int) {
		t.Helper()
		word := append(bytes.Repeat([]byte{'x'}, max(0, size-len(payload(what)))), payload(what)...)
		src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
		var sent time.Time
		eventually(t, "the answer to a ping from "+from+" to "+to+": "+what, func() bool {
			if time.Since(sent) > time.Second {
				f.ping(src, dst, word)
				sent = time.Now()
			}
			return f.came(dst, word) > 0
		})
	}
	// First those that must not pass: whatever they began has failed when the others have long been answered.
	for _, f := range []*foreign{strangerEnd, wrongEnd} {
		for _, to := range []string{"10.9.0.1", "10.1.0.9"} {
			f.ping(netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr(to), payload("a wrong key"))
		}
	}
	answered(officeEnd, "to the guest", "10.9.0.2", "10.9.0.1", 0)
	answered(officeEnd, "to the guest by IPv6", "fd09::2", "fd09::1", 0)
	answered(officeEnd, "through the guest", "10.20.3.4", "10.1.0.9", 0)
	answered(officeEnd, "through the guest by IPv6", "fd09::2", "fd01::9", 0)
	answered(phoneEnd, "begun by the guest, over IPv6", "10.9.0.3", "10.1.0.9", 0)
	const full = 1420 - 20 - 8 // what an echo request of the tunnel's MTU holds
	answered(phoneEnd, "as large as can be", "10.9.0.3", "10.1.0.9", full)
	if n := largest.Load(); n != 1514 {
		t.Errorf("the largest frame outside has %d bytes; want 1514: the tunnel's MTU just fits", n)
	}

	// From what it is not allowed, and from another peer's: both dropped by the guest, in the order they came.
	for _, from := range []string{"10.9.0.3", "10.21.0.1", "10.1.0.77", "192.0.2.99"} {
		officeEnd.ping(netip.MustParseAddr(from), netip.MustParseAddr("10.9.0.1"), payload("not its own"))
		officeEnd.ping(netip.MustParseAddr(from), netip.MustParseAddr("10.1.0.9"), payload("not its own"))
	}
	answered(officeEnd, "after what was dropped", "10.9.0.2", "10.1.0.9", 0)
	answered(phoneEnd, "after what was dropped", "10.9.0.3", "10.1.0.9", 0)
	for _, f := range []*foreign{officeEnd, phoneEnd, strangerEnd, wrongEnd} {
		for _, from := range []string{"10.9.0.1", "10.1.0.9"} {
			for _, what := range []string{"a wrong key", "not its own"} {
				if n := f.came(netip.MustParseAddr(from), payload(what)); n > 0 {
					t.Errorf("%d packets %q were answered by %s; want none", n, what, from)
				}
			}
		}
	}
	for _, f := range []*foreign{strangerEnd, wrongEnd} {
		f.tun.mu.Lock()
		if n := len(f.tun.out); n > 0 {
			t.Errorf("%d packets came to a peer with a wrong key; want none", n)
		}
		f.tun.mu.Unlock()
	}
	// From behind the guest to a peer, which does not answer.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_ = server.Ping(ctx, netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("10.20.3.4"), payload("from inside"),
			time.Second)
	}()
	eventually(t, "a ping from inside at the peer", func() bool {
		return officeEnd.came(netip.MustParseAddr("10.1.0.9"), payload("from inside")) > 0
	})
	cancel()

	// Inside, the port is closed even to who has the keys. Outside, a peer may move.
	insideEnd := newForeign(t, server, []netip.Addr{netip.MustParseAddr("10.1.0.9")}, 7777, office, foreignPeer{
		key: own.public, preshared: preshared, endpoint: netip.MustParseAddrPort("10.1.0.1:51820"), allowed: everything})
	insideEnd.ping(netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("10.9.0.1"), payload("from the wrong side"))
	officeEnd.device.Close()
	movedHost, movedOwn := host(wan, 6, nil, "192.0.2.8/24")
	officeEnd = newForeign(t, movedHost, movedOwn, 9999, office, foreignPeer{key: own.public, preshared: preshared,
		endpoint: guest4, allowed: everything})
	answered(officeEnd, "after it moved", "10.9.0.2", "10.1.0.9", 0)
	eventually(t, "the handshake from the inside to be dropped", func() bool {
		for _, c := range answer[[]struct {
			Counter string
			Packets int
		}](t, g, "counters") {
			if c.Counter == "in/home" && c.Packets > 0 {
				return true
			}
		}
		return false
	})
	insideEnd.tun.mu.Lock()
	if n := len(insideEnd.tun.out); n > 0 {
		t.Errorf("%d packets came to a peer on the inside; want none", n)
	}
	insideEnd.tun.mu.Unlock()
	if plain.Load() {
		t.Error("a packet of the tunnel went over the outer wire in the clear")
	}
	console := g.ConsoleText()
	for _, key := range [][32]byte{own.private, preshared} {
		if strings.Contains(console, base64Of(key)) || strings.Contains(console, hexOf(key)) {
			t.Error("the console shows a key")
		}
	}

	// Killed, the link child finds everything as it left it: the tunnel keeps its sessions.
	before := childOf(g.AwaitReady(), "link")
	said := len(g.ConsoleText())
	g.Order("kill link KILL")
	g.Await("the link child to be back", func(r contract.Report) bool {
		c := childOf(r, "link")
		return r.Ready && c.Restarts > before.Restarts && c.State == "ready"
	})
	for _, again := range []string{"wg0: make", "wg0: private", "wg0: peer", "wg0: remove", "wg0: up", "wg0: sysctl"} {
		if strings.Contains(g.ConsoleText()[said:], again) {
			t.Errorf("after a restart %q was done again:\n%s", again, g.ConsoleText()[said:])
		}
	}
	answered(officeEnd, "after a restart", "10.9.0.2", "10.1.0.9", 0)
	g.PowerOff()

	// Without its key the tunnel stays closed, and the rest is up.
	g = m.Boot(t, rig.Options{Backends: wires(2)})
	r := g.Await("a guest that says its key is missing", func(r contract.Report) bool {
		up := 0
		missing := false
		for _, l := range r.Links {
			if l.Up && l.Error == "" {
				up++
			}
			missing = missing || l.Name == "wg0" && !l.Up && strings.Contains(l.Error, "no secret wireguard/wg0")
		}
		return up == 2 && missing
	})
	if r.Ready {
		t.Error("the guest says READY without its tunnel")
	}
	g.AwaitConsole("no secret wireguard/wg0")
	g.PowerOff()
}
