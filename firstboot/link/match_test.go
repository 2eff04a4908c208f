package link

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/profiles"
)

func TestCompareBus(t *testing.T) {
	// Each list is in order.
	for _, list := range [][]string{
		{"pci0000:00/0000:00:03.0/virtio9", "pci0000:00/0000:00:0a.0/virtio1", "pci0000:00/0000:00:10.0/virtio0"},
		{"pci0000:00/0000:00:02.0/0000:01:00.0/virtio7", "pci0000:00/0000:00:02.1/0000:02:00.0/virtio3",
			"pci0000:00/0000:00:1c.0/0000:10:00.0"},
		{"pci0000:00/0000:00:1f.0", "pci0000:80/0000:80:01.0", "pci0001:00/0001:00:00.0", "pci10000:00/10000:00:00.0"},
		{"vif-0", "vif-2", "vif-9", "vif-10", "vif-19"},
		{"platform/virtio-mmio.0/virtio2", "platform/virtio-mmio.9/virtio1", "platform/virtio-mmio.10/virtio0"},
		{"a", "a/b", "a1", "a02", "a10", "b"},
		{"vif-3", ""}, // no bus at all comes last
	} {
		for i, a := range list {
			for j, b := range list {
				got := CompareBus(NIC{Bus: a}, NIC{Bus: b})
				if (got < 0) != (i < j) || (got == 0) != (i == j) {
					t.Errorf("CompareBus(%q, %q) = %d; want the sign of %d", a, b, got, i-j)
				}
			}
		}
	}
	if CompareBus(NIC{Bus: "x", Port: 0}, NIC{Bus: "x", Port: 1}) >= 0 {
		t.Error("two ports of one device are not in order")
	}
}

func FuzzCompareBus(f *testing.F) {
	f.Add("pci0000:00/0000:00:0a.0", "vif-10", "virtio9")
	f.Add("", "0", "00")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		x, y, z := NIC{Bus: a}, NIC{Bus: b}, NIC{Bus: c}
		sign := func(n int) int { return max(-1, min(1, n)) }
		if sign(CompareBus(x, y)) != -sign(CompareBus(y, x)) || CompareBus(x, x) != 0 {
			t.Errorf("CompareBus(%q, %q) is no order", a, b)
		}
		if CompareBus(x, y) <= 0 && CompareBus(y, z) <= 0 && CompareBus(x, z) > 0 {
			t.Errorf("CompareBus is no order on %q, %q, %q", a, b, c)
		}
	})
}

func TestMatch(t *testing.T) {
	plan := func(macs ...string) Plan {
		var p Plan
		for i, m := range macs {
			p.Links = append(p.Links, Link{Name: string(rune('a' + i)), MAC: m})
		}
		return p
	}
	nic := func(index int, bus, mac string) NIC {
		return NIC{Index: index, Name: "eth" + string(rune('0'+index)), Bus: bus, MAC: mac}
	}
	with := func(matches ...profiles.NICMatch) Plan {
		var p Plan
		for i, m := range matches {
			p.Links = append(p.Links, Link{Name: string(rune('a' + i)), Match: m})
		}
		return p
	}
	derived := func(macs ...string) Plan {
		p := plan(make([]string, len(macs))...)
		for i, m := range macs {
			p.Links[i].Derived = m
		}
		return p
	}
	driven := func(n NIC, driver string) NIC { n.Driver = driver; return n }
	two := 2
	claimed := func(n NIC, by string) NIC { n.Claim = by; return n }
	for name, c := range map[string]struct {
		plan  Plan
		nics  []NIC
		want  string // link=ifindex
		warns []string
	}{
		"bus order, not ifindex": {plan("", "", ""), []NIC{nic(1, "vif-10", ""), nic(2, "vif-9", ""), nic(3, "vif-2", "")},
			"a=3 b=2 c=1", nil},
		"mac first": {plan("", "m1", ""), []NIC{nic(1, "vif-0", "m1"), nic(2, "vif-1", "m2"), nic(3, "vif-2", "m3")},
			"a=2 b=1 c=3", nil},
		"more NICs": {plan(""), []NIC{nic(1, "vif-0", "m1"), nic(2, "vif-1", "m2")}, "a=1",
			[]string{"NIC eth2 (m2) belongs to no link"}},
		"fewer NICs": {plan("", ""), []NIC{nic(1, "vif-0", "m1")}, "a=1", []string{"link b: no NIC is left"}},
		"none":       {plan("", "m1"), nil, "", []string{"link b: no NIC has the MAC m1", "link a: no NIC is left"}},
		"missing mac takes nobody's place": {plan("m9", ""), []NIC{nic(1, "vif-0", "m1"), nic(2, "vif-1", "m2")}, "b=1",
			[]string{"link a: no NIC has the MAC m9", "NIC eth2 (m2) belongs to no link"}},
		"the same mac twice stays closed": {plan("m1", ""), []NIC{nic(1, "vif-0", "m1"), nic(2, "vif-1", "m1"), nic(3,
			"vif-2", "m3")},
			"b=3", []string{"link a: 2 NICs have the MAC m1 (eth1, eth2)"}},
		"a macvlan above the NIC": {plan("m1"), []NIC{nic(1, "vif-0", "m1"), nic(2, "", "m1")}, "a=1", nil},
		"virtual by mac": {plan("m1", ""), []NIC{nic(1, "", "m1"), nic(2, "", "m2")}, "a=1",
			[]string{"link b: no NIC is left"}},
		"cannot be told apart": {plan("", ""), []NIC{nic(1, "vif-0", "m1"), nic(2, "vif-0", "m2")}, "",
			[]string{"link a: NICs eth1 and eth2 cannot be told apart", "link b: NICs", "NIC eth1", "NIC eth2"}},
		"claims stay when a NIC comes late behind": {plan("", ""),
			[]NIC{claimed(nic(1, "vif-0", ""), "a"), nic(2, "vif-1", "")}, "a=1 b=2", nil},
		"a late NIC before does not shift roles": {plan("", ""),
			[]NIC{claimed(nic(2, "vif-1", ""), "a"), nic(1, "vif-0", "")}, "a=2",
			[]string{"link b: NIC eth1 () came late and lies on the wrong side of link a", "NIC eth1"}},
		"a late NIC fills the gap it left": {plan("", "", ""),
			[]NIC{claimed(nic(1, "vif-0", ""), "a"), claimed(nic(3, "vif-2", ""), "c"), nic(2, "vif-1", "")}, "a=1 b=2 c=3",
			nil},
		"a claim does not beat a mac": {plan("m1", ""), []NIC{claimed(nic(1, "vif-0", "m1"), "b"), nic(2, "vif-1", "m2")},
			"a=1 b=2", nil},
		"a claim for a link that has a mac counts nothing": {plan("m1"), []NIC{claimed(nic(1, "vif-0", "m2"), "a")}, "",
			[]string{"link a: no NIC has the MAC m1", "NIC eth1"}},
		"by PCI address, function and bridge told apart": {
			with(profiles.NICMatch{PCI: "0000:01:00.0"}, profiles.NICMatch{PCI: "0000:00:03.0"}),
			[]NIC{nic(1, "pci0000:00/0000:00:03.0/virtio0", ""),
				nic(2, "pci0000:00/0000:00:02.0/0000:01:00.0/virtio7", "")}, "a=2 b=1", nil},
		"no NIC at a PCI address": {with(profiles.NICMatch{PCI: "0000:00:02.0"}, profiles.NICMatch{}),
			[]NIC{nic(1, "pci0000:00/0000:00:02.0/0000:01:00.0", "")}, "b=1",
			[]string{"link a: no NIC has the PCI address 0000:00:02.0"}},
		"two ports of one function": {with(profiles.NICMatch{PCI: "0000:00:03.0"}),
			[]NIC{nic(1, "pci0000:00/0000:00:03.0", ""), nic(2, "pci0000:00/0000:00:03.0", "")}, "",
			[]string{"link a: 2 NICs have the PCI address 0000:00:03.0"}},
		"by Xen index": {with(profiles.NICMatch{Xen: &two}, profiles.NICMatch{}), []NIC{nic(1, "vif-0", ""),
			nic(2, "vif-2", ""), nic(3, "vif-20", "")}, "a=2 b=1", []string{"NIC eth3"}},
		"by driver, when just one has it": {with(profiles.NICMatch{}, profiles.NICMatch{Driver: "e1000e"}),
			[]NIC{driven(nic(1, "vif-0", ""), "e1000e"), driven(nic(2, "vif-1", ""), "virtio-net")}, "a=2 b=1", nil},
		"a driver that two NICs have": {with(profiles.NICMatch{Driver: "e1000e"}, profiles.NICMatch{}),
			[]NIC{driven(nic(1, "vif-0", ""), "e1000e"), driven(nic(2, "vif-1", ""), "e1000e"), nic(3, "vif-2", "")}, "b=3",
			[]string{"link a: 2 NICs have the driver e1000e (eth1, eth2); it stays closed"}},
		"a second NIC of the driver that comes late": {with(profiles.NICMatch{Driver: "e1000e"}),
			[]NIC{claimed(driven(nic(1, "vif-0", ""), "e1000e"), "a"), driven(nic(2, "vif-1", ""), "e1000e")}, "a=1",
			[]string{"NIC eth2"}},
		"a claim of another driver's link": {with(profiles.NICMatch{Driver: "e1000e"}),
			[]NIC{claimed(driven(nic(1, "vif-0", ""), "igb"), "a")}, "", []string{"link a: no NIC has the driver e1000e",
				"NIC eth1"}},
		"a place takes the NIC before a driver does": {with(profiles.NICMatch{Driver: "igb"}, profiles.NICMatch{Xen: &two}),
			[]NIC{driven(nic(1, "vif-2", ""), "igb"), driven(nic(2, "vif-3", ""), "igb")}, "a=2 b=1", nil},
		"place and driver must both hold": {with(profiles.NICMatch{Xen: &two, Driver: "igb"}),
			[]NIC{driven(nic(1, "vif-2", ""), "virtio-net")}, "",
			[]string{"link a: no NIC has the Xen index 2 and driver igb", "NIC eth1"}},
		"by name, against bus order": {derived("d1", "d2", "d3"),
			[]NIC{nic(1, "vif-0", "d3"), nic(2, "vif-1", "d1"), nic(3, "vif-2", "d2")}, "a=2 b=3 c=1", nil},
		"a late NIC before the others, by name": {derived("d1", "d2"),
			[]NIC{claimed(nic(2, "vif-1", "d1"), "a"), nic(1, "vif-0", "d2")}, "a=2 b=1", nil},
		"other names: bus order": {derived("d1", "d2"), []NIC{nic(1, "vif-0", "m1"), nic(2, "vif-1", "m2")}, "a=1 b=2", nil},
		"some by name, the rest in bus order": {derived("d1", "d2", "d3"),
			[]NIC{nic(1, "vif-0", "d3"), nic(2, "vif-1", "m1"), nic(3, "vif-2", "m2")}, "a=2 b=3 c=1", nil},
		"two NICs of one name: bus order": {derived("d1", "d2"), []NIC{nic(1, "vif-0", "d2"), nic(2, "vif-1", "d2")},
			"a=1 b=2", nil},
	} {
		got, warns := Match(c.plan, c.nics)
		var s []string
		for _, a := range got {
			s = append(s, c.plan.Links[a.Link].Name+"="+string(rune('0'+a.NIC.Index)))
		}
		if strings.Join(s, " ") != c.want {
			t.Errorf("%s: Match = %q; want %q", name, s, c.want)
		}
		ok := len(warns) == len(c.warns)
		for i := range min(len(warns), len(c.warns)) {
			ok = ok && strings.HasPrefix(warns[i].Text, c.warns[i])
		}
		if !ok {
			t.Errorf("%s: warnings %v; want those beginning %q", name, warns, c.warns)
		}
		// The order the kernel lists NICs in means nothing.
		slices.Reverse(c.nics)
		if again, _ := Match(c.plan, c.nics); !slices.Equal(again, got) {
			t.Errorf("%s: listed the other way round, Match = %v; want %v", name, again, got)
		}
	}
}

func TestBusOf(t *testing.T) {
	root := t.TempDir()
	dev := filepath.Join(root, "sys/devices/pci0000:00/0000:00:03.0/virtio0")
	class := filepath.Join(root, "sys/class/net")
	for _, d := range []string{dev, filepath.Join(class, "eth0"), filepath.Join(class, "lo"), filepath.Join(class,
		"odd")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../../devices/pci0000:00/0000:00:03.0/virtio0", filepath.Join(class,
		"eth0/device")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root, filepath.Join(class, "odd/device")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(class, "eth0/dev_port"), []byte("3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	driver := filepath.Join(root, "sys/bus/virtio/drivers/virtio_net")
	if err := os.Symlink(driver, filepath.Join(dev, "driver")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"eth0": "virtio-net", "lo": "", "gone": ""} {
		if got := driverOf(root, name); got != want {
			t.Errorf("driverOf(%q) = %q; want %q", name, got, want)
		}
	}
	for name, want := range map[string]struct {
		bus  string
		port int
	}{"eth0": {"pci0000:00/0000:00:03.0/virtio0", 3}, "lo": {}, "odd": {}, "gone": {}} {
		if bus, port := busOf(root, name); bus != want.bus || port != want.port {
			t.Errorf("busOf(%q) = %q, %d; want %q, %d", name, bus, port, want.bus, want.port)
		}
	}
}
