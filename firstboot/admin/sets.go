package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
)

// setRow is how a set of the profile stands.
type setRow struct {
	Set    string `json:"set"`
	Ranges int    `json:"ranges"`
	From   string `json:"from"`            // "profile", a URL or a file
	Age    int64  `json:"age,omitempty"`   // seconds since the list in use was last seen to be still the one
	Taken  int64  `json:"taken,omitempty"` // when that list was taken, in seconds since 1970; 0: the profile's ranges hold
	Next   int64  `json:"next,omitempty"`  // seconds to the next look
	Error  string `json:"error,omitempty"` // why the last look failed
	// Strange is how many lines of the list were none.
	Strange int `json:"strange,omitempty"`
}

// runSets prints the sets of the profile in force, and how the lists stand that some are taken from.
func runSets(_ context.Context, d *desk, r ctl.Request) error {
	rows, err := d.sets(time.Now())
	if err != nil {
		return err
	}
	return show(r, rows, "SET\tRANGES\tFROM\tAGE\tNEXT\tSTATE", func(s setRow) string {
		age, next, state := "-", "-", "ok"
		if s.Taken > 0 {
			age = (time.Duration(s.Age) * time.Second).String()
		}
		if s.From != fromProfile {
			next = (time.Duration(s.Next) * time.Second).String()
			if s.Taken == 0 {
				state = "no list yet"
			}
		}
		if s.Error != "" {
			state = s.Error
		}
		return fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s", s.Set, s.Ranges, s.From, age, next, state)
	})
}

// fromProfile is where the members of most sets are from.
const fromProfile = "profile"

func (d *desk) sets(now time.Time) ([]setRow, error) {
	p, _, err := child.ReadProfile(d.root)
	if err != nil {
		return nil, err
	}
	all, err := handover.ReadStatus(d.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	stands := map[string]handover.Status{}
	for _, s := range all {
		stands[s.Name] = s
	}
	rows := []setRow{}
	for i := range p.Sets {
		set := &p.Sets[i]
		row := setRow{Set: set.Name, Ranges: set.Len(), From: fromProfile}
		if set.Source != nil {
			s := stands[set.Name]
			row.From, row.Taken, row.Error, row.Strange = from(set.Source), s.Taken, s.Error, s.Strange
			if s.Taken > 0 {
				row.Ranges = s.Entries
				row.Age = max(0, now.Unix()-s.Seen)
			}
			row.Next = max(0, s.Next-now.Unix())
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// from is where a list is taken from, as the profile has it.
func from(s *profiles.ListSource) string {
	if s.URL != "" {
		return s.URL
	}
	return profiles.ListsDir + "/" + s.File
}
