package verify

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"rempart/builder/disk"
	"rempart/builder/disk/ext4"
)

// Bounds of what evidence holds besides the report, in bytes: of one thing, and of all of one disk.
const (
	mostPiece  = 16 << 20
	mostPieces = 256 << 20
)

// Disk is a disk that a report is about.
type Disk struct {
	io.ReaderAt
	Size int64
}

// WriteEvidence writes the evidence for a report: one file (tar, zstd) with the report and the listing, the bytes of
// the system disk that are not the master's, and the content of the files that are suspect. What is larger than is
// taken is cut off; the report has the size. Its bytes depend on the arguments alone.
func WriteEvidence(ctx context.Context, w io.Writer, r *Report, system, state *Disk) error {
	packed, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	e := &evidence{ctx: ctx, tar: tar.NewWriter(packed), taken: r.Taken}
	if err := e.all(r, system, state); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	if err := e.tar.Close(); err != nil {
		return fmt.Errorf("evidence: %w", err)
	}
	return packed.Close()
}

// evidence writes one.
type evidence struct {
	ctx   context.Context
	tar   *tar.Writer
	taken time.Time
	left  int64
}

func (e *evidence) all(r *Report, system, state *Disk) error {
	report, err := r.Encode()
	if err != nil {
		return err
	}
	if err := e.put("report.json", report); err != nil {
		return err
	}
	if r.System != nil && system != nil {
		e.left = mostPieces
		for _, d := range r.System.Differences {
			for _, g := range d.Ranges {
				if err := e.piece(fmt.Sprintf("system/%d-%d", g.Offset, g.Length), system, g.Offset,
					min(g.Length, system.Size-g.Offset)); err != nil {
					return err
				}
			}
		}
	}
	if r.State == nil || state == nil {
		return nil
	}
	e.left = mostPieces
	f, err := ext4.Open(state, state.Size)
	if err != nil {
		return nil // the report says so
	}
	for _, s := range r.State.Suspects {
		if s.Inode == 0 {
			continue
		}
		i, err := f.Inode(s.Inode)
		if err != nil || !i.FileMode().IsRegular() {
			continue
		}
		file, err := f.Open(i)
		if err != nil {
			continue
		}
		if err := e.piece(fmt.Sprintf("state/%d", s.Inode), file, 0, i.Size); err != nil {
			return err
		}
	}
	return nil
}

// piece puts bytes of a disk or file in, as much as is taken. What cannot be read is left out: the report has the
// reason.
func (e *evidence) piece(name string, r io.ReaderAt, offset, length int64) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	length = min(length, mostPiece, e.left)
	if length <= 0 {
		return nil
	}
	b := make([]byte, length)
	if err := disk.ReadFull(r, b, offset); err != nil {
		return nil
	}
	e.left -= length
	return e.put(name, b)
}

func (e *evidence) put(name string, b []byte) error {
	if err := e.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: e.taken}); err != nil {
		return err
	}
	_, err := e.tar.Write(b)
	return err
}
