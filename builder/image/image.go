// Package image is the pipeline that turns a checked profile and locked packages into a master. Plan is a function
// from value to value: it joins kernel, initramfs, root, boot loaders and partition table into the image of the whole
// disk, in memory. Write is the last step, the only one that touches the output folder.
//
// What it deliberately does not do: parse profiles, download packages, or know any format itself.
package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"rempart/builder/boot"
	"rempart/builder/disk"
	"rempart/builder/disk/fat"
	"rempart/builder/disk/gpt"
	"rempart/builder/embedded"
	"rempart/builder/initramfs"
	"rempart/builder/kernel"
	"rempart/builder/master"
	"rempart/builder/rootfs"
	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Package is a Debian package whose digest has been checked against the lock.
type Package struct {
	Name, Version, Arch string
	SHA256              string // of the .deb, hex
	Entries             []tree.Entry
}

// Inputs are all a master depends on.
type Inputs struct {
	Profile  *profiles.Profile
	Arch     string // Debian architecture
	Packages []Package
	Size     int64 // bytes of the system disk; 0: as small as the content allows
}

// Phase is how long one step took.
type Phase struct {
	Name    string
	Elapsed time.Duration
}

// Plan is a master that is not written yet.
type Plan struct {
	Disk     *disk.Sparse
	Kernel   []byte
	Initrd   []byte
	Cmdline  string
	Manifest *master.Manifest // without Disk.SHA256, the regions' digests and the outputs
	Phases   []Phase
	programs map[string][]byte
}

// Names of the partitions, in the order of the disk.
const (
	partitionBIOS = "bios"
	partitionESP  = "esp"
	partitionRoot = "root"
)

// GUIDs that are the same for every master, made once by a random number generator. The root's GUID comes from its
// root hash (contract.Verity).
const (
	guidDisk = "5b7ea3c1-7f0a-4c5e-9d1e-5d2f6a8a3b01"
	guidBIOS = "8f2b6c7a-13c4-4f0e-8a57-0c9d4be1a202"
	guidESP  = "c4d1e9b8-52a7-4b63-b0f5-7e18d3c96f03"
	// volumeSerial is that of the boot partition: constant, since the GUIDs and the root hash tell masters apart.
	volumeSerial = 0x524d5042 // "RMPB"
)

// NewPlan joins everything. Same inputs, same bytes. Errors name the part that failed.
func NewPlan(ctx context.Context, in Inputs) (*Plan, error) {
	p := &planner{in: in, plan: &Plan{programs: map[string][]byte{}}, origins: map[string]string{}}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"kernel", p.openKernel},
		{"initramfs", p.makeInitramfs},
		{"root", p.makeRoot},
		{"boot", p.makeBoot},
		{"layout", p.layOut},
		{"read back", p.readBack},
	} {
		start := time.Now()
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		p.plan.Phases = append(p.plan.Phases, Phase{step.name, time.Since(start)})
	}
	return p.plan, nil
}

// CheckArch tells, before anything is fetched, why this rempart can build no master for a Debian architecture.
func CheckArch(arch string) error {
	if _, err := boot.ArchOf(arch); err != nil {
		return err
	}
	_, stage := embedded.BootStage(arch)
	_, program := embedded.Firstboot(arch)
	_, shell := embedded.Shell(arch)
	return errors.Join(stage, program, shell)
}

// planner carries what one step hands to the next.
type planner struct {
	in     Inputs
	plan   *Plan
	arch   boot.Arch
	kernel *kernel.Kernel
	master contract.Master
	root   *rootfs.Root
	grub   *boot.Grub // nil where there is no BIOS
	esp    []fat.File
	// used names the packages of which something is outside the root; origins those of files on the boot partition.
	used    []string
	origins map[string]string
}

// Packages that bring boot loaders.
const (
	loaderPackage = "systemd-boot-efi"
	grubPackage   = "grub-pc-bin"
)

// archAll is the architecture of packages that fit every one (Debian Policy 5.6.8).
const archAll = "all"

// kernelPrefix begins the names of the packages that hold a kernel, and not only a dependency on one.
const kernelPrefix = "linux-image-"

func (p *planner) openKernel(context.Context) error {
	arch, err := boot.ArchOf(p.in.Arch)
	if err != nil {
		return err
	}
	p.arch = arch
	for _, pkg := range p.in.Packages {
		if pkg.Arch != p.in.Arch && pkg.Arch != archAll {
			return fmt.Errorf("package %s %s is for %s, the master for %s: build with the lock of that architecture",
				pkg.Name, pkg.Version, pkg.Arch, p.in.Arch)
		}
	}
	for _, pkg := range p.in.Packages {
		if !strings.HasPrefix(pkg.Name, kernelPrefix) || !slices.ContainsFunc(pkg.Entries, isKernel) {
			continue
		}
		if p.kernel, err = kernel.Open(pkg.Entries); err != nil {
			return err
		}
		p.used = append(p.used, pkg.Name)
		p.origins[boot.KernelPath] = pkg.Name
		break
	}
	if p.kernel == nil {
		return fmt.Errorf("no package %s* of the lock holds a kernel", kernelPrefix)
	}
	if p.plan.Kernel, err = content(p.kernel.Image); err != nil {
		return err
	}
	profile, err := json.Marshal(p.in.Profile)
	if err != nil {
		return err
	}
	p.master = contract.Master{
		Name: p.in.Profile.Name, Version: contract.Version, Arch: p.in.Arch,
		Kernel: p.kernel.Release, Profile: contract.ProfileDigest(profile),
	}
	return nil
}

func isKernel(e tree.Entry) bool { return strings.HasPrefix(e.Path, "boot/vmlinuz-") }

func (p *planner) makeInitramfs(ctx context.Context) error {
	program, err := embedded.BootStage(p.in.Arch)
	if err != nil {
		return err
	}
	p.plan.programs["bootstage"] = program
	p.plan.Initrd, err = initramfs.Build(ctx, p.kernel, program)
	return err
}

func (p *planner) makeRoot(ctx context.Context) error {
	program, err := embedded.Firstboot(p.in.Arch)
	if err != nil {
		return err
	}
	p.plan.programs["firstboot"] = program
	packages := make([]rootfs.Package, 0, len(p.in.Packages))
	for _, pkg := range p.in.Packages {
		packages = append(packages, rootfs.Package{Name: pkg.Name, Entries: pkg.Entries})
	}
	var shell []byte
	if p.in.Profile.Admin.Shell {
		if shell, err = embedded.Shell(p.in.Arch); err != nil {
			return err
		}
		p.plan.programs["shell"] = shell
	}
	p.root, err = rootfs.Build(ctx, rootfs.Inputs{
		Profile: p.in.Profile, Master: p.master, Firstboot: program, Shell: shell, Kernel: p.kernel, Packages: packages,
	})
	return err
}

func (p *planner) makeBoot(context.Context) error {
	p.plan.Cmdline = boot.Cmdline(p.arch, p.root.Verity)
	title := "Rempart " + p.master.Name
	files := map[string][]byte{
		boot.KernelPath:     p.plan.Kernel,
		boot.InitrdPath:     p.plan.Initrd,
		boot.GrubConfigPath: boot.GrubConfig(title, p.plan.Cmdline),
	}
	maps.Copy(files, boot.LoaderFiles(title, p.plan.Cmdline))
	loader, err := p.packageFile(loaderPackage, p.arch.EFIStub)
	if err != nil {
		return err
	}
	files[p.arch.EFIFile] = loader
	p.used = append(p.used, loaderPackage)
	p.origins[p.arch.EFIFile] = loaderPackage
	for _, path := range slices.Sorted(maps.Keys(files)) {
		b := files[path]
		p.esp = append(p.esp, fat.File{Path: path, Size: int64(len(b)), Content: bytes.NewReader(b)})
	}
	if p.arch.BIOS {
		p.used = append(p.used, grubPackage)
		p.grub, err = boot.LinkGrub(func(name string) ([]byte, error) {
			return p.packageFile(grubPackage, boot.GrubDir+"/"+name)
		})
	}
	return err
}

func (p *planner) packageFile(pkg, path string) ([]byte, error) {
	for i := range p.in.Packages {
		if p.in.Packages[i].Name != pkg {
			continue
		}
		for _, e := range p.in.Packages[i].Entries {
			if e.Path == path {
				return content(e)
			}
		}
		return nil, fmt.Errorf("package %s %s holds no /%s", pkg, p.in.Packages[i].Version, path)
	}
	return nil, fmt.Errorf("the lock names no package %s; `rempart lock` renews it", pkg)
}

func (p *planner) layOut(context.Context) error {
	options := fat.Options{Label: contract.BootLabel, Serial: volumeSerial}
	espSize, err := fat.Size(p.esp, options)
	if err != nil {
		return err
	}
	var parts []disk.Partition
	if p.grub != nil {
		parts = append(parts, disk.Partition{Name: partitionBIOS, MinSize: p.grub.CoreSize(),
			Type: gpt.TypeBIOSBoot, GUID: gpt.MustParseGUID(guidBIOS)})
	}
	rootGUID, err := gpt.ParseGUID(p.root.Verity.PartitionGUID())
	if err != nil {
		return err
	}
	parts = append(parts,
		disk.Partition{Name: partitionESP, MinSize: espSize,
			Type: gpt.TypeESP, GUID: gpt.MustParseGUID(guidESP)},
		disk.Partition{Name: partitionRoot, Content: p.root.Image, Attributes: gpt.AttributeReadOnly,
			Type: p.arch.RootType, GUID: rootGUID})
	layout, err := disk.PlanLayout(parts, p.in.Size)
	if err != nil {
		return err
	}
	var bootCode []byte
	for i := range parts {
		slot := layout.Slots[i]
		switch parts[i].Name {
		case partitionBIOS:
			var core []byte
			bootCode, core = p.grub.Place(slot.LBA())
			parts[i].Content = disk.NewSparse(int64(len(core)))
			err = parts[i].Content.Put(0, bytes.NewReader(core), int64(len(core)))
		case partitionESP:
			options.HiddenSectors = uint32(slot.LBA())
			options.Size = slot.Length
			parts[i].Content, err = fat.Build(p.esp, options)
		}
		if err != nil {
			return err
		}
	}
	if p.plan.Disk, err = layout.Assemble(gpt.MustParseGUID(guidDisk), bootCode, parts); err != nil {
		return err
	}
	if p.plan.Manifest, err = p.manifest(layout); err != nil {
		return err
	}
	return locate(p.plan.Disk, p.plan.Manifest)
}

// content reads a regular file of a package.
func content(e tree.Entry) ([]byte, error) {
	if !e.Mode.IsRegular() || e.Open == nil {
		return nil, fmt.Errorf("%s: /%s is no regular file", e.Origin, e.Path)
	}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("%s: /%s: %w", e.Origin, e.Path, err)
	}
	defer r.Close()
	b := make([]byte, e.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%s: /%s: %w", e.Origin, e.Path, err)
	}
	return b, nil
}
