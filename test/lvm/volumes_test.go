package lvm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/builder/disk/ext4"
	"rempart/builder/guest/backup"
	"rempart/builder/guest/home"
	"rempart/builder/guest/lvm"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract"
	"rempart/firstboot/state"
)

// Disks of the tests.
var (
	current = storage.Disk{Kind: storage.State}
	next    = storage.Disk{Kind: storage.State, Place: storage.Next}
	aside   = storage.Disk{Kind: storage.State, Place: storage.Aside, Entry: "0001"}
)

// onVolumes goes through a guest's volumes, thick ones or those of a pool.
func onVolumes(t *testing.T, pool string) {
	ctx := t.Context()
	v := storage.Volumes{Files: storage.Files{Dir: t.TempDir()}, Group: group, Pool: pool, Guest: "box"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(v.Check(ctx, 5*extent+1, false))
	must(v.Make(ctx, current, 5*extent+1, nil))
	if got := content(t, v.Path(current)); len(got) != 6*extent || !isZero(got) {
		t.Fatalf("a volume for 5 extents and a byte has %d bytes, zero: %v; want 6 extents of zeros where %#x was", len(got),
			isZero(got), stale)
	}
	old := bytes.Repeat([]byte("old "), extent/4)
	write(t, v.Path(current), old, 2*extent)
	must(v.Clone(ctx, current, next))
	if !bytes.Equal(content(t, v.Path(next)), content(t, v.Path(current))) {
		t.Error("a clone differs from what it is of")
	}
	write(t, v.Path(next), []byte("new"), 0)
	if got := content(t, v.Path(current)); got[0] != 0 {
		t.Error("writing to a clone changed what it is of")
	}
	must(v.Move(ctx, current, aside))
	must(v.Move(ctx, next, current))
	must(v.Move(ctx, next, current)) // again, as after a kill
	must(v.Remove(ctx, aside))
	must(v.Remove(ctx, aside))
	if got := content(t, v.Path(current)); string(got[:3]) != "new" || !bytes.Equal(got[2*extent:3*extent], old) {
		t.Error("without what it was a clone of, a volume has another content")
	}
	must(v.Grow(ctx, current, 6*extent, 9*extent))
	must(v.Grow(ctx, current, 6*extent, 9*extent))
	if got := content(t, v.Path(current)); len(got) != 9*extent || !isZero(got[6*extent:]) ||
		!bytes.Equal(got[2*extent:3*extent], old) {
		t.Errorf("a volume grown to 9 extents has %d bytes, or not zeros behind what it had", len(got))
	}
	failed := errors.New("no")
	if err := v.Make(ctx, next, extent, func(string) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("Make that fails = %v; want why", err)
	}
	if left, err := v.Left(ctx); err != nil || !slices.Equal(left, []string{v.Path(current)}) {
		t.Errorf("after that there is %q, %v; want nothing but the volume", left, err)
	}
	inUse(t, v)
	snapshots(t, v)
	must(v.Make(ctx, aside, extent, nil))
	must(v.RemoveAll(ctx))
	if left, err := v.Left(ctx); err != nil || len(left) != 0 {
		t.Errorf("after RemoveAll there is %q, %v; want nothing", left, err)
	}
	filesystem(t, v)
	backups(t, v)
	derived(t, v)
	v.Group = "nowhere"
	if err := v.Check(ctx, extent, false); err == nil || !strings.Contains(err.Error(), "nowhere") ||
		!strings.Contains(err.Error(), "vgs") {
		t.Errorf("Check in a group that is not there = %v; want it named, and what to do", err)
	}
}

// inUse: what is open is neither removed nor taken for a guest's that does not run.
func inUse(t *testing.T, v storage.Volumes) {
	t.Helper()
	f, err := os.Open(v.Path(current))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), current); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Remove of a volume that is open = %v; want it refused", err)
	}
	if err := v.Check(t.Context(), extent, false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Check of a volume that is open = %v; want it told", err)
	}
	f.Close()
	if err := v.Check(t.Context(), 1<<40, false); (err == nil) != (v.Pool != "") {
		t.Errorf("Check for a TiB = %v; want no room, but in a pool", err)
	}
}

// snapshots: one stays as it was while its origin is written to, and is lost, which is told, when it is full.
func snapshots(t *testing.T, v storage.Volumes) {
	t.Helper()
	ctx := t.Context()
	before := content(t, v.Path(current))
	path, release, err := v.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	write(t, v.Path(current), bytes.Repeat([]byte("x"), len(before)), 0) // all of it
	if !bytes.Equal(content(t, path), before) {
		t.Error("a snapshot changed with its origin")
	}
	refused(t, path)
	if err := release(); err != nil {
		t.Error(err)
	}
	if v.Pool != "" {
		return
	}
	g, err := v.Tools.Group(ctx, group)
	if err == nil {
		err = v.Tools.Create(ctx, group, "filler", g.Free-extent)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, release, err = v.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	write(t, v.Path(current), bytes.Repeat([]byte("y"), len(before)), 0)
	if err := release(); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("release of a snapshot with room for an extent, of a volume written all over = %v; want it told", err)
	}
	if err := v.Tools.Remove(ctx, group, "filler"); err != nil {
		t.Fatal(err)
	}
}

// filesystem: one grows with its volume, as a guest grows it.
func filesystem(t *testing.T, v storage.Volumes) {
	t.Helper()
	ctx := t.Context()
	const before, after = 16 * extent, 32 * extent
	const text = "what is kept"
	options := ext4.Options{Size: before, Label: contract.StateLabel, UUID: [16]byte{6: 0x40, 8: 0x80, 15: 1},
		HashSeed: [16]byte{1}, Time: time.Unix(1e9, 0)}
	err := v.Make(ctx, current, before, func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(ext4.Make(f, options, []ext4.NewFile{{Path: "kept", Mode: 0o600, Modified: options.Time,
			Size: int64(len(text)), Content: strings.NewReader(text)}}), f.Sync(), f.Close())
	})
	if err == nil {
		err = v.Grow(ctx, current, before, after)
	}
	dir := t.TempDir()
	if err == nil {
		err = unix.Mount(v.Path(current), dir, "ext4", 0, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	grown, err := state.Grow(dir, after)
	var st unix.Statfs_t
	kept, readErr := os.ReadFile(dir + "/kept")
	if err := errors.Join(err, readErr, unix.Statfs(dir, &st), unix.Unmount(dir, 0)); err != nil || !grown {
		t.Fatalf("growing the filesystem: %v, %v", grown, err)
	}
	if size := int64(st.Blocks) * st.Bsize; size < before || string(kept) != text {
		t.Errorf("the grown filesystem has room for %d bytes, and %q in a file; want more than %d, and the file", size, kept,
			int64(before))
	}
}

// derived: guests of a master share its volume, each with a snapshot that nobody writes to.
func derived(t *testing.T, v storage.Volumes) {
	t.Helper()
	ctx := t.Context()
	v.Root = true
	file := t.TempDir() + "/system.raw"
	want := bytes.Repeat([]byte("master! "), (2*extent+512)/8)
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(want)
	m := storage.Master{Digest: strings.Repeat("cd", 32), Path: file, Size: int64(len(want)),
		SHA256: hex.EncodeToString(digest[:])}
	damaged := m
	damaged.SHA256 = strings.Repeat("0", 64)
	system := storage.Disk{Kind: storage.System}
	if err := v.Derive(ctx, damaged, system); err == nil || !strings.Contains(err.Error(), m.SHA256) {
		t.Errorf("Derive of a master that is not what it should be = %v; want it refused", err)
	}
	other := v
	other.Guest = "box-2"
	if err := errors.Join(v.Derive(ctx, m, system), other.Derive(ctx, m, system)); err != nil {
		t.Fatal(err)
	}
	for _, one := range []storage.Volumes{v, other} {
		got := content(t, one.Path(system))
		if !bytes.Equal(got[:len(want)], want) || len(got) != 3*extent || !isZero(got[len(want):]) {
			t.Errorf("%s has %d bytes; want the master, and zeros to the end of 3 extents", one.Path(system), len(got))
		}
		refused(t, one.Path(system))
	}
	all, err := v.Tools.Volumes(ctx, group)
	if err != nil || len(all) != 4 {
		t.Fatalf("there are %v, %v; want the pool, one master, and what two guests have of it", all, err)
	}
	for name := range all {
		if strings.HasPrefix(name, "rempart_") {
			refused(t, lvm.Device(group, name))
			defer func() {
				if err := v.Tools.Remove(ctx, group, name); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	old := storage.Disk{Kind: storage.System, Place: storage.Aside, Entry: "0001"}
	if err := errors.Join(v.Move(ctx, system, old), v.Derive(ctx, m, system), v.RemoveAll(ctx)); err != nil {
		t.Error(err)
	}
	if got := content(t, other.Path(system)); !bytes.Equal(got[:len(want)], want) {
		t.Error("when one guest is removed, another's system disk is another")
	}
	if err := other.RemoveAll(ctx); err != nil {
		t.Error(err)
	}
}

// refused tries to write to a device.
func refused(t *testing.T, path string) {
	t.Helper()
	if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		_, err = f.Write([]byte("z"))
		if err := errors.Join(err, f.Sync(), f.Close()); err == nil {
			t.Errorf("%s can be written to", path)
		}
	}
}

// backups: a guest's snapshot comes back as another guest's volume.
func backups(t *testing.T, v storage.Volumes) {
	t.Helper()
	ctx := t.Context()
	where := strings.TrimSuffix(v.Group+"/"+v.Pool, "/")
	h := home.Home{Dir: t.TempDir()}
	description := home.Description{Name: "box", Store: "/masters", Master: strings.Repeat("ab", 32), State: 32 * extent,
		Firmware: hypervisor.BIOS, Accel: hypervisor.TCG, Volumes: where}
	if _, err := h.Create(ctx, description, false); !errors.Is(err, home.ErrLeft) ||
		!strings.Contains(err.Error(), v.Path(current)) {
		t.Errorf("Create over a volume that is there = %v; want %v and its name", err, home.ErrLeft)
	}
	g, err := h.Create(ctx, description, true)
	if err == nil {
		err = errors.Join(os.WriteFile(g.Identity(), []byte("identity"), 0o600), g.Save())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer g.Unlock()
	want := content(t, g.StateDisk())
	var file bytes.Buffer
	path, release, err := g.Disks().Snapshot(ctx)
	if err == nil {
		write(t, g.StateDisk(), []byte("written meanwhile"), 0)
		err = errors.Join(backup.Write(ctx, &file, g, path, func(done, total int64) {}), release())
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("backup of %d bytes in %d\n", len(want), file.Len())
	r, err := backup.Open(&file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	description.Name = "box-2"
	again, err := h.Create(ctx, description, false)
	if err == nil {
		err = errors.Join(r.Disks(ctx, again.Disks()), again.Save())
	}
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(content(t, again.StateDisk()), want) {
		t.Error("a backup comes back as another content")
	}
	if err := again.Resize(ctx, 40*extent+1); err != nil || again.State != 41*extent {
		t.Errorf("Resize = %v, to %d; want 41 extents", err, again.State)
	}
	if n, err := storage.Length(again.StateDisk()); err != nil || n != 41*extent {
		t.Errorf("the volume has %d bytes, %v; want 41 extents", n, err)
	}
	// Removed without its disks, it is found again and goes with them.
	if err := again.Remove(ctx, false); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Create(ctx, description, false); !errors.Is(err, home.ErrLeft) {
		t.Errorf("Create of one that left its volume = %v; want %v", err, home.ErrLeft)
	}
	left, err := h.Left("box-2")
	if err == nil {
		err = errors.Join(left.Remove(context.WithoutCancel(ctx), true), g.Remove(ctx, true))
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err := v.Tools.Volumes(ctx, group)
	if err != nil || len(all) != 1 {
		t.Errorf("in the end there are %v, %v; want the pool alone", all, err)
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, at)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
