package master

import (
	"bytes"
	"testing"
)

// TestHolds: a disk is what it was described as, and with any byte of it another, or one more or less, it is not.
func TestHolds(t *testing.T) {
	const block = 512
	// With blocks of zeros, and half a one.
	content := append(bytes.Repeat([]byte("disk"), 300), make([]byte, 3*block+7)...)
	d := Disk{Size: int64(len(content))}
	if err := d.Fill(t.Context(), bytes.NewReader(content), block); err != nil {
		t.Fatal(err)
	}
	holds := func(b []byte) bool {
		same, err := d.Holds(t.Context(), bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		return same
	}
	if !holds(content) {
		t.Error("Holds of the disk = false")
	}
	for at := range content {
		content[at] ^= 1
		if holds(content) {
			t.Errorf("Holds with another byte at %d = true", at)
		}
		content[at] ^= 1
	}
	if holds(content[:len(content)-1]) || holds(append(content, 0)) {
		t.Error("Holds of a byte less or more = true")
	}
	if same, err := d.Holds(t.Context(), bytes.NewReader(content[:9]), d.Size); err == nil || same {
		t.Errorf("Holds of what cannot be read = %v, %v; want an error", same, err)
	}
}
