package host

import (
	"flag"
	"testing"

	"rempart/test/rig"
)

var update = flag.Bool("update", false, "renew dom0.lock")

// TestLock: the lock names the packages of every root.
func TestLock(t *testing.T) { rig.CheckLock(t, lockFile(), Roots(), *update) }
