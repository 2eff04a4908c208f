package lists

import (
	"fmt"
	"io"

	"rempart/firstboot/lists/handover"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// ofSet is the list of a set.
func (k *keeper) ofSet(set *profiles.Set) *list {
	return &list{source: set.Source, called: "set " + set.Name, count: handover.Count,
		judge: func(fresh, kept io.Reader, keep io.Writer) error { return k.judgeSet(set, fresh, kept, keep) },
		fits:  func(kept io.Reader) error { return handover.Usable(kept, k.env.Profile) }}
}

// judgeSet keeps a list of addresses that can be what is meant.
func (k *keeper) judgeSet(set *profiles.Set, fresh, kept io.Reader, keep io.Writer) error {
	list, strange, err := profiles.ReadList(fresh)
	if err != nil {
		return err
	}
	if err := handover.Sane(k.env.Profile, list); err != nil {
		return err
	}
	if err := shrunk(set.Source, len(list), kept, handover.Count, "ranges"); err != nil {
		return err
	}
	if err := k.room(set, len(list)); err != nil {
		return err
	}
	k.strange(set.Name, strange)
	return handover.Encode(keep, list)
}

// shrunk tells that a list has too little of the last good one to be believed; nil: it has enough.
func shrunk(s *profiles.ListSource, n int, kept io.Reader, count func(io.Reader) (int, error), what string) error {
	if kept == nil {
		return nil
	}
	// What is kept and cannot be read any more is no measure.
	if before, err := count(kept); err == nil && n*100 < before*s.Least {
		return fmt.Errorf("%w: it has %d %s and the last good one %d, less than %d%%; if it is right, lower least",
			handover.ErrAbsurd, n, what, before, s.Least)
	}
	return nil
}

// strange notes how many lines of a list were none.
func (k *keeper) strange(name string, lines int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	st := k.status[name]
	st.Strange = lines
	k.status[name] = st
}

// room tells whether all sets together still fit when one has so many ranges.
func (k *keeper) room(set *profiles.Set, ranges int) error {
	all, listed := ranges, ranges
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.env.Profile.Sets {
		s := &k.env.Profile.Sets[i]
		if s == set || s.Name == set.Name {
			continue
		}
		all += max(s.Len(), k.entries[s.Name])
		listed += k.entries[s.Name]
	}
	if !handover.Fit(all, listed) {
		return fmt.Errorf("%w: with it all sets would have %d ranges, at most %d; those of lists counted twice %d, and the"+
			" guest's memory is enough for %d", handover.ErrAbsurd, all, profiles.MaxListRanges, all+listed, handover.Most())
	}
	return nil
}

// ofNames is a list of names to be blocked.
func (k *keeper) ofNames(l *profiles.BlockList) *list {
	return &list{source: &l.Source, called: "blocked names " + l.Name, count: handover.CountNames,
		judge: func(fresh, kept io.Reader, keep io.Writer) error { return k.judgeNames(l, fresh, kept, keep) },
		usable: func() error {
			t, err := handover.ReadNames(k.env.Root, l.Name, handover.MostNames())
			if err == nil {
				err = handover.SaneNames(k.env.Profile, t)
			}
			return err
		}}
}

// judgeNames keeps a list of names that can be what is meant, as the table that the name service looks them up in.
func (k *keeper) judgeNames(l *profiles.BlockList, fresh, kept io.Reader, keep io.Writer) error {
	b := blocklist.Builder{Most: handover.MostNames()}
	said, err := b.Read(fresh)
	if err != nil {
		return err
	}
	if said.Names <= said.Foreign {
		return fmt.Errorf("not a list of names: it has %d, and %d lines that are none, the first is line %d", said.Names,
			said.Foreign, said.First)
	}
	raw, n, err := b.Table()
	if err != nil {
		return err
	}
	t, err := blocklist.Open(raw)
	if err != nil {
		return err
	}
	if err := handover.SaneNames(k.env.Profile, t); err != nil {
		return err
	}
	if err := shrunk(&l.Source, n, kept, handover.CountNames, "names"); err != nil {
		return err
	}
	if err := k.roomForNames(l, n); err != nil {
		return err
	}
	k.strange(handover.NamesList(l.Name), said.Foreign)
	_, err = keep.Write(raw)
	return err
}

// roomForNames tells whether all lists of names together still fit when one has so many.
func (k *keeper) roomForNames(l *profiles.BlockList, names int) error {
	all := names
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, other := range k.env.Profile.BlockLists() {
		if other.Name != l.Name {
			all += k.entries[handover.NamesList(other.Name)]
		}
	}
	if most := handover.MostNames(); all > most {
		return fmt.Errorf("%w: with it all lists would have %d names, at most %d with the guest's memory", handover.ErrAbsurd,
			all, most)
	}
	return nil
}
