package qcow2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"rempart/builder/disk"
)

const (
	// worthwhile is the most bytes a cluster is stored compressed with. One that saves less than a page is stored
	// plain: it costs the guest no time to read.
	worthwhile = clusterSize - 4096
	// zstdLevel comes within 1 % of what qemu-img makes. The next level saves 3 % more and takes twice as long.
	zstdLevel = zstd.SpeedBetterCompression
	// window is how far back a compressed cluster may refer: readers give zlib a window of 12 bits (QEMU
	// block/qcow2-threads.c).
	window = 1 << 12
)

type kind uint8

const (
	isZero kind = iota
	isPlain
	isCompressed
)

// result is what became of a cluster.
type result struct {
	cluster int64
	kind    kind
	data    []byte // of isCompressed; valid until the next result
	err     error
}

// job is a cluster on its way through a worker.
type job struct {
	result
	done chan struct{}
}

// compress yields the clusters that the extents of the content touch, in order, worked on by all cores. It stops after
// an error or when ctx ends; the caller then looks at ctx.
func compress(ctx context.Context, content *disk.Sparse, c Compression) iter.Seq[result] {
	return func(yield func(result) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait() // nobody reads the content once the caller has it back
		defer cancel()
		workers := runtime.GOMAXPROCS(0)
		// Enough jobs in flight that a worker seldom waits for the one whose turn it is to be written.
		ordered, jobs := make(chan *job, 4*workers), make(chan *job, 4*workers)
		running.Go(func() {
			defer close(ordered)
			defer close(jobs)
			for cluster := range touched(content) {
				j := &job{result: result{cluster: cluster}, done: make(chan struct{})}
				select {
				case ordered <- j:
					jobs <- j // never blocks for good: workers drain it even when nobody wants the results
				case <-ctx.Done():
					return
				}
			}
		})
		for range workers {
			running.Go(func() {
				var p packer
				buf := make([]byte, clusterSize)
				for j := range jobs {
					if ctx.Err() == nil {
						p.pack(j, content, buf, c)
					}
					close(j.done)
				}
			})
		}
		for j := range ordered {
			<-j.done
			if ctx.Err() != nil || !yield(j.result) || j.err != nil {
				return
			}
		}
	}
}

// touched yields the clusters that hold bytes of some extent, each once.
func touched(content *disk.Sparse) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		next := int64(0)
		for _, e := range content.Extents() {
			for c := max(next, e.Offset/clusterSize); c*clusterSize < e.Offset+e.Length; c++ {
				if !yield(c) {
					return
				}
				next = c + 1
			}
		}
	}
}

// packer is the state of one worker.
type packer struct {
	out     bytes.Buffer
	deflate *flate.Writer
	zstd    *zstd.Encoder
}

func (p *packer) pack(j *job, content *disk.Sparse, buf []byte, c Compression) {
	if j.err = readCluster(content, buf, j.cluster); j.err != nil {
		return
	}
	if disk.AllZero(buf) {
		j.kind = isZero
		return
	}
	packed, err := p.compress(buf, c)
	switch {
	case err != nil:
		j.err = fmt.Errorf("compressing cluster %d: %w", j.cluster, err)
	case len(packed) > worthwhile:
		j.kind = isPlain
	default:
		j.kind, j.data = isCompressed, bytes.Clone(packed)
	}
}

// compress returns b compressed, valid until the next call. A window that small is what the library has one level
// for: an image 8 % larger than an encoder that looks for the best parse would make, in a tenth of its time.
func (p *packer) compress(b []byte, c Compression) (packed []byte, err error) {
	if c == Zstd {
		if p.zstd == nil {
			if p.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
				zstd.WithEncoderLevel(zstdLevel)); err != nil {
				return nil, err
			}
		}
		return p.zstd.EncodeAll(b, p.out.AvailableBuffer()), nil
	}
	p.out.Reset()
	if p.deflate == nil {
		if p.deflate, err = flate.NewWriterWindow(&p.out, window); err != nil {
			return nil, err
		}
	}
	p.deflate.Reset(&p.out)
	if _, err := p.deflate.Write(b); err != nil {
		return nil, err
	}
	if err := p.deflate.Close(); err != nil {
		return nil, err
	}
	return p.out.Bytes(), nil
}

// readCluster fills b with a cluster; beyond the end of the content it is zero.
func readCluster(content *disk.Sparse, b []byte, cluster int64) error {
	at := cluster * clusterSize
	n := min(int64(len(b)), content.Size()-at)
	clear(b[n:])
	if _, err := content.ReadAt(b[:n], at); err != nil && err != io.EOF {
		return disk.ReadError{Err: err}
	}
	return nil
}
