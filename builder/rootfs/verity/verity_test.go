package verity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/builder/rootfs/debtest"
	"rempart/firstboot/contract"
)

// TestAgainstVeritysetup compares root hash, tree and superblock with what veritysetup writes, for sizes around the
// edges of the levels.
func TestAgainstVeritysetup(t *testing.T) {
	source := rand.NewChaCha8([32]byte{1})
	for _, blocks := range []uint64{1, 2, 127, 128, 129, 128 * 128, 128*128 + 1} {
		data := make([]byte, blocks*blockSize)
		source.Read(data)
		root, hashes, err := Tree(t.Context(), bytes.NewReader(data), blocks)
		if err != nil {
			t.Fatal(err)
		}
		v := contract.Verity{RootHash: root, DataBlocks: blocks}
		ours := append(bytes.Clone(data), Superblock(v)...)
		ours = append(ours, make([]byte, blockSize-SuperblockSize)...)
		ours = append(ours, hashes...)

		dir := t.TempDir()
		theirs := filepath.Join(dir, "theirs")
		if err := os.WriteFile(theirs, data, 0o600); err != nil {
			t.Fatal(err)
		}
		offset := fmt.Sprintf("--hash-offset=%d", len(data))
		out := debtest.Run(t, "cryptsetup-bin", "veritysetup", "format", "--salt=-", offset, "--hash=sha256",
			"--data-block-size=4096", "--hash-block-size=4096", fmt.Sprintf("--data-blocks=%d", blocks),
			fmt.Sprintf("--uuid=%x-%x-%x-%x-%x", root[16:20], root[20:22], root[22:24], root[24:26], root[26:32]),
			theirs, theirs)
		if !strings.Contains(out, fmt.Sprintf("%x", root)) {
			t.Errorf("%d blocks: Tree says root hash %x; veritysetup says\n%s", blocks, root, out)
		}
		want, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if len(hashes) == 0 {
			want = append(want, make([]byte, max(0, len(ours)-len(want)))...) // no tree: the file ends with 512 bytes
		}
		if !bytes.Equal(ours, want) {
			t.Errorf("%d blocks: our %d bytes differ from veritysetup's %d", blocks, len(ours), len(want))
		}
		mine := filepath.Join(dir, "ours")
		if err := os.WriteFile(mine, ours, 0o600); err != nil {
			t.Fatal(err)
		}
		debtest.Run(t, "cryptsetup-bin", "veritysetup", "verify", offset, mine, mine, fmt.Sprintf("%x", root))
	}
}

// TestRefuses gives Tree too little data and none.
func TestRefuses(t *testing.T) {
	short := bytes.NewReader(make([]byte, 2*blockSize-1))
	if _, _, err := Tree(t.Context(), short, 2); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Tree of 2 blocks less a byte = %v; want ErrUnexpectedEOF", err)
	}
	if _, _, err := Tree(t.Context(), bytes.NewReader(nil), 0); err == nil {
		t.Error("Tree of no blocks = nil; want an error")
	}
}

func BenchmarkTree(b *testing.B) {
	data := make([]byte, 32<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, _, err := Tree(b.Context(), bytes.NewReader(data), uint64(len(data)/blockSize)); err != nil {
			b.Fatal(err)
		}
	}
}
