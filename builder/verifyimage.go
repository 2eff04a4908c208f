package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"rempart/builder/disk/imagefile"
	"rempart/builder/disk/inside"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/running"
	"rempart/builder/guest/verify"
	"rempart/builder/master"
	"rempart/builder/master/store"
)

// overlayReport is in what the disk of a guest of another system differs from its master. That there are differences
// says nothing: such a system writes to itself.
type overlayReport struct {
	Guest   string              `json:"guest,omitempty"`
	Master  string              `json:"master"`           // digest by which the store knows the master
	Disk    string              `json:"disk"`             // digest of the master's disk
	Signer  string              `json:"signer,omitempty"` // the trusted key that signed the manifest; empty: none
	Taken   time.Time           `json:"taken"`
	Files   []fileDiff          `json:"files"`
	Outside []verify.Difference `json:"outside"` // of files: boot code, gaps, what is behind the master's end
}

func (r *overlayReport) count() int { return len(r.Files) + len(r.Outside) }

// compareOverlay compares an overlay, which nobody writes to, with the master it lies on: files by files where both
// have filesystems that can be read, and all that is outside of partitions byte by byte.
func compareOverlay(ctx context.Context, path string, m *guest.Master, digest string) (*overlayReport, error) {
	r := &overlayReport{Master: digest, Disk: m.Manifest.Disk.SHA256, Taken: time.Now().UTC().Truncate(time.Second)}
	over, err := guest.OpenOverlay(ctx, path, m)
	if err != nil {
		return nil, err
	}
	defer over.Close()
	base, err := m.System("")
	if err != nil {
		return nil, err
	}
	own, err := imagefile.Open(ctx, base.Path, imagefile.Options{Format: imagefile.Format(base.Format)})
	if err != nil {
		return nil, err
	}
	defer own.Close()
	var looks [2]*look
	for n, i := range []*imagefile.Image{own, over} {
		looks[n] = &look{image: i, r: i, size: i.Size()}
		if looks[n].table, looks[n].parts, looks[n].damage, err = inside.Partitions(i, i.Size()); err != nil {
			return nil, err
		}
	}
	r.Files = []fileDiff{}
	if len(looks[0].parts) == 0 && len(looks[1].parts) == 0 {
		err = diffWhole(ctx, looks[0], looks[1], r)
	} else {
		err = diffParts(ctx, looks[0], looks[1], &r.Files)
	}
	if err != nil {
		return nil, err
	}
	outside, err := verify.Overlay(ctx, verify.Disk{ReaderAt: over, Size: over.Size()},
		verify.Disk{ReaderAt: own, Size: own.Size()}, outsideFiles(looks[0], looks[1]))
	r.Outside = append([]verify.Difference{}, outside...)
	return r, err
}

// diffWhole compares disks that have no partitions: by the files of the one filesystem they hold, if it can be read.
func diffWhole(ctx context.Context, was, is *look, r *overlayReport) error {
	a, errA := inside.OpenVolume(was.r, was.size)
	b, errB := inside.OpenVolume(is.r, is.size)
	if errA != nil || errB != nil {
		return nil // all of it is compared byte by byte
	}
	var err error
	r.Files, err = diffVolumes(ctx, a, b, 0)
	return err
}

// bootBlock is what the filesystems that are read leave to boot code at their beginning in bytes: ext4 two sectors; of
// FAT the first is its own, and has boot code too.
const bootBlock = 1024

// outsideFiles are the parts of a disk that belong to no partition of either, and the boot blocks of the filesystems on
// those that do. On a disk without partitions and without a filesystem it is all.
func outsideFiles(was, is *look) (all []master.Region) {
	size := max(was.size, is.size)
	parts := append(append([]inside.Partition{}, was.parts...), is.parts...)
	if len(parts) == 0 {
		_, errA := inside.OpenVolume(was.r, was.size)
		_, errB := inside.OpenVolume(is.r, is.size)
		if errA != nil || errB != nil {
			return []master.Region{{Name: "disk", Length: size}}
		}
		return []master.Region{{Name: "boot block", Length: min(bootBlock, size)}}
	}
	for _, r := range master.Around(ranges(parts), size) {
		all = append(all, master.Region{Name: "outside partitions", Offset: r.Offset, Length: r.Length})
	}
	for _, p := range is.parts {
		if v, err := inside.OpenVolume(p.Part(is.r), p.Size); err == nil {
			length := min(int64(bootBlock), p.Size)
			if strings.HasPrefix(v.Kind, "fat") {
				length = min(int64(bootBlock/2), p.Size)
			}
			all = append(all, master.Region{Name: fmt.Sprintf("boot block of partition %d", p.Number), Offset: p.Offset,
				Length: length})
		}
	}
	return all
}

func ranges(parts []inside.Partition) (all []master.Extent) {
	for _, p := range parts {
		all = append(all, master.Extent{Offset: p.Offset, Length: p.Size})
	}
	return all
}

// foreign verifies a guest of another system: its master byte by byte, and once it stands still what it has written.
func (v *verification) foreign(ctx context.Context, c *console, g *home.Guest) error {
	if v.state != "" || v.since != "" || v.record != "" || v.evidence != "" {
		return usageError{fmt.Sprintf("%s is another system's: it has no state disk, and which of its files are honest is "+
			"not known; what it has written is kept by `rempart backup`", g.Name)}
	}
	m, kept, err := masterOf(g)
	if err != nil {
		return err
	}
	s, err := store.Open(g.Store)
	if err != nil {
		return err
	}
	v.masters, v.kept = s, kept
	signer, err := v.signer(kept.Dir)
	if err == nil {
		err = s.Verify(ctx, kept)
	}
	if errors.Is(err, store.ErrChanged) {
		fmt.Fprintln(c.out, err)
		return errDifferent
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.err, "rempart: master %.12s: every byte as its manifest says\n", kept.Digest)
	switch _, err := g.Running(); {
	case err == nil:
		return fmt.Errorf("%w: %s; what it has written can be compared once it is stopped: rempart stop %[2]s", home.ErrRuns,
			g.Name)
	case !errors.Is(err, running.ErrAbsent):
		return err
	}
	r, err := compareOverlay(ctx, g.StateDisk(), m, kept.Digest)
	if err != nil {
		return err
	}
	r.Guest, r.Signer = g.Name, signer
	if v.json {
		err = printJSON(c.out, r)
	} else {
		tellSigner(c, signer)
		tellOverlay(c, r)
	}
	if err == nil && r.count() > 0 {
		err = errDifferent
	}
	return err
}

// tellOverlay prints a report.
func tellOverlay(c *console, r *overlayReport) {
	fmt.Fprintf(c.out, "%s in what it has written on master %.12s; whether they should be there rempart cannot know\n",
		count(r.count(), "difference"), r.Master)
	for _, d := range r.Outside {
		fmt.Fprintf(c.out, "  %s\n", printable(describe(d)))
	}
	for _, f := range r.Files {
		fmt.Fprintf(c.out, "  %s\n", oneLine(f.String()))
	}
}

// examineOverlay looks at what a guest of another system has written, for a transaction.
func examineOverlay(ctx context.Context, g *home.Guest, path string) (found reprovision.Finding, err error) {
	m, kept, err := masterOf(g)
	if err != nil {
		return found, err
	}
	r, err := compareOverlay(ctx, path, m, kept.Digest)
	if err != nil {
		return found, err
	}
	r.Guest = g.Name
	for _, d := range r.Outside {
		found.Suspects = append(found.Suspects, describe(d))
	}
	if n := len(r.Files); n > 0 {
		found.Suspects = append(found.Suspects, count(n, "file")+" differ from the master's; the report names them")
	}
	found.Report, err = json.MarshalIndent(r, "", " ")
	return found, err
}

// listOverlay shows what an overlay in quarantine has written on the master of a digest.
func listOverlay(ctx context.Context, c *console, g *home.Guest, digest, path string) error {
	s, err := store.Open(g.Store)
	if err != nil {
		return err
	}
	kept, err := s.Find(digest)
	if err != nil {
		return err
	}
	m, err := guest.OpenMaster(kept.Dir)
	if err != nil {
		return err
	}
	r, err := compareOverlay(ctx, path, m, kept.Digest)
	if err != nil {
		return err
	}
	tellOverlay(c, r)
	return nil
}
