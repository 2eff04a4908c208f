package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"rempart/firstboot/contract"
)

// Skeleton makes the directories of /var below dir that are missing (contract.StatePlaces). It runs at every boot over
// what a guest broken into may have left: it follows no link out of dir, and what stands in a directory's place is
// reported, not removed. own gives them to their owners, which only root may.
func Skeleton(dir string, own bool) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("/var: %w", err)
	}
	defer root.Close()
	var failed []error
	for _, d := range contract.StatePlaces() {
		if d.Path == "" {
			continue // it is mounted
		}
		err := root.Mkdir(d.Path, d.Mode.Perm())
		if errors.Is(err, fs.ErrExist) {
			var info fs.FileInfo
			if info, err = root.Lstat(d.Path); err == nil && !info.IsDir() {
				err = fmt.Errorf("/var/%s is a %v, wanted a directory", d.Path, info.Mode().Type())
			}
		}
		if err == nil {
			// Mkdir is subject to the umask and takes no sticky bit, and the power may have failed right after it.
			err = root.Chmod(d.Path, d.Mode)
		}
		if err == nil && own {
			err = root.Lchown(d.Path, d.Owner, d.Owner)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("/var: %w", err))
		}
	}
	for _, l := range contract.StateLinks() {
		if err := root.Symlink(l.Target, l.Path); err != nil && !errors.Is(err, fs.ErrExist) {
			failed = append(failed, fmt.Errorf("/var: %w", err))
		}
	}
	return errors.Join(failed...)
}
