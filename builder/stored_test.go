package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rempart/builder/bounded"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/contract/live"
	"rempart/profiles"
)

// storing is a guest that runs a profile and hands out what that stores beside its JSON.
type storing struct {
	profile []byte
	stored  map[string][]byte
	asked   []string // digests
	change  live.Change
}

// Run implements admin.
func (s *storing) Run(_ context.Context, call ctl.Call, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	switch words := strings.Join(call.Args, " "); {
	case words == "profile":
		_, err := stdout.Write(s.profile)
		return ctl.Done, err
	case strings.HasPrefix(words, "profile --stored "):
		digest := call.Args[2]
		s.asked = append(s.asked, digest)
		if b, ok := s.stored[digest]; ok {
			_, err := stdout.Write(b)
			return ctl.Done, err
		}
	case call.Args[0] == "apply":
		return ctl.Done, json.NewDecoder(stdin).Decode(&s.change)
	}
	fmt.Fprintf(stderr, "no such thing: %s", call.Args)
	return ctl.Failed, nil
}

// withMany is a profile with a set of so many ranges of each family from a file, and names that are blocked.
func withMany(t *testing.T, ranges int) *profiles.Profile {
	t.Helper()
	dir := t.TempDir()
	var list strings.Builder
	for i := range ranges {
		fmt.Fprintf(&list, "10.%d.%d.0/25\n2001:db8:%x::/64\n", i>>8, i&0xff, i)
	}
	for name, text := range map[string]string{"many.txt": list.String(), "ads.txt": "ads.example\n", "p.yaml": `rempart: 1
name: gw
admin: none
links: {wan: {address: dhcp}, lan: {address: 10.255.0.1/24}}
zones: {internet: wan, inside: lan}
sets: {many: {file: many.txt}}
policy: [{internet -> self: {any: {from: many, action: drop}}}, internet -> self: ping]
dns: {upstream: 192.0.2.53, block: {files: ads.txt}, lan: {domain: home.arpa}}
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := profiles.Load(filepath.Join(dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// running is a guest with a profile.
func runningWith(t *testing.T, p *profiles.Profile) *storing {
	t.Helper()
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	s := &storing{profile: b, stored: map[string][]byte{p.DNS.Block.Digest: p.DNS.Block.Compiled}}
	for digest, part := range p.Sets[0].Files() {
		s.stored[digest] = part
	}
	return s
}

// TestStoredOfGuest: what a guest's profile stores beside its JSON is asked for where nobody else has it, and what is
// not what the JSON names is refused.
func TestStoredOfGuest(t *testing.T) {
	p := withMany(t, 300)
	whole := func(got *profiles.Profile, err error) bool {
		return err == nil && slices.Equal(got.Sets[0].Ranges, p.Sets[0].Ranges) &&
			bytes.Equal(got.DNS.Block.Compiled, p.DNS.Block.Compiled)
	}
	g := runningWith(t, p)
	got, _, err := profileOf(t.Context(), g, p)
	if !whole(got, err) || len(g.asked) != 0 {
		t.Errorf("beside the same profile: %v, asked for %q; want all of it, without asking", err, g.asked)
	}
	got, _, err = profileOf(t.Context(), g, withMany(t, 301))
	if !whole(got, err) || len(g.asked) != 2 { // the blocked names are the same
		t.Errorf("beside another profile: %v, asked for %q; want all of it, two asked for", err, g.asked)
	}
	for digest := range g.stored {
		sick := runningWith(t, p)
		sick.stored[digest] = append([]byte{1}, sick.stored[digest][1:]...)
		if got, _, err := profileOf(t.Context(), sick, &profiles.Profile{}); err == nil {
			t.Errorf("with something else for %.8s: %+v; want an error", digest, got)
		}
		sick.stored[digest] = bytes.Repeat([]byte{1}, 1<<20)
		if _, _, err := profileOf(t.Context(), sick, &profiles.Profile{}); err == nil ||
			!strings.Contains(err.Error(), bounded.ErrOver.Error()) {
			t.Errorf("with too much for %.8s: %v; want %v", digest, err, bounded.ErrOver)
		}
		delete(sick.stored, digest)
		if _, _, err := profileOf(t.Context(), sick, &profiles.Profile{}); err == nil {
			t.Errorf("without %.8s: no error", digest)
		}
	}
}

// TestApplySendsSets: a change carries the ranges that the guest does not have, and no others.
func TestApplySendsSets(t *testing.T) {
	p, next := withMany(t, 300), withMany(t, 300)
	next.Sets[0].Ranges = next.Sets[0].Ranges[1:] // an IPv4 range
	next.Sets[0].Stored = nil
	which := next.Sets[0].Which()
	next.Sets[0].Stored = &which
	g := runningWith(t, p)
	var out bytes.Buffer
	c := &console{out: &out, err: io.Discard}
	if err := apply(t.Context(), c, g, next, "gw", 60, false); err != nil {
		t.Fatal(err)
	}
	if len(g.change.Sets) != 1 || !bytes.Equal(g.change.Sets[0], next.Sets[0].Ranges.Of(false).Binary()) {
		t.Errorf("the change has %d parts; want the IPv4 ranges", len(g.change.Sets))
	}
	if !strings.Contains(out.String(), "+1 sets, -1 sets") {
		t.Errorf("apply says %q; want that a set changes", out.String())
	}
}
