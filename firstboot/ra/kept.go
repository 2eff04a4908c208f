package ra

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"rempart/firstboot/child"
)

// runDir is where the child keeps what it promised, in memory: a process that is started again, or goes on with a
// changed profile, takes back what its predecessor said.
const runDir = "/run/rempart/ra"

// kept is what hosts of a link were promised, in a file: a prefix, or a name server. /run forgets it at the next boot,
// as CLOCK_BOOTTIME does its times.
type kept struct {
	Link   string        `json:"link"`
	Prefix netip.Prefix  `json:"prefix,omitzero"`
	Server netip.Addr    `json:"server,omitzero"`
	Until  time.Duration `json:"until"`
}

const (
	maxKept     = 64 << 10 // bytes of the file
	maxPromised = 30 * 24 * time.Hour
	// maxKeptServers is of a link: as many as one option holds, whose length is a byte (RFC 8106, section 5.1).
	maxKeptServers = 127
)

func keptFile(root string) string { return filepath.Join(root, runDir, "promised") }

// save writes what all links promised. Readers see the old file or the new one.
func (s *server) save() {
	var all []kept
	for _, v := range s.voices {
		for _, p := range v.said {
			all = append(all, kept{Link: v.advert.Link, Prefix: p.prefix.prefix, Until: p.until})
		}
		for _, n := range v.named {
			all = append(all, kept{Link: v.advert.Link, Server: n.addr, Until: n.until})
		}
	}
	b, err := json.Marshal(all)
	name := keptFile(s.env.Root)
	if err == nil {
		err = os.WriteFile(name+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil && !s.unkept {
		s.unkept = true
		s.env.Log.Warn("what was advertised will not be known to the next run", "error", err)
	}
}

// load takes over what the run before this one promised.
func (s *server) load() {
	all, err := readKept(keptFile(s.env.Root), s.now())
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
				v.named = append(v.named, server6{k.Server, k.Until})
			case k.Prefix.IsValid() && len(v.said) < maxPromises:
				v.said = append(v.said, promise{prefix{prefix: k.Prefix}, k.Until})
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
		if prefix == server || k.Until > now+maxPromised { // neither, or both
			return nil, fmt.Errorf("%s: %s%s until %s is no promise", name, k.Prefix, k.Server, k.Until)
		}
	}
	return all, nil
}
