// Package embedded holds the guest's programs inside the rempart binary. `make` puts them in files/ before it
// builds rempart; a clone that was never built holds only a note there, still compiles, and says so when asked.
//
// What it deliberately does not do: build anything.
package embedded

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed all:files
var files embed.FS

// Firstboot returns the guest program for a Debian architecture ("amd64"), a static binary.
func Firstboot(arch string) ([]byte, error) { return read("firstboot-" + arch) }

// BootStage returns the initramfs program for a Debian architecture, a static binary.
func BootStage(arch string) ([]byte, error) { return read("bootstage-" + arch) }

// Shell returns the shell for a Debian architecture, a static binary, for the roots of profiles that allow one.
func Shell(arch string) ([]byte, error) { return read("shell-" + arch) }

func read(name string) ([]byte, error) {
	b, err := files.ReadFile("files/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this rempart was built without the guest program %s; "+
			"`make ARCHES=\"amd64 arm64\"` builds one for both architectures", name)
	}
	return b, err
}
