package inside

import (
	"fmt"
	"io"

	"rempart/builder/disk/fat"
)

func openFAT(r io.ReaderAt, size int64) (*Volume, error) {
	v, err := fat.OpenVolume(r, size)
	if err != nil {
		return nil, err
	}
	return &Volume{FS: v, Kind: fmt.Sprintf("fat%d", v.Bits()), Label: v.Label()}, nil
}
