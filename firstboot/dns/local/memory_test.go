package local

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"rempart/firstboot/names"
)

// TestMemory: what is remembered of 50,000 clients, and of more than there may be.
func TestMemory(t *testing.T) {
	c := &clock{now: time.Unix(1000, 0)}
	n := New(Config{Self: "gw", Now: c.wall, Boot: c.boot, Links: []Link{{Name: "lan", Domain: "home.lan.",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}}})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	addr := netip.MustParseAddr("10.0.0.2")
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			put(n, names.Binding{Name: fmt.Sprintf("a-computer-with-number-%d", i), Addr: addr, Link: "lan",
				Client: fmt.Sprintf("02%010x", i), Until: 5000, Origin: names.DHCP4})
			addr = addr.Next()
		}
	}
	const many = 50_000
	fill(0, many)
	each := (heap() - before) / many
	t.Logf("%d clients take %d bytes each, %d KiB in all", many, each, each*many>>10)
	if each > Bytes {
		t.Errorf("a client takes %d bytes; want %d at most", each, Bytes)
	}
	fill(many, names.MaxBindings+100)
	if len(n.leased) != names.MaxBindings || len(n.clients) != names.MaxBindings {
		t.Errorf("%d leases of %d clients are remembered; want %d", len(n.leased), len(n.clients), names.MaxBindings)
	}
	runtime.KeepAlive(n)
}
