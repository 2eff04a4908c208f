package pid1

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rempart/firstboot/boottime"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/state"
	"rempart/profiles"
)

// Children whose word counts for a key, and nobody else's.
const (
	policyChild   = "policy"
	linkChild     = "link"
	scrubChild    = "scrub"
	stateChild    = "state"
	disksChild    = "disks"
	controlChild  = "control"
	adminChild    = "admin"
	identityChild = "identity"
)

// Bounds of what children may tell.
const (
	maxLinks     = 64
	maxAddresses = 64
	maxText      = 400 // bytes of a warning, failure or error
	maxShort     = 64  // bytes of a name, MAC or address
)

var errNotYours = errors.New("that key is another child's")

// facts are what PID 1 knows beside the states of its children.
type facts struct {
	policy   string
	links    []contract.LinkReport
	scrubbed bool
	state    contract.StateReport
	stateErr string
	result   *child.StateResult
	disks    []contract.DiskReport
	// diskResults are what the disks child told; it may have left out disks of the profile, and made others up.
	diskResults []child.DiskResult
	failures    map[string]string // by who and what
	warnings    map[string]string
	times       contract.Times
	stopping    bool // children end because they are told to: no news
	settled     bool // the start is over; what changes later is news at once
	live        contract.LiveReport
	changing    time.Time // when a change of the profile began that children still follow; zero: none
}

func newFacts() facts {
	return facts{policy: "none", failures: map[string]string{}, warnings: map[string]string{}}
}

// told takes one value from a child. The child may be in a stranger's hands: each value is decoded strictly into the
// one type its key has, bounded, and taken only from the child whose business it is.
func (g *guest) told(name string, m child.Message) error {
	switch m.Key {
	case child.KeyWarning, child.KeyFailure:
		var text string
		if err := decode(m, &text); err != nil {
			return err
		}
		g.fact(func(f *facts) {
			into := f.warnings
			if m.Key == child.KeyFailure {
				into = f.failures
			}
			if text == "" {
				delete(into, name)
			} else {
				into[name] = name + ": " + cutText(text)
			}
		})
		if m.Key == child.KeyFailure {
			g.hear(name, "")
		}
		return nil
	case child.KeyPolicy:
		return g.toldPolicy(name, m)
	case child.KeyLinks:
		return g.toldLinks(name, m)
	case child.KeyScrubbed:
		var done bool
		if err := only(name, scrubChild, m, &done); err != nil {
			return err
		}
		g.fact(func(f *facts) {
			f.scrubbed = done
			if done && f.times.Scrub == 0 {
				f.times.Scrub = boottime.Now().Seconds()
			}
		})
		return nil
	case child.KeyState:
		var r child.StateResult
		if err := only(name, stateChild, m, &r); err != nil {
			return err
		}
		if err := checkState(r); err != nil {
			return err
		}
		g.fact(func(f *facts) { f.result = &r })
		return nil
	case child.KeyDisks:
		return g.toldDisks(name, m)
	case child.KeyIdentity:
		return g.toldIdentity(name, m)
	case child.KeyRequest:
		var r child.Request
		live, err := toldRequest(name, m, &r)
		if err != nil {
			return err
		}
		to := g.requests
		if live {
			to = g.liveRequests
		}
		select {
		case to <- r:
			return nil
		default:
			return errors.New("too many requests at once")
		}
	}
	return fmt.Errorf("unknown key %q", m.Key)
}

// toldRequest takes a request from a child that may make it, and tells whether it is one to change the profile.
func toldRequest(name string, m child.Message, r *child.Request) (live bool, err error) {
	if name != controlChild && name != adminChild {
		return false, fmt.Errorf("key %s from %s: %w", m.Key, name, errNotYours)
	}
	if err := decode(m, r); err != nil {
		return false, err
	}
	switch r.Verb {
	case verbApply, verbConfirm, verbUndo:
		live = true
	case "poweroff", "reboot":
	default:
		if name == adminChild {
			return false, fmt.Errorf("request %.32q from %s: %w", r.Verb, name, errNotYours)
		}
	}
	return live, nil
}

// toldIdentity makes the guest the one its identity disk names.
func (g *guest) toldIdentity(name string, m child.Message) error {
	var f identity.Facts
	if err := only(name, identityChild, m, &f); err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return err
	}
	g.mu.Lock()
	p := *g.profile // whoever reads the old one goes on with it
	p.Links = slices.Clone(p.Links)
	f.Apply(&p)
	g.profile = &p
	g.mu.Unlock()
	g.poke()
	return g.setName()
}

func decode(m child.Message, v any) error {
	if err := child.Strict(m.Value, v); err != nil {
		return fmt.Errorf("key %s: %w", m.Key, err)
	}
	return nil
}

func only(name, want string, m child.Message, v any) error {
	if name != want {
		return fmt.Errorf("key %s from %s: %w", m.Key, name, errNotYours)
	}
	return decode(m, v)
}

func cutText(s string) string {
	s = oneLine(s)
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func (g *guest) toldPolicy(name string, m child.Message) error {
	var policy string
	if err := only(name, policyChild, m, &policy); err != nil {
		return err
	}
	switch policy {
	case "none", "closed", "loaded":
	default:
		return fmt.Errorf("policy %.32q: want none, closed or loaded", policy)
	}
	g.fact(func(f *facts) {
		f.policy = policy
		if policy == "loaded" && f.times.Policy == 0 {
			f.times.Policy = boottime.Now().Seconds()
		}
	})
	return nil
}

func (g *guest) toldLinks(name string, m child.Message) error {
	var links []contract.LinkReport
	if err := only(name, linkChild, m, &links); err != nil {
		return err
	}
	if len(links) > maxLinks {
		return fmt.Errorf("%d links, at most %d", len(links), maxLinks)
	}
	for i := range links {
		l := &links[i]
		if len(l.Name) > maxShort || len(l.MAC) > maxShort || len(l.Addresses) > maxAddresses {
			return fmt.Errorf("link %.32q: more than the report holds", l.Name)
		}
		l.Name, l.MAC, l.Error = oneLine(l.Name), oneLine(l.MAC), cutText(l.Error)
		for _, a := range l.Addresses {
			if _, err := netip.ParsePrefix(a); err != nil {
				return fmt.Errorf("link %.32q: address %.64q: %w", l.Name, a, err)
			}
		}
	}
	g.fact(func(f *facts) { f.links = links })
	return nil
}

func (g *guest) toldDisks(name string, m child.Message) error {
	var results []child.DiskResult
	if err := only(name, disksChild, m, &results); err != nil {
		return err
	}
	if len(results) > profiles.MaxDisks {
		return fmt.Errorf("%d data disks, at most %d", len(results), profiles.MaxDisks)
	}
	for i, r := range results {
		if err := checkState(r.StateResult); err != nil {
			return fmt.Errorf("data disk %.32q: %w", r.Name, err)
		}
		results[i].Error = cutText(r.Error)
	}
	g.fact(func(f *facts) { f.diskResults = results })
	return nil
}

func checkState(r child.StateResult) error {
	switch r.Action {
	case state.Mounted, state.Formatted, state.Reformatted, state.ForeignDisk, state.Absent, state.FailedDisk:
	default:
		return fmt.Errorf("state: unknown action %.32q", r.Action)
	}
	if len(r.Device) > maxShort || strings.ContainsAny(r.Device, "/\x00") || r.Device == ".." || r.Bytes < 0 {
		return fmt.Errorf("state: device %.32q, %d bytes: not of a disk", r.Device, r.Bytes)
	}
	return nil
}

// childEnded mounts /var once the state child has said what to mount, and data disks once the disks child has. Anything
// else a child made or said holds when it ends: a policy in the kernel and the addresses of links outlive who put them
// there, and its last failure is why.
func (g *guest) childEnded(spec child.Spec, status error) {
	switch {
	case status != nil:
	case spec.Name == stateChild:
		g.mountState()
	case spec.Name == disksChild:
		g.mountDisks()
	}
}

// forget takes back what a child's predecessor complained of; its successor is ready and has said nothing like it.
func (g *guest) forget(name string, keys ...string) {
	g.fact(func(f *facts) {
		for _, key := range keys {
			if key == child.KeyFailure {
				delete(f.failures, name)
			} else {
				delete(f.warnings, name)
			}
		}
	})
}
