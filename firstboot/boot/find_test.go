package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rempart/firstboot/block"
	"rempart/firstboot/contract"
)

// machine is a sysfs and a /dev in a temporary directory, with files for disks.
type machine struct{ sys, dev string }

func newMachine(t *testing.T) machine {
	m := machine{filepath.Join(t.TempDir(), "sys"), filepath.Join(t.TempDir(), "dev")}
	if err := os.MkdirAll(filepath.Join(m.sys, "block"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(m.dev, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

func lay(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// disk adds a disk; partitions are "number:start sector:sectors", as the kernel would show them.
func (m machine) disk(t *testing.T, name, serial string, content []byte, partitions ...string) {
	t.Helper()
	dir := filepath.Join(m.sys, "block", name)
	lay(t, filepath.Join(m.dev, name), string(content))
	lay(t, filepath.Join(dir, "size"), strconv.Itoa(len(content)/512)+"\n")
	lay(t, filepath.Join(dir, "ro"), "1\n")
	lay(t, filepath.Join(dir, "queue/logical_block_size"), "512\n")
	if serial != "" {
		lay(t, filepath.Join(dir, "serial"), serial)
	}
	for _, p := range partitions {
		f := strings.Split(p, ":")
		sub := filepath.Join(dir, name+f[0])
		lay(t, filepath.Join(sub, "partition"), f[0]+"\n")
		lay(t, filepath.Join(sub, "start"), f[1]+"\n")
		lay(t, filepath.Join(sub, "size"), f[2]+"\n")
	}
}

func run(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		path, err := exec.LookPath(dir + name)
		if err != nil {
			continue
		}
		out, err := exec.Command(path, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	t.Fatalf("%s is missing; install the package %s", name, pkg)
	return ""
}

// volume makes 2 MiB of data with its hash tree by veritysetup.
func volume(t *testing.T) ([]byte, contract.Verity) {
	t.Helper()
	const blocks = 512
	file := filepath.Join(t.TempDir(), "volume")
	data := make([]byte, blocks*contract.BlockSize)
	for i := range data {
		data[i] = byte(i * 7 >> 8)
	}
	lay(t, file, string(data))
	out := run(t, "cryptsetup-bin", "veritysetup", "format", "--salt=-", "--hash-offset="+strconv.Itoa(len(data)),
		file, file)
	v := contract.Verity{DataBlocks: blocks}
	for line := range strings.Lines(out) {
		if hash, ok := strings.CutPrefix(line, "Root hash:"); ok {
			if _, err := hex.Decode(v.RootHash[:], []byte(strings.TrimSpace(hash))); err != nil {
				t.Fatal(err)
			}
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for len(b)%512 != 0 {
		b = append(b, 0)
	}
	return b, v
}

// partitioned makes a disk with the volume in its second partition.
func partitioned(t *testing.T, content []byte, guid string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	lay(t, file, "")
	if err := os.Truncate(file, 6<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "gdisk", "sgdisk", "-n", "1:2048:+512K", "-n", "2:4096:+3M", "-u", "2:"+guid, file)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[4096*512:], content)
	return b
}

var asKernel = []string{"1:2048:1024", "2:4096:6144"}

func TestSearch(t *testing.T) {
	content, v := volume(t)
	disk := partitioned(t, content, v.PartitionGUID())

	t.Run("partition", func(t *testing.T) {
		m := newMachine(t)
		m.disk(t, "vda", "state", make([]byte, 1<<20))
		m.disk(t, "vdb", "", disk, asKernel...)
		got, err := search(m.sys, m.dev, v)
		if err != nil || got.node != filepath.Join(m.dev, "vdb2") || !got.disk.ReadOnly {
			t.Errorf("search = %+v, %v; want vdb2", got, err)
		}
	})
	t.Run("volume without a table", func(t *testing.T) {
		m := newMachine(t)
		m.disk(t, "xvda1", "", content)
		m.disk(t, "xvda2", "", make([]byte, 4<<20))
		got, err := search(m.sys, m.dev, v)
		if err != nil || got.node != filepath.Join(m.dev, "xvda1") {
			t.Errorf("search = %+v, %v; want xvda1", got, err)
		}
	})
	t.Run("volume of another root", func(t *testing.T) {
		m := newMachine(t)
		other := append([]byte(nil), content...)
		other[int(v.DataBlocks+1)*contract.BlockSize+5] ^= 1 // the top block of its hash tree
		m.disk(t, "xvda1", "", other)
		if got, err := search(m.sys, m.dev, v); !errors.Is(err, errNotFound) {
			t.Errorf("search = %+v, %v; want errNotFound", got, err)
		}
	})
	t.Run("none", func(t *testing.T) {
		m := newMachine(t)
		m.disk(t, "vda", "state", make([]byte, 1<<20))
		_, err := search(m.sys, m.dev, v)
		if !errors.Is(err, errNotFound) || !strings.Contains(err.Error(), `vda (1 MiB, serial "state"`) ||
			!strings.Contains(err.Error(), v.PartitionGUID()) {
			t.Errorf("search = %v; want it to say what there is and what was wanted", err)
		}
	})
	t.Run("two copies", func(t *testing.T) {
		m := newMachine(t)
		m.disk(t, "vda", "", disk, asKernel...)
		m.disk(t, "vdb", "", disk, asKernel...)
		if got, err := search(m.sys, m.dev, v); err == nil || errors.Is(err, errNotFound) {
			t.Errorf("search = %+v, %v; want it to refuse to guess", got, err)
		}
		m.disk(t, "vdb", contract.SystemSerial, disk, asKernel...)
		if got, err := search(m.sys, m.dev, v); err != nil || got.disk.Name != "vdb" {
			t.Errorf("search = %+v, %v; want the one the hypervisor calls the system disk", got, err)
		}
	})
	t.Run("partition too small", func(t *testing.T) {
		m := newMachine(t)
		m.disk(t, "vda", "", disk, asKernel...)
		large := v
		large.DataBlocks = 1 << 20
		if got, err := search(m.sys, m.dev, large); err == nil || !strings.Contains(err.Error(), "1048576 blocks") {
			t.Errorf("search = %+v, %v; want it to say the partition is too small", got, err)
		}
	})
}

func TestFindState(t *testing.T) {
	m := newMachine(t)
	m.disk(t, "vda", "system", make([]byte, 4096))
	disks := func() []block.Disk {
		d, err := block.Disks(m.sys)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	find := func() (block.Disk, error) {
		return block.Find(disks(), contract.StateSerial, contract.StateXenVdevs()...)
	}
	if d, err := find(); !errors.Is(err, block.ErrAbsent) {
		t.Errorf("Find = %+v, %v; want ErrAbsent", d, err)
	}
	m.disk(t, "dm-0", "state", make([]byte, 4096)) // not a hypervisor's disk
	m.disk(t, "vdc", "state", make([]byte, 4096))
	if d, err := find(); err != nil || d.Name != "vdc" {
		t.Errorf("Find = %+v, %v; want vdc", d, err)
	}
	m.disk(t, "vdd", "state", make([]byte, 4096))
	if d, err := find(); !errors.Is(err, block.ErrAmbiguous) {
		t.Errorf("Find = %+v, %v; want ErrAmbiguous", d, err)
	}
}

func TestEncodeIsJSON(t *testing.T) {
	want := contract.Boot{SystemDisk: "vda", RootDevice: "dm-0", ReadOnly: true, RootHash: "ab", Started: 1.5,
		Seconds: 2.25}
	var got contract.Boot
	if err := json.Unmarshal(encode(want), &got); err != nil || got != want {
		t.Errorf("encode(%+v) reads back as %+v, %v", want, got, err)
	}
}

func TestVerityTable(t *testing.T) {
	v := contract.Verity{DataBlocks: 10}
	got := table("/dev/vda2", v)
	want := "1 /dev/vda2 /dev/vda2 4096 4096 10 11 sha256 " + strings.Repeat("0", 64) + " - 1 panic_on_corruption"
	if got.Type != "verity" || got.Length != 80 || got.Params != want {
		t.Errorf("table = %+v; want %q", got, want)
	}
}
