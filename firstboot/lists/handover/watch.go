package handover

import (
	"context"
	"path/filepath"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
)

// Watch tells of changes in the directory of lists: of a list, or that all have been handed over; see child.WatchDir.
func Watch(ctx context.Context, root string) (<-chan struct{}, error) {
	return child.WatchDir(ctx, filepath.Join(root, contract.ListsDir))
}
