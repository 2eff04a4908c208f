package v6

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"rempart/firstboot/dhcp/lease"
)

// TestLeases: people see addresses and prefixes, and end either, a prefix also by an address in it.
func TestLeases(t *testing.T) {
	for name, named := range map[string]func(netip.Prefix) netip.Prefix{
		"prefix":           func(p netip.Prefix) netip.Prefix { return p },
		"an address in it": func(p netip.Prefix) netip.Prefix { return single(p.Addr().Next()) },
	} {
		t.Run(name, func(t *testing.T) { testLeases(t, named) })
	}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// testLeases ends a delegated prefix by what names it.
func testLeases(t *testing.T, named func(netip.Prefix) netip.Prefix) {
	b := newBench(t, routers(), static, gua)
	c, r := b.client(1), b.router(2)
	c.ask(requested, nil)
	r.ask(requested)
	had, p := c.have[0], r.one()
	list := func() (out []string) {
		for _, l := range b.Leases() {
			if l.Active(b.store.Now()) && l.State == lease.Bound {
				out = append(out, fmt.Sprintf("%s/%d", l.Addr, l.Bits))
			}
		}
		slices.Sort(out)
		return out
	}
	want := []string{c.have[0].String() + "/0", c.have[1].String() + "/0", p.String()}
	slices.Sort(want)
	if got := list(); !slices.Equal(got, want) {
		t.Errorf("leases are %v; want %v", got, want)
	}
	for _, nobodys := range []netip.Prefix{single(ip("fd00:1::ffff")), single(ip("2001:db8:77::1")),
		netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked(), netip.PrefixFrom(p.Addr(), p.Bits()+1),
		netip.PrefixFrom(had, 64).Masked()} {
		if b.Release(nobodys, func(error) {}) {
			t.Errorf("%v is ended, which nobody has", nobodys)
		}
	}
	for _, a := range []netip.Prefix{single(had), named(p)} {
		done := make(chan error, 1)
		if !b.Release(a, func(err error) { done <- err }) {
			t.Fatalf("%s cannot be ended", a)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if got := list(); len(got) > 0 || len(b.led()) > 0 || len(b.names) > 0 {
		t.Errorf("after they were ended leases are %v, ways %v, names %v; want none", got, b.led(), b.names)
	}
}
