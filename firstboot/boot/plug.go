package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/cmdline"
	"rempart/firstboot/contract"
	"rempart/firstboot/module"
)

// plug loads modules for the devices that are there and waits for the ones to come.
type plug struct {
	loader  *module.Loader
	seen    map[string]bool
	uevents int // netlink socket; -1: none
	say     func(string)
}

// openPlug starts to listen for devices, then loads the modules of contract.BootModules and those the devices name.
func openPlug(args cmdline.Args, say func(string)) (*plug, error) {
	dir, err := moduleDir()
	if err != nil {
		return nil, err
	}
	loader, err := module.Open(dir, args.ModuleParameters)
	if err != nil {
		return nil, err
	}
	uevents, err := module.EventSocket()
	if err != nil {
		say("warning: " + err.Error())
	}
	p := &plug{loader: loader, seen: map[string]bool{}, uevents: uevents, say: say}
	list, err := os.ReadFile(contract.BootModules)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("boot modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		// One that fails may be one this machine does not need; if it was needed a later step says so.
		if err := loader.Load(name); err != nil {
			say("warning: " + err.Error())
		}
	}
	p.coldplug()
	return p, nil
}

func moduleDir() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("kernel release: %w", err)
	}
	return contract.ModulesDir + "/" + unix.ByteSliceToString(u.Release[:]), nil
}

func (p *plug) coldplug() {
	if err := p.loader.Coldplug("/sys", p.seen); err != nil {
		p.say("warning: " + strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// Waits of plug.wait.
const (
	settle   = 10 * time.Millisecond // events come in bursts; one look at the devices per burst is enough
	fallback = time.Second           // without events, and as a safety net with them, look this often
)

// wait returns once devices came or went, or after fallback. What the events say is not read: the devices
// themselves are looked at again.
func (p *plug) wait() {
	if p.uevents < 0 {
		time.Sleep(fallback)
		return
	}
	timeout := fallback
	for {
		fds := []unix.PollFd{{Fd: int32(p.uevents), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(timeout/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		p.drain()
		timeout = settle
	}
}

func (p *plug) drain() {
	var b [4096]byte
	for {
		_, _, err := unix.Recvfrom(p.uevents, b[:], 0)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
