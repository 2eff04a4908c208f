package pid1

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/firstboot/cmdline"
	"rempart/firstboot/contract"
	"rempart/firstboot/module"
)

// openModules returns the loader of the running kernel's modules below root.
func openModules(root string) (*module.Loader, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("kernel release: %w", err)
	}
	line, err := os.ReadFile(filepath.Join(root, "proc/cmdline"))
	if err != nil {
		return nil, fmt.Errorf("kernel command line: %w", err)
	}
	dir := filepath.Join(root, contract.ModulesDir, unix.ByteSliceToString(u.Release[:]))
	return module.Open(dir, cmdline.Parse(string(line)).ModuleParameters)
}

// loadModules loads what the root lists and what the devices name. It returns what failed, having tried all.
func loadModules(root string) error {
	loader, err := openModules(root)
	if err != nil {
		return err
	}
	var failed []error
	list, err := os.ReadFile(filepath.Join(root, contract.PreloadPath))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		failed = append(failed, fmt.Errorf("modules to preload: %w", err))
	}
	for line := range strings.Lines(string(list)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if err := loader.Load(name); err != nil {
			failed = append(failed, err)
		}
	}
	failed = append(failed, loader.Coldplug(filepath.Join(root, "sys"), map[string]bool{}))
	return errors.Join(failed...)
}

// listenPlugged loads the modules of devices that are plugged in while the guest runs. The index of the modules is read
// anew each time: it is larger than it is worth keeping.
func (g *guest) listenPlugged(ctx context.Context) error {
	devices, err := module.ListenPlugged()
	if err != nil {
		return err
	}
	go g.warn("devices", func() error { return devices.Each(ctx, g.plug) })
	return nil
}

func (g *guest) plug() {
	g.warn("modules", func() error {
		loader, err := openModules(g.Root)
		if err != nil {
			return err
		}
		return loader.Coldplug(filepath.Join(g.Root, "sys"), map[string]bool{})
	})
}

// loadNamed loads modules of the root by their names, and returns what failed, having tried all. Whatever the names,
// the files come from the verified root and nowhere else.
func (g *guest) loadNamed(names []string) error {
	if len(names) == 0 {
		return nil
	}
	loader, err := openModules(g.Root)
	if err != nil {
		return err
	}
	var failed []error
	for _, name := range names {
		failed = append(failed, loader.Load(name))
	}
	return errors.Join(failed...)
}

// Modprobe is /sbin/modprobe as the kernel calls it ("modprobe -q -- ALIAS", kernel/kmod.c): it loads what each
// alias or module name names and returns the exit status. With -q an unknown one is no message, as kmod has it.
func Modprobe(root string, args []string, say func(string)) int {
	quiet := false
	var names []string
	for i, arg := range args {
		if arg == "--" {
			names = append(names, args[i+1:]...)
			break
		}
		switch {
		case arg == "-q" || arg == "--quiet":
			quiet = true
		case strings.HasPrefix(arg, "-"):
			say("modprobe: option " + arg + " is not supported; want [-q] [--] NAME...")
			return 2
		default:
			names = append(names, arg)
		}
	}
	loader, err := openModules(root)
	if err != nil {
		say("modprobe: " + err.Error())
		return 1
	}
	status := 0
	for _, name := range names {
		err := loader.Alias(name)
		if err == nil {
			continue
		}
		status = 1
		if !quiet || !errors.Is(err, module.ErrUnknown) {
			say("modprobe: " + err.Error())
		}
	}
	return status
}
