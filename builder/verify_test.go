package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/guest/home"
)

// TestBackupReleases: a snapshot is ended once, whatever becomes of the file that it is written to.
func TestBackupReleases(t *testing.T) {
	full := errors.New("the snapshot was full")
	for name, dir := range map[string]string{"no folder": filepath.Join(t.TempDir(), "none"), "no disks": t.TempDir()} {
		ended := 0
		file := filepath.Join(dir, "fw.backup")
		_, err := writeBackup(t.Context(), file, &home.Guest{Dir: t.TempDir()}, "/dev/none", func() error {
			ended++
			return full
		})
		if err == nil || ended != 1 || strings.Count(err.Error(), full.Error()) != 1 {
			t.Errorf("%s: writeBackup = %v, and the snapshot was ended %d times; want it ended once, and that told", name, err,
				ended)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s: there is a backup", name)
		}
	}
}

// TestReleased: what was read of a snapshot that was lost is no difference.
func TestReleased(t *testing.T) {
	full := errors.New("the snapshot was full")
	for _, tt := range []struct {
		found, release error
		want           int
	}{{nil, nil, exitDone}, {errDifferent, nil, exitDifferent}, {nil, full, exitFailed}, {errDifferent, full, exitFailed}} {
		v := &verification{release: func() error { return tt.release }}
		var errs strings.Builder
		code := report(&console{out: io.Discard, err: &errs}, "verify", v.released(tt.found))
		if code != tt.want || (tt.release != nil) != strings.Contains(errs.String(), full.Error()) {
			t.Errorf("found %v, release %v: exit status %d, %q; want %d", tt.found, tt.release, code, errs.String(), tt.want)
		}
	}
}
