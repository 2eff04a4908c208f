package state

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestGrow grows a real filesystem while it is mounted, twice, with data on it.
func TestGrow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: mounting needs root")
	}
	const size = 64 << 20
	file := image(t, size)
	if r := tools(t).Prepare(context.Background(), file, size); r.Action != Formatted {
		t.Fatalf("Prepare = %+v", r)
	}
	dir := t.TempDir()
	last := int64(0)
	for _, now := range []int64{4 * size, 40 * size} {
		if err := os.Truncate(file, now); err != nil {
			t.Fatal(err)
		}
		r := tools(t).Prepare(context.Background(), file, now)
		if r.Action != Mounted || r.Bytes == 0 {
			t.Fatalf("Prepare of a disk of %d bytes = %+v; want it to be grown", now, r)
		}
		if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop", file, dir).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, NOT PASSED: this machine cannot mount a file: %v: %s", err, out)
		}
		grown, err := Grow(dir, r.Bytes)
		if errors.Is(err, unix.EPERM) {
			run1(t, "umount", dir)
			t.Skip("SKIPPED, NOT PASSED: this root lacks CAP_SYS_RESOURCE, which growing a mounted filesystem needs")
		}
		if !grown || err != nil {
			t.Errorf("Grow(%d) = %v, %v; want it grown", r.Bytes, grown, err)
		}
		if again, err := Grow(dir, r.Bytes); again || err != nil {
			t.Errorf("Grow(%d) again = %v, %v; want nothing to do", r.Bytes, again, err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			t.Error(err)
		}
		if bytes := int64(fs.Blocks) * fs.Bsize; bytes <= last || bytes < now*8/10 {
			t.Errorf("after Grow to %d the filesystem has %d bytes", r.Bytes, bytes)
		} else {
			last = bytes
		}
		if err := os.WriteFile(filepath.Join(dir, "kept"), make([]byte, 1<<20), 0o600); err != nil {
			t.Error(err)
		}
		run1(t, "umount", dir)
		run1(t, tool(t, "e2fsck", "e2fsprogs"), "-fn", file)
	}
}
