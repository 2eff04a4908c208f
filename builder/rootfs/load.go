package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"rempart/builder/rootfs/tree"
)

// maxRoot bounds the files of a root, in bytes: they are held in memory.
const maxRoot = 2 << 30

// load reads every file of a tree once, on all processors, and returns the list with digests. From then on the tree
// opens files from memory.
func load(ctx context.Context, t *tree.Tree) ([]File, error) {
	entries := t.Entries()
	var total int64
	for _, e := range entries {
		if total += e.Size; e.Size < 0 || total > maxRoot {
			return nil, fmt.Errorf("/%s of %s with %d bytes: the files of a root may have %d bytes together",
				e.Path, e.Origin, e.Size, int64(maxRoot))
		}
	}
	files := make([]File, len(entries))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range entries {
		files[i] = File{Path: "/" + e.Path, Mode: e.Mode, UID: e.UID, GID: e.GID, Link: e.Link, Origin: e.Origin}
		if e.Path == "." {
			files[i].Path = "/"
		}
		if !e.Mode.IsRegular() {
			continue
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			content, err := readEntry(e)
			if err != nil {
				return fmt.Errorf("/%s of %s: %w", e.Path, e.Origin, err)
			}
			e.Open = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
			files[i].Size, files[i].SHA256 = e.Size, sha256.Sum256(content)
			return nil
		})
	}
	return files, g.Wait()
}

// readEntry reads a file and wants it to have exactly the size of its entry.
func readEntry(e *tree.Entry) ([]byte, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content := make([]byte, e.Size)
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", e.Size, err)
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n != 0 {
		return nil, fmt.Errorf("it goes on after its %d bytes", e.Size)
	} else if err != io.EOF {
		return nil, fmt.Errorf("reading %d bytes: %w", e.Size, err)
	}
	return content, nil
}
