package run

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/disk/ext4"
)

// debugfs changes the ext4 of a disk that nobody uses, by commands of debugfs(8).
func debugfs(t *testing.T, disk, commands string) {
	t.Helper()
	cmd := exec.Command("debugfs", "-w", "-f", "-", disk)
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
}

// keepsData puts a file on the data disk of the stopped guest, which verify names while it is one that could do harm,
// and makes the disk larger.
func (f *family) keepsData(t *testing.T) {
	t.Helper()
	disk := filepath.Join(f.dir, "logs.raw")
	debugfs(t, disk, "write "+filepath.Join(f.dir, "secret")+" kept\nsif kept mode 0104755\n")
	f.do(t, 3, "/kept: set-user-id; executable, on a disk that the profile gives no exec", "verify", "fw")
	debugfs(t, disk, "sif kept mode 0100644\n")
	f.do(t, 3, "data disk logs: 3 files, 0 suspect", "verify", "fw") // and the state disk has what it had
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
}

// hasData wants the data disk to be as large as it was made, after reprovisioning, and to have what was put there.
func (f *family) hasData(t *testing.T) {
	t.Helper()
	disk := filepath.Join(f.dir, "logs.raw")
	secret, err := os.ReadFile(filepath.Join(f.dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.do(t, 0, "", "disk", "cat", disk, "/kept"); got != string(secret) {
		t.Errorf("the file on the data disk is %q; want %q", got, secret)
	}
	image, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if size, err := ext4.Length(image); err != nil || size < 60<<20 {
		t.Errorf("the filesystem on the data disk has %d bytes, %v; want it grown with the disk to 63 MiB", size, err)
	}
	f.do(t, 0, "on /srv/logs, mounted, ", "ctl", "fw", "status")
}
