package link

import (
	"net/netip"
	"reflect"
	"testing"

	"rempart/profiles"
)

func TestRoutingChanges(t *testing.T) {
	nowhere := func(p string, metric uint32) Route {
		return Route{Dst: netip.MustParsePrefix(p), Dead: profiles.Unreachable, Metric: metric, Protocol: ProtocolDHCP}
	}
	kernels := nowhere("2001:db8:9::/48", 1)
	kernels.Protocol = ProtocolKernel
	other := nowhere("2001:db8::/56", metricUnused)
	other.Dead = profiles.Blackhole
	rule, later := Rule{Priority: 100, Table: 7}, Rule{Priority: 101, Table: 7}
	change := func(k Kind, r Route) Change { return Change{Kind: k, Link: "routing", Route: r} }
	ruled := func(k Kind) Change { return Change{Kind: k, Link: "routing", Rule: rule} }
	unused := nowhere("2001:db8::/56", metricUnused)
	for name, tt := range map[string]struct {
		have, want    Routing
		before, after []Change
	}{
		"nothing":   {},
		"the same":  {have: Routing{Dead: []Route{unused}}, want: Routing{Dead: []Route{unused}}},
		"kernel's":  {have: Routing{Dead: []Route{kernels}}},
		"delegated": {want: Routing{Dead: []Route{unused}}, before: []Change{change(AddRoute, unused)}},
		"ended":     {have: Routing{Dead: []Route{unused}}, after: []Change{change(DeleteRoute, unused)}},
		"replaced": {have: Routing{Dead: []Route{other}}, want: Routing{Dead: []Route{unused}},
			before: []Change{change(AddRoute, unused)}},
		"renumbered": {have: Routing{Dead: []Route{unused}, Rules: []Rule{rule}},
			want:   Routing{Dead: []Route{nowhere("2001:db8:100::/56", metricUnused)}},
			before: []Change{change(AddRoute, nowhere("2001:db8:100::/56", metricUnused))},
			after:  []Change{ruled(DeleteRule), change(DeleteRoute, unused)}},
		"ruled": {want: Routing{Rules: []Rule{rule}}, before: []Change{ruled(AddRule)}},
		"ruled otherwise": {have: Routing{Rules: []Rule{rule}}, want: Routing{Rules: []Rule{later}},
			before: []Change{{Kind: AddRule, Link: "routing", Rule: later}}, after: []Change{ruled(DeleteRule)}},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := RoutingChanges(tt.have, tt.want)
			if !reflect.DeepEqual(before, tt.before) || !reflect.DeepEqual(after, tt.after) {
				t.Errorf("RoutingChanges(%v, %v) = %v, %v; want %v, %v", tt.have, tt.want, before, after, tt.before, tt.after)
			}
		})
	}
}

// TestOneRouteToASlot: the kernel has one route for a prefix, a table and a metric. Two that are wanted there would
// take the place of one another for ever.
func TestOneRouteToASlot(t *testing.T) {
	pfx := netip.MustParsePrefix
	p := &profiles.Profile{
		Links: []profiles.Link{
			{Name: "wan", Addresses: []netip.Prefix{pfx("203.0.113.1/24")}},
			{Name: "lan", Addresses: []netip.Prefix{pfx("10.0.1.1/24"), pfx("10.0.1.2/24"), pfx("fd00:1::1/64")},
				Routes: []profiles.Route{{To: pfx("10.1.0.0/16"), Via: netip.MustParseAddr("10.0.1.9"),
					Metric: metricLost}}},
		},
		Routes: []profiles.Route{{To: pfx("10.0.1.0/24"), Type: profiles.Blackhole, Metric: metricLost}},
	}
	got := map[slot]profiles.RouteType{}
	for _, r := range Compile(p).Routing.Dead {
		if other, ok := got[r.slot()]; ok {
			t.Errorf("%s has both %v and %v", r, other, r.Dead)
		}
		got[r.slot()] = r.Dead
	}
	want := map[slot]profiles.RouteType{}
	for dst, how := range map[string]profiles.RouteType{"203.0.113.0/24": profiles.Unreachable,
		"10.0.1.0/24": profiles.Blackhole, "fd00:1::/64": profiles.Unreachable} {
		want[slot{dst: pfx(dst), metric: metricLost}] = how
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("routes to nowhere are %v; want %v", got, want)
	}
}
