package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"rempart/firstboot/contract"
)

// skeleton are the directories of /var, which the root's own links (home -> var/home) lead to.
var skeleton = []struct {
	name  string
	mode  fs.FileMode
	owner int // user and group
}{
	{"home", 0o755, 0}, {"root", 0o700, 0}, {"log", 0o755, 0}, {"log/rempart", 0o750, contract.UIDLog},
	{"lib", 0o755, 0}, {"lib/rempart", 0o755, 0},
	{"lib/rempart/time", 0o750, contract.UIDTime}, {"lib/rempart/dhcp", 0o750, contract.UIDDHCP},
	{"spool", 0o755, 0}, {"cache", 0o755, 0},
	{"lib/rempart/lists", 0o755, contract.UIDLists}, {"lib/lists", 0o755, 0},
	{"tmp", 0o777 | fs.ModeSticky, 0},
}

// links are its symbolic links: what dies with a boot lives on the tmpfs.
var links = []struct{ name, target string }{{"run", "../run"}, {"lock", "../run/lock"}}

// Skeleton makes the directories of /var below dir that are missing. It runs at every boot over what a guest broken
// into may have left: it follows no link out of dir, and what stands in a directory's place is reported, not removed.
// own gives them to their owners, which only root may.
func Skeleton(dir string, own bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("/var: %w", err)
	}
	defer root.Close()
	var failed []error
	for _, d := range skeleton {
		err := root.Mkdir(d.name, d.mode.Perm())
		if err == nil {
			err = root.Chmod(d.name, d.mode) // Mkdir is subject to the umask and takes no sticky bit
		} else if errors.Is(err, fs.ErrExist) {
			var info fs.FileInfo
			if info, err = root.Lstat(d.name); err == nil && !info.IsDir() {
				err = fmt.Errorf("/var/%s is a %v, wanted a directory", d.name, info.Mode().Type())
			}
		}
		if err == nil && own {
			err = root.Lchown(d.name, d.owner, d.owner)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("/var: %w", err))
		}
	}
	for _, l := range links {
		if err := root.Symlink(l.target, l.name); err != nil && !errors.Is(err, fs.ErrExist) {
			failed = append(failed, fmt.Errorf("/var: %w", err))
		}
	}
	return errors.Join(failed...)
}
