package rootfs

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"rempart/builder/rootfs/tree"
	"rempart/firstboot/contract"
)

// Of Debian's ca-certificates: where the certificates are, those that Mozilla trusts for web servers.
const (
	authoritiesPackage = "ca-certificates"
	authoritiesDir     = "usr/share/ca-certificates/"
)

// authorities returns the one file of certificates that update-ca-certificates(8) would make when the package is
// installed, in the order of their names, when a guest of the profile needs it.
func authorities(in Inputs) ([]tree.Entry, error) {
	if !in.Profile.NeedsAuthorities() {
		return nil, nil
	}
	i := slices.IndexFunc(in.Packages, func(p Package) bool { return p.Name == authoritiesPackage })
	if i < 0 {
		return nil, fmt.Errorf("the profile fetches by https, and the lock names no package %s; `rempart lock` renews it",
			authoritiesPackage)
	}
	entries := slices.DeleteFunc(slices.Clone(in.Packages[i].Entries), func(e tree.Entry) bool {
		return !strings.HasPrefix(e.Path, authoritiesDir) || !strings.HasSuffix(e.Path, ".crt") || !e.Mode.IsRegular()
	})
	slices.SortFunc(entries, func(a, b tree.Entry) int { return strings.Compare(a.Path, b.Path) })
	var bundle bytes.Buffer
	for i := range entries {
		b, err := readEntry(&entries[i])
		if err != nil {
			return nil, fmt.Errorf("/%s of %s: %w", entries[i].Path, entries[i].Origin, err)
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, fmt.Errorf("/%s of %s is not one certificate", entries[i].Path, entries[i].Origin)
		}
		if err := pem.Encode(&bundle, block); err != nil {
			return nil, err
		}
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("package %s has no certificate below /%s", authoritiesPackage, authoritiesDir)
	}
	return []tree.Entry{tree.Bytes(relative(contract.AuthoritiesPath), 0o644, bundle.Bytes(), entries[0].Origin)}, nil
}
