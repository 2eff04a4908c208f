// Package overlays holds the file trees that are laid on the root of an appliance. Each is a directory of files and,
// beside it, a manifest NAME.manifest with what an embedded file system cannot keep: modes, owners, empty directories
// and symbolic links. Package rootfs reads both; it documents the manifest's lines.
//
// What it deliberately does not do: anything but hold them.
package overlays

import "embed"

// FS holds the overlays: base/, base.manifest, ...
//
//go:embed all:base base.manifest
var FS embed.FS
