package module

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// maxRounds bounds Coldplug: a driver shows devices (PCI -> virtio -> disk), which name more drivers. Real chains
// have three links.
const maxRounds = 8

// maxAlias is the longest modalias read: the kernel's uevent buffer is 2048 bytes (UEVENT_BUFFER_SIZE).
const maxAlias = 2048

// Coldplug loads the modules that the aliases of all present devices name, again until no new alias shows up. sys is
// the mount point of sysfs; seen holds the aliases served already and is added to. It returns what failed; devices
// that no module of the index serves are not failures.
func (l *Loader) Coldplug(sys string, seen map[string]bool) error {
	var failed []error
	for range maxRounds {
		fresh := 0
		// Every bus lists its devices flat: far fewer directories than a walk over /sys/devices.
		files, _ := filepath.Glob(filepath.Join(sys, "bus", "*", "devices", "*", "modalias"))
		for _, file := range files {
			b, err := os.ReadFile(file)
			alias := strings.TrimSpace(string(b))
			if err != nil || alias == "" || len(alias) > maxAlias || seen[alias] {
				continue
			}
			seen[alias] = true
			fresh++
			if err := l.Alias(alias); err != nil && !errors.Is(err, ErrUnknown) {
				failed = append(failed, err)
			}
		}
		if fresh == 0 {
			break
		}
	}
	return errors.Join(failed...)
}
