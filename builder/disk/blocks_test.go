package disk_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"rempart/builder/disk"
)

func TestBlockDigests(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 3*4096 + 17} {
		b := random(size, "blocks")
		if size > 4096 {
			clear(b[4096:8192])
		}
		var want []byte
		for at := 0; at < size; at += 4096 {
			sum := sha256.Sum256(b[at:min(size, at+4096)])
			want = append(want, sum[:]...)
		}
		got, err := disk.BlockDigests(t.Context(), bytes.NewReader(b), int64(size), 4096)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("BlockDigests of %d bytes = %x, %v; want %x", size, got, err, want)
		}
	}
	short := bytes.NewReader(make([]byte, 10))
	if _, err := disk.BlockDigests(t.Context(), short, 11, 4); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("BlockDigests beyond the end = %v; want %v", err, io.ErrUnexpectedEOF)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := disk.BlockDigests(ended, short, 10, 4); !errors.Is(err, context.Canceled) {
		t.Errorf("BlockDigests of a caller who left = %v; want %v", err, context.Canceled)
	}
	if _, err := disk.BlockDigests(t.Context(), short, 10, 0); err == nil {
		t.Error("BlockDigests in blocks of no bytes: no error")
	}
}
