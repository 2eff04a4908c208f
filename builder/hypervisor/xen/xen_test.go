package xen

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/hypervisor"
	"rempart/profiles"
)

var update = flag.Bool("update", false, "write the golden files")

// example is a firewall with three links.
func example(mode Mode, loader Loader, layout Layout) Guest {
	links := []string{"wan", "lan", "dmz"}
	g := Guest{Name: "fw-1", Mode: mode, Loader: loader, Layout: layout, Memory: 128<<20 - 1,
		System: "/dev/vg/fw-1_root", State: "/dev/vg/fw-1_var", Identity: "/srv/a,b/fw-1.identity.raw"}
	for i, mac := range hypervisor.MACs("fw-1", links) {
		g.VIFs = append(g.VIFs, VIF{NIC: hypervisor.NIC{Link: links[i], MAC: mac}, Bridge: "br" + links[i],
			Name: "fw1" + links[i]})
	}
	switch loader {
	case Direct:
		g.Kernel = &hypervisor.Kernel{Image: "/m/vmlinuz", Initrd: "/m/initrd", Cmdline: "console=hvc0 quiet a=b,c"}
	case GRUB:
		g.GRUB = DebianGRUB
	}
	return g
}

// Examples are the guests of the golden files; `xl` itself reads them in the tests of package test/xen.
func examples() map[string]Guest {
	all := map[string]Guest{}
	for _, mode := range Modes() {
		for _, layout := range Layouts() {
			all[fmt.Sprintf("%s-direct-%s", mode, layout)] = example(mode, Direct, layout)
		}
	}
	all["pv-pygrub"], all["pvh-grub"] = example(PV, Pygrub, Whole), example(PVH, GRUB, Whole)
	all["hvm-bios"] = example(HVM, BIOS, Whole)
	least := example(PV, Direct, Whole)
	least.State, least.Identity, least.VIFs, least.Kernel.Initrd = "", "", []VIF{{NIC: least.VIFs[0].NIC}}, ""
	all["least"] = least
	most := example(PVH, Direct, Whole)
	most.VCPUs, most.Weight, most.OnCrash, most.OnReboot, most.OnWatchdog = 2, 512, Preserve, Destroy, Destroy
	most.VIFs[1].Script = "vif-rempart"
	most.Data = dataDisks()
	all["most"] = most
	return all
}

func TestConfigGolden(t *testing.T) {
	for name, g := range examples() {
		got, err := Config(g)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := filepath.Join("testdata", name+".cfg")
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: Config =\n%s\nwant (-update after a look):\n%s", name, got, want)
		}
	}
}

func dataDisks() []DataDisk {
	return []DataDisk{{Name: "logs", Number: 0, Path: "/dev/vg/logs"},
		{Name: "tools", Number: 5, Path: "/srv/a,b/tools.raw", ReadOnly: true}}
}

// withData gives a guest data disks, and changes these.
func withData(change func(d []DataDisk)) func(g *Guest) {
	return func(g *Guest) {
		g.Data = dataDisks()
		change(g.Data)
	}
}

// TestValidate: everything wrong is said at once, and each thing that can be wrong is found.
func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(g *Guest)
		want   []string
	}{
		"no name":        {func(g *Guest) { g.Name = "" }, []string{"name"}},
		"a number":       {func(g *Guest) { g.Name = "17" }, []string{"number of a guest"}},
		"a path":         {func(g *Guest) { g.Name = "../fw" }, []string{"letters, digits"}},
		"long name":      {func(g *Guest) { g.Name = strings.Repeat("x", 64) }, []string{"1 to 63"}},
		"no memory":      {func(g *Guest) { g.Memory = 0 }, []string{"memory"}},
		"processors":     {func(g *Guest) { g.VCPUs = 65 }, []string{"virtual processors"}},
		"weight":         {func(g *Guest) { g.Weight = 65536 }, []string{"weight"}},
		"mode":           {func(g *Guest) { g.Mode = "kvm" }, []string{`mode "kvm"`, "pv, pvh, hvm"}},
		"loader":         {func(g *Guest) { g.Loader = "lilo" }, []string{"loader"}},
		"layout":         {func(g *Guest) { g.Layout = "" }, []string{"layout"}},
		"action":         {func(g *Guest) { g.OnCrash = "ignore" }, []string{"action on crash"}},
		"pygrub for PVH": {func(g *Guest) { *g = example(PVH, Pygrub, Whole) }, []string{"pygrub boots PV"}},
		"GRUB for PV":    {func(g *Guest) { *g = example(PV, GRUB, Whole) }, []string{"GRUB in the guest is for PVH"}},
		"GRUB for HVM":   {func(g *Guest) { *g = example(HVM, GRUB, Whole) }, []string{"GRUB in the guest is for PVH"}},
		"BIOS for PV":    {func(g *Guest) { *g = example(PV, BIOS, Whole) }, []string{"pygrub with pv"}},
		"BIOS for PVH":   {func(g *Guest) { *g = example(PVH, BIOS, Whole) }, []string{"a pvh guest has not"}},
		"BIOS of a root": {func(g *Guest) { *g = example(HVM, BIOS, Partitions) }, []string{"holds no kernel"}},
		"UEFI":           {func(g *Guest) { *g = example(HVM, uefi, Whole) }, []string{"loader uefi", "bios boots the same"}},
		"BIOS, a comma": {func(g *Guest) { *g = example(HVM, BIOS, Whole); g.System = "/m/a,readonly=off" },
			[]string{"a path without a comma"}},
		"pygrub of a root": {func(g *Guest) { *g = example(PV, Pygrub, Partitions) }, []string{"holds no kernel"}},
		"no kernel":        {func(g *Guest) { g.Kernel = nil }, []string{"both or neither"}},
		"no GRUB":          {func(g *Guest) { *g = example(PVH, GRUB, Whole); g.GRUB = "" }, []string{"both or neither"}},
		"no disk":          {func(g *Guest) { g.System = "" }, []string{"no system disk"}},
		"a quote":          {func(g *Guest) { g.State = `/dev/vg/x', 'vdev=xvdz` }, []string{"state disk", "quotes"}},
		"a newline":        {func(g *Guest) { g.Kernel.Cmdline = "a\nname = 1" }, []string{"command line"}},
		"same address":     {func(g *Guest) { g.VIFs[1].MAC = g.VIFs[0].MAC }, []string{"same MAC address"}},
		"a group address":  {func(g *Guest) { g.VIFs[1].MAC = []byte{1, 2, 3, 4, 5, 6} }, []string{"unicast"}},
		"long interface":   {func(g *Guest) { g.VIFs[1].Name = "sixteen-bytes-xx" }, []string{"interface", "1 to 15"}},
		"an odd bridge":    {func(g *Guest) { g.VIFs[1].Bridge = "br0,script=x" }, []string{"bridge"}},
		"an odd script":    {func(g *Guest) { g.VIFs[1].Script = "x,bridge=br0" }, []string{"script"}},
		"same interface":   {func(g *Guest) { g.VIFs[1].Name = g.VIFs[0].Name }, []string{"same interface"}},
		"too many NICs": {func(g *Guest) {
			for i := range 80 {
				g.VIFs = append(g.VIFs, VIF{NIC: hypervisor.NIC{Link: "more", MAC: []byte{2, 0, 0, 0, 1, byte(i)}}})
			}
		}, []string{"83 NICs", "enough for 57"}},
		"data disk's name":  {withData(func(d []DataDisk) { d[0].Name = "a\nkernel" }), []string{`data disk "a\nkernel"`}},
		"data disk nowhere": {withData(func(d []DataDisk) { d[1].Path = "" }), []string{"tools is nowhere"}},
		"data disk 6":       {withData(func(d []DataDisk) { d[1].Number = 6 }), []string{"tools is number 6; want 0 to 5"}},
		"data disk -1":      {withData(func(d []DataDisk) { d[0].Number = -1 }), []string{"logs is number -1; want 0 to 5"}},
		"same place":        {withData(func(d []DataDisk) { d[1].Number = 0 }), []string{"logs and tools are both number 0"}},
		"quoted data disk": {withData(func(d []DataDisk) { d[1].Path = "/a', 'vdev=xvdz" }),
			[]string{"data disk tools", "quotes"}},
		"several at once": {func(g *Guest) { g.Name, g.Memory, g.System = "", 0, "" },
			[]string{"name", "memory", "system disk"}},
	} {
		g := example(PV, Direct, Whole)
		c.change(&g)
		_, err := Config(g)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: Config = %v; want an error with %q", name, err, want)
			}
		}
	}
}

// TestTwentyLinks: the many NICs of a firewall fit, with a second processor too, and a few with as many as can be.
func TestTwentyLinks(t *testing.T) {
	// The drivers open four queues of a disk and eight of a NIC at most, however many processors there are.
	for vcpus, least := range map[int]int{0: 20, 1: 20, 2: 20, 8: 4, maxVCPUs: 4} {
		if got := MaxVIFs(vcpus, 3); got < least {
			t.Errorf("MaxVIFs(%d, 3) = %d; want %d at least", vcpus, got, least)
		}
	}
}

func TestParseList(t *testing.T) {
	b, err := os.ReadFile("testdata/list.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseList(b)
	if err != nil || len(got) != 1 {
		t.Fatalf("parseList = %+v, %v; want one guest, without dom0", got, err)
	}
	g := got[0]
	if g.ID != 3 || g.Name != "fw-1" || g.Mode != PV || g.Memory != 128<<20 || g.VCPUs != 1 || len(g.Disks) != 2 ||
		g.Disks[0].ReadWrite || !g.Disks[1].ReadWrite || g.Disks[0].Vdev != "xvda" || len(g.VIFs) != 2 ||
		g.VIFs[0].MAC != "00:16:3e:3b:87:06" || g.VIFs[0].Bridge != "brlan" || g.Kernel != "/m/vmlinuz" {
		t.Errorf("parseList = %+v", g)
	}
	for _, bad := range []string{"", "{}", "[1]", "no such guest"} {
		if got, err := parseList([]byte(bad)); err == nil {
			t.Errorf("parseList(%q) = %+v; want an error", bad, got)
		}
	}
}

// TestMasterOf: a guest's master is where its kernel is; where its disk has that nobody knows.
func TestMasterOf(t *testing.T) {
	for kernel, want := range map[string]string{"/m/fw-1/vmlinuz": "/m/fw-1", "/usr/lib/grub-xen/pvh.bin": "", "": ""} {
		run := func(context.Context, ...string) ([]byte, error) {
			return fmt.Appendf(nil, `[{"domid": 2, "config": {"c_info": {"name": "other"}, "b_info": {"kernel": "/o/vmlinuz"}}},
				{"domid": 3, "config": {"c_info": {"name": "fw-1"}, "b_info": {"kernel": %q}}}]`, kernel), nil
		}
		if got, err := (Toolstack{Run: run}).MasterOf(t.Context(), "fw-1"); err != nil || got != want {
			t.Errorf("MasterOf a guest whose kernel is %q = %q, %v; want %q", kernel, got, err, want)
		}
	}
}

func FuzzParseList(f *testing.F) {
	b, err := os.ReadFile("testdata/list.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, out []byte) {
		if domains, err := parseList(out); err == nil {
			for _, d := range domains {
				if d.ID == 0 {
					t.Errorf("dom0 is among %+v", domains)
				}
			}
		}
	})
}

// TestMaxXenNICs: what `rempart check` says of a profile is what is true of its guest, with all of its disks.
func TestMaxXenNICs(t *testing.T) {
	disks := len(example(PV, Direct, Whole).disks())
	if got := MaxVIFs(1, disks); disks != 3 || got != profiles.MaxXenNICs {
		t.Errorf("MaxVIFs(1, %d) = %d; want %d", disks, got, profiles.MaxXenNICs)
	}
}
