package ra

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rempart/firstboot/child"
)

// runDir is where the child keeps what it promised, in memory: a process that is started again, or goes on with a
// changed profile, takes back what its predecessor said.
const runDir = "/run/rempart/ra"

// stateDir is where it keeps that on the state disk, without times: a guest that is started again, after a power cut
// above all, may be delegated another prefix than its hosts were told of (RFC 9096, section 3.5).
const stateDir = "/var/lib/rempart/ra"

// kept is what hosts of a link were promised, in a file: a prefix, or a name server. Times are of CLOCK_BOOTTIME: /run
// forgets them at the next boot, and on the state disk there are none.
type kept struct {
	Link   string        `json:"link"`
	Prefix netip.Prefix  `json:"prefix,omitzero"`
	Server netip.Addr    `json:"server,omitzero"`
	Until  time.Duration `json:"until,omitzero"`
	From   time.Duration `json:"from,omitzero"` // when it is taken back first
}

const (
	maxKept     = 320 << 10 // bytes of a file: the most that all links of a profile promise
	maxPromised = 30 * 24 * time.Hour
	// maxKeptServers is of a link: as many as one option holds, whose length is a byte (RFC 8106, section 5.1).
	maxKeptServers = 127
	// returning is how long what was advertised before the guest was started again is not taken back: it may be delegated
	// the same prefix again, and hosts shall not turn from it and back.
	returning = 2 * time.Minute
)

func keptFile(root string) string  { return filepath.Join(root, runDir, "promised") }
func stateFile(root string) string { return filepath.Join(root, stateDir, "advertised") }

// save writes what all links promised. Readers see the old file or the new one.
func (s *server) save() {
	var all, timeless []kept
	for _, v := range s.voices {
		for _, p := range v.said {
			all = append(all, kept{Link: v.advert.Link, Prefix: p.prefix.prefix, Until: p.until, From: p.from})
		}
		for _, n := range v.named {
			all = append(all, kept{Link: v.advert.Link, Server: n.addr, Until: n.until, From: n.from})
		}
	}
	for _, k := range all {
		timeless = append(timeless, kept{Link: k.Link, Prefix: k.Prefix, Server: k.Server})
	}
	slices.SortFunc(timeless, func(a, b kept) int {
		return cmp.Or(strings.Compare(a.Link, b.Link), a.Prefix.Compare(b.Prefix), a.Server.Compare(b.Server))
	})
	err := write(keptFile(s.env.Root), all, 0o600, false)
	if s.env.Profile.State.Size > 0 {
		err = errors.Join(err, s.saveOnDisk(timeless))
	}
	if err != nil && !s.unkept {
		s.unkept = true
		s.env.Log.Warn("what was advertised will not be known to the next run", "error", err)
	}
}

// diskPatience is how long an advertisement waits for a write to the state disk: hosts that ask wait longer for their
// answer (MAX_RTR_SOLICITATION_DELAY and half a second, RFC 4861, sections 6.3.7 and 6.2.6), and a disk that is well
// takes a small part of it.
const diskPatience = time.Second

// writing is a write to the state disk that goes on.
type writing struct {
	what []kept
	done chan error // one
	late bool       // it was waited for
}

// saveOnDisk has the state disk hold what was promised, and waits for it a while: a disk that hangs delays one
// advertisement and stops none. One write goes on at a time; what it lacks the next save writes.
func (s *server) saveOnDisk(timeless []kept) error {
	if s.disk == nil {
		if slices.Equal(timeless, s.onDisk) {
			return nil
		}
		w := &writing{what: timeless, done: make(chan error, 1)}
		s.disk = w
		s.readers.Go(func() { w.done <- write(stateFile(s.env.Root), w.what, 0o640, true) })
	}
	patience := cmp.Or(s.patience, diskPatience)
	done, err := s.disk.wait(patience)
	switch {
	case !done:
		return fmt.Errorf("the state disk did not take it within %v", patience)
	case err == nil:
		s.onDisk = s.disk.what
	}
	if s.disk = nil; err != nil {
		return err
	}
	return s.saveOnDisk(timeless) // which may be newer
}

// wait waits once; after that it only looks.
func (w *writing) wait(patience time.Duration) (done bool, err error) {
	if !w.late {
		over := time.NewTimer(patience)
		defer over.Stop()
		select {
		case err := <-w.done:
			return true, err
		case <-over.C:
			w.late = true
		}
	}
	select {
	case err := <-w.done:
		return true, err
	default:
		return false, nil
	}
}

// write lays a file down whole; on a disk it is there when write returns, whatever happens to the power.
func write(name string, all []kept, mode fs.FileMode, disk bool) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if disk && err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(name+".new", name); err != nil || !disk {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// load takes over what the run before this one promised; where there was none since the guest was started, what it
// promised before that.
func (s *server) load() {
	all, err := readKept(keptFile(s.env.Root), s.now())
	if errors.Is(err, fs.ErrNotExist) && s.env.Profile.State.Size > 0 {
		all, err = readKept(stateFile(s.env.Root), s.now())
		for i := range all {
			all[i].From = s.now() + returning
			all[i].Until = all[i].From + deprecating
		}
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.env.Log.Warn("ignored what was promised before", "error", err)
		}
		return
	}
	for _, k := range all {
		for _, v := range s.voices {
			switch {
			case v.advert.Link != k.Link:
			case k.Server.IsValid() && len(v.named) < maxKeptServers:
				v.named = append(v.named, server6{k.Server, k.Until, k.From})
			case k.Prefix.IsValid() && len(v.said) < maxPromises:
				v.said = append(v.said, promise{prefix{prefix: k.Prefix}, k.Until, k.From})
			}
		}
	}
}

func readKept(name string, now time.Duration) ([]kept, error) {
	b, err := child.ReadUntrusted(name, maxKept)
	if err != nil {
		return nil, err
	}
	var all []kept
	if err := child.Strict(b, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, k := range all {
		prefix := k.Prefix.IsValid() && k.Prefix.Addr().Is6() && k.Prefix.Bits() == prefixBits
		server := k.Server.Is6() && k.Server.Zone() == ""
		if prefix == server || k.Until > now+maxPromised || k.From > now+returning { // neither, or both
			return nil, fmt.Errorf("%s: %s%s until %s is no promise", name, k.Prefix, k.Server, k.Until)
		}
	}
	return all, nil
}
