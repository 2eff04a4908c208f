package link

import (
	"slices"
	"testing"

	"rempart/profiles"
)

func trunkProfile() *profiles.Profile {
	return &profiles.Profile{Name: "fw", Links: []profiles.Link{
		{Name: "inner", VLAN: &profiles.VLAN{Parent: "outer", ID: 30, Protocol: profiles.Tag8021Q}},
		{Name: "outer", VLAN: &profiles.VLAN{Parent: "lag", ID: 20, Protocol: profiles.Tag8021AD}},
		{Name: "lag", Bond: &profiles.Bond{Members: []string{"p1", "p2"}, Mode: profiles.BondLACP, LACPRate: "fast"},
			MTU: 9000},
		{Name: "p1"}, {Name: "p2"},
		{Name: "br", Bridge: &profiles.Bridge{Members: []string{"p3"}}, MAC: "02:00:00:00:00:09"},
		{Name: "p3", TxQueue: 500, NoARP: true, Offloads: profiles.Offloads{TX: "off", GRO: "on"}},
		{Name: "mv", Macvlan: &profiles.Macvlan{Parent: "p4"}},
	}}
}

// state is what the kernel has: the NICs p1 to p3 by ifindex 1 to 3, and made interfaces in the order they are given.
func state(made ...Interface) (have []Interface, nics []Assignment) {
	for i, name := range []string{"p1", "p2", "p3"} {
		mac := "02:00:00:00:00:0" + name[1:]
		have = append(have, Interface{Index: i + 1, Name: name, Claim: name, MAC: mac})
		nics = append(nics, Assignment{Link: []int{3, 4, 6}[i], NIC: NIC{Index: i + 1, Name: name, MAC: mac}})
	}
	return append(have, made...), nics
}

func TestDevices(t *testing.T) {
	plan := Compile(trunkProfile())
	dev := func(name string) Device {
		for _, l := range plan.Links {
			if l.Name == name {
				return l.Device
			}
		}
		t.Fatalf("no link %s", name)
		return Device{}
	}
	lag := Interface{Index: 10, Name: "lag", Claim: "lag", Device: dev("lag")}
	outer := Interface{Index: 11, Name: "outer", Claim: "outer", Device: dev("outer"), Parent: 10}
	inner := Interface{Index: 12, Name: "inner", Claim: "inner", Device: dev("inner"), Parent: 11}
	br := Interface{Index: 13, Name: "br", Claim: "br", Device: dev("br")}
	makeAll := []string{"lag: make a bond", "outer: make a vlan on lag", "inner: make a vlan on outer",
		"br: make a bridge"}
	with := func(i Interface, edit func(*Interface)) Interface { edit(&i); return i }
	for name, c := range map[string]struct {
		have           []Interface
		remove, create []string
		made           int
	}{
		"nothing there":     {nil, nil, makeAll, 0},
		"all there":         {[]Interface{lag, outer, inner, br}, nil, nil, 4},
		"one level missing": {[]Interface{lag, br}, nil, makeAll[1:3], 2},
		"its claim lost":    {[]Interface{with(lag, func(i *Interface) { i.Claim = "" }), outer, inner, br}, nil, nil, 4},
		"renamed by a stranger": {[]Interface{with(lag, func(i *Interface) { i.Name = "evil" }), outer, inner, br}, nil, nil,
			4},
		"another mode": {[]Interface{with(lag, func(i *Interface) { i.Device.Mode = 1 }), outer, inner, br},
			[]string{"lag: remove it", "outer: remove it", "inner: remove it"}, makeAll[:3], 1},
		"on another parent": {[]Interface{lag, outer, with(inner, func(i *Interface) { i.Parent = 1 }), br},
			[]string{"inner: remove it"}, makeAll[2:3], 3},
		"no longer in the profile": {[]Interface{lag, outer, inner, br, {Index: 14, Name: "old", Claim: "old",
			Device: Device{Kind: KindDummy}}}, []string{"old: remove it"}, nil, 4},
		"somebody else's": {[]Interface{lag, outer, inner, br, {Index: 14, Name: "docker0",
			Device: Device{Kind: KindBridge}}}, nil, nil, 4},
		"a stranger's bridge has the name": {[]Interface{lag, outer, inner, with(br, func(i *Interface) {
			i.Claim, i.Device = "", Device{Kind: KindDummy}
		})}, []string{"br: remove it"}, makeAll[3:], 3},
		"a spare NIC has the name": {[]Interface{lag, outer, inner, {Index: 13, Name: "br", Up: true}},
			[]string{"br: down", "br: rename to spare13"}, makeAll[3:], 3},
	} {
		have, nics := state(c.have...)
		got := Devices(plan, have, nics)
		if r := texts(got.Remove); !slices.Equal(r, c.remove) {
			t.Errorf("%s: removed %q; want %q", name, r, c.remove)
		}
		if r := texts(got.Create); !slices.Equal(r, c.create) {
			t.Errorf("%s: made %q; want %q", name, r, c.create)
		}
		if len(got.Made) != c.made {
			t.Errorf("%s: found %v; want %d", name, got.Made, c.made)
		}
		waits := slices.ContainsFunc(got.Waiting, func(w Warning) bool { return w.Link == "mv" })
		if !waits {
			t.Errorf("%s: waiting %v; want mv among them, whose parent is missing", name, got.Waiting)
		}
	}
}

// TestMembers joins members in the way the kernel takes, and only once their bond is there.
func TestMembers(t *testing.T) {
	plan := Compile(trunkProfile())
	have, nics := state()
	for i := range have {
		have[i].Up, have[i].Values, have[i].Offloads = true, map[string]string{}, map[Offload]bool{"tx": true}
	}
	for i := range plan.Links {
		plan.Links[i].Sysctls = nil
	}
	find := func(changes []Change, index int) (out []string) {
		for _, c := range changes {
			if c.Index == index {
				out = append(out, c.String())
			}
		}
		return out
	}
	changes := Changes(have, Want(plan, nics, nil, Learnt{}, 0))
	if got := find(changes, 1); !slices.Equal(got, []string{"p1: down", "p1: full duplex", "p1: mtu 9000"}) {
		t.Errorf("without its bond p1: %q; want it down", got)
	}
	have[0].FullDuplex = true
	lag := Interface{Index: 10, Name: "lag", Claim: "lag", Device: plan.Links[2].Device, MTU: 9000}
	br := Interface{Index: 13, Name: "br", Claim: "br", Device: plan.Links[5].Device, MAC: "02:00:00:00:00:09",
		Bridging: &Bridging{STP: true, Delay: 1500}}
	have = append(have, lag, br)
	nics = append(nics, Assignment{2, NIC{Index: 10}, ByName}, Assignment{5, NIC{Index: 13}, ByName})
	want := Want(plan, nics, nil, Learnt{}, 0)
	changes = Changes(have, want)
	if got := find(changes, 1); !slices.Equal(got, []string{"p1: down", "p1: mtu 9000", "p1: member of interface 10",
		"p1: up"}) {
		t.Errorf("p1: %q; want it to join its bond while it is down", got)
	}
	if got := find(changes, 3); !slices.Equal(got, []string{"p3: txqueuelen 500", "p3: arp off", "p3: tx off",
		"p3: gro on",
		"p3: member of interface 13"}) {
		t.Errorf("p3: %q; want its settings, and to join its bridge as it is", got)
	}
	if got := find(changes, 13); !slices.Equal(got, []string{"br: stp false, forward delay 0, VLAN filtering false",
		"br: up"}) {
		t.Errorf("br: %q; want it without STP and without delay", got)
	}
	have[0].Master = 13 // a stranger moved it
	have[0].MTU = 9000
	if got := find(Changes(have, want), 1); !slices.Equal(got, []string{"p1: leave what it is a member of", "p1: down",
		"p1: member of interface 10", "p1: up"}) {
		t.Errorf("p1 in another's bridge: %q; want it back in its bond", got)
	}
}

// TestPrimary: a bond is told which member it prefers, once that is there, and a stranger's choice is taken back.
func TestPrimary(t *testing.T) {
	p := &profiles.Profile{Links: []profiles.Link{{Name: "p1"}, {Name: "p2"}, {Name: "lag", Bond: &profiles.Bond{
		Members: []string{"p1", "p2"}, Mode: profiles.BondActiveBackup, Primary: "p2", Miimon: 50}}}}
	plan := Compile(p)
	if d := plan.Links[2].Device; d.Mode != 1 || d.Miimon != 50 {
		t.Errorf("the bond is made as %+v; want active-backup that looks every 50 ms", d)
	}
	assigned := []Assignment{{0, NIC{Index: 1}, ByBus}, {2, NIC{Index: 3}, ByName}}
	for i, c := range []struct {
		have Interface
		more []Assignment
		want []string
	}{
		{Interface{Index: 3, Name: "lag"}, nil, nil},
		{Interface{Index: 3, Name: "lag"}, []Assignment{{1, NIC{Index: 2}, ByBus}},
			[]string{"lag: interface 2 before the others"}},
		{Interface{Index: 3, Name: "lag", Primary: 2}, []Assignment{{1, NIC{Index: 2}, ByBus}}, nil},
		{Interface{Index: 3, Name: "lag", Primary: 1}, nil, []string{"lag: no member before the others"}},
	} {
		var got []string
		c.have.Claim = "lag"
		for _, change := range Changes([]Interface{c.have}, Want(plan, append(assigned, c.more...), nil, Learnt{}, 0)) {
			if change.Kind == SetPrimary {
				got = append(got, change.String())
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("case %d: %q; want %q", i, got, c.want)
		}
	}
}

// TestPlanOfDevices: links that are made take no NIC, and members follow their bond.
func TestPlanOfDevices(t *testing.T) {
	plan := Compile(trunkProfile())
	assigned, warnings := Match(plan, []NIC{{Index: 1, Name: "p1", MAC: "a", Bus: "pci0/1"}, {Index: 2, MAC: "b",
		Bus: "pci0/2"}, {Index: 3, MAC: "c", Bus: "pci0/3"}})
	var got []string
	for _, a := range assigned {
		got = append(got, plan.Links[a.Link].Name)
	}
	if want := []string{"p1", "p2", "p3"}; !slices.Equal(got, want) || len(warnings) != 0 {
		t.Errorf("Match gives NICs to %v with warnings %v; want %v: links that are made take none", got, warnings, want)
	}
	if p := plan.Links[3]; p.Master != "lag" || p.MTU != 9000 {
		t.Errorf("p1 = %+v; want a member of lag with its MTU", p)
	}
	if br := plan.Links[5]; br.Own != "02:00:00:00:00:09" {
		t.Errorf("br = %+v; want the hardware address of the profile", br)
	}
}
