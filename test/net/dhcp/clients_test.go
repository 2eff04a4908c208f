package dhcp_test

import (
	"testing"

	"rempart/test/net/clients"
	"rempart/test/netns"
)

// begin starts one of package clients until the test ends.
func (c *client) begin(name string) {
	c.lab.t.Helper()
	find := func(program, pkg string) string { return netns.Tool(c.lab.t, program, pkg) }
	args, err := clients.Command(name, clients.Host{Dir: c.dir, Dev: c.dev, Bits: 24, Find: find})
	netns.Must(c.lab.t, err)
	c.background(args...)
}

// TestForeignClients: each gets an address of its own and what the profile says, renews it, and keeps it over a crash
// of the server.
func TestForeignClients(t *testing.T) {
	l := newLab(t)
	s := l.start(profile(8)) // T1 after 4 s
	all, had := map[string]*client{}, map[string]string{}
	for _, name := range clients.Names() {
		all[name] = l.client(name, "lan")
		all[name].begin(name)
	}
	owner := map[string]string{}
	for name, c := range all {
		l.eventually(name+" to have an address", func() bool { had[name] = c.address(); return had[name] != "" })
		if owner[had[name]] != "" {
			t.Errorf("%s and %s both have %s", name, owner[had[name]], had[name])
		}
		owner[had[name]] = name
		l.seen.mu.Lock()
		if m := l.seen.told[c.mac]; m == nil || m.DomainName() != "home.arpa" || len(m.Router()) != 1 ||
			m.Router()[0].String() != gateway || string(m.Options[19]) != "\x01" || m.SubnetMask().String() != "ffffff00" {
			t.Errorf("%s was told %v; want the router, the domain, the mask, and option 19 = 1", name, m)
		}
		l.seen.mu.Unlock()
	}
	renewed := func(what string) {
		t.Helper()
		before := map[string]int{}
		for name, c := range all {
			before[name] = l.seen.acked(c.mac)
		}
		for name, c := range all {
			l.eventually(name+" to renew "+what, func() bool { return l.seen.acked(c.mac) > before[name] })
			if got := c.address(); got != had[name] {
				t.Errorf("%s: %s has %s; want %s, which it had", what, name, got, had[name])
			}
		}
	}
	renewed("while the server runs")
	s.kill()
	l.start(profile(8))
	renewed("after the server was killed and started again")
}

// TestOnlyDeclared: on a link without a section the server says nothing, whatever is asked there.
func TestOnlyDeclared(t *testing.T) {
	l := newLab(t)
	l.start(profile(60))
	c, known := l.client("stranger", "dmz"), l.client("host", "lan")
	udhcpc := netns.Tool(t, "udhcpc", "udhcpc")
	if out, err := c.Command(udhcpc, "-f", "-n", "-q", "-i", c.dev, "-s", "/bin/true", "-t", "3", "-T", "1").
		CombinedOutput(); err == nil {
		t.Errorf("a client on a link without dhcp got an address:\n%s", out)
	}
	// The same on the link with a server, so that the silence means something.
	if out, err := known.Command(udhcpc, "-f", "-n", "-q", "-i", known.dev, "-s", "/bin/true", "-t", "5", "-T", "1").
		CombinedOutput(); err != nil {
		t.Errorf("a client on lan got no address: %v\n%s", err, out)
	}
	l.seen.mu.Lock()
	defer l.seen.mu.Unlock()
	if l.seen.sent["dmz"] != 0 || l.seen.sent["lan"] < 2 {
		t.Errorf("the server sent %d messages on dmz and %d on lan; want none, and an offer and an acknowledgement",
			l.seen.sent["dmz"], l.seen.sent["lan"])
	}
}

// TestInUse: an address that a host on the link has is offered to nobody.
func TestInUse(t *testing.T) {
	l := newLab(t)
	squatter := l.client("squatter", "lan")
	netnsAddr(t, squatter, "10.0.0.100/24")
	p := profile(60)
	p.DHCP[0].NoProbe = false
	l.start(p)
	c := l.client("host", "lan")
	c.begin("udhcpc")
	l.eventually("an address", func() bool { return c.address() != "" })
	if got := c.address(); got == "10.0.0.100" {
		t.Errorf("the host got %s, which another one has", got)
	}
}
