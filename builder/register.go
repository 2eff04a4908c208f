package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"rempart/builder/guest"
	"rempart/builder/guest/running"
	"rempart/builder/hypervisor"
	"rempart/profiles"
)

// takeName takes the guest's name, so that no other run of it touches its disks. Where there is no place to write down
// what runs the guest runs all the same, said to the log, and the result is nil.
func takeName(s *guest.Settings) (*running.Guest, error) {
	place, err := running.Place()
	if err != nil {
		s.Log.Warn("`rempart ctl` will not find this guest", "why", err)
		return nil, nil
	}
	return running.Register(place, s.Name)
}

// announce writes down that the guest runs by a profile, and completes its settings with what belongs to that: the
// socket for commands, a copy of the console, and a port of this machine that leads to its SSH where that can be had.
func announce(g *running.Guest, s *guest.Settings, m *guest.Master, p *profiles.Profile) error {
	master, err := filepath.Abs(m.Dir)
	if err != nil {
		return err
	}
	info := running.Info{PID: os.Getpid(), Master: master}
	if s.Firmware.TakesIdentity() && !m.Foreign() {
		if err := hostKey(&info, s.Identity); err != nil {
			return err
		}
		if info.SSH, err = leadToSSH(s.Backends, p); err != nil {
			return err
		}
	}
	s.Held = g.Machine()
	if !m.Foreign() { // nobody in another system takes our commands
		s.Commands = g.Commands()
	}
	s.Console = io.MultiWriter(s.Console, &keptLog{path: g.Console()})
	return g.Announce(info)
}

// hostKey writes down by which key the guest with an identity disk is known.
func hostKey(info *running.Info, disk string) error {
	id, err := guest.ReadIdentity(disk)
	if err != nil {
		return err
	}
	if info.Fingerprint, err = guest.HostKeyFingerprint(id); err != nil {
		return err
	}
	info.HostKey, err = guest.HostKeyLine(id)
	return err
}

// sshPort is the port of SSH (IANA).
const sshPort = 22

// leadToSSH gives the first link on a user-mode network that an admin may come by a port of this machine's own loopback
// that leads to the guest's SSH, and returns its address; empty: there is no such link.
func leadToSSH(backends map[string]hypervisor.Backend, p *profiles.Profile) (string, error) {
	if p.Admin.None {
		return "", nil
	}
	for _, l := range p.NICs() {
		b, ok := backends[l.Name]
		if !ok || b.Kind != hypervisor.User {
			continue
		}
		for _, a := range l.Addresses {
			from := netip.PrefixFrom(b.Gateway, b.Gateway.BitLen())
			if !a.Addr().Is4() || !b.Subnet.Contains(a.Addr()) || !adminsReach(p, l.Name, from) {
				continue
			}
			local, err := freePort()
			if err != nil {
				return "", fmt.Errorf("a port for SSH: %w", err)
			}
			b.Forward = hypervisor.Forward{From: local, To: netip.AddrPortFrom(a.Addr(), sshPort)}
			backends[l.Name] = b
			return local.String(), nil
		}
	}
	return "", nil
}

// freePort is a port of this machine's own loopback. One that is free now may be taken before QEMU takes it: then QEMU
// says so, and ends.
func freePort() (netip.AddrPort, error) {
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer free.Close()
	return netip.ParseAddrPort(free.Addr().String())
}

// maxConsole bounds the copy of a guest's console, in bytes: a guest may write without end.
const maxConsole = 1 << 20

// keptLog is a file with the last of what is written: what went before the last maxConsole bytes may be gone. It never
// fails: a copy that cannot be written costs the guest nothing.
type keptLog struct {
	path string
	f    *os.File
	n    int64
}

func (k *keptLog) Write(b []byte) (int, error) {
	if k.f == nil || k.n+int64(len(b)) > maxConsole {
		if k.f != nil {
			k.f.Close()
		}
		var err error
		if k.f, err = os.OpenFile(k.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			k.f = nil
			return len(b), nil
		}
		k.n = 0
	}
	n, _ := k.f.Write(b)
	k.n += int64(n)
	return len(b), nil
}
