package v6

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"rempart/firstboot/dhcp/downstream"
	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/profiles"
)

func block(s string, delegated bool) profiles.PrefixBlock {
	return profiles.PrefixBlock{Prefix: netip.MustParsePrefix(s), Delegated: delegated}
}

// routers delegates four slots of /62 of the guest's own.
func routers() profiles.DHCP6 {
	d := usual()
	d.Delegate = &profiles.PrefixPool{PrefixBlock: block("fd00:f::/60", false), Shortest: 62, Longest: 64}
	return d
}

// upstream delegates the same of what the guest is delegated.
func upstream() profiles.DHCP6 {
	d := usual()
	d.Delegate = &profiles.PrefixPool{PrefixBlock: block("0:0:0:10::/60", true), Shortest: 62, Longest: 64}
	return d
}

// router is a client that asks for a prefix alone.
type router struct {
	*client
	hint string // of the prefix it wants; empty: none
	held []netip.Prefix
}

func (b *bench) router(n byte) *router { return &router{client: b.client(n)} }

// ask sends a message and returns the prefixes it was answered, as text.
func (r *router) ask(kind dhcpv6.MessageType) string {
	r.t.Helper()
	out := r.client.ask(kind, func(m *dhcpv6.Message) {
		m.Options.Del(dhcpv6.OptionIANA)
		ia := &dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 1}}
		for _, p := range r.held {
			ia.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(p)})
		}
		if r.hint != "" {
			ia.Options.Add(&dhcpv6.OptIAPrefix{Prefix: ipNet(netip.MustParsePrefix(r.hint))})
		}
		m.AddOption(ia)
	})
	if r.got == nil || out == "" {
		return out
	}
	var list []string
	var held []netip.Prefix
	for _, ia := range r.got.Options.IAPD() {
		held = append(held, asked(ia)...)
		for _, o := range ia.Options.Prefixes() {
			list = append(list, fmt.Sprintf("%s %s/%s", o.Prefix, o.ValidLifetime, o.PreferredLifetime))
		}
	}
	if r.got.MessageType == dhcpv6.MessageTypeReply && kind != release {
		r.held = held
	}
	return strings.Join(append([]string{out}, list...), ", ")
}

func (r *router) wants(what string, kind dhcpv6.MessageType, want string) {
	r.t.Helper()
	if got := r.ask(kind); got != want {
		r.t.Errorf("%s: %s is answered %q; want %q", what, kind, got, want)
	}
}

// led is where everything leads.
func (b *bench) led() (out []string) {
	b.cfg.Lead = func(ways []downstream.Way) error {
		out = nil
		for _, w := range ways {
			out = append(out, fmt.Sprintf("%s via %s by %s", w.Block, w.Via, w.Link))
		}
		return nil
	}
	b.tellWays()
	return out
}

// one is the only prefix a router holds.
func (r *router) one() netip.Prefix {
	r.t.Helper()
	if len(r.held) != 1 {
		r.t.Fatalf("it holds %v; want one prefix", r.held)
	}
	return r.held[0]
}

// TestDelegates goes the whole way of a router: offered, given, led to, extended, given back.
func TestDelegates(t *testing.T) {
	b := newBench(t, routers(), static)
	r := b.router(1)
	offered := strings.TrimPrefix(r.ask(solicit), "ADVERTISE")
	if n := b.store.Len(); n != 0 {
		t.Errorf("after an offer %d leases are kept; want none", n)
	}
	r.wants("grant", requested, "REPLY"+offered)
	p := r.one()
	if p.Bits() != 62 || !netip.MustParsePrefix("fd00:f::/60").Contains(p.Addr()) {
		t.Errorf("it is delegated %s; want a /62 of fd00:f::/60", p)
	}
	if !strings.HasSuffix(offered, " 12h0m0s/9h0m0s") {
		t.Errorf("the prefix is offered as %q; want it for 12 hours", offered)
	}
	if ia := r.got.Options.OneIAPD(); ia.T1 != 9*time.Hour/2 || ia.T2 != 9*time.Hour*4/5 {
		t.Errorf("T1 %s, T2 %s; want a half and four fifths of 9 hours", ia.T1, ia.T2)
	}
	want := fmt.Sprintf("[%s via fe80::99 by lan]", p)
	if got := fmt.Sprint(b.led()); got != want {
		t.Errorf("ways are %s; want %s", got, want)
	}
	r.wants("the same again", renew, fmt.Sprintf("REPLY, %s 12h0m0s/9h0m0s", p))
	// Another process knows it and where it leads.
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	b.open(routers(), static)
	if got := fmt.Sprint(b.led()); got != want {
		t.Errorf("after a restart ways are %s; want %s", got, want)
	}
	r.wants("after a restart", rebound, fmt.Sprintf("REPLY, %s 12h0m0s/9h0m0s", p))
	r.wants("given back", release, "REPLY, Success")
	if got := b.led(); len(got) != 0 {
		t.Errorf("after it was given back ways are %s; want none", got)
	}
	r.held = nil
	if r.ask(requested); r.one() != p {
		t.Errorf("who comes back is delegated %v; want %s again", r.held, p)
	}
	b.pass(13 * time.Hour)
	if got := b.led(); len(got) != 0 {
		t.Errorf("after the lease has ended ways are %s; want none", got)
	}
	stranger := b.router(7)
	stranger.held = []netip.Prefix{p}
	stranger.wants("what a stranger gives back", release, "REPLY, Success, PD NoBinding")
}

// TestDelegatedLengths: a router has what it asks for within bounds, and room to grow.
func TestDelegatedLengths(t *testing.T) {
	for hint, bits := range map[string]int{"": 62, "::/48": 62, "::/62": 62, "::/63": 63, "::/64": 64, "::/65": 64,
		"::/128": 64} {
		b := newBench(t, routers(), static)
		r := b.router(1)
		r.hint = hint
		if r.ask(requested); r.one().Bits() != bits {
			t.Errorf("who asks for %q is delegated %v; want %d bits", hint, r.held, bits)
		}
	}
	b := newBench(t, routers(), static)
	r := b.router(1)
	r.hint = "fd00:f::8:0:0:0:0/63" // the third slot
	if r.ask(requested); r.one() != netip.MustParsePrefix("fd00:f:0:8::/63") {
		t.Errorf("who asks for %s is delegated %v", r.hint, r.held)
	}
	// It comes to need more, of which it has had the beginning.
	small := r.one()
	r.held, r.hint = nil, "::/62"
	if r.ask(renew); r.one() != netip.MustParsePrefix("fd00:f:0:8::/62") {
		t.Errorf("who had %s and asks for more is delegated %v", small, r.held)
	}
}

// TestDelegatesAll: as many as there are slots, none to two, and known ones are served when none is left.
func TestDelegatesAll(t *testing.T) {
	d := routers()
	d.Hosts = append(d.Hosts, profiles.DHCP6Host{Name: "branch", DUID: "00030001020000010009",
		Delegate: &profiles.PrefixBlock{Prefix: netip.MustParsePrefix("fd00:f:0:4::/63")}})
	b := newBench(t, d, static)
	var all []*router
	for n := range byte(3) {
		r := b.router(n + 1)
		r.ask(requested)
		for _, o := range all {
			if o.one().Overlaps(r.one()) {
				t.Fatalf("%v and %v are two routers'", o.held, r.held)
			}
		}
		if r.one().Overlaps(netip.MustParsePrefix("fd00:f:0:4::/63")) {
			t.Fatalf("%v is the named router's", r.held)
		}
		all = append(all, r)
	}
	late := b.router(8)
	late.wants("full", requested, "REPLY, PD NoPrefixAvail")
	if !strings.Contains(b.log.String(), "no prefix is left") {
		t.Error("nobody is told that there is none left")
	}
	late.wants("unknown", renew, "REPLY, PD NoBinding")
	all[0].wants("known", renew, fmt.Sprintf("REPLY, %s 12h0m0s/9h0m0s", all[0].one()))
	b.router(9).wants("named", requested, "REPLY, fd00:f:0:4::/63 12h0m0s/9h0m0s")
	// What has ended is used again, what ended first before the rest.
	b.pass(6 * time.Hour)
	all[1].ask(renew)
	b.pass(7 * time.Hour)
	if late.ask(requested); late.one() != all[2].one() && late.one() != all[0].one() {
		t.Errorf("a new router is delegated %v; want what has ended", late.held)
	}
	if got := len(b.led()); got != 2 {
		t.Errorf("there are ways to %d prefixes; want 2", got)
	}
}

// TestDelegatesDelegated: what is delegated follows what the guest is delegated.
func TestDelegatesDelegated(t *testing.T) {
	b := newBench(t, upstream(), gua)
	r := b.router(1)
	r.wants("nothing is delegated to the guest", requested, "REPLY, PD NoPrefixAvail")
	look := func(addresses ...watch.Address) {
		b.Look(watch.View{Links: map[string]watch.Link{"lan": {Index: 3, MAC: on.MAC, Running: true,
			LinkLocal: ip("fe80::1"), Addresses: addresses}},
			Delegated: []netip.Prefix{netip.MustParsePrefix("2001:db8::/48"), netip.MustParsePrefix("2001:db9::/48")}})
	}
	one := watch.Address{Prefix: netip.MustParsePrefix("2001:db8:0:1::1/64"), Valid: time.Hour,
		Preferred: 30 * time.Minute}
	two := watch.Address{Prefix: netip.MustParsePrefix("2001:db9:0:1::1/64"), Valid: time.Hour, Preferred: time.Hour}
	look(one, static)
	r.hint = "2001:db8:0:14::/62"
	r.wants("a part of it", requested, "REPLY, 2001:db8:0:14::/62 1h0m0s/30m0s")
	if got := fmt.Sprint(b.led()); got != "[delegated/14::/62 via fe80::99 by lan]" {
		t.Errorf("ways are %s", got)
	}
	r.hint = ""
	one.Preferred = 0
	look(two, one)
	r.wants("replaced", renew, "REPLY, 2001:db8:0:14::/62 1h0m0s/0s, 2001:db9:0:14::/62 1h0m0s/45m0s")
	fresh := b.router(2)
	if got := fresh.ask(requested); strings.Contains(got, "2001:db8:") || len(fresh.held) != 1 {
		t.Errorf("a new router is answered %q; want nothing of what is deprecated", got)
	}
	look(two)
	r.wants("gone", renew, "REPLY, 2001:db9:0:14::/62 1h0m0s/45m0s, 2001:db8:0:14::/62 0s/0s")
}

// TestDelegatedOtherwise: leases of another profile, with slots of another size, are nobody else's while they last.
func TestDelegatedOtherwise(t *testing.T) {
	b := newBench(t, routers(), static)
	r := b.router(1)
	r.hint = "fd00:f:0:4::/62"
	r.ask(requested)
	had := r.one()
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	d := routers()
	d.Delegate.Shortest, d.Delegate.Longest = 61, 61
	b.open(d, static)
	other := b.router(2)
	for range 2 { // asked for by name, and not
		if other.ask(requested); len(other.held) == 1 && other.one().Overlaps(had) {
			t.Errorf("another router is delegated %v, of which somebody has %s", other.held, had)
		}
		other.held, other.hint = nil, "fd00:f:0:4::/61"
	}
	if len(b.led()) != 1 {
		t.Errorf("ways are %v; want that of the new profile's lease alone", b.led())
	}
	if l := b.store.Of(string(r.duid.ToBytes()) + "\x00\x00\x00\x01"); len(l) != 1 || l[0].State != lease.Bound {
		t.Errorf("the lease of before is %v", l)
	}
}

// TestDelegatedMore: a router that comes to need more has no room where others have some of it by another profile.
func TestDelegatedMore(t *testing.T) {
	b := newBench(t, routers(), static)
	r, other := b.router(1), b.router(2)
	r.hint, other.hint = "fd00:f::/62", "fd00:f:0:4::/62"
	r.ask(requested)
	other.ask(requested)
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	d := routers()
	d.Delegate.Shortest = 61
	b.open(d, static)
	had, others := r.one(), other.one()
	r.held, r.hint = nil, "::/61"
	if r.ask(renew); r.one() != had {
		t.Errorf("who had %s and asks for more is delegated %s; another has %s", had, r.one(), others)
	}
	b.pass(13 * time.Hour) // the other one has gone
	r.held = nil
	if r.ask(rebound); r.one() != netip.MustParsePrefix("fd00:f::/61") {
		t.Errorf("when nobody else has any of it, it is delegated %s; want fd00:f::/61", r.one())
	}
}

// TestDelegatesToRouters: who cannot be a router of the link is delegated nothing.
func TestDelegatesToRouters(t *testing.T) {
	b := newBench(t, routers(), static)
	r := b.router(1)
	m := r.compose(requested, func(m *dhcpv6.Message) {
		m.Options.Del(dhcpv6.OptionIANA)
		m.AddOption(&dhcpv6.OptIAPD{IaId: [4]byte{0, 0, 0, 1}})
	})
	for _, from := range []string{"fe80::1", "fd00:1::77"} { // the guest itself, and a subnet that the profile has not
		answers, err := b.send(ip(from), m.ToBytes())
		if err != nil || len(answers) != 1 {
			t.Fatalf("%d answers, %v", len(answers), err)
		}
		got, err := dhcpv6.MessageFromBytes(answers[0])
		if err != nil || describe(got) != "REPLY, PD NoPrefixAvail" {
			t.Errorf("from %s: %v, %v; want nothing delegated", from, got, err)
		}
	}
}

// TestTooManyWays: when there are more than are kept, the router that has its prefix the longest keeps its way.
func TestTooManyWays(t *testing.T) {
	d := routers()
	d.Delegate = &profiles.PrefixPool{PrefixBlock: block("fd00:f::/48", false), Shortest: 60, Longest: 60}
	b := newBench(t, d, static)
	now, blocks := b.store.Now(), &b.links["lan"].blocks
	for n := range uint64(downstream.Most + 1) {
		l := lease.Lease{Addr: blocks.key(blocks.nth(n)), Bits: 60, Via: ip("fe80::99"), Client: fmt.Sprint("router", n),
			Since: now, Expires: now + 3600, State: lease.Bound}
		if n == downstream.Most {
			l.Since = now - 60
		}
		if err := b.store.Put(l, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.leadAll()
	got := b.led()
	last := fmt.Sprintf("%s via fe80::99 by lan", blocks.nth(downstream.Most))
	if len(got) != downstream.Most || got[len(got)-1] != last {
		t.Errorf("there are %d ways, the last one %s; want %d, and %s", len(got), got[len(got)-1], downstream.Most, last)
	}
	if !strings.Contains(b.log.String(), "more prefixes are delegated than ways are kept") {
		t.Error("nobody is told that one is left out")
	}
}
