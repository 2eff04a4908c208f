// Package verity computes the hash tree that dm-verity checks a root with, and the superblock that tells `veritysetup
// verify` how. Formats: Linux Documentation/admin-guide/device-mapper/verity.rst, and for the superblock the
// cryptsetup wiki's DMVerity page. One choice of parameters: hash type 1, SHA-256, no salt, blocks of 4096 bytes. A
// salt would hinder precomputed collisions across roots, which SHA-256 has none of; without it equal roots are equal.
//
// What it deliberately does not do: other parameters, forward error correction, signatures, activating anything.
// go-dmverity writes the same trees, yet only between files named by path, and one block at a time.
package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"rempart/builder/disk"
	"rempart/firstboot/contract"
)

const (
	blockSize = contract.BlockSize
	perBlock  = blockSize / sha256.Size // digests in a hash block: 128
)

// SuperblockSize is the size of the verity superblock in bytes. The rest of its block is zero.
const SuperblockSize = 512

// maxBlocks bounds the data: 16 TiB.
const maxBlocks = 1 << 32

// Tree returns the root hash of blocks data blocks and the hash tree as it lies on disk: the level nearest to the root
// first, each level padded with zeros to whole blocks. A single data block has an empty tree; its digest is the root
// hash. The error is that of reading data, or of ctx; blocks must be from 1 to 2^32.
func Tree(ctx context.Context, data io.ReaderAt, blocks uint64) (root [32]byte, hashes []byte, err error) {
	if blocks == 0 || blocks > maxBlocks {
		return root, nil, fmt.Errorf("hash tree: %d data blocks; want 1 to %d", blocks, uint64(maxBlocks))
	}
	if blocks == 1 {
		var block [blockSize]byte
		if err := disk.ReadFull(data, block[:], 0); err != nil {
			return root, nil, fmt.Errorf("hash tree: %w", err)
		}
		return sha256.Sum256(block[:]), nil, nil
	}
	var sizes []uint64 // of the levels in blocks, the one over the data first
	total := uint64(0)
	for n := blocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		sizes = append(sizes, n)
		total += n
	}
	hashes = make([]byte, total*blockSize)
	end := uint64(len(hashes)) // the lowest level lies last
	for i, n := range sizes {
		level := hashes[end-n*blockSize : end]
		if i == 0 {
			err = hashData(ctx, data, blocks, level)
		} else {
			hashBlocks(hashes[end:end+sizes[i-1]*blockSize], level)
		}
		if err != nil {
			return root, nil, err
		}
		end -= n * blockSize
	}
	return sha256.Sum256(hashes[:blockSize]), hashes, nil
}

// hashData fills the lowest level, one of its blocks at a time on each processor.
func hashData(ctx context.Context, data io.ReaderAt, blocks uint64, level []byte) error {
	workers := uint64(runtime.GOMAXPROCS(0))
	g, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		g.Go(func() error {
			buf := make([]byte, perBlock*blockSize)
			for first := w * perBlock; first < blocks; first += workers * perBlock {
				if err := ctx.Err(); err != nil {
					return err
				}
				b := buf[:min(perBlock, blocks-first)*blockSize]
				if err := disk.ReadFull(data, b, int64(first)*blockSize); err != nil {
					return fmt.Errorf("hash tree: %w", err)
				}
				hashBlocks(b, level[first/perBlock*blockSize:])
			}
			return nil
		})
	}
	return g.Wait()
}

// hashBlocks writes the digest of each block of b to out.
func hashBlocks(b, out []byte) {
	for ; len(b) > 0; b, out = b[blockSize:], out[sha256.Size:] {
		digest := sha256.Sum256(b[:blockSize])
		copy(out, digest[:])
	}
}

// superblock is struct verity_sb of the DMVerity page.
type superblock struct {
	Signature     [8]byte
	Version       uint32 // of the superblock
	HashType      uint32 // 1: the salt, were there one, comes before the data
	UUID          [16]byte
	Algorithm     [32]byte
	DataBlockSize uint32
	HashBlockSize uint32
	DataBlocks    uint64
	SaltSize      uint16
	_             [6]byte
	Salt          [256]byte
	_             [168]byte
}

// Superblock returns the superblock. Its UUID, which veritysetup wants to be there and nobody looks up, is the last 16
// bytes of the root hash; the first 16 are the GUID of the partition.
func Superblock(v contract.Verity) []byte {
	s := superblock{
		Version: 1, HashType: 1, DataBlockSize: blockSize, HashBlockSize: blockSize, DataBlocks: v.DataBlocks,
		UUID: [16]byte(v.RootHash[16:]),
	}
	copy(s.Signature[:], "verity")
	copy(s.Algorithm[:], "sha256")
	b := make([]byte, SuperblockSize)
	if _, err := binary.Encode(b, binary.LittleEndian, s); err != nil {
		panic(err) // superblock has a fixed size
	}
	return b
}
