package xz

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	uxz "github.com/ulikunitz/xz"
)

// compress lets the real xz make a file, from which blocks, checks and presets can be had.
func compress(t testing.TB, content []byte, args ...string) []byte {
	path, err := exec.LookPath("xz")
	if err != nil {
		t.Skip("SKIPPED, NOT PASSED: the tool xz is missing (Debian package xz-utils)")
	}
	cmd := exec.Command(path, append([]string{"--stdout"}, args...)...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xz %v: %v", args, err)
	}
	return out
}

// sample is text that compresses, with noise that does not.
func sample(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n+64)
	for len(b) < n {
		if random.IntN(3) > 0 {
			b = append(b, "the same words again and again "...)
		} else {
			for range 16 {
				b = append(b, byte(random.Uint32()))
			}
		}
	}
	return b[:n]
}

func readAll(packed []byte, maxMemory int64) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(packed), int64(len(packed)), maxMemory)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

const enough = 64 << 20

func TestReader(t *testing.T) {
	for _, size := range []int{0, 1, 4, 4096, 300_000} {
		want := sample(size)
		for _, args := range [][]string{
			{}, {"-0"}, {"--check=none"}, {"--check=crc32"}, {"--check=crc64"}, {"--check=sha256"},
			{"--block-size=65537"}, {"-T2", "--block-size=100000"}, {"--lzma2=dict=4KiB"},
		} {
			got, err := readAll(compress(t, want, args...), enough)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, xz %v: got %d bytes, %v", size, args, len(got), err)
			}
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	packed := compress(t, sample(1<<18), "--block-size=65536")
	for _, c := range []struct {
		name   string
		packed []byte
		want   string
	}{
		{"empty", nil, "cannot be one"},
		{"cut short", packed[:len(packed)-4], "end is missing"},
		{"two files", append(bytes.Clone(packed), packed...), "does not cover"},
		{"padding", append(bytes.Clone(packed), 0, 0, 0, 0), "end is missing"},
		{"dictionary", compress(t, sample(1<<18), "--lzma2=dict=128MiB"), "dictionary"},
		{"other filter", compress(t, sample(1<<18), "--x86", "--lzma2"), "filter"},
		{"old format", compress(t, sample(1<<12), "--format=lzma"), ""},
	} {
		_, err := readAll(c.packed, enough)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v; want ErrFormat with %q", c.name, err, c.want)
		}
	}
}

// Any one byte changed anywhere is found, or changes nothing of what is read (sizes that LZMA2 says twice).
func TestReaderFindsDamage(t *testing.T) {
	want := sample(6000)
	packed := compress(t, want, "--block-size=2000")
	found := 0
	for i := range packed {
		damaged := bytes.Clone(packed)
		damaged[i] ^= 0x55
		got, err := readAll(damaged, enough)
		if errors.Is(err, ErrFormat) {
			found++
		} else if err != nil || !bytes.Equal(got, want) {
			t.Errorf("byte %d changed: read %d bytes, error %v; want ErrFormat", i, len(got), err)
		}
	}
	if missed := len(packed) - found; missed > len(packed)/100 {
		t.Errorf("%d of %d changes were not found", missed, len(packed))
	}
}

// A reader that is closed early leaves nothing running that would wait for ever.
func TestCloseEarly(t *testing.T) {
	packed := compress(t, sample(1<<20), "--block-size=65536")
	r, err := NewReader(bytes.NewReader(packed), int64(len(packed)), enough)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// FuzzXZ: what this package reads, the whole reader of ulikunitz/xz reads alike.
func FuzzXZ(f *testing.F) {
	for _, size := range []int{0, 1, 5000} {
		var b bytes.Buffer
		w, err := uxz.WriterConfig{BlockSize: 2000}.NewWriter(&b)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write(sample(size)); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		r, err := NewReader(bytes.NewReader(packed), int64(len(packed)), 1<<20)
		if err != nil {
			return
		}
		defer r.Close()
		got, err := io.ReadAll(io.LimitReader(r, 1<<22))
		if err != nil || len(got) == 1<<22 {
			return
		}
		theirs, err := uxz.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatalf("read %d bytes of what is no xz file: %v", len(got), err)
		}
		want, err := io.ReadAll(theirs)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes; want %d, %v", len(got), len(want), err)
		}
	})
}
