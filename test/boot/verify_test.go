package boot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk/imagefile"
	"rempart/builder/guest/verify"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// honestSystem wants the master's system disk, which guests have run from, to be unchanged.
func honestSystem(t *testing.T, m *rig.Master) {
	t.Helper()
	for _, format := range hypervisor.Formats() {
		image, err := imagefile.Open(t.Context(), filepath.Join(m.Dir, "system."+string(format)), imagefile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := verify.CompareSystem(t.Context(), image, image.Size(), m.Manifest, nil)
		if err != nil || !s.IsClean() {
			t.Errorf("verify of the %s disk that guests ran from: %+v, %v; want nothing", format, s, err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	}
}

// plant does on a guest's state disk what somebody does who has broken in, and wants each thing named and nothing else.
func plant(t *testing.T, disk string) {
	t.Helper()
	dir := t.TempDir()
	elf, script, text := filepath.Join(dir, "elf"), filepath.Join(dir, "script"), filepath.Join(dir, "text")
	for name, content := range map[string]string{elf: "\x7fELF\x02\x01\x01 and so on", script: "#!/bin/sh\nid\n",
		text: "ssh-ed25519 AAAA mallory\n"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, words := range []string{
		// a set-user-id shell, a key, something for cron, a hidden folder with a program in it
		"write " + elf + " tmp/.X11", "sif tmp/.X11 mode 0104755",
		"mkdir root/.ssh", "write " + text + " root/.ssh/authorized_keys",
		"mkdir spool/cron", "write " + script + " spool/cron/root",
		"mkdir cache/...", "write " + elf + " cache/.../ld.so", "sif cache/.../ld.so mode 0100755",
		// a device of the system disk, a pipe, links to where a guest's programs read
		"mknod disk b 254 0", "mknod ctl p", "symlink lib/lists/bad /run/rempart",
		// a program in place of a list, and one that could do more than its user
		"write " + elf + " lib/lists/feed", "ea_set lib/rempart/seed security.capability x",
		// doors left open
		"sif home mode 040777", "sif log/rempart uid 0",
	} {
		debugfs(t, disk, words, true)
	}
	want := map[string]string{
		"tmp/.X11": "set-user-id", "root/.ssh": "nothing declares it", "spool/cron": "nothing declares it",
		"spool/cron/root": "a program", "cache/...": "nothing declares it", "cache/.../ld.so": "executable",
		"disk": "a device, 254:0", "ctl": "a pipe", "lib/lists/bad": "leads out",
		"lib/lists/feed": "a program", "lib/rempart/seed": "security.capability", "home": "it should be drwxr-xr-x",
		"log/rempart": "it should be of 914",
	}
	for _, s := range rig.Inspected(t, disk).Suspects {
		why := strings.Join(s.Why, "; ")
		if want[s.Path] == "" || !strings.Contains(why, want[s.Path]) {
			t.Errorf("verify suspects %s: %s; want %q", s.Path, why, want[s.Path])
		}
		delete(want, s.Path)
	}
	for path, why := range want {
		t.Errorf("verify does not suspect %s: %s", path, why)
	}
}

// boundary looks at a state disk as a power cut left it right after a flush, with its journal laid over it: it can be
// read whole, nothing on it is foreign, and no place that was there after an earlier flush is gone. A cut may fall
// between the making of a place and the giving of its owner.
func boundary(t *testing.T, disk io.ReaderAt, size int64, places map[string]bool) {
	t.Helper()
	s, err := verify.InspectState(t.Context(), disk, size, verify.DefaultRules(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Suspects {
		for _, why := range p.Why {
			if !strings.Contains(why, "it should be") {
				t.Errorf("after a flush, %s is suspect: %s", p.Path, why)
			}
		}
	}
	there := map[string]bool{}
	for _, e := range s.Listing.Entries {
		there[e.Path] = true
	}
	for _, p := range contract.StatePlaces() {
		if places[p.Path] && !there[p.Path] {
			t.Errorf("after a flush, %s is gone, which was there after an earlier one", fmt.Sprintf("/%s", p.Path))
		}
		places[p.Path] = places[p.Path] || there[p.Path]
	}
}
