package verify

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// listingFormat is the version of the form of a Listing.
const listingFormat = 1

// Listing is what lies on a state disk: kept, it is the good point that a later look is compared with.
type Listing struct {
	Format  int     `json:"format"`
	Entries []Entry `json:"entries"`
}

// Entry is a file.
type Entry struct {
	Path     string    `json:"path"` // below StateDir; empty: itself; what is not text is escaped as in Go
	Mode     string    `json:"mode"` // as ls writes it
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Size     int64     `json:"size"` // of directories 0
	Modified time.Time `json:"modified,omitzero"`
	SHA256   string    `json:"sha256,omitempty"` // of a regular file
	Target   string    `json:"target,omitempty"` // of a link; of a device its numbers
}

// maxListing bounds what ReadListing takes.
const maxListing = 1 << 30

// Encode is the listing as JSON.
func (l *Listing) Encode() ([]byte, error) { return json.Marshal(l) }

// ReadListing reads what Encode wrote.
func ReadListing(r io.Reader) (*Listing, error) {
	d := json.NewDecoder(io.LimitReader(r, maxListing))
	d.DisallowUnknownFields()
	var l Listing
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("listing of a state disk: %w", err)
	}
	if l.Format != listingFormat {
		return nil, fmt.Errorf("listing of a state disk: format %d; this rempart reads format %d", l.Format, listingFormat)
	}
	return &l, nil
}

// Compare tells what is not in a later listing as it is in this one, by path.
func (l *Listing) Compare(later *Listing) []Change {
	before := map[string]Entry{}
	for _, e := range l.Entries {
		before[e.Path] = e
	}
	changes := []Change{}
	for _, now := range later.Entries {
		was, ok := before[now.Path]
		delete(before, now.Path)
		var what []string
		for _, field := range []struct {
			name    string
			changed bool
		}{
			{"added", !ok},
			{"mode", ok && was.Mode != now.Mode},
			{"owner", ok && (was.UID != now.UID || was.GID != now.GID)},
			{"content", ok && (was.SHA256 != now.SHA256 || was.Size != now.Size)},
			{"target", ok && was.Target != now.Target},
		} {
			if field.changed {
				what = append(what, field.name)
			}
		}
		if what != nil {
			changes = append(changes, Change{now.Path, what})
		}
	}
	for name := range before {
		changes = append(changes, Change{name, []string{"removed"}})
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return changes
}
