package v6

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

// changed goes on by another profile, as a process that is started anew.
func (b *bench) changed(d profiles.DHCP6, addresses ...watch.Address) {
	b.t.Helper()
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open(d, addresses...)
}

// TestDeclaredForAnother: who has an address that a changed profile gives to another leaves it when it renews, and that
// one has it once who left must have heard of it.
func TestDeclaredForAnother(t *testing.T) {
	b := newBench(t, usual(), static)
	c, nas := b.client(1), b.client(2)
	c.ask(requested, nil)
	had := c.have[0]
	d := usual()
	d.Hosts = append(d.Hosts, profiles.DHCP6Host{Name: "box", MAC: nas.mac.String(), Host: end(had)})
	b.changed(d, static)
	nas.name = ""
	nas.ask(requested, nil)
	if nas.have[0] == had {
		t.Fatalf("the host is given %s, which another still has", had)
	}
	c.ask(renew, nil)
	if len(c.have) != 1 || c.have[0] == had {
		t.Fatalf("who has the host's address renews and has %v; want another", c.have)
	}
	// Its answer may be lost: for a while nobody else is given what it may still use.
	if nas.ask(renew, nil); nas.have[0] == had {
		t.Errorf("the host is given %s while another may not know that it has lost it", had)
	}
	b.pass(leaving + time.Second)
	if nas.ask(renew, nil); len(nas.have) != 1 || nas.have[0] != had {
		t.Errorf("the host has %v; want its own, %s", nas.have, had)
	}
	b.pass(leaving + time.Second)
	if want := (book{had: "box@lan", c.have[0]: "host1@lan"}); !maps.Equal(b.names, want) {
		t.Errorf("names are %v; want %v", b.names, want)
	}
}

// TestPrefixDeclaredLater: a router that a changed profile names has the prefix it names, and that alone is led to it.
func TestPrefixDeclaredLater(t *testing.T) {
	b := newBench(t, routers(), static)
	r := b.router(1)
	r.hint = "fd00:f:0:8::/62"
	r.ask(requested)
	d := routers()
	d.Hosts = append(d.Hosts, profiles.DHCP6Host{Name: "branch", MAC: r.mac.String(),
		Delegate: &profiles.PrefixBlock{Prefix: netip.MustParsePrefix("fd00:f:0:4::/62")}})
	b.changed(d, static)
	r.hint = ""
	r.wants("declared", renew, "REPLY, fd00:f:0:4::/62 12h0m0s/9h0m0s, fd00:f:0:8::/62 0s/0s")
	b.pass(leaving + time.Second)
	if got := fmt.Sprint(b.led()); got != "[fd00:f:0:4::/62 via fe80::99 by lan]" {
		t.Errorf("ways are %s; want the declared prefix's alone", got)
	}
}

// TestExtendedMeanwhile: a lease that is extended, or given back, between the look for what has ended and what follows
// of it, goes by what it is then.
func TestExtendedMeanwhile(t *testing.T) {
	b := newBench(t, routers(), static)
	c, r := b.client(1), b.router(2)
	c.ask(requested, nil)
	r.ask(requested)
	stale := b.store.All()
	for _, l := range stale {
		b.ended(l.Addr) // as Sweep would that saw them end just before they were extended
	}
	if len(b.names) != 1 || len(b.led()) != 1 {
		t.Errorf("after what was extended was taken for ended, names are %v and ways %v; want both", b.names, b.led())
	}
	c.ask(release, nil)
	for _, l := range stale {
		b.name(l) // as Look would that saw the lease before it was given back
	}
	if len(b.names) != 0 {
		t.Errorf("what was given back goes by %v", b.names)
	}
}

// TestLooked: names of all leases are told before anybody hears that the server knows its links.
func TestLooked(t *testing.T) {
	b := newBench(t, usual(), static)
	b.client(1).ask(requested, nil)
	b.Server = New(Config{DHCP6: b.cfg.DHCP6, Store: b.store, Names: seeing{b, func(l lease.Lease) {
		select {
		case <-b.Looked():
			t.Error("it was said that names had been told before they were")
		default:
		}
	}}, Log: b.cfg.Log})
	b.names = book{}
	b.prefixes(static)
	select {
	case <-b.Looked():
	default:
		t.Error("it is not said that the links are known")
	}
	if len(b.names) != 1 {
		t.Errorf("names told are %v; want that of the one lease", b.names)
	}
}

// seeing is a Names that has something looked at with each.
type seeing struct {
	*bench
	look func(lease.Lease)
}

func (s seeing) Bound(l lease.Lease, link string) { s.look(l); s.names.Bound(l, link) }
func (s seeing) Gone(a netip.Addr)                { s.names.Gone(a) }
