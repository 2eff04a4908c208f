package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/erofs/go-erofs"

	"rempart/builder/initramfs"
	"rempart/builder/master"
	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// probeModules are those a probe loads, of the master's own kernel.
var probeModules = []string{"xen_netfront", "xen_blkfront"}

// Static builds a program of these tests, to be run by itself.
func Static(ctx context.Context, pkg string) ([]byte, error) {
	program, err := os.CreateTemp("", "rempart-static-")
	if err != nil {
		return nil, err
	}
	program.Close()
	defer os.Remove(program.Name())
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", program.Name(), pkg)
	cmd.Dir, cmd.Env = rig.Top(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return os.ReadFile(program.Name())
}

// Probe returns the initramfs of a probe, for the kernel of a master.
func Probe(ctx context.Context, m *rig.Master) ([]byte, error) {
	binary, err := Static(ctx, "rempart/test/xen/probe")
	if err != nil {
		return nil, err
	}
	t := new(tree.Tree)
	const origin = "test"
	entries := []tree.Entry{tree.Bytes("init", 0o755, binary, origin),
		tree.Symlink("sbin/poweroff", "/init", origin), // what the kernel calls when xl asks for an end
		tree.Bytes(strings.TrimPrefix(contract.BootModules, "/"), 0o644, []byte(strings.Join(probeModules, "\n")), origin)}
	for _, dir := range []string{"dev", "proc", "sys"} {
		entries = append(entries, tree.Dir(dir, 0o755, origin))
	}
	modules, err := modulesOf(m)
	if err != nil {
		return nil, fmt.Errorf("modules of master %s: %w", m.Dir, err)
	}
	for _, e := range append(entries, modules...) {
		if err := t.Add(e); err != nil {
			return nil, err
		}
	}
	var archive bytes.Buffer
	err = initramfs.Write(&archive, t)
	return archive.Bytes(), err
}

// modulesOf takes the modules of a probe, and the indices of all, out of a master's root.
func modulesOf(m *rig.Master) ([]tree.Entry, error) {
	region, err := m.Manifest.RootRegion()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(m.Dir, master.RawFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	root, err := erofs.Open(io.NewSectionReader(f, region.Offset, region.Length))
	if err != nil {
		return nil, err
	}
	var entries []tree.Entry
	top := strings.TrimPrefix(contract.ModulesDir, "/")
	err = fs.WalkDir(root, top, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		base := strings.ReplaceAll(path.Base(name), "-", "_")
		wanted := !strings.HasSuffix(base, ".ko")
		for _, module := range probeModules {
			wanted = wanted || base == module+".ko"
		}
		if !wanted {
			return nil
		}
		b, err := fs.ReadFile(root, name)
		if err == nil {
			entries = append(entries, tree.Bytes(name, 0o644, b, "test"))
		}
		return err
	})
	return entries, err
}
