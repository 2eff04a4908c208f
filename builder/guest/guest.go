// Package guest runs a guest from a master: it reads what the master is, gives it a state disk of its own, describes
// it to the hypervisor, follows its console until it is ready, and stops it in order.
//
// What it deliberately does not do: build or verify masters, remember guests between runs, or change anything in the
// folder of a master.
package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"rempart/builder/disk/inside"
	"rempart/builder/disk/qcow2"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/builder/master"
	"rempart/firstboot/contract"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// Master is a master in its folder.
type Master struct {
	Dir      string
	Manifest *master.Manifest
	Profile  *profiles.Profile // as the guest carries it; of another system's disk what Plugged says
}

// maxProfile bounds the profile a root may carry, in bytes: the largest file a profile is read from has 1 MiB.
const maxProfile = 8 << 20

// IsMaster tells whether dir looks like the folder of a master.
func IsMaster(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, master.ManifestFile))
	return err == nil && info.Mode().IsRegular()
}

// OpenMaster reads the master in dir: its manifest, and the profile out of its root.
func OpenMaster(dir string) (*Master, error) {
	f, err := os.Open(filepath.Join(dir, master.ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("master %s: %w", dir, err)
	}
	defer f.Close()
	m := &Master{Dir: dir}
	if m.Manifest, err = master.ReadManifest(f); err != nil {
		return nil, fmt.Errorf("master %s: %w", dir, err)
	}
	if m.Foreign() {
		m.Profile = m.foreignProfile()
		return m, nil
	}
	if m.Profile, err = m.readProfile(); err != nil {
		return nil, fmt.Errorf("master %s: profile: %w", dir, err)
	}
	return m, nil
}

// readProfile reads the profile from the root on the system disk, in whichever format that is there.
func (m *Master) readProfile() (*profiles.Profile, error) {
	system, err := m.System("")
	if err != nil {
		return nil, err
	}
	f, err := os.Open(system.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var content io.ReaderAt = f
	if system.Format == hypervisor.QCOW2 {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if content, err = qcow2.Open(f, info.Size(), qcow2.OpenOptions{}); err != nil {
			return nil, err
		}
	}
	region, err := m.Manifest.RootRegion()
	if err != nil {
		return nil, err
	}
	// Whoever the master came from: this reader of EROFS does not take the program down with it.
	root, err := inside.OpenVolume(io.NewSectionReader(content, region.Offset, region.Length), region.Length)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	return readProfile(root)
}

func readProfile(root fs.FS) (*profiles.Profile, error) {
	f, err := root.Open(strings.TrimPrefix(contract.ProfilePath, "/"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return nil, err
	}
	if len(src) > maxProfile {
		return nil, fmt.Errorf("%s is larger than %d bytes", contract.ProfilePath, maxProfile)
	}
	p, err := profiles.Decode(src)
	if err != nil {
		return nil, err
	}
	return p, readStored(root, p)
}

// readStored reads what is stored beside the JSON of a profile.
func readStored(root fs.FS, p *profiles.Profile) error {
	read := func(path string, most int64) ([]byte, error) {
		f, err := root.Open(strings.TrimPrefix(path, "/"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, most))
	}
	for _, s := range p.Absent() {
		if err := s.Restore(func(part profiles.StoredPart) ([]byte, error) {
			return read(contract.SetsDir+"/"+part.Digest, part.MostBytes())
		}); err != nil {
			return err
		}
	}
	if p.DNS == nil || p.DNS.Block == nil {
		return nil
	}
	return p.DNS.Block.Restore(func() ([]byte, error) {
		return read(contract.BlockedPath, blocklist.Size(p.DNS.Block.Count))
	})
}

// System is the system disk in the given format, or with an empty one in the first format that is there.
func (m *Master) System(format hypervisor.Format) (hypervisor.Disk, error) {
	files := map[hypervisor.Format]string{hypervisor.Raw: master.RawFile, hypervisor.QCOW2: master.Qcow2File}
	for _, f := range []hypervisor.Format{hypervisor.QCOW2, hypervisor.Raw} {
		if format != "" && f != format {
			continue
		}
		path := filepath.Join(m.Dir, files[f])
		if _, err := os.Stat(path); err == nil {
			return hypervisor.Disk{Path: path, Format: f}, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return hypervisor.Disk{}, err
		}
	}
	if format != "" {
		return hypervisor.Disk{}, fmt.Errorf("master %s has no %s; build it with --format %s", m.Dir, files[format], format)
	}
	return hypervisor.Disk{}, fmt.Errorf("master %s has no system disk", m.Dir)
}

// Volume is what a volume with the system disk of the master in a folder is made of.
func Volume(dir, digest string, m *master.Manifest) (storage.Master, error) {
	raw, err := (&Master{Dir: dir, Manifest: m}).System(hypervisor.Raw)
	return storage.Master{Digest: digest, Path: raw.Path, Size: m.Disk.Size, SHA256: m.Disk.SHA256}, err
}

// CopyRoot writes the root, with its hash tree, out of the raw system disk, at the beginning of f.
func (m *Master) CopyRoot(f *os.File) error {
	system, err := m.System(hypervisor.Raw)
	if err != nil {
		return err
	}
	region, err := m.Manifest.RootRegion()
	if err != nil {
		return err
	}
	from, err := os.Open(system.Path)
	if err != nil {
		return err
	}
	defer from.Close()
	n, err := io.Copy(f, io.NewSectionReader(from, region.Offset, region.Length))
	if err == nil && n != region.Length {
		err = fmt.Errorf("%s ends after %d of the root's %d bytes", system.Path, n, region.Length)
	}
	return err
}

// Formats are the formats of the system disk that are there.
func (m *Master) Formats() []string {
	var there []string
	for _, f := range hypervisor.Formats() {
		if d, err := m.System(f); err == nil && d.Format == f {
			there = append(there, string(f))
		}
	}
	return there
}

// Kernel is what a boot without firmware needs.
func (m *Master) Kernel() (*hypervisor.Kernel, error) {
	cmdline, err := os.ReadFile(filepath.Join(m.Dir, master.CmdlineFile))
	if err != nil {
		return nil, fmt.Errorf("master %s: %w", m.Dir, err)
	}
	return &hypervisor.Kernel{Image: filepath.Join(m.Dir, master.KernelFile),
		Initrd: filepath.Join(m.Dir, master.InitrdFile), Cmdline: strings.TrimSpace(string(cmdline))}, nil
}

// StatePath is where the state disk of a guest made from the master lies when nobody says otherwise: beside the
// master's folder, which itself holds nothing but the master.
func (m *Master) StatePath(guest string) string { return m.beside(guest, "state") }

func (m *Master) beside(guest, what string) string {
	dir := filepath.Clean(m.Dir)
	if filepath.Base(dir) == guest {
		return dir + "." + what + ".raw"
	}
	return dir + "." + guest + "." + what + ".raw"
}

// EnsureState makes a blank, sparse state disk of size bytes at path unless there is one; an existing one is never
// touched. The guest formats a blank one itself.
func EnsureState(path string, size int64) (created bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return false, fmt.Errorf("state disk %s is empty; remove it or give it a size", path)
		}
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("state disk: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return false, errors.Join(fmt.Errorf("state disk: %w", err), os.Remove(path))
	}
	return true, nil
}
