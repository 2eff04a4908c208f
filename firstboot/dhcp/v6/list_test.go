package v6

import (
	"fmt"
	"slices"
	"testing"

	"rempart/firstboot/dhcp/lease"
)

// TestLeases: people see addresses and prefixes, and end either.
func TestLeases(t *testing.T) {
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
	if b.Release(ip("fd00:1::ffff"), func(error) {}) || b.Release(ip("2001:db8:77::1"), func(error) {}) {
		t.Error("what nobody has is ended")
	}
	for _, a := range []string{had.String(), p.Addr().Next().String()} {
		done := make(chan error, 1)
		if !b.Release(ip(a), func(err error) { done <- err }) {
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
