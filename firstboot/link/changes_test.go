package link

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/link/dhcp4"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func static(dst, via string, metric uint32) Route {
	return Route{Dst: pfx(dst), Gateway: ip(via), Metric: metric, Protocol: ProtocolStatic}
}

func texts(changes []Change) []string {
	var s []string
	for _, c := range changes {
		s = append(s, c.String())
	}
	return s
}

func TestChanges(t *testing.T) {
	rp := Sysctl{Path: "net/ipv4/conf/*/rp_filter", Value: "1"}
	odd := Sysctl{Path: "net/ipv6/conf/*/oddity", Value: "1", Optional: true}
	want := Interface{Index: 2, Name: "wan", Claim: "wan", MTU: 1400, Up: true, Sysctls: []Sysctl{rp, odd},
		Addresses: []Address{{Prefix: pfx("192.0.2.1/24")}, {Prefix: pfx("fd00::1/64")}},
		Routes:    []Route{static("0.0.0.0/0", "192.0.2.254", 100)}}
	with := func(edit func(*Interface)) []Interface {
		h := want
		h.Addresses, h.Routes = slices.Clone(want.Addresses), slices.Clone(want.Routes)
		h.Values = map[string]string{rp.Path: "1"}
		edit(&h)
		return []Interface{h}
	}
	add := func(a ...Address) func(*Interface) {
		return func(h *Interface) { h.Addresses = append(h.Addresses, a...) }
	}
	route := func(r ...Route) func(*Interface) {
		return func(h *Interface) { h.Routes = append(h.Routes, r...) }
	}
	kernel := Route{Dst: pfx("192.0.2.0/24"), Source: ip("192.0.2.1"), Protocol: ProtocolKernel}
	for name, c := range map[string]struct {
		have []Interface
		want []string
	}{
		"as wanted": {with(func(*Interface) {}), nil},
		"fresh": {[]Interface{{Index: 2, Name: "eth0", MTU: 1500, Values: map[string]string{rp.Path: "0"}}}, []string{
			"eth0: rename to wan", `wan: claim as "wan"`, "wan: mtu 1400", "wan: sysctl net/ipv4/conf/wan/rp_filter=1",
			"wan: address 192.0.2.1/24", "wan: address fd00::1/64", "wan: up",
			"wan: route 0.0.0.0/0 via 192.0.2.254 metric 100",
		}},
		"down": {with(func(h *Interface) { h.Up = false }), []string{"wan: up",
			"wan: route 0.0.0.0/0 via 192.0.2.254 metric 100"}},
		"switch missing": {with(func(h *Interface) { h.Values = nil }),
			[]string{"wan: sysctl net/ipv4/conf/wan/rp_filter=1"}},
		"optional switch wrong": {with(func(h *Interface) { h.Values[odd.Path] = "0" }),
			[]string{"wan: sysctl net/ipv6/conf/wan/oddity=1"}},
		"foreign address":        {with(add(Address{Prefix: pfx("10.0.0.1/8")})), []string{"wan: remove address 10.0.0.1/8"}},
		"foreign IPv6 address":   {with(add(Address{Prefix: pfx("fd99::1/64")})), []string{"wan: remove address fd99::1/64"}},
		"link-local is kernel's": {with(add(Address{Prefix: pfx("fe80::1/64")})), nil},
		"kernel's routes":        {with(route(kernel)), nil},
		"other length of the same address": {with(func(h *Interface) { h.Addresses[0].Prefix = pfx("192.0.2.1/16") }),
			[]string{"wan: remove address 192.0.2.1/16", "wan: address 192.0.2.1/24"}},
		"moved within the subnet": {with(func(h *Interface) { h.Addresses[0].Prefix = pfx("192.0.2.9/24") }),
			[]string{"wan: address 192.0.2.1/24", "wan: remove address 192.0.2.9/24"}},
		"moved to another subnet": {with(func(h *Interface) {
			h.Addresses[0].Prefix = pfx("198.51.100.9/24")
			h.Routes[0].Gateway, h.Routes[0].Source = ip("198.51.100.1"), ip("198.51.100.9")
		}), []string{"wan: address 192.0.2.1/24", "wan: route 0.0.0.0/0 via 192.0.2.254 metric 100",
			"wan: remove address 198.51.100.9/24"}},
		"moved while it is down": {with(func(h *Interface) { h.Up, h.Addresses[0].Prefix = false, pfx("192.0.2.9/24") }),
			[]string{"wan: address 192.0.2.1/24", "wan: remove address 192.0.2.9/24", "wan: up",
				"wan: route 0.0.0.0/0 via 192.0.2.254 metric 100"}},
		"made mortal": {with(func(h *Interface) { h.Addresses[0].Valid = time.Hour }), []string{"wan: address 192.0.2.1/24"}},
		"other gateway is replaced, not removed": {with(func(h *Interface) { h.Routes[0].Gateway = ip("192.0.2.9") }),
			[]string{"wan: route 0.0.0.0/0 via 192.0.2.254 metric 100"}},
		"second gateway": {with(route(static("0.0.0.0/0", "192.0.2.9", 50))),
			[]string{"wan: remove route 0.0.0.0/0 via 192.0.2.9 metric 50"}},
		"foreign route": {with(route(static("10.0.0.0/8", "192.0.2.9", 0))),
			[]string{"wan: remove route 10.0.0.0/8 via 192.0.2.9 metric 0"}},
		"gone": {nil, nil},
		"somebody else": {append(with(func(*Interface) {}), Interface{Index: 9, Name: "br0",
			Addresses: []Address{{Prefix: pfx("10.0.0.1/8")}}}), nil},
	} {
		if got := texts(Changes(c.have, []Interface{want})); !slices.Equal(got, c.want) {
			t.Errorf("%s: Changes = %q; want %q", name, got, c.want)
		}
	}
	spare := Interface{Index: 3, Name: "eth1", Sysctls: spareSysctls()}
	have := Interface{Index: 3, Name: "eth1", Up: true, Addresses: []Address{{Prefix: pfx("10.0.0.1/8")}},
		Values: map[string]string{spareSysctls()[0].Path: "0"}}
	if got, want := texts(Changes([]Interface{have}, []Interface{spare})), []string{"eth1: down",
		"eth1: sysctl net/ipv6/conf/eth1/disable_ipv6=1", "eth1: remove address 10.0.0.1/8"}; !slices.Equal(got, want) {
		t.Errorf("a spare NIC: Changes = %q; want %q", got, want)
	}
}

// TestRenames carries the renames out on a model of the kernel that refuses what the kernel refuses.
func TestRenames(t *testing.T) {
	for name, c := range map[string]struct{ have, want []string }{ // by ifindex from 1; "" in want: not ours
		"free":                 {[]string{"eth0"}, []string{"lan0"}},
		"chain":                {[]string{"eth0", "lan0"}, []string{"lan0", "dmz0"}},
		"swap":                 {[]string{"a", "b"}, []string{"b", "a"}},
		"ring of three":        {[]string{"a", "b", "c"}, []string{"b", "c", "a"}},
		"two rings":            {[]string{"a", "b", "c", "d"}, []string{"b", "a", "d", "c"}},
		"held by a spare":      {[]string{"eth0", "lan0"}, []string{"lan0", ""}},
		"temporary name taken": {[]string{"a", "b", "spare2", "spare1"}, []string{"b", "a", "", ""}},
		"nothing to do":        {[]string{"a", "b"}, []string{"a", "b"}},
	} {
		for _, up := range []bool{false, true} {
			var have, want []Interface
			now, isUp := map[int]string{}, map[int]bool{}
			for i, n := range c.have {
				have = append(have, Interface{Index: i + 1, Name: n, Up: up})
				now[i+1], isUp[i+1] = n, up
				if c.want[i] != "" {
					want = append(want, Interface{Index: i + 1, Name: c.want[i], Up: true})
				}
			}
			for _, ch := range Changes(have, want) {
				switch ch.Kind {
				case SetDown:
					isUp[ch.Index] = false
				case SetUp:
					isUp[ch.Index] = true
				case SetName:
					for i, n := range now {
						if n == ch.Name {
							t.Errorf("%s: %s while %d has that name", name, ch, i)
						}
					}
					if isUp[ch.Index] || len(ch.Name) > 15 || ch.Link != now[ch.Index] {
						t.Errorf("%s: %s while up or with a wrong name", name, ch)
					}
					now[ch.Index] = ch.Name
				}
			}
			for i, n := range c.want {
				if n != "" && (now[i+1] != n || !isUp[i+1]) {
					t.Errorf("%s: in the end %d is %q, up %t; want %q", name, i+1, now[i+1], isUp[i+1], n)
				}
			}
		}
	}
}

func TestWantLease(t *testing.T) {
	plan := Plan{Links: []Link{{Name: "wan", DHCP: true}, {Name: "lan", MTU: 1500, DHCP: true}, {Name: "six",
		DHCP: true, Addresses: []netip.Prefix{pfx("fd00::1/64")}}}}
	lease := dhcp4.Lease{Address: pfx("198.51.100.50/24"), MAC: "m", MTU: 1000, Expires: 100 * time.Second,
		Routes: []dhcp4.Route{
			{Dst: pfx("0.0.0.0/0"), Gateway: ip("203.0.113.1")}, {Dst: pfx("192.0.2.0/24"), Gateway: ip("198.51.100.1")},
			{Dst: pfx("192.0.2.9/32")}}}
	assigned := []Assignment{{Link: 0, NIC: NIC{Index: 1, MAC: "m"}}, {Link: 1, NIC: NIC{Index: 2, MAC: "m"}}, {Link: 2,
		NIC: NIC{Index: 3, MAC: "m"}}}
	leases := map[string]dhcp4.Lease{"wan": lease, "lan": lease, "six": lease}
	got := Want(plan, assigned, nil, Learnt{Leases: leases}, 40*time.Second)
	if want := []Address{{Prefix: pfx("198.51.100.50/24"), Valid: time.Minute,
		Preferred: time.Minute}}; !slices.Equal(got[0].Addresses, want) {
		t.Errorf("addresses = %v; want %v", got[0].Addresses, want)
	}
	src := ip("198.51.100.50")
	if want := []Route{
		{Dst: pfx("0.0.0.0/0"), Gateway: ip("203.0.113.1"), OnLink: true, Source: src, Metric: 512, Protocol: ProtocolDHCP},
		{Dst: pfx("192.0.2.0/24"), Gateway: ip("198.51.100.1"), Source: src, Metric: 512, Protocol: ProtocolDHCP},
		{Dst: pfx("192.0.2.9/32"), Source: src, Metric: 512, Protocol: ProtocolDHCP},
	}; !slices.Equal(got[0].Routes, want) {
		t.Errorf("routes = %v; want %v", got[0].Routes, want)
	}
	if got[1].Routes[0].Metric == got[0].Routes[0].Metric {
		t.Error("two uplinks have default routes of one metric")
	}
	for i, want := range []int{1000, 1500, 0} { // taken, overruled by the profile, too small for IPv6
		if got[i].MTU != want {
			t.Errorf("MTU of %s = %d; want %d", got[i].Name, got[i].MTU, want)
		}
	}
	assigned[0].NIC.MAC = "n"
	if got := Want(plan, assigned, nil, Learnt{Leases: leases}, 40*time.Second); len(got[0].Addresses) != 0 {
		t.Errorf("another NIC was given the lease: %v", got[0].Addresses)
	}
	assigned[0].NIC.MAC = "m"
	if got := Want(plan, assigned, nil, Learnt{Leases: leases}, 100*time.Second); len(got[0].Addresses) != 0 {
		t.Errorf("at its end a lease still gives %v", got[0].Addresses)
	}
}

func TestClosing(t *testing.T) {
	for k := SetDown; k <= DeleteRoute; k++ {
		c := Change{Kind: k, Link: "x"}
		if want := k == SetName || k == SetClaim || k == SetSysctl || k == SetUp; c.Closing() != want {
			t.Errorf("Closing of %q = %t; want %t", c, c.Closing(), want)
		}
		if !strings.HasPrefix(c.String(), "x: ") {
			t.Errorf("kind %d reads %q", k, c)
		}
	}
}
