// Package sealed shows that whoever is root in a guest cannot write to its system disk, in no way to boot: the test
// binary is its own init and tries every path that Linux has to a disk. The same tries succeed on a disk that is
// attached writable on purpose, and `rempart verify` names all that they left there.
package sealed

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/builder/master"
	"rempart/builder/rootfs/tree"
	"rempart/test/rig"
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		rig.Inside(m, prepare)
	}
	code := m.Run()
	rig.Clean()
	os.Exit(code)
}

// memory of the guest in bytes: the test binary is unpacked into it.
const memory = 512 << 20

// Lines of the inside.
const (
	wrote   = "WROTE "
	refused = "REFUSED "
)

// placesVar names, on the kernel's command line, the offsets to write to.
const placesVar = "places"

// TestSystemDisk attaches the system disk as every way to boot has it.
func TestSystemDisk(t *testing.T) {
	if os.Getpid() == 1 {
		tryAll(t)
		return
	}
	m := rig.Build(t, "home-firewall")
	places, names := implants(t, m)
	initrd := m.InsideInitrd(t, ".", &tree.Tree{})
	for _, firmware := range hypervisor.Firmwares() {
		t.Run(string(firmware), func(t *testing.T) {
			system := copyOf(t, m)
			before := digest(t, system)
			text := boot(t, m, firmware, initrd, system, places, "")
			if strings.Contains(text, wrote) || strings.Count(text, refused) < 2*len(places) {
				t.Errorf("inside:\n%s\nwant every try refused", text)
			}
			if after := digest(t, system); after != before {
				t.Errorf("the system disk was %s and is %s", before, after)
			}
		})
	}
	t.Run("attached writable", func(t *testing.T) {
		system := copyOf(t, m)
		text := boot(t, m, hypervisor.Direct, initrd, system, places, ";/node-name=system,/s/read-only=on/read-only=off/g")
		for _, way := range ways() {
			if !way.takes && !strings.Contains(text, wrote+way.name) {
				t.Errorf("inside:\n%s\nwant the control to write by %s", text, way.name)
			}
		}
		if got := found(t, m, system); !slices.Equal(got, names) {
			t.Errorf("verify found %q; want %q", got, names)
		}
	})
}

// implants are where somebody would write who can, and what verify calls that: boot code, a gap, GRUB, its menu, the
// initramfs, a program of the root, and the slack.
func implants(t *testing.T, m *rig.Master) (places []string, names []string) {
	t.Helper()
	add := func(at int64, name string) {
		places = append(places, fmt.Sprint(at/sector*sector))
		names = append(names, name)
	}
	for _, r := range m.Manifest.Disk.Regions {
		switch r.Name {
		case "mbr", "gap 1", "partition bios", "slack", "backup header":
			add(r.Offset+r.Length/4, r.Name)
		}
	}
	for _, f := range slices.Concat(m.Manifest.Boot, m.Manifest.Root) {
		switch f.Path {
		case "/boot/initrd", "/boot/vmlinuz", "/usr/sbin/mke2fs", "/sbin/init", "/usr/sbin/init":
			if len(f.Extents) > 0 {
				add(f.Extents[0].Offset+f.Extents[0].Length/2, f.Path)
			}
		}
	}
	slices.Sort(names)
	return places, names
}

// sector is the unit of writes.
const sector = 512

// boot runs the inside in a guest, and returns what it said.
func boot(t *testing.T, m *rig.Master, firmware hypervisor.Firmware, initrd, system string, places []string,
	sed string) string {
	t.Helper()
	more := fmt.Sprintf("rdinit=/inside %s=%s", placesVar, strings.Join(places, ","))
	o := rig.Options{Firmware: firmware, Memory: memory, System: system, State: "none", Sed: m.InsideSed(initrd) + sed}
	if firmware.ReadsKernelFromHost() {
		o.Append = more
	} else {
		// The machine of a guest that boots from its disk, with another kernel than the disk's put before it.
		o.Sed += ";s/,bootindex=0//"
		o.More = fmt.Sprintf("-kernel %s -initrd %s -append '%s %s'", filepath.Join(m.Dir, master.KernelFile), initrd,
			m.Manifest.Cmdline, more)
	}
	text, good := m.Boot(t, o).InsideEnd()
	if !good {
		t.Errorf("inside:\n%s", text)
	}
	return text
}

func copyOf(t *testing.T, m *rig.Master) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "system.raw")
	out, err := exec.Command("cp", "--sparse=always", filepath.Join(m.Dir, master.RawFile), to).CombinedOutput()
	if err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return to
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// found is what `rempart verify` would say of a disk: regions, or files.
func found(t *testing.T, m *rig.Master, system string) (names []string) {
	t.Helper()
	disk, err := os.Open(system)
	own, errOwn := os.Open(filepath.Join(m.Dir, master.RawFile))
	if err := errors.Join(err, errOwn); err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	defer own.Close()
	s, err := verify.CompareSystem(t.Context(), disk, m.Manifest.Disk.Size, m.Manifest, own)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range s.Differences {
		if d.Path != "" {
			names = append(names, d.Path)
		} else {
			names = append(names, d.Region)
		}
	}
	slices.Sort(names)
	return names
}
