package filter_test

import (
	"fmt"
	"net/netip"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
)

// banFlows are packets of every kind that the rules of bans tell apart.
func banFlows() []filtertest.Packet {
	type host struct{ link, addr string }
	var out []filtertest.Packet
	for _, family := range [][]host{
		{{"up0", "198.51.100.7"}, {"up0", "198.51.100.9"}, {"srv0", "10.2.0.7"}, {"lo", "203.0.113.2"}, {"lo", "10.2.0.1"}},
		{{"up0", "2001:db8:5::1"}, {"up0", "2001:db8:a::9"}, {"srv0", "fd00:2::7"}, {"lo", "2001:db8:1::2"},
			{"lo", "fd00:2::1"}},
	} {
		for _, from := range family[:3] {
			for _, to := range family {
				if from == to {
					continue
				}
				p := filtertest.Packet{In: from.link, Src: netip.MustParseAddr(from.addr), Dst: netip.MustParseAddr(to.addr),
					Protocol: filter.ProtoTCP, SrcPort: 40000, Hops: 64}
				for _, port := range []uint16{22, 8006, 80} {
					p.DstPort = port
					out = append(out, banStates(p)...)
				}
				p.DstPort, p.Protocol, p.State = 0, filter.ProtoICMP6, filtertest.CTNew
				for _, kind := range []uint8{128, 135, 136} {
					if p.Type = kind; p.Src.Is6() {
						out = append(out, listedOrNot(p)...)
					}
				}
			}
		}
	}
	for i := range out {
		out[i].What = fmt.Sprint(i)
	}
	return out
}

// banStates are a packet as the first of a connection and as a later one, counted and not, of either end.
func banStates(p filtertest.Packet) []filtertest.Packet {
	var out []filtertest.Packet
	for _, state := range []struct {
		state, flags, mark uint32
		over, reply        bool
	}{
		{state: filtertest.CTNew, flags: filtertest.TCPSyn},
		{state: filtertest.CTNew, flags: filtertest.TCPSyn, over: true},
		{state: filtertest.CTEstablished, flags: filtertest.TCPAck},
		{state: filtertest.CTEstablished, flags: filtertest.TCPAck, over: true},
		{state: filtertest.CTEstablished, flags: filtertest.TCPAck, over: true, reply: true},
		{state: filtertest.CTEstablished, flags: filtertest.TCPAck, over: true, mark: filter.MarkCounted},
		{state: filtertest.CTEstablished, flags: filtertest.TCPRst, over: true},
	} {
		p.State, p.Flags, p.Mark, p.Over, p.Reply = state.state, state.flags, state.mark, state.over, state.reply
		out = append(out, listedOrNot(p)...)
	}
	return out
}

// listedOrNot are a packet when nobody is banned, when its source is, and when its destination is.
func listedOrNot(p filtertest.Packet) []filtertest.Packet {
	from, to := p, p
	from.Listed, to.Listed = p.Src, p.Dst
	return []filtertest.Packet{p, from, to}
}

// eitherWay are neighbours that may stand in either order, each with the reason.
var eitherWay = map[string]string{
	"banned: IPv6 neighbour discovery <-> banned":            "the one is IPv6, the other IPv4",
	"banned: banned <-> banned":                              "one for each family",
	"banned.forward: to the banned <-> to the banned":        "one for each family",
	"count: bans: ssh (30:5) <-> bans: ssh (30:5)":           "one for each family",
	"count: bans: tcp/8006 (31:5) <-> bans: tcp/8006 (31:5)": "one for each family",
	"count: each connection once <-> bans: ssh (30:5)":       "whom the second one drops is banned, counted or not",
}

// TestEveryBanRuleMatters is TestEveryRuleMatters for the table of bans.
func TestEveryBanRuleMatters(t *testing.T) {
	p := filtertest.Banning()
	rules, err := filter.Bans(p)
	if err != nil {
		t.Fatal(err)
	}
	x := &trial{rules: rules, walker: filtertest.NewWalker(p, rules), packets: banFlows(),
		met: map[filtertest.RuleID][]int{}}
	for i, packet := range x.packets {
		touched := map[filtertest.RuleID]bool{}
		fate, err := x.walker.Walk(packet, touched)
		if err != nil {
			t.Fatalf("%+v: %v", packet, err)
		}
		x.fates = append(x.fates, fate.String())
		for id := range touched {
			x.met[id] = append(x.met[id], i)
		}
	}
	swapped, alike := 0, map[string]bool{}
	for _, m := range filtertest.Missing(rules) {
		if _, ok := x.notices(t, &m); !ok {
			t.Errorf("nothing shows that this rule is missing: %s", m.Name)
		}
	}
	for _, m := range filtertest.Swapped(rules) {
		if m.Commute(rules) {
			continue
		}
		swapped++
		if _, ok := x.notices(t, &m); ok {
			continue
		}
		if eitherWay[m.Name] == "" {
			t.Errorf("nothing shows that these stand in the wrong order: %s", m.Name)
		}
		alike[m.Name] = true
	}
	for name := range eitherWay {
		if !alike[name] {
			t.Errorf("listed to stand either way, but it is seen or not there: %s; take it off the list", name)
		}
	}
	t.Logf("%d packets; %d rules left out, %d neighbours swapped", len(x.packets), len(filtertest.Missing(rules)), swapped)
}
