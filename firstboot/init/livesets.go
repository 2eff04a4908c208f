package pid1

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// keepSets lays down the ranges of large sets that came with a changed profile, and takes away those that neither it
// nor the running one has. All that the profile stores is there then. Whether ranges are what their digest says the
// policy child finds out, which is the one that reads them.
func (g *guest) keepSets(running, next *profiles.Profile, parts [][]byte) error {
	wanted := map[string]bool{}
	all := 0
	for _, p := range []*profiles.Profile{running, next} {
		for i := range p.Sets {
			for _, part := range p.Sets[i].Parts() {
				if !wanted[part.Digest] {
					all += part.Count
				}
				wanted[part.Digest] = true
			}
		}
	}
	// Those of the running profile are in memory until those of the next are in force.
	if most := profiles.RangesIn(g.memory().Total); len(parts) > 0 && all > most {
		return fmt.Errorf("the sets of both profiles have %d different ranges, and the guest's memory is enough for %d;"+
			" build a master of it and start the guest from that", all, most)
	}
	if err := g.pruneSets(wanted); err != nil {
		return err
	}
	for _, b := range parts {
		sum := sha256.Sum256(b)
		digest := hex.EncodeToString(sum[:])
		if !wanted[digest] {
			return fmt.Errorf("ranges with the digest %.16s came with the profile, which stores no such ones", digest)
		}
		if err := writeWhole(filepath.Join(g.Root, contract.LiveSets, digest), b); err != nil {
			return err
		}
	}
	for i := range next.Sets {
		for _, part := range next.Sets[i].Parts() {
			f, err := child.OpenStored(g.Root, part.Digest)
			if err != nil {
				return fmt.Errorf("set %s: %d ranges did not come with the profile: %w", next.Sets[i].Name, part.Count, err)
			}
			f.Close()
		}
	}
	return nil
}

// pruneSets takes away the ranges of earlier changes but for those that are wanted.
func (g *guest) pruneSets(wanted map[string]bool) error {
	dir := filepath.Join(g.Root, contract.LiveSets)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	failed := []error{err}
	for _, e := range entries {
		if !wanted[e.Name()] {
			failed = append(failed, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(failed...)
}
