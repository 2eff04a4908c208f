package build

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"

	"rempart/builder/disk/gpt"
	"rempart/builder/master"
	guestgpt "rempart/firstboot/gpt"
)

// withARM64 builds a rempart that carries the guest programs of both architectures, as `make ARCHES="amd64 arm64"`
// does, without touching what `make` made: the new programs are laid over the tree for the compiler's eyes only.
func withARM64(t *testing.T) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	top := filepath.Join(filepath.Dir(file), "..", "..")
	dir := t.TempDir()
	build := func(arch string, args ...string) {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -buildid="}, args...)...)
		cmd.Dir = top
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build %q: %v\n%s", args, err, out)
		}
	}
	over := map[string]map[string]string{"Replace": {}}
	programs := map[string]string{"bootstage-arm64": "./firstboot/boot", "firstboot-arm64": "./firstboot",
		"shell-arm64": "./firstboot/shell"}
	for program, source := range programs {
		path := filepath.Join(dir, program)
		build("arm64", "-tags", "guest", "-o", path, source)
		over["Replace"][filepath.Join(top, "builder", "embedded", "files", program)] = path
	}
	overlay, err := json.Marshal(over)
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "rempart")
	build(runtime.GOARCH, "-overlay", overlayFile, "-o", binary, "./builder")
	return binary
}

// TestARM64 builds a master of the other architecture and looks at what differs: programs, boot loader and partitions.
// No guest is booted.
func TestARM64(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "master")
	cmd := exec.CommandContext(t.Context(), withARM64(t), "build", profile, "--arch", "arm64", "--renew-lock", "-o", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("rempart build --arch arm64: %v\n%s", err, out)
	}
	f, err := os.Open(filepath.Join(dir, master.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := master.ReadManifest(f)
	if err != nil {
		t.Fatal(err)
	}
	if m.Master.Arch != "arm64" || !strings.HasSuffix(m.Master.Kernel, "-arm64") {
		t.Errorf("the master is for %s, its kernel is %s; want arm64", m.Master.Arch, m.Master.Kernel)
	}
	boots := func(path string) bool {
		return slices.ContainsFunc(m.Boot, func(f master.File) bool { return f.Path == path })
	}
	if !boots("/EFI/BOOT/BOOTAA64.EFI") || boots("/EFI/BOOT/BOOTX64.EFI") {
		t.Errorf("the boot partition holds %+v; want the loader of arm64 and no other", m.Boot)
	}
	if !strings.Contains(m.Cmdline, "console=ttyAMA0") {
		t.Errorf("the command line is %q; want the serial port of arm64", m.Cmdline)
	}
	disk, err := os.Open(filepath.Join(dir, master.RawFile))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	table, err := guestgpt.Read(disk, m.Disk.Size, gpt.SectorSize)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Partitions) != 2 || table.Partitions[1].Type != gpt.TypeRootARM64.String() {
		t.Errorf("partitions are %+v; want a boot partition and a root of arm64", table.Partitions)
	}
	region, err := m.RootRegion()
	if err != nil {
		t.Fatal(err)
	}
	root, err := erofs.Open(io.NewSectionReader(disk, region.Offset, region.Length))
	if err != nil {
		t.Fatal(err)
	}
	programs := 0
	for _, file := range m.Root {
		if !strings.HasPrefix(file.Mode, "-rwx") {
			continue
		}
		content, err := fs.ReadFile(root, strings.TrimPrefix(file.Path, "/"))
		if err != nil {
			t.Fatal(err)
		}
		if program, err := elf.NewFile(bytes.NewReader(content)); err == nil {
			if programs++; program.Machine != elf.EM_AARCH64 {
				t.Errorf("%s is a program for %v; want arm64", file.Path, program.Machine)
			}
		}
	}
	if programs < 2 { // firstboot, and those of e2fsprogs
		t.Errorf("the root holds %d programs; want firstboot and those that format the state disk", programs)
	}
}
