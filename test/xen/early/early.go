// Package early is what the inits of dom0 and of probes begin with, in an initramfs of ours.
//
// What it deliberately does not do: anything only one of them needs.
package early

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/firstboot/contract"
	"rempart/firstboot/module"
)

// Begin mounts what the kernel offers, takes the console, and loads the modules of contract.BootModules in order. The
// drivers of Xen's devices return when these are connected.
func Begin() error {
	for _, m := range []struct{ fstype, target string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		// EBUSY: the kernel mounted devtmpfs itself.
		if err := unix.Mount(m.fstype, m.target, m.fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	os.Stdout, os.Stderr = console, console
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	return LoadModules(contract.ModulesDir + "/" + unix.ByteSliceToString(u.Release[:]))
}

// LoadModules loads the modules of contract.BootModules in order, out of a kernel's directory of modules.
func LoadModules(dir string) error {
	loader, err := module.Open(dir, func(string) string { return "" })
	if err != nil {
		return err
	}
	list, err := os.ReadFile(contract.BootModules)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := loader.Load(name); err != nil {
			return err
		}
	}
	return nil
}
