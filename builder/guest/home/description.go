package home

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/carry"
	"rempart/builder/guest/storage"
	"rempart/builder/hypervisor"
	"rempart/firstboot/contract/identity"
)

// Format is the version of the description's own form.
const Format = 1

// Description is what a guest is made of. What it says is what the guest has at its next start.
type Description struct {
	Format int    `json:"format"`
	Name   string `json:"name"`
	Store  string `json:"store"`  // folder of the store that has its masters
	Master string `json:"master"` // digest of the master it boots
	// Previous is the digest of the master it had before, which `rempart rollback` goes back to; empty: none.
	Previous string              `json:"previous,omitempty"`
	Firmware hypervisor.Firmware `json:"firmware"`
	// DiskFormat is which of the master's system disks is attached; empty: what is there.
	DiskFormat hypervisor.Format `json:"disk_format,omitempty"`
	Memory     int64             `json:"memory,omitempty"` // bytes; 0: what the profile says
	VCPUs      int               `json:"vcpus,omitempty"`  // 0: 1
	Accel      hypervisor.Accel  `json:"accel"`
	// State is the size of the state disk in bytes, 0: none; of a guest of another system that of its overlay.
	State int64 `json:"state"`
	// Volumes is where in LVM the state disk is: a volume group, or a thin pool as GROUP/POOL; empty: it is a file.
	Volumes string `json:"volumes,omitempty"`
	// Root says that the system disk is in LVM too, derived from a volume with the master.
	Root bool `json:"root,omitempty"`
	// Growing is the size that the state disk had when a growth began which is not over; 0: none is under way.
	Growing int64 `json:"growing,omitempty"`
	// Nets are what its links are plugged into, by link, in the words of `rempart run --net`; of a guest of Xen each is
	// bridge:NAME.
	Nets map[string]string `json:"nets,omitempty"`
	Data []Data            `json:"data,omitempty"`
	// Keep are places of its state disk, below /var, whose files are carried over when it is reprovisioned.
	Keep []string `json:"keep,omitempty"`
	// Image says that its master is the disk of another system; nil: one that was built.
	Image *Image `json:"image,omitempty"`
	// Xen says that Xen runs it; nil: QEMU does.
	Xen *Xen `json:"xen,omitempty"`
}

// Image is what is said of a guest of another system, which has no profile to say it.
type Image struct {
	Links  []string     `json:"links,omitempty"` // names of its NICs in bus order
	Health guest.Health `json:"health"`
}

// linkPattern is a name of a NIC: what Linux takes as one (IFNAMSIZ), of characters that need no thought anywhere.
var linkPattern = regexp.MustCompile(`^[a-z][a-z0-9._-]{0,14}$`)

// check tells what is wrong with the parts of a description that are of another system's guest.
func (i *Image) check(d *Description) error {
	errs := []error{i.Health.Check()}
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for n, l := range i.Links {
		if !linkPattern.MatchString(l) || slices.Contains(i.Links[:n], l) {
			bad("link %.40q: want 1 to 15 lower-case letters, digits, '.', '_' and '-', and each once", l)
		}
	}
	for link := range d.Nets {
		if !slices.Contains(i.Links, link) {
			bad("there is no link %.32s to plug in", link)
		}
	}
	if d.Firmware.ReadsKernelFromHost() {
		bad("firmware %s boots a kernel of this machine; another system has its own: want bios or uefi", d.Firmware)
	}
	if d.Memory == 0 || d.State == 0 {
		bad("the disk of another system does not say how much memory it wants, nor how large its overlay is: want both")
	}
	if d.Volumes != "" {
		bad("the overlay of another system is a file, and none of volume group %s", d.Volumes)
	}
	if len(d.Keep) > 0 {
		bad("nothing is carried over from the disk of another system: what is an honest file there is not known. Put what " +
			"must last on a disk of its own, by --data")
	}
	return errors.Join(errs...)
}

// Data is a disk that belongs to the guest's owner: it is attached, and never copied, moved or removed.
type Data struct {
	Name     string            `json:"name"` // 1 to 15 letters, digits and '-'; the guest finds it as data-NAME
	Path     string            `json:"path"`
	Format   hypervisor.Format `json:"format"`
	ReadOnly bool              `json:"read_only,omitempty"`
}

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Check tells everything that is wrong with a description, at once.
func (d *Description) Check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.Format != Format {
		bad("format %d; this rempart reads format %d", d.Format, Format)
	}
	if !identity.IsHostname(d.Name) {
		bad("%.80q is no name of a guest: want an RFC 1123 label in lower case, such as fw-1", d.Name)
	}
	if !filepath.IsAbs(d.Store) {
		bad("store %.200q: want a path that begins with a slash", d.Store)
	}
	if !digestPattern.MatchString(d.Master) {
		bad("master %.80q: want the digest of one", d.Master)
	}
	if d.Previous != "" && !digestPattern.MatchString(d.Previous) {
		bad("previous master %.80q: want the digest of one", d.Previous)
	}
	if _, err := hypervisor.ParseFirmware(string(d.Firmware)); err != nil {
		errs = append(errs, err)
	}
	if _, err := hypervisor.ParseAccel(string(d.Accel)); err != nil {
		errs = append(errs, err)
	}
	if _, err := hypervisor.ParseFormat(string(d.DiskFormat)); err != nil && d.DiskFormat != "" {
		errs = append(errs, err)
	}
	if d.Volumes != "" {
		if err := storage.CheckVolumes(d.Volumes, d.Name); err != nil {
			errs = append(errs, err)
		}
	}
	if d.Root && d.Volumes == "" {
		bad("the system disk is a volume, but of which volume group is not said")
	}
	if d.Memory < 0 || d.State < 0 || d.Growing < 0 {
		bad("memory of %d bytes and a state disk of %d: want none, or more", d.Memory, d.State)
	}
	if d.VCPUs < 0 || d.VCPUs > hypervisor.MaxVCPUs {
		bad("%d processors: want 1 to %d", d.VCPUs, hypervisor.MaxVCPUs)
	}
	if len(d.Data) > hypervisor.MaxData {
		bad("%d data disks: at most %d can be attached", len(d.Data), hypervisor.MaxData)
	}
	if len(d.Data) > 0 && !d.Firmware.TakesIdentity() {
		bad("firmware %s has no place for data disks", d.Firmware)
	}
	for link, what := range d.Nets {
		if _, err := hypervisor.ParseBackend(what); err != nil && d.Xen == nil {
			bad("link %.32s: %w", link, err)
		}
	}
	if err := carry.Check(d.Keep); err != nil {
		errs = append(errs, err)
	}
	if d.Image != nil {
		errs = append(errs, d.Image.check(d))
	}
	if d.Xen != nil {
		errs = append(errs, d.Xen.check(d))
	}
	seen := map[string]bool{}
	for _, disk := range d.Data {
		if err := hypervisor.CheckDataName(disk.Name); err != nil {
			errs = append(errs, err)
		}
		if seen[disk.Name] {
			bad("two data disks are called %s", disk.Name)
		}
		seen[disk.Name] = true
		if !filepath.IsAbs(disk.Path) {
			bad("data disk %s: path %.200q: want one that begins with a slash", disk.Name, disk.Path)
		}
		if _, err := hypervisor.ParseFormat(string(disk.Format)); err != nil {
			bad("data disk %s: %w", disk.Name, err)
		}
	}
	return errors.Join(errs...)
}

// maxDescription bounds a description in bytes.
const maxDescription = 256 << 10

func readDescription(path string) (*Description, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDescription+1))
	if err != nil {
		return nil, err
	}
	d, err := parseDescription(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; it was changed by hand, or is damaged: put it right, or take its folder away with "+
			"all that is in it", path, err)
	}
	return d, nil
}

func parseDescription(b []byte) (*Description, error) {
	if len(b) > maxDescription {
		return nil, fmt.Errorf("more than %d bytes", maxDescription)
	}
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	d := &Description{}
	if err := decoder.Decode(d); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the description")
	}
	return d, d.Check()
}

// Save writes the description down. The guest must be locked.
func (g *Guest) Save() error {
	if g.lock == nil {
		return fmt.Errorf("guest %s: it is not locked", g.Name)
	}
	if err := g.Check(); err != nil {
		return fmt.Errorf("guest %s: %w", g.Name, err)
	}
	return saveJSON(filepath.Join(g.Dir, descriptionFile), g.Description)
}

func saveJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return files.Write(path, append(b, '\n'), 0o600)
}
