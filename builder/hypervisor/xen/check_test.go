package xen

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCheck makes a host in a folder, on which the guest could run, and takes one thing after the other away.
func TestCheck(t *testing.T) {
	g := example(PV, Direct, Whole)
	g.System, g.State, g.Identity = "/m/system.raw", "/m/state.raw", "/m/identity.raw"
	g.Data = []DataDisk{{Name: "logs", Path: "/m/logs.raw"}}
	needs := Needs{System: 4 << 20, State: 1 << 20, Kernel: "/m/vmlinuz"}
	able := string(kernelWith(t, note("Xen\x00", noteEntry, "12345678")))
	for name, c := range map[string]struct {
		change func(t *testing.T, root string)
		want   string
	}{
		"all is there": {func(*testing.T, string) {}, ""},
		"no volume":    {remove("m/system.raw"), "system disk: open"},
		"no state":     {remove("m/state.raw"), "state disk: open"},
		"no identity":  {remove("m/identity.raw"), "identity disk: open"},
		"too small":    {write("m/system.raw", "x"), "has 1 bytes; want 4194304 at least"},
		"small state":  {write("m/state.raw", "x"), "lvextend -L 1048576b"},
		"empty":        {write("m/identity.raw", ""), "identity disk /m/identity.raw has 0 bytes"},
		"qcow2":        {write("m/system.raw", qcow2Magic+"..."), "qcow2"},
		"no data":      {remove("m/logs.raw"), "data disk logs: open"},
		"empty data":   {write("m/logs.raw", ""), "data disk logs /m/logs.raw has 0 bytes; want 1 at least"},
		"qcow2 data":   {write("m/logs.raw", qcow2Magic+"..."), "logs.raw is a qcow2 image"},
		"a folder":     {folder("m/identity.raw"), "neither a block device nor a file"},
		"a pipe":       {pipe("m/state.raw"), "neither a block device nor a file"},
		"no kernel":    {remove("m/vmlinuz"), "kernel: stat"},
		"no initrd":    {remove("m/initrd"), "initrd: stat"},
		"kernel of PVH": {write("m/vmlinuz", string(kernelWith(t, note("Xen\x00", notePhysEntry, "1234")))),
			"does not support pv, Xen starts it as [hvm pvh] only"},
		"no image":     {write("m/vmlinuz", "text"), "not a kernel image"},
		"kernel pipe":  {pipe("m/vmlinuz"), "vmlinuz is no file"},
		"odd kernel":   {folder("m/vmlinuz"), "is no file"},
		"no bridge":    {remove("sys/class/net/brlan"), "no bridge brlan"},
		"not a bridge": {remove("sys/class/net/brlan/bridge"), "no bridge brlan"},
		"name taken":   {folder("sys/class/net/fw1dmz"), "an interface fw1dmz already"},
	} {
		root := t.TempDir()
		for _, dir := range []string{"brwan", "brlan", "brdmz"} {
			folder("sys/class/net/"+dir+"/bridge")(t, root)
		}
		for file, size := range map[string]int64{"m/system.raw": needs.System, "m/state.raw": needs.State,
			"m/identity.raw": 4096, "m/initrd": 1, "m/logs.raw": 1} {
			write(file, "")(t, root)
			if err := os.Truncate(filepath.Join(root, file), size); err != nil {
				t.Fatal(err)
			}
		}
		write("m/vmlinuz", able)(t, root)
		c.change(t, root)
		err := g.Check(root, needs)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: Check = %v; want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: Check = %v; want what is wrong told once", name, err)
		}
	}
	// All that is missing, at once.
	err := g.Check(t.TempDir(), needs)
	for _, want := range []string{"system disk", "state disk", "identity disk", "data disk logs", "kernel", "initrd",
		"brwan", "brdmz"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check of an empty machine = %v; want an error with %q", err, want)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func folder(name string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		remove(name)(t, root)
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func pipe(name string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		remove(name)(t, root)
		if err := unix.Mkfifo(filepath.Join(root, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func write(name, content string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
