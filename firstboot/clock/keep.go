package clock

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// keepDir is where the last time known to be right is kept, so that a machine without a clock that ticks while it is
// off does not start in 1970.
const keepDir = "/var/lib/rempart/time"

// Released is when this version was released, in Unix seconds: no time before it is believed.
const Released = 1793491200 // 2026-11-01

// latest bounds what is believed of the file, in Unix seconds: the end of 2099.
const latest = 4102444799

// keepFile holds the seconds, nothing else.
const keepFile = "clock"

// lastKnown is the latest time that is known to have passed: what was kept, or the release.
func lastKnown(dir string) time.Time {
	b, err := os.ReadFile(filepath.Join(dir, keepFile))
	n, bad := strconv.ParseInt(strings.TrimSuffix(string(b), "\n"), 10, 64)
	if err != nil || bad != nil || n < Released || n > latest {
		n = Released
	}
	return time.Unix(n, 0)
}

// keep writes that now has come. A power cut leaves the old file or the new one.
func keep(dir string, now time.Time) error {
	file := filepath.Join(dir, keepFile)
	if err := os.WriteFile(file+".new", fmt.Appendln(nil, now.Unix()), 0o644); err != nil {
		return fmt.Errorf("keeping the time: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("keeping the time: %w", err)
	}
	return nil
}
