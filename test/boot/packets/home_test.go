package packets

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/test/netns"
	"rempart/test/rig"
)

// homeTruth says in a person's words what the home-firewall is to do: the yardstick, not derived from anything.
func homeTruth() []row {
	const (
		inet, inet6 = "198.51.100.7", "2001:db8::7"
		self, self6 = "192.168.0.101", "[fd00:192:168::101]"
		lan, lan6   = "192.168.0.7", "fd00:192:168::7"
		dmz, dmz6   = "10.9.0.7", "fd00:10:9::7"
	)
	return []row{
		// The two forwards reach the web server, which answers the firewall though its gateway is the ISP's box.
		{"internet", inet, "tcp", self + ":80", pass, "lan0 192.168.0.101 192.168.0.102:80"},
		{"internet", inet, "tcp", self + ":443", pass, "lan0 192.168.0.101 192.168.0.102:443"},
		// The exposed host reaches the Internet, by IPv4 under the firewall's address.
		{"dmz", dmz, "tcp", inet + ":80", pass, "lan0 192.168.0.101 198.51.100.7:80"},
		{"dmz", dmz, "tcp", inet + ":8080", pass, "lan0 192.168.0.101 198.51.100.7:8080"},
		{"dmz", dmz, "udp", inet + ":443", pass, "lan0 192.168.0.101 198.51.100.7:443"},
		{"dmz", dmz, "ping", inet, pass, "lan0 192.168.0.101 198.51.100.7"},
		{"dmz", dmz6, "tcp", "[" + inet6 + "]:80", pass, "lan0 fd00:10:9::7 [2001:db8::7]:80"},
		{"dmz", dmz6, "udp", "[" + inet6 + "]:443", pass, "lan0 fd00:10:9::7 [2001:db8::7]:443"},
		{"dmz", dmz6, "ping", inet6, pass, "lan0 fd00:10:9::7 2001:db8::7"},
		// The home network administers the firewall and pings it, and that is all.
		{"home", lan, "tcp", self + ":22", reach, ""},
		{"home", lan, "ping", self, reach, ""},
		{"home", lan6, "tcp", self6 + ":22", reach, ""},
		{"home", lan6, "ping", "fd00:192:168::101", reach, ""},
		{"home", lan, "tcp", self + ":80", drop, ""},
		{"home", lan, "tcp", self + ":8080", drop, ""},
		{"home", lan, "udp", self + ":53", drop, ""},
		{"home", lan6, "tcp", self6 + ":80", drop, ""},
		{"home", lan6, "udp", self6 + ":53", drop, ""},
		// Nothing else from the Internet reaches the firewall,
		{"internet", inet, "tcp", self + ":22", drop, ""},
		{"internet", inet, "tcp", self + ":8080", drop, ""},
		{"internet", inet, "udp", self + ":80", drop, ""},
		{"internet", inet, "udp", self + ":53", drop, ""},
		{"internet", inet, "ping", self, drop, ""},
		{"internet", inet6, "tcp", self6 + ":22", drop, ""},
		{"internet", inet6, "tcp", self6 + ":80", drop, ""},
		{"internet", inet6, "tcp", self6 + ":443", drop, ""},
		{"internet", inet6, "udp", self6 + ":53", drop, ""},
		{"internet", inet6, "ping", "fd00:192:168::101", drop, ""},
		// nor its inner address, nor what is behind it.
		{"internet", inet, "tcp", "10.9.0.1:22", drop, ""},
		{"internet", inet, "tcp", dmz + ":80", drop, ""},
		{"internet", inet, "udp", dmz + ":443", drop, ""},
		{"internet", inet, "ping", dmz, drop, ""},
		{"internet", inet6, "tcp", "[" + dmz6 + "]:80", drop, ""},
		{"internet", inet6, "udp", "[" + dmz6 + "]:443", drop, ""},
		{"internet", inet6, "ping", dmz6, drop, ""},
		// The home network does not begin anything with the exposed host, nor use the firewall as its way out.
		{"home", lan, "tcp", dmz + ":80", drop, ""},
		{"home", lan, "udp", dmz + ":443", drop, ""},
		{"home", lan, "ping", dmz, drop, ""},
		{"home", lan6, "tcp", "[" + dmz6 + "]:80", drop, ""},
		{"home", lan6, "ping", dmz6, drop, ""},
		{"home", lan, "tcp", "198.51.100.8:80", drop, ""},
		// The exposed host never reaches the rest of the LAN,
		{"dmz", dmz, "tcp", lan + ":80", drop, ""},
		{"dmz", dmz, "tcp", lan + ":22", drop, ""},
		{"dmz", dmz, "tcp", "192.168.0.102:80", drop, ""},
		{"dmz", dmz, "tcp", "192.168.0.1:80", drop, ""},
		{"dmz", dmz, "udp", lan + ":443", drop, ""},
		{"dmz", dmz, "ping", lan, drop, ""},
		{"dmz", dmz6, "tcp", "[" + lan6 + "]:80", drop, ""},
		{"dmz", dmz6, "udp", "[" + lan6 + "]:443", drop, ""},
		{"dmz", dmz6, "ping", lan6, drop, ""},
		// nor the firewall itself, by whichever of its addresses.
		{"dmz", dmz, "tcp", "10.9.0.1:22", drop, ""},
		{"dmz", dmz, "tcp", self + ":22", drop, ""},
		{"dmz", dmz, "tcp", self + ":80", drop, ""},
		{"dmz", dmz, "udp", "10.9.0.1:53", drop, ""},
		{"dmz", dmz, "ping", "10.9.0.1", drop, ""},
		{"dmz", dmz6, "tcp", "[fd00:10:9::1]:22", drop, ""},
		{"dmz", dmz6, "udp", "[fd00:10:9::1]:53", drop, ""},
		{"dmz", dmz6, "ping", "fd00:10:9::1", drop, ""},
	}
}

// homeKnocks are what is sent from power-on: a flow of every kind that is forbidden, some that lie about where they
// come from, and those that the policy will allow.
func homeKnocks() []knock {
	var all []knock
	from := func(link, src string, kind kind, flows ...string) {
		for _, f := range flows {
			words := strings.Fields(f)
			all = append(all, knock{link: link, src: src, flow: words[0], to: words[1], kind: kind})
		}
	}
	from("lan0", "198.51.100.7", allowed, "tcp 192.168.0.101:80", "tcp 192.168.0.101:443")
	from("lan0", "192.168.0.7", allowed, "ping 192.168.0.101", "tcp 192.168.0.101:22")
	from("lan0", "fd00:192:168::7", allowed, "ping fd00:192:168::101")
	from("dmz0", "10.9.0.7", allowed, "tcp 198.51.100.7:80", "udp 198.51.100.7:443", "ping 198.51.100.7")
	from("dmz0", "fd00:10:9::7", allowed, "tcp [2001:db8::7]:80", "udp [2001:db8::7]:443", "ping 2001:db8::7")

	from("lan0", "198.51.100.7", forbidden, "tcp 192.168.0.101:22", "udp 192.168.0.101:68", "ping 192.168.0.101",
		"tcp 10.9.0.7:80", "udp 10.9.0.7:443", "ping 10.9.0.7", "ping 203.0.113.9")
	from("lan0", "2001:db8::7", forbidden, "tcp [fd00:192:168::101]:80", "udp [fd00:192:168::101]:53",
		"ping fd00:192:168::101", "tcp [fd00:10:9::7]:80", "udp [fd00:10:9::7]:443", "ping fd00:10:9::7")
	from("lan0", "192.168.0.7", forbidden, "tcp 192.168.0.101:80", "tcp 10.9.0.7:80", "ping 10.9.0.7")
	from("lan0", "fd00:192:168::7", forbidden, "tcp [fd00:10:9::7]:80", "ping fd00:10:9::7")
	from("dmz0", "10.9.0.7", forbidden, "tcp 10.9.0.1:22", "tcp 192.168.0.101:22", "ping 10.9.0.1", "tcp 192.168.0.7:80",
		"udp 192.168.0.7:443", "ping 192.168.0.7", "tcp 192.168.0.102:80")
	from("dmz0", "fd00:10:9::7", forbidden, "tcp [fd00:10:9::1]:22", "ping fd00:10:9::1", "tcp [fd00:192:168::7]:80",
		"udp [fd00:192:168::7]:443", "ping fd00:192:168::7")
	// Sources that belong elsewhere: the other link's, the firewall's own, this machine's loopback.
	from("lan0", "10.9.0.7", spoofed, "udp 198.51.100.7:443", "ping 192.168.0.101")
	from("lan0", "192.168.0.101", spoofed, "ping 10.9.0.7")
	from("lan0", "fd00:192:168::101", spoofed, "ping fd00:10:9::7", "udp [fd00:10:9::7]:443")
	from("lan0", "127.0.0.1", spoofed, "udp 192.168.0.101:53")
	from("dmz0", "192.168.0.7", spoofed, "ping 192.168.0.101", "udp 198.51.100.7:443")
	from("dmz0", "fd00:192:168::7", spoofed, "ping fd00:192:168::101", "udp [2001:db8::7]:443")
	return all
}

// slow is how long the policy of a guest is made to take. Had the links come up before it, or packets passed, that
// would be seen this much earlier; half of it is the bound, so no clock has to be exact.
const slow = 8 * time.Second

// TestHomeFirewall boots the home-firewall among its neighbours, with packets that knock from power-on and a policy
// that takes its time; then tries the truth table; then kills what loads the policy and what holds the links under a
// connection that must live.
func TestHomeFirewall(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, home)
	w := newHome(t, m)
	knocking := w.knock(t, homeKnocks())
	g := m.Boot(t, rig.Options{Backends: w.backends(), Append: contract.KeyInject + "=slow:policy:" + slow.String()})
	g.AwaitConsole("made slow by the kernel command line")
	opened := time.Now().Add(slow / 2)
	r := g.AwaitReady()
	if r.Times.Links < r.Times.Policy {
		t.Errorf("the links were up at %.2f s, the policy loaded at %.2f s; want the policy first", r.Times.Links,
			r.Times.Policy)
	}
	if frames, first := w.watch.spoken(); frames == 0 || first.Before(opened) {
		t.Errorf("the guest sent its first of %d frames at %v; want none before its policy, after %v", frames, first,
			opened)
	}
	knocking.more(1)
	t.Logf("READY at %.2f s of guest time, policy at %.2f s, links at %.2f s", r.Times.Ready, r.Times.Policy,
		r.Times.Links)
	t.Run("truth", func(t *testing.T) { w.truth(t, homeTruth()) })
	t.Run("survives", func(t *testing.T) {
		talks := []*talk{
			w.talk(t, "dmz", "198.51.100.7:80", "192.168.0.101"),
			w.talk(t, "internet", "192.168.0.101:443", "192.168.0.101"),
			w.talk(t, "dmz", "[2001:db8::7]:80", "fd00:10:9::7"),
		}
		w.survive(t, g, knocking, talks)
	})
	g.PowerOff() // nor does a guest that shuts down open anything
	knocking.end()
	knocking.judge(t, opened)
}

// TestPolicyFails shows a guest whose policy never loads: it says so, never becomes READY, and sends not one frame.
func TestPolicyFails(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, home)
	w := newHome(t, m)
	knocking := w.knock(t, homeKnocks())
	g := m.Boot(t, rig.Options{Backends: w.backends(), Append: contract.KeyInject + "=fail:policy"})
	g.AwaitConsole("\n" + contract.FailedPrefix)
	// The guest tries again and again; several tries later it is no more open.
	before := childRestarts(g, "policy")
	r := g.Await("the policy to be tried again", func(r contract.Report) bool { return restarts(r, "policy") >= before+2 })
	knocking.more(5)
	if r, _ = g.Report(); r.Ready || r.Policy == "loaded" || linkUp(r) {
		t.Errorf("report = %+v; want not READY, no policy, no link up", r)
	}
	if !strings.Contains(strings.Join(r.Failures, "\n"), "policy") {
		t.Errorf("failures %q; want the policy named", r.Failures)
	}
	if strings.Contains(g.ConsoleText(), "\n"+contract.ReadyPrefix) {
		t.Error("the console says " + contract.ReadyPrefix)
	}
	knocking.end()
	if frames, _ := w.watch.spoken(); frames != 0 {
		t.Errorf("a guest without a policy sent %d frames; want none", frames)
	}
	knocking.judge(t, time.Time{})
	g.PowerOff()
}

// TestControl takes away the policy and nothing else: every row that must be dropped gets through here.
func TestControl(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, control)
	sameWays(t, m.Profile, rig.Build(t, home).Profile)
	w := newHome(t, m)
	g := m.Boot(t, rig.Options{Backends: w.backends()})
	g.AwaitReady()
	var rows []row
	for _, r := range homeTruth() {
		if r.want == drop {
			r.want = reach
			rows = append(rows, r)
		}
	}
	results := w.run(t, rows)
	for i, r := range rows {
		r.judge(t, w.watch, results[i])
	}
	if !t.Failed() {
		t.Logf("all %d flows that the home-firewall drops get through without its policy", len(rows))
	}
	// What knocks at the home-firewall gets through too; a lie about the source does not, whatever the policy.
	begun, knocks := time.Now(), homeKnocks()
	for i := range knocks {
		if knocks[i].kind == forbidden {
			knocks[i].kind = allowed
		}
	}
	knocking := w.knock(t, knocks)
	knocking.more(3)
	knocking.end()
	knocking.judge(t, begun)
	g.PowerOff()
}

// sameWays demands that two profiles differ in what they allow and in nothing else a packet meets.
func sameWays(t *testing.T, a, b *profiles.Profile) {
	t.Helper()
	text := func(p *profiles.Profile) string {
		links, zones := slices.Clone(p.Links), slices.Clone(p.Zones)
		for i := range links {
			links[i].At = profiles.Pos{}
		}
		for i := range zones {
			zones[i].At = profiles.Pos{}
		}
		b, err := json.Marshal([]any{links, zones})
		netns.Must(t, err)
		return string(b)
	}
	if text(a) != text(b) {
		t.Fatalf("links and zones of the control are\n%s\nwant\n%s", text(a), text(b))
	}
}
