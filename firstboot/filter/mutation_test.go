package filter_test

import (
	"regexp"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

// Every probe meets in the compiled rules what the words of the profile say: two readings of a profile, and a third one
// of the rules in between, by the nft manual.
func TestRulesDoWhatProbesSay(t *testing.T) {
	for _, p := range append(everyProfile(t), filtertest.Forwarding(300), filtertest.Stewarded()) {
		w := filtertest.NewWalker(p, compile(t, p))
		probes := filter.Probes(p)
		for _, probe := range probes {
			fate, err := w.Walk(filtertest.PacketOf(probe, w), nil)
			if err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
			if wrong := filtertest.Judge(probe, fate, w); wrong != "" {
				t.Errorf("%s: %+v: %s", p.Name, probe, wrong)
			}
		}
		if len(probes) == 0 {
			t.Errorf("%s has no probes", p.Name)
		}
	}
}

// trial is a profile's rules and all that is sent at them.
type trial struct {
	rules   filter.Ruleset
	walker  *filtertest.Walker
	packets []filtertest.Packet
	fates   []string
	met     map[filtertest.RuleID][]int // the packets that met a rule's conditions
}

func try(t *testing.T, name string, rules filter.Ruleset, p *profiles.Profile) *trial {
	t.Helper()
	w := filtertest.NewWalker(p, rules)
	packets, err := filtertest.Flows(p, w)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	x := &trial{rules: rules, walker: w, packets: packets, met: map[filtertest.RuleID][]int{}}
	for i, p := range packets {
		touched := map[filtertest.RuleID]bool{}
		fate, err := w.Walk(p, touched)
		if err != nil {
			t.Fatalf("%s: %s: %v", name, p.What, err)
		}
		x.fates = append(x.fates, fate.String())
		for id := range touched {
			x.met[id] = append(x.met[id], i)
		}
	}
	return x
}

// notices names a packet whose fate is another by a mutant's rules. Only those that met the rules in question can have
// another: what a rule does not match it does not change.
func (x *trial) notices(t *testing.T, m *filtertest.Mutant) (packet string, ok bool) {
	t.Helper()
	w := x.walker.WithRules(m.Table, m.Chain, m.Rules)
	for _, id := range m.Of {
		for _, i := range x.met[id] {
			fate, err := w.Walk(x.packets[i], nil)
			if err != nil {
				t.Fatalf("%s: %v", m.Name, err)
			}
			if fate.String() != x.fates[i] {
				return x.packets[i].What, true
			}
		}
	}
	return "", false
}

// unseen are the rules that nothing here shows to be missing or out of order, each with the reason. The pattern is
// "PROFILE: CHAIN: COMMENT".
var unseen = []struct{ pattern, why string }{
	{`: forward: (default: in no zone|logging\.drops .*)$`,
		"what came this far has a zone, or is forged; the chain's policy is drop too"},
	{`^xen-fw: members: default: in no zone$`, "every member has a zone; the chain's policy is drop too"},
	{`: output: IPv6 multicast listener discovery`, "it goes to groups, which are in no zone"},
	{`^(wide|packets): output: IPv6 neighbour discovery$`, "no line drops that from self; in the profile mute it is seen"},
	{`^wide: from/staff: forward: staff -> 10\.1\.1\.40 \(40:5\)$`, "the line staff -> staff allows it too"},
	{`^translated: srcnat: map: (203\.0\.113\.4|2001:db8:ff::20) = .* hairpin$`, "no line allows servers -> servers"},
	{`^bridged: bridge/cams/(clients|servers): policy: cams -> any \(29:5\)$`,
		"a bridge cannot refuse: it drops, as by default"},
	// Behind a SYN proxy.
	{`^packets: ((dst|src)nat/|from/)\S+ forward: .* \((25|26|27|28):5\)( hairpin)?$`,
		"such a connection begins as a packet of this machine's own"},
	{`^packets: (dst|src)nat: from (net|inside|servers)$`, "the same: it leads to nothing else"},
	{`^packets: (dstnat\.proxied|srcnat): for clients of (inside|servers)$`,
		"of the family in which nothing there is proxied"},
	{`^packets: synproxy\.input/\S+ forward: `, "what the proxy does not take fits no connection and is dropped as such"},
	{`^packets: output: for a client that has answered the SYN proxy$`, "no line from self drops what it sends"},
	{`^packets: settings: nothing is to be written$`, "it saves the way through the others, and decides nothing"},
	{`^packets: fwd/net/(net|inside): policy: net -> any \(10:5\)$`, "it drops, and counts it, as the default would"},
	{`^packets: out/(inside|servers): answers: policy: any -> self \(15:5\)$`, "no line from self drops them"},

	{`^packets: untracked: from \S+ <-> connections that begin$`, "both only keep packets from connection tracking"},
	{`^packets: \S+ handshakes of proxied connections <-> path MTU`, "the one is TCP, the other ICMP"},
	{`^packets: (in|out)/servers: .* <-> policy: `, "both accept what no service sends: from one's port to the other's"},
	{`^packets: srcnat: from \S+ <-> for clients of `, "either came by a link or is this machine's own"},
	{`: from/\S+: forward: .* <-> oifname "\S+" jump to/`, "the host is not behind the first of the links"},
	{`^translated: dstnat/net: map: 2001:db8:ff::20 = .* <-> forward: net -> fd00:2::10 \(22:5\)$`,
		"the mapped address is none of this machine's own"},
	{`^translated: srcnat: map: (.*) <-> map: .* hairpin$`, "the one leaves by the zone's link, the other by its own"},
	{`^bridged: bridge/servers/clients: answers, .* <-> policy: servers -> clients \(27:5\)$`,
		"both accept; the wrong order would only count every packet of a connection as one more"},
	{`^router: srcnat: from guests <-> from guests$`, "the one goes back to the guests, the other to the internet"},
}

// mute lets its own machine begin nothing on its links, and live.
// mute lets its own machine begin nothing, and live.
func mute() *profiles.Profile {
	p := filtertest.OneArmed()
	p.Name = "mute"
	p.Policy = append(p.Policy, profiles.Rule{From: profiles.Self, To: "home", Action: profiles.Drop,
		At: profiles.Pos{Line: 90, Column: 5}})
	return p
}

// TestEveryRuleMatters leaves out every rule of every profile once, and swaps every two neighbours: some packet has to
// be treated, counted or logged otherwise. Two neighbours that no packet meets both, or that do the
// same, may stand either way. test/net does so with packets, on samples.
func TestEveryRuleMatters(t *testing.T) {
	used := map[string]bool{}
	for _, p := range append(everyProfile(t), mute()) {
		closed, err := filter.Closed(p)
		if err != nil {
			t.Fatal(err)
		}
		x := try(t, p.Name, compile(t, p), p)
		y := try(t, p.Name+", closed", closed, p)
		survives := func(x *trial, m *filtertest.Mutant, what string) {
			t.Helper()
			if _, ok := x.notices(t, m); ok {
				return
			}
			for _, u := range unseen {
				if regexp.MustCompile(u.pattern).MatchString(p.Name + ": " + m.Name) {
					used[u.pattern] = true
					return
				}
			}
			t.Errorf("%s: nothing shows that %s: %s", p.Name, what, m.Name)
		}
		missing, swapped, alike := 0, 0, 0
		for _, x := range []*trial{x, y} {
			for _, m := range filtertest.Missing(x.rules) {
				missing++
				survives(x, &m, "this rule is missing")
			}
			for _, m := range filtertest.Swapped(x.rules) {
				if m.Commute(x.rules) {
					alike++
					continue
				}
				swapped++
				survives(x, &m, "these stand in the wrong order")
			}
		}
		t.Logf("%s: %d packets; %d rules left out, %d neighbours swapped, %d more that may stand either way", p.Name,
			len(x.packets), missing, swapped, alike)
	}
	for _, u := range unseen {
		if !used[u.pattern] {
			t.Errorf("listed as unseen, but it is seen or not there: %s; take it off the list", u.pattern)
		}
	}
}
