package profiles

import (
	"fmt"
	"path"
	"strings"
)

// Bounds of mount points.
const (
	maxMountDepth = 4  // folders below DisksDir
	maxMountName  = 64 // bytes of a folder
)

// disks checks the data disks: their names, and that none is mounted over another.
func (v *validator) disks() {
	for i := range v.p.Disks {
		d := &v.p.Disks[i]
		if i >= MaxDisks {
			v.reject(d.At, "", "disks: more than %d", MaxDisks)
			return
		}
		if CheckDiskName(d.Name) != nil {
			v.reject(d.At, "", "disks: %s is not a name for a data disk: expected 1 to %d lower-case letters, digits and '-'",
				quote(d.Name), MaxDiskName)
		}
		if first := v.p.Disk(d.Name); first != d {
			v.reject(d.At, "", "data disk %s is declared twice, first at %s", quote(d.Name), first.At)
		}
		v.mount(i)
		v.diskUse(d)
	}
}

// mount checks where a data disk is mounted.
func (v *validator) mount(i int) {
	d := &v.p.Disks[i]
	if v.places.spoilt("disks.%s.at", d.Name) {
		return
	}
	at := v.places.find(d.At, "disks.%s.at", d.Name)
	if problem, hint := checkMount(d); problem != "" {
		v.reject(at, hint, "data disk %s: %s", quote(d.Name), problem)
		return
	}
	for j := range v.p.Disks[:i] {
		other := &v.p.Disks[j]
		switch {
		case other.Mount == d.Mount:
			v.reject(at, "choose another folder", "data disk %s: %s is where data disk %s is mounted", quote(d.Name),
				quote(d.Mount), quote(other.Name))
		case within(d.Mount, other.Mount), within(other.Mount, d.Mount):
			v.reject(at, "mount them side by side", "data disk %s: of %s and %s, where data disk %s is mounted, one lies in"+
				" the other", quote(d.Name), quote(d.Mount), quote(other.Mount), quote(other.Name))
		}
	}
}

// within tells whether a folder lies in another.
func within(inner, outer string) bool { return strings.HasPrefix(inner, outer+"/") }

// checkMount tells what is wrong with a mount point.
func checkMount(d *Disk) (problem, hint string) {
	if hint = "choose a folder such as " + DisksDir + "/data"; isFolder(d.Name) {
		hint = "write " + DisksDir + "/" + clip(d.Name)
	}
	rest, below := strings.CutPrefix(d.Mount, DisksDir+"/")
	switch {
	case !below && within(d.Mount+"/", "/var"):
		return quote(d.Mount) + " is on the state disk: expected a folder below " + DisksDir, hint
	case !below && strings.HasPrefix(d.Mount, "/"):
		return quote(d.Mount) + " is part of what a guest cannot change: expected a folder below " + DisksDir, hint
	case !below:
		return "expected a folder below " + DisksDir + ", found " + quote(d.Mount), hint
	case path.Clean(d.Mount) != d.Mount:
		return quote(d.Mount) + " is a roundabout way to " + quote(path.Clean(d.Mount)), hint
	}
	folders := strings.Split(rest, "/")
	if len(folders) > maxMountDepth {
		return fmt.Sprintf("%s is deeper than %d folders below %s", quote(d.Mount), maxMountDepth, DisksDir), hint
	}
	for _, f := range folders {
		if len(f) > maxMountName || !isFolder(f) {
			return fmt.Sprintf("folder %s: expected 1 to %d letters, digits, '_', '.' and '-', of which it begins with one"+
				" of the first three", quote(f), maxMountName), hint
		}
	}
	return "", ""
}

func isFolder(name string) bool {
	const begins = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
	return name != "" && strings.ContainsRune(begins, rune(name[0])) && strings.Trim(name, begins+".-") == ""
}

// diskUse warns of what nobody in the guest could make use of.
func (v *validator) diskUse(d *Disk) {
	const shell = "add shell: true to admin"
	switch {
	case v.p.Admin.Shell:
	case d.Exec:
		v.warn(d.At, shell+", or remove exec", "data disk %s: nobody in the guest could run what is on it", quote(d.Name))
	case v.p.Logging.Disk == d.Name:
	case d.ReadOnly:
		v.warn(d.At, shell, "data disk %s: nobody in the guest could look at it", quote(d.Name))
	default:
		v.warn(d.At, "add logging: {disk: "+clip(d.Name)+"}, or shell: true to admin",
			"data disk %s: nothing in the guest would keep anything on it", quote(d.Name))
	}
}

// logDisk checks which data disk the log is kept on.
func (v *validator) logDisk() {
	name := v.p.Logging.Disk
	if name == "" {
		return
	}
	at := v.places.find(v.p.Logging.At, "logging.disk")
	d := v.p.Disk(name)
	switch {
	case d == nil && v.places.spoilt("disks"): // it may be the one that could not be read
	case d == nil:
		hint := suggest(name, v.p.diskNames())
		if hint == "" {
			hint = "declare it, such as disks: {" + clip(name) + ": " + DisksDir + "/" + clip(name) + "}"
		}
		v.reject(at, hint, "logging.disk: there is no data disk %s", quote(name))
	case d.ReadOnly:
		v.reject(at, "", "logging.disk: data disk %s is read-only", quote(name))
	}
}
