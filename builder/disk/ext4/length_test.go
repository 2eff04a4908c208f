package ext4

import (
	"bytes"
	"errors"
	"testing"
)

// TestLength: a filesystem tells how large it is though its image was cut off.
func TestLength(t *testing.T) {
	for i, image := range smallImages(t) {
		want := told(t, image)
		for _, n := range []int{len(image), len(image) / 2, superOffset + superSize} {
			if got, err := Length(bytes.NewReader(image[:n])); err != nil || got != want {
				t.Errorf("Length of the first %d bytes of image %d = %d, %v; want %d", n, i, got, err, want)
			}
		}
		for _, bad := range [][]byte{nil, image[:superOffset+superSize-1], make([]byte, len(image))} {
			if _, err := Length(bytes.NewReader(bad)); !errors.Is(err, ErrNotExt4) {
				t.Errorf("Length of %d bytes = %v; want %v", len(bad), err, ErrNotExt4)
			}
		}
	}
}

// told is how large the filesystem in an image is, as Open tells.
func told(t *testing.T, image []byte) int64 {
	t.Helper()
	f, err := Open(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return int64(f.info.Blocks) * f.info.BlockSize
}
