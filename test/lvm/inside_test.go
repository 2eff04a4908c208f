package lvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/test/xen/early"
)

// Places inside.
const (
	homeFolder      = "/home"             // the filesystem that outlives the machine
	reprovisionTest = "/reprovision.test" // the test of that package
	group           = "vg0"
	pool            = "pool"
	extent          = 1 << 20
	volumesSerial   = "volumes"
)

// prepare loads the modules, and mounts what outlives the machine.
func prepare(modules string) error {
	if err := early.LoadModules(modules); err != nil {
		return err
	}
	home, err := awaitDisk(contract.StateSerial)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(homeFolder, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(home, homeFolder, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", home, err)
	}
	return os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
}

// awaitDisk waits for the disk with a serial, which its driver makes known some time.
func awaitDisk(serial string) (string, error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		all, err := filepath.Glob("/sys/block/*/serial")
		if err != nil {
			return "", err
		}
		for _, file := range all {
			if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("there is no disk %s", serial)
		}
	}
}

// word is what follows a word of the kernel's command line; absent: false.
func word(t *testing.T, begin string) (string, bool) {
	t.Helper()
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range strings.Fields(string(b)) {
		if value, ok := strings.CutPrefix(w, begin); ok {
			return value, true
		}
	}
	return "", false
}

// command runs one of lvm2.
func command(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("lvm", args...).CombinedOutput(); err != nil {
		t.Fatalf("lvm %q: %v\n%s", args, err, out)
	}
}

// inside is what the machine does.
func inside(t *testing.T) {
	disk, err := awaitDisk(volumesSerial)
	if err != nil {
		t.Fatal(err)
	}
	every, all := word(t, everyWord)
	if _, first := word(t, firstWord); first {
		command(t, "pvcreate", "--yes", disk)
		command(t, "vgcreate", "--physicalextentsize", fmt.Sprint(extent, "b"), group, disk)
		command(t, "lvcreate", "--yes", "--type", "thin-pool", "--size", "64m", "--poolmetadatasize", "4m", "--name", pool,
			group)
		t.Run("thick", func(t *testing.T) { onVolumes(t, "") })
		if all {
			t.Run("thin", func(t *testing.T) { onVolumes(t, pool) })
			for _, on := range []string{group, group + "/" + pool} {
				t.Run("killed on "+on, func(t *testing.T) {
					reprovision(t, "REMPART_TEST_VOLUMES="+on, "REMPART_TEST_EVERY="+every)
				})
			}
		}
	} else {
		command(t, "vgchange", "--activate", "y", group)
	}
	next, _ := word(t, cutWord)
	storage, next, _ := strings.Cut(next, ":")
	on := map[string]string{"thick": group, "thin": group + "/" + pool}[storage]
	env := []string{"REMPART_TEST_VOLUMES=" + on, "REMPART_TEST_CUT_FOLDER=" + homeFolder, "REMPART_TEST_CUT=" + next}
	if _, list := word(t, listWord); list {
		env = append(env, "REMPART_TEST_CUT_LIST=")
	}
	reprovision(t, env...)
}

// reprovision runs the test of that package which kills its processes.
func reprovision(t *testing.T, env ...string) {
	t.Helper()
	cmd := exec.Command(reprovisionTest, "-test.run", "^TestKilled$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v", reprovisionTest, err)
	}
}
