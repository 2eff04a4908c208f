package v6

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/time/rate"

	"rempart/firstboot/dhcp/lease"
	"rempart/firstboot/link/watch"
	"rempart/firstboot/onlink"
	"rempart/profiles"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// book is a Names that remembers.
type book map[netip.Addr]string

func (b book) Bound(l lease.Lease, link string) { b[l.Addr] = l.Name + "@" + link }
func (b book) Gone(a netip.Addr)                { delete(b, a) }

// bench is a server on one link, with a clock.
type bench struct {
	*Server
	t     *testing.T
	store *lease.Store
	names book
	wall  time.Time
	boot  time.Duration
	log   bytes.Buffer
	path  string
}

var (
	on     = onlink.Link{Name: "lan", Index: 3, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0xb}, MTU: 1500}
	static = watch.Address{Prefix: netip.MustParsePrefix("fd00:1::1/64"), Valid: watch.Forever, Preferred: watch.Forever}
	gua    = watch.Address{Prefix: netip.MustParsePrefix("2001:db8:1::1/64"), Valid: time.Hour,
		Preferred: 30 * time.Minute}
)

func usual() profiles.DHCP6 {
	return profiles.DHCP6{Link: "lan", DHCP6Scope: profiles.DHCP6Scope{Lease: 43200, DNSSelf: true,
		Search: []string{"home.arpa"}, Pools: []profiles.SuffixRange{{First: ip("::1000"), Last: ip("::1003")}},
		Hosts: []profiles.DHCP6Host{{Name: "nas", MAC: "52:54:00:00:00:01", Host: ip("::10")},
			{Name: "printer", DUID: "00020000ab110102", Host: ip("::1001")}}}}
}

func newBench(t *testing.T, d profiles.DHCP6, addresses ...watch.Address) *bench {
	t.Helper()
	b := &bench{t: t, names: book{}, wall: time.Unix(1_800_000_000, 0), path: t.TempDir() + "/leases6"}
	b.open(d, addresses...)
	return b
}

func (b *bench) open(d profiles.DHCP6, addresses ...watch.Address) {
	b.t.Helper()
	log := slog.New(slog.NewTextHandler(&b.log, nil))
	store, err := lease.Open(lease.Options{Path: b.path, Log: log, Clock: lease.Clock{
		Wall: func() time.Time { return b.wall }, Boot: func() time.Duration { return b.boot }}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.store = store
	b.t.Cleanup(func() { _ = store.Close() })
	b.Server = New(Config{DHCP6: []profiles.DHCP6{d}, Store: store, Names: b.names, Log: log})
	b.links["lan"].limit = rate.NewLimiter(rate.Inf, 1)
	b.prefixes(addresses...)
}

func (b *bench) prefixes(addresses ...watch.Address) {
	b.Look(watch.View{Links: map[string]watch.Link{"lan": {Index: 3, MAC: on.MAC, Running: true,
		LinkLocal: ip("fe80::1"), Addresses: addresses}}})
}

func (b *bench) pass(d time.Duration) {
	b.wall, b.boot = b.wall.Add(d), b.boot+d
	b.Sweep()
}

// client is who asks: a DUID made of the number, and what it was given last.
type client struct {
	*bench
	mac  net.HardwareAddr
	duid dhcpv6.DUID
	name string
	have []netip.Addr
	got  *dhcpv6.Message // the last answer
}

func (b *bench) client(n byte) *client {
	mac := net.HardwareAddr{2, 0, 0, 1, 0, n}
	return &client{bench: b, mac: mac, duid: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac},
		name: fmt.Sprintf("host%d", n)}
}

func (c *client) compose(kind dhcpv6.MessageType, edit func(*dhcpv6.Message)) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
	m.AddOption(dhcpv6.OptClientID(c.duid))
	switch kind {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		m.AddOption(dhcpv6.OptServerID(ours(on)))
	}
	if kind != dhcpv6.MessageTypeInformationRequest {
		ia := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 7}}
		for _, a := range c.have {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
		}
		m.AddOption(ia)
	}
	if c.name != "" {
		m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionFQDN,
			OptionData: append([]byte{0, byte(len(c.name))}, c.name...)})
	}
	if edit != nil {
		edit(m)
	}
	return m
}

// send sends bytes from an address and waits for the answer, which a silent server gives none of.
func (b *bench) send(from netip.Addr, raw []byte) (answers [][]byte, err error) {
	b.t.Helper()
	got := make(chan []byte, 4)
	err = b.message(b.links["lan"], on, from, raw, func(a []byte) { got <- a })
	// Whatever waits for the disk is done once something that was put later is.
	done := make(chan struct{})
	if e := b.store.Remove(ip("::ffff:0:0:1"), func(error) { close(done) }); e != nil {
		b.t.Fatal(e)
	}
	<-done
	close(got)
	for a := range got {
		answers = append(answers, a)
	}
	return answers, err
}

// ask sends a message and returns what it was answered as text; empty: nothing.
func (c *client) ask(kind dhcpv6.MessageType, edit func(*dhcpv6.Message)) string {
	c.t.Helper()
	answers, _ := c.send(ip("fe80::99"), c.compose(kind, edit).ToBytes())
	if len(answers) == 0 {
		return ""
	}
	m, err := dhcpv6.MessageFromBytes(answers[0])
	if err != nil || len(answers) > 1 {
		c.t.Fatalf("%d answers, %v", len(answers), err)
	}
	c.got = m
	if m.MessageType == dhcpv6.MessageTypeReply && kind != dhcpv6.MessageTypeConfirm {
		c.have = nil
		for _, ia := range m.Options.IANA() {
			for _, o := range ia.Options.Addresses() {
				if a, ok := netip.AddrFromSlice(o.IPv6Addr); ok && o.ValidLifetime > 0 {
					c.have = append(c.have, a)
				}
			}
		}
	}
	return describe(m)
}

func describe(m *dhcpv6.Message) string {
	out := []string{m.MessageType.String()}
	if s := m.Options.Status(); s != nil {
		out = append(out, s.StatusCode.String())
	}
	for _, ia := range m.Options.IANA() {
		if s := ia.Options.Status(); s != nil {
			out = append(out, "NA "+s.StatusCode.String())
		}
		for _, o := range ia.Options.Addresses() {
			out = append(out, fmt.Sprintf("%s %s/%s", o.IPv6Addr, o.ValidLifetime, o.PreferredLifetime))
		}
	}
	for _, ia := range m.Options.IAPD() {
		if s := ia.Options.Status(); s != nil {
			out = append(out, "PD "+s.StatusCode.String())
		}
	}
	return strings.Join(out, ", ")
}

func (c *client) want(what string, kind dhcpv6.MessageType, edit func(*dhcpv6.Message), want string) {
	c.t.Helper()
	if got := c.ask(kind, edit); got != want {
		c.t.Errorf("%s: %s is answered %q; want %q", what, kind, got, want)
	}
}

const (
	solicit   = dhcpv6.MessageTypeSolicit
	requested = dhcpv6.MessageTypeRequest
	renew     = dhcpv6.MessageTypeRenew
	rebound   = dhcpv6.MessageTypeRebind
	confirm   = dhcpv6.MessageTypeConfirm
	release   = dhcpv6.MessageTypeRelease
	decline   = dhcpv6.MessageTypeDecline
	inform    = dhcpv6.MessageTypeInformationRequest
)

// TestNamedHost goes the whole way of a client: by DUID, by hardware address, in each prefix.
func TestNamedHost(t *testing.T) {
	b := newBench(t, usual(), static, gua)
	c := b.client(1)
	c.mac = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	c.duid, c.name = &dhcpv6.DUIDLLT{HWType: 1, Time: 5, LinkLayerAddr: c.mac}, ""
	c.want("offer", solicit, nil, "ADVERTISE, fd00:1::10 12h0m0s/9h0m0s, 2001:db8:1::10 1h0m0s/30m0s")
	if n := b.store.Len(); n != 0 {
		t.Errorf("after an offer %d leases are kept; want none", n)
	}
	c.want("grant", requested, nil, "REPLY, fd00:1::10 12h0m0s/9h0m0s, 2001:db8:1::10 1h0m0s/30m0s")
	ia := c.got.Options.OneIANA()
	if ia.T1 != 15*time.Minute || ia.T2 != 24*time.Minute {
		t.Errorf("T1 %s, T2 %s; want a half and four fifths of 30 minutes", ia.T1, ia.T2)
	}
	if dns := c.got.Options.DNS(); len(dns) != 1 || dns[0].String() != "fd00:1::1" {
		t.Errorf("name servers %v; want the guest", dns)
	}
	if l := c.got.Options.DomainSearchList(); l == nil || !slices.Equal(l.Labels, []string{"home.arpa"}) {
		t.Errorf("search list %v", l)
	}
	if got := b.names[ip("2001:db8:1::10")]; got != "nas@lan" {
		t.Errorf("the name of its address is %q; want nas", got)
	}
	p := b.client(2)
	p.duid = &dhcpv6.DUIDEN{EnterpriseNumber: 0xab11, EnterpriseIdentifier: []byte{1, 2}}
	if hex.EncodeToString(p.duid.ToBytes()) != "00020000ab110102" {
		t.Fatalf("the DUID is %x", p.duid.ToBytes())
	}
	p.want("by DUID, in the pool", requested, nil, "REPLY, fd00:1::1001 12h0m0s/9h0m0s, 2001:db8:1::1001 1h0m0s/30m0s")
}

// TestPool: four ends, one of which is a named host's.
func TestPool(t *testing.T) {
	b := newBench(t, usual(), static)
	seen := map[netip.Addr]bool{}
	var all []*client
	for n := range byte(3) {
		c := b.client(n)
		offered := strings.TrimPrefix(c.ask(solicit, nil), "ADVERTISE")
		if got := strings.TrimPrefix(c.ask(requested, nil), "REPLY"); got != offered {
			t.Errorf("offered %q and given %q", offered, got)
		}
		if len(c.have) != 1 || seen[c.have[0]] || c.have[0] == ip("fd00:1::1001") {
			t.Fatalf("client %d is given %v", n, c.have)
		}
		seen[c.have[0]] = true
		all = append(all, c)
	}
	late := b.client(9)
	late.want("full", requested, nil, "REPLY, NA NoAddrsAvail")
	if !strings.Contains(b.log.String(), "the pool is full") {
		t.Error("nobody is told that the pool is full")
	}
	first := all[0].have[0]
	all[0].want("known clients are served", renew, nil, fmt.Sprintf("REPLY, %s 12h0m0s/9h0m0s", first))
	all[1].want("given back", release, nil, "REPLY, Success")
	late.want("what was given back", requested, nil, "REPLY"+late.ask(solicit, nil)[len("ADVERTISE"):])
}

func TestPoolOrder(t *testing.T) {
	b := newBench(t, usual(), static)
	a, c, d := b.client(1), b.client(2), b.client(3)
	a.ask(requested, nil)
	b.pass(time.Hour)
	c.ask(requested, nil)
	b.pass(time.Hour)
	d.ask(requested, nil)
	had := a.have[0]
	b.pass(11 * time.Hour) // a's has ended, and then c's, d's not
	n := b.client(4)
	if n.ask(requested, nil); len(n.have) != 1 || n.have[0] != had {
		t.Errorf("a new client is given %v; want %s, which ended first", n.have, had)
	}
	// Same client, same address, as long as nobody else has it.
	b.pass(2 * time.Hour)
	kept := d.have[0]
	d.have = nil
	if d.ask(requested, nil); len(d.have) != 1 || d.have[0] != kept {
		t.Errorf("a client that comes back is given %v; want %s again", d.have, kept)
	}
	if _, named := b.names[had]; !named {
		t.Errorf("names are %v; want that of %s", b.names, had)
	}
}

// TestRestart: another process finds the leases.
func TestRestart(t *testing.T) {
	b := newBench(t, usual(), static)
	c := b.client(1)
	c.ask(requested, nil)
	had := c.have[0]
	if err := b.store.Close(); err != nil {
		t.Fatal(err)
	}
	b.names = book{}
	b.open(usual(), static)
	if b.names[had] != "host1@lan" {
		t.Errorf("after a restart names are %v; want that of %s", b.names, had)
	}
	c.bench = b
	c.want("after a restart", rebound, nil, fmt.Sprintf("REPLY, %s 12h0m0s/9h0m0s", had))
}

// TestRenumbering: the prefix is replaced; who renews is moved, and the old address taken back.
func TestRenumbering(t *testing.T) {
	b := newBench(t, usual(), gua)
	c := b.client(1)
	c.ask(requested, nil)
	old := c.have[0]
	fresh := watch.Address{Prefix: netip.MustParsePrefix("2001:db8:2::1/64"), Valid: time.Hour, Preferred: time.Hour}
	deprecated := gua
	deprecated.Preferred = 0
	b.prefixes(fresh, deprecated)
	moved := in(fresh.Prefix, end(old))
	c.want("deprecated", renew, nil, fmt.Sprintf("REPLY, %s 1h0m0s/45m0s, %s 1h0m0s/0s", moved, old))
	if b.names[moved] != "host1@lan" || b.names[old] != "" {
		t.Errorf("names are %v; want that of %s alone", b.names, moved)
	}
	b.prefixes(fresh)
	c.want("gone", renew, nil, fmt.Sprintf("REPLY, %s 1h0m0s/45m0s, %s 0s/0s", moved, old))
	b.prefixes()
	c.want("nothing left", renew, nil, "REPLY, NA NoAddrsAvail")
}

func TestConfirm(t *testing.T) {
	b := newBench(t, usual(), static)
	c := b.client(1)
	c.want("nothing to confirm", confirm, nil, "")
	c.have = []netip.Addr{ip("fd00:1::77")}
	c.want("of this link", confirm, nil, "REPLY, Success")
	c.have = []netip.Addr{ip("fd00:2::77")}
	c.want("of another", confirm, nil, "REPLY, NotOnLink")
}

func TestDecline(t *testing.T) {
	b := newBench(t, usual(), static)
	c := b.client(1)
	c.ask(requested, nil)
	bad := c.have[0]
	c.have = []netip.Addr{bad}
	c.want("declined", decline, nil, "REPLY, Success")
	for n := range byte(8) {
		other := b.client(n + 1)
		if other.ask(requested, nil); slices.Contains(other.have, bad) {
			t.Errorf("client %d is given %s, which somebody unknown has", n+1, bad)
		}
	}
	if !strings.Contains(b.log.String(), bad.String()) {
		t.Error("nobody is told of the address that was declined")
	}
	stranger := b.client(77)
	stranger.have = []netip.Addr{ip("fd00:1::1000")}
	stranger.want("what a stranger declines or releases", release, nil, "REPLY, Success, NA NoBinding")
}

func TestStateless(t *testing.T) {
	d := usual()
	d.Pools, d.Hosts = nil, nil
	b := newBench(t, d, gua)
	c := b.client(1)
	c.want("addresses", solicit, nil, "")
	c.want("configuration", inform, nil, "REPLY")
	if len(c.got.Options.DNS()) != 1 || c.got.GetOneOption(dhcpv6.OptionInformationRefreshTime) == nil {
		t.Errorf("it says %s", c.got)
	}
}

func TestRapid(t *testing.T) {
	rapid := func(m *dhcpv6.Message) { m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit}) }
	d := usual()
	b := newBench(t, d, static)
	if got := b.client(1).ask(solicit, rapid); !strings.HasPrefix(got, "ADVERTISE") {
		t.Errorf("rapid commit that the profile does not want: %s", got)
	}
	d.Rapid = true
	b = newBench(t, d, static)
	if got := b.client(1).ask(solicit, rapid); !strings.HasPrefix(got, "REPLY, fd00:1::") || b.store.Len() != 1 {
		t.Errorf("rapid commit: %s, %d leases", got, b.store.Len())
	}
}

func TestNotForUs(t *testing.T) {
	other := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: 1, LinkLayerAddr: net.HardwareAddr{9, 9, 9, 9, 9, 9}})
	for name, c := range map[string]struct {
		kind dhcpv6.MessageType
		edit func(*dhcpv6.Message)
	}{
		"a request to another":     {requested, func(m *dhcpv6.Message) { m.UpdateOption(other) }},
		"a request to nobody":      {requested, func(m *dhcpv6.Message) { m.Options.Del(dhcpv6.OptionServerID) }},
		"a solicit to us":          {solicit, func(m *dhcpv6.Message) { m.AddOption(dhcpv6.OptServerID(ours(on))) }},
		"nobody":                   {solicit, func(m *dhcpv6.Message) { m.Options.Del(dhcpv6.OptionClientID) }},
		"many associations":        {solicit, func(m *dhcpv6.Message) { many(m) }},
		"an answer":                {dhcpv6.MessageTypeReply, nil},
		"information and address":  {inform, func(m *dhcpv6.Message) { m.AddOption(&dhcpv6.OptIANA{}) }},
		"a reconfiguration":        {dhcpv6.MessageTypeReconfigure, nil},
		"information from another": {inform, func(m *dhcpv6.Message) { m.AddOption(other) }},
	} {
		b := newBench(t, usual(), static)
		if got := b.client(1).ask(c.kind, c.edit); got != "" || b.store.Len() != 0 {
			t.Errorf("%s is answered %q, and %d leases are kept; want silence", name, got, b.store.Len())
		}
	}
	b := newBench(t, usual(), static)
	if got, err := b.send(ip("2001:db8:99::1"), b.client(1).compose(solicit, nil).ToBytes()); len(got) > 0 || err == nil {
		t.Errorf("from afar: %d answers, %v; want silence", len(got), err)
	}
}

func many(m *dhcpv6.Message) {
	for i := range byte(20) {
		m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{9, 9, 9, i}})
	}
}
