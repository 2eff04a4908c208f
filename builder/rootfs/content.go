package rootfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"rempart/builder/kernel"
	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// origin of what this package makes itself.
const origin = "rempart"

// commands are the other names of the guest program; it looks at the name it is called by. The kernel calls modprobe
// (CONFIG_MODPROBE_PATH) when it misses a module.
func commands() []string { return []string{"halt", "modprobe", "poweroff", "reboot", "shutdown"} }

// own returns the guest program and its names.
func own(firstboot []byte) []tree.Entry {
	entries := []tree.Entry{tree.Bytes(relative(contract.Firstboot), 0o755, firstboot, origin)}
	for _, name := range commands() {
		entries = append(entries, tree.Symlink("sbin/"+name, "init", origin))
	}
	return entries
}

// shell returns the shell and its names; nothing without one.
func shell(program []byte) []tree.Entry {
	if len(program) == 0 {
		return nil
	}
	path := relative(contract.ShellPath)
	dir, base := path[:strings.LastIndex(path, "/")+1], path[strings.LastIndex(path, "/")+1:]
	entries := []tree.Entry{tree.Bytes(path, 0o755, program, origin), tree.Symlink(dir+"sh", base, origin),
		tree.Symlink(dir+contract.GuestCommand, base, origin)}
	for _, name := range contract.ShellCommands() {
		entries = append(entries, tree.Symlink(dir+name, base, origin))
	}
	return entries
}

// program is a foreign program that firstboot calls.
type program struct {
	path  string   // as its package has it
	names []string // further names, in the same directory
}

// foreignPrograms are the programs taken from packages: those that make, check and grow the ext4 of the state disk.
func foreignPrograms() []program {
	return []program{
		{"sbin/mke2fs", []string{"mkfs.ext4"}},
		{"sbin/e2fsck", []string{"fsck.ext4"}},
		{"sbin/resize2fs", nil},
	}
}

// foreignFiles are the files of packages that those programs read.
func foreignFiles() []string { return []string{"etc/mke2fs.conf"} }

// foreign returns what is taken from packages.
func foreign(packages []Package) ([]tree.Entry, error) {
	a, err := newArchive(packages)
	if err != nil {
		return nil, err
	}
	var paths []string
	var links []tree.Entry
	for _, p := range foreignPrograms() {
		paths = append(paths, p.path)
		dir, base := p.path[:strings.LastIndex(p.path, "/")+1], p.path[strings.LastIndex(p.path, "/")+1:]
		for _, name := range p.names {
			links = append(links, tree.Symlink(dir+name, base, origin))
		}
	}
	entries, err := a.closure(paths)
	if err != nil {
		return nil, err
	}
	for _, p := range foreignFiles() {
		chain, err := a.find(p)
		if err != nil {
			return nil, err
		}
		entries = append(entries, chain...)
	}
	return append(entries, links...), nil
}

// generate returns the files that depend on the profile, the master and the kernel.
func generate(in Inputs, modules *kernel.Set) ([]tree.Entry, error) {
	preload := kernel.Preload(in.Profile)
	for _, name := range preload {
		if modules.Lookup(name) == nil && !in.Kernel.Builtin(name) {
			return nil, fmt.Errorf("the profile needs kernel module %s: %w", name, kernel.ErrNoModule)
		}
	}
	profile, err := encode(in.Profile)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	master, err := encode(in.Master)
	if err != nil {
		return nil, fmt.Errorf("master: %w", err)
	}
	var entries []tree.Entry
	for _, f := range []struct {
		path    string
		content []byte
	}{
		{contract.ProfilePath, profile},
		{contract.MasterPath, master},
		{contract.PreloadPath, []byte(strings.Join(preload, "\n") + "\n")},
		{"/etc/hostname", []byte(in.Profile.Name + "\n")},
		{"/etc/hosts", hosts(in)},
		{"/etc/passwd", passwd()},
		{"/etc/group", group()},
		{"/etc/os-release", osRelease(in.Master)},
	} {
		entries = append(entries, tree.Bytes(relative(f.path), 0o644, f.content, origin))
	}
	entries = append(entries, mountPoints(in.Profile)...)
	more, err := stored(in.Profile)
	return append(entries, more...), err
}

// mountPoints are the folders that data disks are mounted on, parents before what is in them.
func mountPoints(p *profiles.Profile) []tree.Entry {
	there := map[string]bool{profiles.DisksDir: true}
	var entries []tree.Entry
	var add func(dir string)
	add = func(dir string) {
		if there[dir] {
			return
		}
		add(path.Dir(dir))
		there[dir] = true
		entries = append(entries, tree.Dir(relative(dir), 0o755, origin))
	}
	for _, d := range p.Disks {
		add(d.Mount)
	}
	return entries
}

// errLacks is returned for a profile that came without what is stored beside its JSON.
var errLacks = errors.New("what the profile stores beside its JSON is not here")

// stored are the files of what is no part of the JSON of a profile.
func stored(p *profiles.Profile) ([]tree.Entry, error) {
	var entries []tree.Entry
	if d := p.DNS; d != nil && d.Block != nil && d.Block.Digest != "" {
		if len(d.Block.Compiled) == 0 {
			return nil, fmt.Errorf("dns.block: %w", errLacks)
		}
		entries = append(entries, tree.Bytes(relative(contract.BlockedPath), 0o644, d.Block.Compiled, origin))
	}
	there := map[string]bool{}
	for i := range p.Sets {
		s := &p.Sets[i]
		if s.Absent() {
			return nil, fmt.Errorf("set %s: %w", s.Name, errLacks)
		}
		for digest, b := range s.Files() {
			if !there[digest] { // two sets may be alike
				entries = append(entries, tree.Bytes(relative(contract.SetsDir)+"/"+digest, 0o644, b, origin))
			}
			there[digest] = true
		}
	}
	return entries, nil
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}

// hosts is hosts(5): the guest itself, on its own addresses where they are fixed, then the names of the profile.
func hosts(in Inputs) []byte {
	var b bytes.Buffer
	line := func(a netip.Addr, names ...string) { fmt.Fprintf(&b, "%s\t%s\n", a, strings.Join(names, " ")) }
	line(netip.MustParseAddr("127.0.0.1"), "localhost")
	line(netip.IPv6Loopback(), "localhost", "ip6-localhost", "ip6-loopback")
	self := false
	for _, l := range in.Profile.Links {
		for _, p := range l.Addresses {
			line(p.Addr(), in.Profile.Name)
			self = true
		}
	}
	if !self {
		// Debian's convention for a host whose address is not known beforehand (Debian reference, 5.1.1).
		line(netip.AddrFrom4([4]byte{127, 0, 1, 1}), in.Profile.Name)
	}
	for _, h := range in.Profile.Hosts {
		for _, a := range h.Addresses {
			line(a, h.Name)
		}
	}
	return b.Bytes()
}

// passwd is passwd(5): names for the numbers of firstboot's children. No password, no shell: nobody logs in.
func passwd() []byte {
	var b bytes.Buffer
	for _, u := range contract.Users() {
		fmt.Fprintf(&b, "%s:*:%d:%d::%s:/sbin/nologin\n", u.Name, u.ID, u.ID, u.Home)
	}
	return b.Bytes()
}

// group is group(5): a group for each account, its own.
func group() []byte {
	var b bytes.Buffer
	for _, u := range contract.Users() {
		name := u.Name
		if u.ID == contract.UIDNobody {
			name = "nogroup" // Debian's name for group 65534
		}
		fmt.Fprintf(&b, "%s:*:%d:\n", name, u.ID)
	}
	return b.Bytes()
}

// osRelease is os-release(5).
func osRelease(m contract.Master) []byte {
	return fmt.Appendf(nil, "NAME=Rempart\nID=rempart\nID_LIKE=debian\nVERSION_ID=%s\nPRETTY_NAME=%q\nIMAGE_ID=%s\n",
		m.Version, "Rempart "+m.Version, m.Name)
}
