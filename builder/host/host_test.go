package host

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// example is a host with a bond of four, an admin bridge, and bridges for guests alone.
func example() Host {
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0, 0, last} }
	return Host{
		NICs: []NIC{{"ethadm1", mac(1)}, {"ethlan1", mac(2)}, {"ethlan2", mac(3)}, {"ethlan3", mac(4)}, {"ethlan4", mac(5)},
			{"ethwan1", mac(6)}, {"ethext1", mac(7)}},
		Bonds: []Bond{{"bond0", []string{"ethlan1", "ethlan2", "ethlan3", "ethlan4"}}},
		Bridges: []Bridge{
			{Name: "bradm", Ports: []string{"ethadm1"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24"),
				netip.MustParsePrefix("fd00:a::2/64")}, Gateway: netip.MustParseAddr("10.0.0.1")},
			{Name: "brlan", Ports: []string{"bond0"}},
			{Name: "brwan", Ports: []string{"ethwan1"}},
			{Name: "brsrv"},
		},
		Emergency: Port{"ethext1", netip.MustParsePrefix("192.168.250.1/24")},
		MTU:       9000,
	}
}

func TestFilesGolden(t *testing.T) {
	small := Host{Bridges: []Bridge{{Name: "br0", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"),
		netip.MustParsePrefix("fd00:b::1/64")}}}}
	for name, h := range map[string]Host{"many": example(), "small": small} {
		files, err := Files(h)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join("testdata", name)
		var want []string
		if *update {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range files {
			file := filepath.Join(dir, f.Path)
			want = append(want, file)
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, f.Content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != string(f.Content) {
				t.Errorf("%s: %s =\n%s\nwant (-update after a look):\n%s", name, f.Path, f.Content, b)
			}
		}
		err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && len(want) > 0 && !strings.Contains(strings.Join(want, "\n")+"\n", path+"\n") {
				t.Errorf("%s is not written any more", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestValidate: everything wrong is said at once, and each thing that can be wrong is found.
func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *Host)
		want   string
	}{
		"no bridge":        {func(h *Host) { h.Bridges = nil }, "no bridge"},
		"nobody gets in":   {func(h *Host) { h.Bridges, h.Emergency = h.Bridges[1:], Port{} }, "nobody could administer"},
		"long name":        {func(h *Host) { h.Bridges[1].Name = "sixteen-bytes-xx" }, "1 to 15"},
		"odd name":         {func(h *Host) { h.Bridges[1].Name = "br lan\nup rm" }, "letters, digits"},
		"an option":        {func(h *Host) { h.Bridges[1].Name = "-x" }, "letters, digits"},
		"odd port":         {func(h *Host) { h.Bridges[1].Ports = []string{"a/b"} }, "port of bridge brlan"},
		"same name":        {func(h *Host) { h.Bridges[1].Name = "bradm" }, "of that name"},
		"bond and bridge":  {func(h *Host) { h.Bonds[0].Name = "brlan" }, "of that name"},
		"a NIC twice":      {func(h *Host) { h.Bridges[2].Ports = []string{"ethlan1"} }, "of bond bond0 and of bridge brwan"},
		"bridge in one":    {func(h *Host) { h.Bridges[2].Ports = []string{"brlan"} }, "is a bridge itself"},
		"earlier bridge":   {func(h *Host) { h.Bridges[0].Ports = []string{"brlan"} }, "is a bridge itself"},
		"its own port":     {func(h *Host) { h.Bridges[3].Ports = []string{"brsrv"} }, "is a bridge itself"},
		"in a bond":        {func(h *Host) { h.Bonds[0].Members[0] = "brsrv" }, "bond bond0: brsrv is a bridge"},
		"bond in a bond":   {func(h *Host) { h.Bonds[0].Members[0] = "bond0" }, "bond bond0: bond0 is a bond"},
		"emergency bridge": {func(h *Host) { h.Emergency.NIC = "brsrv" }, "the emergency port: brsrv is a bridge"},
		"nothing": {func(h *Host) {
			h.Emergency.Address = netip.MustParsePrefix("0.0.0.0/0")
		}, "no address"},
		"bond of one": {func(h *Host) { h.Bonds[0].Members = h.Bonds[0].Members[:1] }, "1 members"},
		"same MAC":    {func(h *Host) { h.NICs[1].MAC = h.NICs[0].MAC }, "same MAC"},
		"no MAC":      {func(h *Host) { h.NICs[1].MAC = nil }, "unicast MAC"},
		"group MAC":   {func(h *Host) { h.NICs[1].MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, "unicast MAC"},
		"multicast": {func(h *Host) {
			h.Bridges[0].Addresses = []netip.Prefix{netip.MustParsePrefix("ff02::1/64")}
		}, "no address"},
		"far gateway":    {func(h *Host) { h.Bridges[0].Gateway = netip.MustParseAddr("192.0.2.1") }, "in no network"},
		"own gateway":    {func(h *Host) { h.Bridges[0].Gateway = netip.MustParseAddr("10.0.0.2") }, "in no network"},
		"MTU":            {func(h *Host) { h.MTU = 600 }, "MTU 600"},
		"no emergency":   {func(h *Host) { h.Emergency.Address = netip.Prefix{} }, "no address"},
		"emergency used": {func(h *Host) { h.Emergency.NIC = "ethadm1" }, "part of bridge bradm and of the emergency port"},
	} {
		h := example()
		c.change(&h)
		if _, err := Files(h); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Files = %v; want an error with %q", name, err, c.want)
		}
	}
	h := example()
	h.MTU, h.Bridges[1].Name, h.NICs[1].MAC = 1, "", nil
	_, err := Files(h)
	for _, want := range []string{"MTU 1", `bridge ""`, "NIC ethlan1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Files = %v; want all of what is wrong, %q too", err, want)
		}
	}
}
