package debian

import "strings"

// Follow says how much of a root's dependencies is locked with it.
type Follow string

const (
	// FollowAll locks the package and all it depends on.
	FollowAll Follow = "all"
	// FollowNone locks the package alone: only files out of it are used.
	FollowNone Follow = "none"
	// FollowMeta locks what a metapackage depends on in place of the package, and nothing further.
	FollowMeta Follow = "meta"
)

// Root is a package that masters are made of.
type Root struct {
	Name   string
	Follow Follow
	Why    string
}

// architectures are those there are roots for.
var architectures = []string{"amd64", "arm64"}

// The roots by name.
const (
	RootE2fsprogs   = "e2fsprogs"
	RootSystemdBoot = "systemd-boot-efi"
	RootGRUB        = "grub-pc-bin" // amd64 only
	RootAuthorities = "ca-certificates"
)

// RootKernel is the metapackage of the kernel of an architecture.
func RootKernel(arch string) string { return "linux-image-cloud-" + arch }

// RootKernelFull is the metapackage of the kernel that drives hardware too.
func RootKernelFull(arch string) string { return "linux-image-" + arch }

// Names are those roots of an architecture that a master with one kernel is made of, with the certificate authorities
// when its guests need to know them.
func Names(arch, kernel string, authorities bool) ([]string, error) {
	roots, err := Roots(arch)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, root := range roots {
		if root.Name == RootAuthorities && !authorities {
			continue
		}
		if root.Follow != FollowMeta || root.Name == kernel {
			names = append(names, root.Name)
		}
	}
	return names, nil
}

// Roots are the packages the lock of an architecture is made from, in the order of their names.
func Roots(arch string) ([]Root, error) {
	roots := []Root{
		{RootAuthorities, FollowNone, "whose word a guest takes for who a web server is, where its profile names one"},
		{RootE2fsprogs, FollowAll, "formats, checks and grows the state disk inside the guest"},
	}
	switch arch {
	case "amd64":
		roots = append(roots, Root{RootGRUB, FollowNone, "modules of the GRUB core image for BIOS"})
	case "arm64": // has no BIOS
	default:
		return nil, wrap(ErrUnknown, "architecture %q: expected %s", arch, strings.Join(architectures, " or "))
	}
	return append(roots,
		Root{RootKernelFull(arch), FollowMeta, "the kernel for profiles with hardware of their own"},
		Root{RootKernel(arch), FollowMeta, "kernel and modules; what it wants for its installation is of no use in a master"},
		Root{RootSystemdBoot, FollowNone, "the boot loader of UEFI"},
	), nil
}
