package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// ErrNotInstalled is returned when there is no QEMU for the architecture.
var ErrNotInstalled = errors.New("QEMU is not installed")

// Installation is what the QEMU of this host is and can do.
type Installation struct {
	Binary  string
	Version string // "7.2.22"
	Major   int
	Minor   int
	Sandbox bool // built with seccomp, and the kernel lets it
}

// oldest is the oldest QEMU the command line of Args works with: the one of Ubuntu 22.04. Our options -action (6.0)
// and pvpanic-pci (6.0) are older.
var oldest = [2]int{6, 2}

// findTime bounds how long QEMU may take to say its version; a loaded host starts it in a second.
const findTime = 20 * time.Second

// Find looks for the QEMU of a Debian architecture in PATH and asks it what it can do.
func Find(ctx context.Context, arch string) (Installation, error) {
	name, err := Binary(arch)
	if err != nil {
		return Installation{}, err
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return Installation{}, fmt.Errorf("%w: no %s in PATH; install it with `apt install %s` (Debian, Ubuntu), "+
			"`dnf install %s` (Fedora) or `pacman -S qemu-base` (Arch)", ErrNotInstalled, name, debianPackage[arch],
			fedoraPackage[arch])
	}
	in := Installation{Binary: path, Sandbox: true}
	if err := in.ask(ctx); err != nil {
		in.Sandbox = false
		if again := in.ask(ctx); again != nil {
			return Installation{}, fmt.Errorf("ask %s for its version: %w", path, again)
		}
	}
	if in.Major < oldest[0] || in.Major == oldest[0] && in.Minor < oldest[1] {
		return Installation{}, fmt.Errorf("%s is QEMU %s; want %d.%d or newer", path, in.Version, oldest[0], oldest[1])
	}
	return in, nil
}

var (
	debianPackage = map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}
	fedoraPackage = map[string]string{"amd64": "qemu-system-x86-core", "arm64": "qemu-system-aarch64-core"}
)

// ask starts QEMU with no machine at all and reads its greeting, which carries the version.
func (in *Installation) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	args := []string{"-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"}
	if in.Sandbox {
		args = append(args, "-sandbox", sandbox)
	}
	cmd := exec.CommandContext(ctx, in.Binary, args...)
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"quit"}` + "\n")
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	var greeting struct {
		QMP struct {
			Version struct {
				QEMU struct{ Major, Minor, Micro int }
			}
		}
	}
	if err := json.Unmarshal(first, &greeting); err != nil {
		return fmt.Errorf("its greeting %.80q: %w", first, err)
	}
	v := greeting.QMP.Version.QEMU
	in.Major, in.Minor = v.Major, v.Minor
	in.Version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	return nil
}
