package disks

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"rempart/firstboot/block"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// machine is a root with a sysfs and device nodes that are files.
type machine struct{ root string }

// disk plugs a disk in and returns its node.
func (m machine) disk(t *testing.T, name, serial string, size int64, readOnly bool) string {
	t.Helper()
	ro := "0"
	if readOnly {
		ro = "1"
	}
	for file, text := range map[string]string{"size": strconv.FormatInt(size/block.SectorSize, 10), "serial": serial,
		"ro": ro} {
		path := filepath.Join(m.root, "sys/block", name, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	node := filepath.Join(m.root, "dev", name)
	if err := os.MkdirAll(filepath.Dir(node), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(node, size); err != nil {
		t.Fatal(err)
	}
	return node
}

func format(t *testing.T, node, label string) {
	t.Helper()
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", label, node).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs (apt package e2fsprogs): %v\n%s", err, out)
	}
}

const size = 32 << 20

func profile() *profiles.Profile {
	p := &profiles.Profile{}
	for _, name := range []string{"blank", "known", "ours", "swapped", "state", "luks", "empty", "ro", "absent", "twice"} {
		p.Disks = append(p.Disks, profiles.Disk{Name: name, Mount: profiles.DisksDir + "/" + name,
			ReadOnly: name == "empty"})
	}
	return p
}

// TestRun: blank disks are formatted, ext4 is taken whoever made it, and nothing else is touched, not even what nobody
// declared.
func TestRun(t *testing.T) {
	m, p := machine{t.TempDir()}, profile()
	nodes := map[string]string{}
	for i, d := range p.Disks {
		if d.Name != "absent" {
			nodes[d.Name] = m.disk(t, "vd"+string(rune('c'+i)), contract.DataSerial(d.Name), size, d.Name == "ro")
		}
	}
	nodes["undeclared"] = m.disk(t, "vdz", contract.DataSerial("undeclared"), size, false)
	m.disk(t, "vdy", contract.DataSerial("twice"), size, false)
	format(t, nodes["known"], "somebody's")
	format(t, nodes["ours"], "ours")
	format(t, nodes["swapped"], "known")
	format(t, nodes["state"], contract.StateLabel)
	if err := os.WriteFile(nodes["luks"], append([]byte("LUKS\xba\xbe"), make([]byte, size-6)...), 0o600); err != nil {
		t.Fatal(err)
	}
	before := map[string][]byte{}
	for name, node := range nodes {
		b, err := os.ReadFile(node)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = b
	}
	var told []child.DiskResult
	env := &child.Env{Root: m.root, Profile: p, Log: slog.New(slog.DiscardHandler), Tell: func(key string, value any) {
		if key != child.KeyDisks {
			t.Errorf("it told %s", key)
		}
		told = value.([]child.DiskResult)
	}}
	if err := run(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct{ action, said string }{
		{state.Formatted, ""},
		{state.Mounted, ""},
		{state.Mounted, ""},
		{state.ForeignDisk, nodes["swapped"] + ` carries ext2/3/4 with the label "known", as data disk known has` +
			" and was left alone; attach the right one"},
		{state.ForeignDisk, "as the state disk of a guest has and was left alone"},
		{state.ForeignDisk, "carries LUKS and was left alone; attach a blank disk"},
		{state.FailedDisk, "is blank, and read-only"},
		{state.FailedDisk, "is attached read-only; attach it writable"},
		{state.Absent, `none with serial "data-absent" and no Xen device xvdp`},
		{state.FailedDisk, "several disks carry that name"},
	} {
		if i >= len(told) {
			t.Fatalf("told of %d disks; want %d", len(told), i+1)
		}
		got := told[i]
		if got.Name != p.Disks[i].Name || got.Action != want.action || !strings.Contains(got.Error, want.said) ||
			(want.said == "") != (got.Error == "") {
			t.Errorf("of %s it told %+v; want %s, %q", p.Disks[i].Name, got, want.action, want.said)
		}
	}
	for name, node := range nodes {
		now, err := os.ReadFile(node)
		if err != nil {
			t.Fatal(err)
		}
		if same := bytes.Equal(now, before[name]); same != (name != "blank") {
			t.Errorf("%s is as it was: %v", name, same)
		}
	}
	out, err := exec.Command("/sbin/dumpe2fs", "-h", nodes["blank"]).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "volume name:   blank\n") {
		t.Errorf("dumpe2fs of the formatted disk: %v\n%s\nwant its name for a label", err, out)
	}
}

// TestXenPlaces: under Xen a disk is what is at its place in the profile.
func TestXenPlaces(t *testing.T) {
	m := machine{t.TempDir()}
	p := &profiles.Profile{Disks: []profiles.Disk{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
	for _, name := range []string{"xvda", "xvdb", "xvdc", "xvdh", "xvdj"} {
		m.disk(t, name, "", size, false)
	}
	var got []string
	for i := range p.Disks {
		d, err := find(m.root, p, i)
		if err != nil {
			d.Name = "none"
		}
		got = append(got, d.Name)
	}
	if want := []string{"xvdh", "none", "xvdj"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the disks are %q; want %q", got, want)
	}
	if got := contract.DataXenVdev(profiles.MaxDisks - 1); got != "xvdm" {
		t.Errorf("the last data disk is %s; want xvdm, of those with 16 partitions", got)
	}
}
