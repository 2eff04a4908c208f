package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfinementOfThisProcess(t *testing.T) {
	got, err := confinement(fmt.Sprintf("/proc/%d", os.Getpid()))
	want := fmt.Sprintf("Uid=%d,%d,", os.Getuid(), os.Geteuid())
	if err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("confinement = %q, %v; want it to begin with %q", got, err, want)
	}
	for _, key := range statusKeys {
		if !strings.Contains(" "+got, " "+key+"=") {
			t.Errorf("confinement = %q; want %s in it", got, key)
		}
	}
}

// TestUnlikeThreads: a process one of whose threads kept its rights is not confined.
func TestUnlikeThreads(t *testing.T) {
	dir := t.TempDir()
	for thread, caps := range map[string]string{"7": "0000000000000000", "8": "0000000000001000"} {
		file := filepath.Join(dir, "task", thread, "status")
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		status := "Name:\tlink\nUid:\t901\t901\t901\t901\nCapEff:\t" + caps + "\n"
		if err := os.WriteFile(file, []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := confinement(dir); !errors.Is(err, errThreads) {
		t.Errorf("confinement = %q, %v; want %v", got, err, errThreads)
	}
	if got, err := confinement(filepath.Join(dir, "nobody")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("confinement of no process = %q, %v; want ErrNotExist", got, err)
	}
}
