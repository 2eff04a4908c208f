package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/quarantine"
	"rempart/builder/guest/reprovision"
	"rempart/builder/guest/running"
	"rempart/builder/master/store"
)

// guestNames are the names of the guests there are: those that were created, and others that run.
func guestNames() []string {
	names := runningGuests()
	if h, err := home.Default(); err == nil {
		all, _ := h.Names()
		names = append(names, all...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// createdNames are the names of the guests that were created.
func createdNames() []string {
	h, err := home.Default()
	if err != nil {
		return nil
	}
	names, _ := h.Names()
	return names
}

// openCreated looks at a guest that was created.
func openCreated(name string) (*home.Guest, error) {
	h, err := home.Default()
	if errors.Is(err, files.ErrNowhere) { // as of a service without HOME: there are no guests nowhere
		return nil, fmt.Errorf("%w: %s: %w", home.ErrUnknown, name, err)
	}
	if err != nil {
		return nil, err
	}
	return h.Open(name)
}

// lockCreated opens a guest that was created, to change it.
func lockCreated(name, what string) (*home.Guest, error) {
	h, err := home.Default()
	if err != nil {
		return nil, err
	}
	return h.Lock(name, what)
}

// notRunning tells of a guest that runs what must be done first.
func notRunning(g *home.Guest) error {
	r, err := g.Running()
	if errors.Is(err, running.ErrAbsent) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: %s, %s; stop it first: rempart stop %[2]s", home.ErrRuns, g.Name, whoRuns(r))
	}
	return err
}

// openGuest finds a guest that runs, created or not.
func openGuest(name string) (*running.Guest, error) {
	switch g, err := openCreated(name); {
	case err == nil:
		return g.Running()
	case !errors.Is(err, home.ErrUnknown):
		return nil, err
	}
	place, err := running.Place()
	if err != nil {
		return nil, err
	}
	return running.Open(place, name)
}

// masterOf is the master that a guest boots next.
func masterOf(g *home.Guest) (*guest.Master, *store.Master, error) {
	s, err := store.Open(g.Store)
	if err != nil {
		return nil, nil, err
	}
	kept, err := s.Find(g.Master)
	if err != nil {
		return nil, nil, fmt.Errorf("guest %s: %w", g.Name, err)
	}
	m, err := guest.OpenMaster(kept.Dir)
	if err == nil && m.Foreign() != (g.Image != nil) {
		err = fmt.Errorf("guest %s: its master %.12s is not of its kind: one of the two is another system's", g.Name,
			g.Master)
	}
	if err == nil && g.Image != nil {
		m.Plugged(g.Image.Links)
	}
	return m, kept, err
}

// nextMaster is the folder of the master that a guest which runs boots next: that of its description, or for one that
// was not created the one it runs from.
func nextMaster(r *running.Guest) (string, error) {
	g, err := openCreated(r.Name)
	if errors.Is(err, home.ErrUnknown) {
		return r.Master, nil
	}
	if err != nil {
		return "", err
	}
	_, kept, err := masterOf(g)
	if err != nil {
		return "", err
	}
	return kept.Dir, nil
}

// usersOf finds the guests that are made of masters of a store, or run from one: those folders end in the digest.
func usersOf(s *store.Store) store.Users {
	return func() (func(digest string) bool, error) {
		used := map[string]bool{}
		homes, err := s.Homes()
		if err != nil {
			return nil, err
		}
		for _, dir := range homes {
			if err := usedIn(home.Home{Dir: dir}, used); err != nil {
				return nil, fmt.Errorf("guests in %s may use masters: %w", dir, err)
			}
		}
		places, err := running.Places()
		if err != nil {
			return nil, err
		}
		for _, place := range places {
			for _, name := range running.List(place) {
				g, err := running.Open(place, name)
				if errors.Is(err, running.ErrAbsent) {
					continue // it ended between the two looks
				}
				if err != nil {
					return nil, err
				}
				used[filepath.Base(g.Master)] = true
			}
		}
		return func(digest string) bool { return used[digest] }, nil
	}
}

// usedIn notes the masters that the guests of a home are made of. One that cannot be read is an error: what it uses is
// not known.
func usedIn(h home.Home, used map[string]bool) error {
	names, err := h.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		g, err := h.Open(name)
		if err != nil {
			return err
		}
		used[g.Master], used[g.Previous] = true, true
		switch p, _, err := reprovision.Pending(g); {
		case err == nil:
			used[p.From], used[p.FromPrevious], used[p.To] = true, true, true
		case !errors.Is(err, reprovision.ErrNone):
			return err
		}
		switch last, err := lastCommitted(g); {
		case err == nil:
			used[last.From] = true // which rollback goes back to
		case !errors.Is(err, quarantine.ErrUnknown):
			return err
		}
	}
	return nil
}
