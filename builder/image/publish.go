package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rempart/builder/master"
)

// ErrForeign is returned when the output folder holds files that no build wrote: replacing the folder would lose them.
var ErrForeign = errors.New("the output folder holds files that are not a master's")

// outputNames are the files a build may write.
var outputNames = []string{
	master.RawFile, master.Qcow2File, master.KernelFile, master.InitrdFile, master.CmdlineFile,
	master.ManifestFile, master.SBOMFile,
}

// staging is a folder beside the output folder in which a master grows until it is whole. The output folder changes
// in one step, by rename; killed at any moment, the old master is there untouched or the new one is there whole.
type staging struct {
	target string // the output folder
	dir    string // where files are written meanwhile
}

// stagingPrefix begins the names of folders that a killed build may leave beside its output.
const stagingPrefix = ".rempart-build-"

// newStaging checks that target may be replaced and makes the folder to work in. A folder that an earlier build left
// when it was killed is removed: its lock tells that nobody works in it any more.
func newStaging(target string) (*staging, error) {
	target = filepath.Clean(target)
	if err := replaceable(target); err != nil {
		return nil, err
	}
	parent, base := filepath.Dir(target), filepath.Base(target)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("output folder %s: %w", target, err)
	}
	sweep(parent, base)
	for {
		dir, err := os.MkdirTemp(parent, stagingPrefix+base+"-")
		if err != nil {
			return nil, fmt.Errorf("output folder %s: a build works beside it, in %s: %w", target, parent, err)
		}
		held, err := hold(dir)
		if err != nil {
			os.RemoveAll(dir)
			return nil, fmt.Errorf("output folder %s: %w", target, err)
		}
		if held {
			return &staging{target: target, dir: dir}, nil
		}
		// Another build took the folder for a dead one's before it was locked; make another.
	}
}

// replaceable says whether target is absent, empty, or a master and nothing else.
func replaceable(target string) error {
	entries, err := os.ReadDir(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("output folder %s: %w", target, err)
	}
	var foreign []string
	for _, e := range entries {
		if !e.Type().IsRegular() || !slices.Contains(outputNames, e.Name()) {
			foreign = append(foreign, e.Name())
		}
	}
	if len(foreign) > 0 {
		return fmt.Errorf("%w: %s holds %s; name another folder with --output, or move them away",
			ErrForeign, target, strings.Join(foreign[:min(len(foreign), 5)], ", "))
	}
	return nil
}

// hold locks a staging folder until this process ends: the descriptor is left open on purpose. It is the folder itself
// that is locked, so that at no moment a dead build's folder looks like a living one's. false: the folder is gone, or
// another process has it.
func hold(dir string) (bool, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", dir, err)
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	var locked, named unix.Stat_t
	if err == nil {
		err = unix.Fstat(fd, &locked)
	}
	if err == nil {
		err = unix.Stat(dir, &named)
	}
	switch {
	case err == nil && locked.Dev == named.Dev && locked.Ino == named.Ino:
		return true, nil
	case err == nil, errors.Is(err, unix.EWOULDBLOCK), errors.Is(err, unix.ENOENT):
		unix.Close(fd)
		return false, nil
	}
	// A filesystem that locks no folders (NFS): sweep cannot lock them either, and so leaves them all alone.
	unix.Close(fd)
	return true, nil
}

// sweep removes what killed builds of the same output left. Failing to is no reason not to build.
func sweep(parent, base string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), stagingPrefix+base+"-") {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}

// path is where an output is written meanwhile.
func (s *staging) path(name string) string { return filepath.Join(s.dir, name) }

// create opens a new output for writing.
func (s *staging) create(name string) (*os.File, error) {
	return os.OpenFile(s.path(name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
}

// publish makes the staged folder the output folder.
func (s *staging) publish() error {
	if err := os.Chmod(s.dir, 0o755); err != nil {
		return fmt.Errorf("output folder %s: %w", s.target, err)
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	// Checked again: a build takes seconds, and somebody may have put files there meanwhile.
	if err := replaceable(s.target); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, s.dir, unix.AT_FDCWD, s.target, unix.RENAME_EXCHANGE)
	switch {
	case err == nil: // the old master is now in s.dir
		defer os.RemoveAll(s.dir)
	case errors.Is(err, unix.ENOENT):
		if err := os.Rename(s.dir, s.target); err != nil {
			return fmt.Errorf("output folder %s: %w", s.target, err)
		}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		// A filesystem without exchange: the old master steps aside first and comes back if the new one cannot.
		// Its name is not one that sweep takes: were this process killed here, the old master would be all there is.
		aside := filepath.Join(filepath.Dir(s.target), ".rempart-replaced-"+filepath.Base(s.dir))
		if err := os.Rename(s.target, aside); err != nil {
			return fmt.Errorf("output folder %s: %w", s.target, err)
		}
		if err := os.Rename(s.dir, s.target); err != nil {
			return errors.Join(fmt.Errorf("output folder %s: %w", s.target, err), os.Rename(aside, s.target))
		}
		defer os.RemoveAll(aside)
	default:
		return fmt.Errorf("output folder %s: %w", s.target, err)
	}
	return syncDir(filepath.Dir(s.target))
}

// abandon removes what was staged.
func (s *staging) abandon() { os.RemoveAll(s.dir) }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	return nil
}
