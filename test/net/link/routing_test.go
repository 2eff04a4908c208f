package link_test

import (
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"rempart/profiles"
)

// routed is home with static routes, routes that lead nowhere, and rules.
func routed() *profiles.Profile {
	p := home()
	via := netip.MustParseAddr
	p.Links[0].Routes = []profiles.Route{
		{To: pfx("0.0.0.0/0")[0], Via: via("192.168.0.1"), Table: 100, Metric: 100},
		{To: pfx("fd05::/48")[0], Via: via("fd00:192:168::1"), Source: via("fd00:192:168::101"), Metric: 100},
	}
	p.Links[1].Routes = []profiles.Route{
		{To: pfx("10.5.0.0/16")[0], Via: via("10.9.0.2"), Source: via("10.9.0.1"), Metric: 50},
		{To: pfx("10.6.0.1/32")[0], Via: via("172.31.0.1"), OnLink: true, Metric: 100},
		{To: pfx("10.7.0.0/16")[0], Metric: 7},
	}
	p.Routes = []profiles.Route{
		{To: pfx("10.0.0.0/8")[0], Type: profiles.Unreachable, Metric: 100},
		{To: pfx("10.66.0.0/16")[0], Type: profiles.Blackhole, Metric: 100},
		{To: pfx("fd66::/16")[0], Type: profiles.Prohibit, Metric: 100},
		{To: pfx("::/0")[0], Type: profiles.Blackhole, Table: 100, Metric: 9},
	}
	p.RoutingRules = []profiles.RoutingRule{
		{From: pfx("10.9.0.0/24")[0], To: pfx("198.51.100.0/24")[0], Link: "dmz0", Table: 100, Priority: 1000},
		{Link: profiles.Self, To: pfx("fd09::/48")[0], Table: 100, Priority: 1001},
		{Link: "lan0", Table: 100, Priority: 1002},
	}
	return p
}

// wantRouting is what ip(8) must say, sorted.
var wantRouting = []string{
	"10.5.0.0/16 via 10.9.0.2 dev dmz0 proto static src 10.9.0.1 metric 50",
	"10.6.0.1 via 172.31.0.1 dev dmz0 proto static metric 100 onlink",
	"10.7.0.0/16 dev dmz0 proto static scope link metric 7",
	"blackhole 10.66.0.0/16 proto static metric 100",
	"blackhole default dev lo table 100 proto static metric 9 pref medium",
	"default via 192.168.0.1 dev lan0 table 100 proto static metric 100",
	"default via 203.0.113.1 dev lan0 proto static metric 100 onlink",
	"default via fd00:192:168::1 dev lan0 proto static metric 101 pref medium",
	"fd05::/48 via fd00:192:168::1 dev lan0 proto static src fd00:192:168::101 metric 100 pref medium",
	"prohibit fd66::/16 dev lo proto static metric 100 pref medium",
	"unreachable 10.0.0.0/8 proto static metric 100",
	"unreachable 10.5.0.0/16 proto static metric 4294967295", // from here on should the link be gone
	"unreachable 10.6.0.1 proto static metric 4294967295",
	"unreachable 10.7.0.0/16 proto static metric 4294967295",
	"unreachable 10.9.0.0/24 proto static metric 4294967295",
	"unreachable 192.168.0.0/24 proto static metric 4294967295",
	"unreachable fd00:192:168::/64 dev lo proto static metric 4294967295 pref medium",
	"unreachable fd05::/48 dev lo proto static metric 4294967295 pref medium",
}

var wantRules = []string{
	"0: from all lookup local",
	"0: from all lookup local",
	"1000: from 10.9.0.0/24 to 198.51.100.0/24 iif dmz0 lookup 100 proto static",
	"1001: from all to fd09::/48 iif lo lookup 100 proto static",
	"1002: from all iif lan0 lookup 100 proto static",
	"1002: from all iif lan0 lookup 100 proto static",
	"32766: from all lookup main",
	"32766: from all lookup main",
	"32767: from all lookup default",
}

func words(text string) (out []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 {
			out = append(out, strings.Join(f, " "))
		}
	}
	slices.Sort(out)
	return out
}

// routing is every route that is not the kernel's own, and every rule.
func (l *lab) routing() (routes, rules []string) {
	l.t.Helper()
	all := l.in("fw", "ip", "-4", "route", "show", "table", "all") +
		l.in("fw", "ip", "-6", "route", "show", "table", "all")
	routes = slices.DeleteFunc(words(all), func(s string) bool { return strings.Contains(s, "proto kernel") })
	return routes, words(l.in("fw", "ip", "-4", "rule") + l.in("fw", "ip", "-6", "rule"))
}

func TestRoutesAndRules(t *testing.T) {
	l := homeLab(t)
	monitor := l.monitor("-4", "route", "rule")
	g := l.start(routed())
	g.waitReady()
	// What a rule sends elsewhere, and what leads nowhere, must not leave by the default route meanwhile.
	const first, last = "default via 203.0.113.1", "1000:"
	l.eventually("rules and default route to be told of", patience, func() bool {
		told := monitor.out.String()
		return strings.Contains(told, first) && strings.Contains(told, last)
	})
	told, _, _ := strings.Cut(monitor.out.String(), first)
	for _, want := range []string{"1000:", "1002:", "blackhole 10.66.0.0/16", "unreachable 10.9.0.0/24"} {
		if !strings.Contains(told, want) {
			t.Errorf("%s is told of after the default route:\n%s", want, monitor.out.String())
		}
	}
	routes, rules := l.routing()
	if !slices.Equal(routes, wantRouting) {
		t.Errorf("routes are\n%s\nwant\n%s", strings.Join(routes, "\n"), strings.Join(wantRouting, "\n"))
	}
	if !slices.Equal(rules, wantRules) {
		t.Errorf("rules are\n%s\nwant\n%s", strings.Join(rules, "\n"), strings.Join(wantRules, "\n"))
	}
	if got := l.sysctl("ipv4/conf/lan0/rp_filter"); got != "2" {
		t.Errorf("rp_filter of lan0 = %s; want 2, loose: rules may take packets another way than they came", got)
	}
	for _, c := range []struct{ args, want string }{
		{"198.51.100.9 from 10.9.0.2 iif dmz0", "via 192.168.0.1 dev lan0 table 100"},
		{"198.51.100.9", "via 203.0.113.1 dev lan0"},
		{"10.5.1.1", "via 10.9.0.2 dev dmz0 src 10.9.0.1"},
	} {
		if got := l.in("fw", append([]string{"ip", "route", "get"}, strings.Fields(c.args)...)...); !strings.Contains(got,
			c.want) {
			t.Errorf("ip route get %s = %s; want %s", c.args, got, c.want)
		}
	}
	for _, dead := range []string{"10.1.2.3", "10.66.0.1"} {
		if out, err := l.try("ip", "netns", "exec", l.space("fw"), "ip", "route", "get", dead); err == nil {
			t.Errorf("ip route get %s = %s; want an error", dead, out)
		}
	}
	for _, change := range [][]string{
		{"ip", "rule", "del", "priority", "1000"},
		{"ip", "-6", "rule", "del", "priority", "1002"},
		{"ip", "rule", "add", "from", "10.9.0.7", "lookup", "main", "priority", "5"},
		{"ip", "rule", "add", "fwmark", "7", "blackhole", "priority", "6"},
		{"ip", "-6", "rule", "add", "unreachable", "priority", "7"},
		{"ip", "rule", "del", "priority", "32766"},
		{"ip", "route", "del", "10.5.0.0/16"},
		{"ip", "route", "replace", "10.5.0.0/16", "via", "10.9.0.3", "metric", "50"},
		{"ip", "route", "del", "blackhole", "10.66.0.0/16"},
		{"ip", "-6", "route", "del", "prohibit", "fd66::/16"},
		{"ip", "route", "add", "blackhole", "10.67.0.0/16"},
		{"ip", "-6", "route", "add", "unreachable", "fd67::/48"},
		{"ip", "route", "del", "unreachable", "10.9.0.0/24", "metric", "4294967295"},
		{"ip", "route", "add", "10.8.0.0/16", "dev", "dmz0", "table", "77"},
		{"ip", "route", "flush", "table", "100"},
		{"ip", "address", "del", "10.9.0.1/24", "dev", "dmz0"},
	} {
		t.Run(strings.Join(change, " "), func(t *testing.T) {
			l.in("fw", change...)
			l.eventually("converged back", patience, func() bool {
				routes, rules = l.routing()
				return slices.Equal(routes, wantRouting) && slices.Equal(rules, wantRules)
			})
		})
	}
	g.kill(syscall.SIGKILL)
	again := l.start(routed())
	again.waitReady()
	if log := again.log.String(); strings.Contains(log, `msg="lan0: `) || strings.Contains(log, `msg="dmz0: `) ||
		strings.Contains(log, `msg="routing: `) {
		t.Errorf("the next run changed something:\n%s", log)
	}
}

// TestFailingRouteIsTold has a route whose router is in no subnet: the link says so and does the rest.
func TestFailingRouteIsTold(t *testing.T) {
	p := routed()
	p.Links[1].Routes[1].OnLink = false
	l := homeLab(t)
	g := l.start(p)
	g.wait("the failing route told", func() bool {
		for _, r := range g.links {
			if r.Name == "dmz0" && r.Up && strings.Contains(r.Error, "10.6.0.1/32 via 172.31.0.1") {
				return true
			}
		}
		return false
	})
	l.in("dmz", "ping", "-c1", "-W20", "10.9.0.1")
	if g.ready {
		t.Error("ready although a route failed")
	}
}
