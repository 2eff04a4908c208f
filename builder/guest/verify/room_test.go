package verify

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"rempart/builder/disk/ext4"
)

// TestDataRoom: that a data disk has more suspects than are kept is told, not only the first of them.
func TestDataRoom(t *testing.T) {
	dir := t.TempDir()
	content, image := filepath.Join(dir, "content"), filepath.Join(dir, "data.raw")
	if err := os.Mkdir(content, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(content, fmt.Sprint(i)), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", content, image, "16M").CombinedOutput()
	if err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ext4.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int64{mostKept, 10 * keptEach} {
		n := &inspection{ctx: t.Context(), f: f, suspects: map[string]*Suspect{}, room: room}
		if err := n.data(&Data{}, false); err != nil {
			t.Fatal(err)
		}
		short := n.suspects[""] != nil && n.suspects[""].Why[0] == errRoom.Error()
		if whole := room == mostKept; short == whole || (len(n.order) == 20) != whole {
			t.Errorf("with room for %d bytes it tells %d suspects, and that there are more: %v", room, len(n.order), short)
		}
	}
}
