package rootfs

import (
	"io/fs"
	"slices"
	"testing"

	"rempart/profiles"
)

// TestMountPoints: the root has a folder for each data disk, since nobody can make one there later.
func TestMountPoints(t *testing.T) {
	p := &profiles.Profile{Disks: []profiles.Disk{{Mount: "/srv/a/b"}, {Mount: "/srv/c"}, {Mount: "/srv/a/d"}}}
	var got []string
	for _, e := range mountPoints(p) {
		if e.Mode != fs.ModeDir|0o755 {
			t.Errorf("%s has mode %v; want a directory for everybody to see", e.Path, e.Mode)
		}
		got = append(got, e.Path)
	}
	if want := []string{"srv/a", "srv/a/b", "srv/c", "srv/a/d"}; !slices.Equal(got, want) {
		t.Errorf("mount points %q; want %q", got, want)
	}
	if len(mountPoints(&profiles.Profile{})) > 0 {
		t.Error("a profile without data disks has mount points")
	}
}
