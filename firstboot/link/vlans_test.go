package link

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"

	"rempart/profiles"
)

func sortingProfile() *profiles.Profile {
	return &profiles.Profile{Name: "fw", Links: []profiles.Link{
		{Name: "br", Bridge: &profiles.Bridge{Members: []string{"p1", "p2"}, Ports: []profiles.BridgePort{
			{Link: "p1", PVID: 10, Untagged: []profiles.VLANRange{{First: 10, Last: 10}}},
			{Link: "p2", Tagged: []profiles.VLANRange{{First: 20, Last: 30}, {First: 10, Last: 19}, {First: 4094, Last: 4094}}},
			{Link: "br", PVID: 10, Tagged: []profiles.VLANRange{{First: 10, Last: 10}}},
		}}},
		{Name: "p1"}, {Name: "p2"},
		{Name: "v20", VLAN: &profiles.VLAN{Parent: "br", ID: 20, Protocol: profiles.Tag8021Q}},
		{Name: "plain", Bridge: &profiles.Bridge{Members: []string{"p3"}}},
		{Name: "p3"},
	}}
}

func TestPortVLANs(t *testing.T) {
	for i, want := range []string{"10 pvid, 20", "10 pvid untagged", "10-30, 4094", "", "", ""} {
		l := Compile(sortingProfile()).Links[i]
		if got := vlanText(l.VLANs); got != want || l.Filters != (l.Name == "br") {
			t.Errorf("%s takes part in %q, filters %t; want %q, and br alone to filter", l.Name, got, l.Filters, want)
		}
	}
}

func TestVLANChanges(t *testing.T) {
	every := []VLANs{{First: 1, Last: maxVLAN}}
	for name, c := range map[string]struct {
		have, want []VLANs
		joins      bool
		changes    []string
	}{
		"the same": {[]VLANs{{First: 10, Last: 20}}, []VLANs{{First: 10, Last: 20}}, false, nil},
		"none":     {nil, nil, false, nil},
		"new":      {nil, every, false, []string{"p: VLANs 1-4094"}},
		"too many": {every, []VLANs{{First: 10, Last: 20}}, false, []string{"p: remove VLANs 1-9, 21-4094"}},
		"left by a master": {every, []VLANs{{First: 10, Last: 20}}, true,
			[]string{"p: member of interface 7", "p: VLANs 10-20"}},
		"another way out": {[]VLANs{{First: 10, Last: 20}}, []VLANs{{First: 10, Last: 14},
			{First: 15, Last: 15, Untagged: true}, {First: 16, Last: 20}}, false, []string{"p: VLANs 15 untagged"}},
		"the PVID moves": {[]VLANs{{First: 10, Last: 10, PVID: true, Untagged: true}, {First: 11, Last: 11}},
			[]VLANs{{First: 10, Last: 10}, {First: 11, Last: 11, PVID: true}}, false, []string{"p: VLANs 10, 11 pvid"}},
		"the PVID goes": {[]VLANs{{First: 9, Last: 9}, {First: 10, Last: 10, PVID: true, Untagged: true}}, nil, false,
			[]string{"p: remove VLANs 9-10"}},
	} {
		have := Interface{Index: 2, Name: "p", Claim: "p", VLANs: c.have, Master: 7}
		if c.joins {
			have.Master = 0
		}
		want := Interface{Index: 2, Name: "p", Claim: "p", VLANs: c.want, Master: 7}
		if got := texts(Changes([]Interface{have}, []Interface{want})); !slices.Equal(got, c.changes) {
			t.Errorf("%s: %q; want %q", name, got, c.changes)
		}
	}
}

// TestPortsChangePlaces: two ports that change their VLANs, or their bridges, are never together in one on the way.
func TestPortsChangePlaces(t *testing.T) {
	port := func(index int, name string, master, vlan int) Interface {
		i := Interface{Index: index, Name: name, Claim: name, Master: master, Up: true}
		if vlan > 0 {
			i.VLANs = []VLANs{{First: vlan, Last: vlan, PVID: true, Untagged: true}}
		}
		return i
	}
	for name, c := range map[string]struct {
		have, want []Interface
		changes    []string
	}{
		"VLANs": {[]Interface{port(2, "p", 7, 10), port(3, "q", 7, 20)},
			[]Interface{port(2, "p", 7, 20), port(3, "q", 7, 10)},
			[]string{"p: remove VLANs 10", "q: remove VLANs 20", "p: VLANs 20 pvid untagged", "q: VLANs 10 pvid untagged"}},
		"bridges": {[]Interface{port(2, "p", 7, 0), port(3, "q", 8, 0)}, []Interface{port(2, "p", 8, 0), port(3, "q", 7, 0)},
			[]string{"p: leave what it is a member of", "q: leave what it is a member of", "p: member of interface 8",
				"q: member of interface 7"}},
		"one bridge is left": {[]Interface{port(2, "p", 7, 10), port(3, "q", 8, 10)}, []Interface{port(2, "p", 8, 10),
			port(3, "q", 0, 0)}, []string{"p: leave what it is a member of", "q: leave what it is a member of",
			"p: member of interface 8", "p: VLANs 10 pvid untagged"}},
	} {
		if got := texts(Changes(c.have, c.want)); !slices.Equal(got, c.changes) {
			t.Errorf("%s: %q; want %q", name, got, c.changes)
		}
	}
}

// TestPortWithoutBridge: a port whose bridge is not made yet cannot be in a VLAN.
func TestPortWithoutBridge(t *testing.T) {
	have := Interface{Index: 2, Name: "p", Claim: "p"}
	want := Interface{Index: 2, Name: "p", Claim: "p", VLANs: []VLANs{{First: 10, Last: 20}}}
	if got := texts(Changes([]Interface{have}, []Interface{want})); len(got) != 0 {
		t.Errorf("%q; want nothing until it can join", got)
	}
}

// TestBridgeStaysClosed: a bridge that does not take its VLAN filter is not brought up, nor a port that keeps a VLAN.
func TestBridgeStaysClosed(t *testing.T) {
	for _, kind := range []Kind{SetBridging, DeleteVLANs} {
		if !(Change{Kind: kind}).Closing() {
			t.Errorf("a change of kind %d that fails does not close its link", kind)
		}
	}
}

// FuzzVLANs reads what the kernel may say of VLANs.
func FuzzVLANs(f *testing.F) {
	entry := func(attrs ...[]byte) []byte {
		a := nl.NewRtAttr(vlanEntry, nil)
		for i, b := range attrs {
			a.AddRtAttr(i+1, b)
		}
		return a.Serialize()
	}
	for _, seed := range [][]byte{nil, entry([]byte{6, 0, 10, 0}), entry([]byte{0, 0, 10, 0}, []byte{20, 0}),
		entry([]byte{0, 0, 10, 0}, []byte{9, 0}), entry([]byte{0, 0}), {1, 2, 3}} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseVLANs(b)
		for _, v := range list {
			if err != nil || v.First < 1 || v.Last < v.First || v.Last > maxVLAN {
				t.Errorf("parseVLANs(%x) = %v, %v", b, list, err)
			}
		}
	})
}
