package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
)

// hand hands over a list for the set blocked.
func hand(t *testing.T, root, text string) {
	list, _, err := profiles.ReadList(strings.NewReader(text))
	var b bytes.Buffer
	if err == nil {
		err = handover.Encode(&b, list)
	}
	if err == nil {
		err = handover.Write(root, "blocked", &b)
	}
	if err != nil {
		t.Error(err)
	}
}

// What was kept is in force with the policy, what comes later is put in force without loading it again, and what
// cannot be meant is not.
func TestListsInForce(t *testing.T) {
	alone(t, func() {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, contract.ListsDir), 0o755); err != nil {
			t.Error(err)
			return
		}
		p := filtertest.Guarded()
		p.Sets[0].Source = &profiles.ListSource{URL: "https://lists.example/", Every: 3600}
		p.Sets[0].Ranges = nil
		compiled := 0
		compile := func(p *profiles.Profile) (filter.Ruleset, error) { compiled++; return filter.Compile(p) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		// What is told drives the test: it runs on the thread of the namespace, as the child does.
		var steps []string
		elements := func() string { return listed(t) }
		env := &child.Env{Profile: p, Log: slog.New(slog.DiscardHandler), Root: root,
			Tell: func(key string, value any) {
				switch word := fmt.Sprint(key, " ", value); word {
				case "policy closed": // the lists are not there yet: it waits for them
					hand(t, root, "198.51.100.0/24\n")
					if err := handover.SayLaid(root); err != nil {
						t.Error(err)
					}
				default:
					steps = append(steps, word)
				}
			}}
		turn := 0
		env.Ready = func() {
			turn++
			steps = append(steps, "ready with "+elements())
			switch turn {
			case 1:
				hand(t, root, "0.0.0.0/0\n") // refused
				hand(t, root, "198.51.101.0/25\n203.0.114.9\n")
			case 2:
				cancel()
			}
		}
		if err := run(ctx, env, compile); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		want := "policy loaded|ready with 198.51.100.0/24|ready with 198.51.101.0/25, 203.0.114.9"
		if got := strings.Join(steps, "|"); got != want {
			t.Errorf("the child said %s; want %s", got, want)
		}
		// A child that is started again finds its policy with the list, and closes nothing.
		steps, turn = nil, 1
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := run(ctx, env, compile); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := strings.Join(steps, "|"); got != "policy loaded|policy loaded|ready with 198.51.101.0/25, 203.0.114.9" {
			t.Errorf("started again the child said %s; want loaded, never closed, with the list", got)
		}
	})
}

// Ranges that a profile stores beside its JSON are in force with the policy; where they are missing the guest stays
// closed, and a child that is started again finds what is in force by their names.
func TestStoredInForce(t *testing.T) {
	alone(t, func() {
		root := t.TempDir()
		p := filtertest.Guarded()
		for digest, b := range storedSet(&p.Sets[0]) {
			path := filepath.Join(root, contract.SetsDir, digest)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
				t.Error(err)
				return
			}
		}
		said := func() string {
			var steps []string
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			env := &child.Env{Profile: p, Log: slog.New(slog.DiscardHandler), Root: root, Ready: cancel,
				Tell: func(key string, value any) { steps = append(steps, fmt.Sprint(key, " ", value)) }}
			if err := run(ctx, env, filter.Compile); err != nil && !errors.Is(err, context.Canceled) {
				steps = append(steps, "error")
			}
			if !p.Sets[0].Absent() {
				steps = append(steps, "the profile itself was changed")
			}
			return strings.Join(steps, "|")
		}
		const ofMissing = "set blocked: its 70 ranges: open "
		if err := os.Rename(filepath.Join(root, contract.SetsDir), filepath.Join(root, "away")); err != nil {
			t.Error(err)
		}
		if got := said(); !strings.HasPrefix(got, "policy closed|failure the policy cannot be compiled, traffic stays"+
			" blocked: "+ofMissing) {
			t.Errorf("without the ranges the child said %s; want the guest closed", got)
		}
		if err := os.Rename(filepath.Join(root, "away"), filepath.Join(root, contract.SetsDir)); err != nil {
			t.Error(err)
		}
		if got := said(); got != "policy closed|policy loaded" {
			t.Errorf("with the ranges the child said %s; want the policy loaded", got)
		}
		if got := strings.Count(listed(t), ",") + 1; got != 70 {
			t.Errorf("the set in the kernel has %d elements; want 70", got)
		}
		if got := said(); got != "policy loaded|policy loaded" {
			t.Errorf("started again the child said %s; want loaded, never closed", got)
		}
		if err := os.RemoveAll(filepath.Join(root, contract.SetsDir)); err != nil {
			t.Error(err)
		}
		if got := said(); !strings.HasPrefix(got, "policy loaded|failure the policy cannot be compiled, the one before the"+
			" change stays in force: "+ofMissing) {
			t.Errorf("started again without the ranges the child said %s; want what is in force to stay", got)
		}
	})
}

// storedSet makes a set one of 70 ranges that are stored, and returns them by their digest.
func storedSet(s *profiles.Set) map[string][]byte {
	s.Ranges = nil
	for i := range 70 {
		a := netip.AddrFrom4([4]byte{198, 51, 100, byte(2 * i)})
		s.Ranges = append(s.Ranges, profiles.AddrRange{First: a, Last: a})
	}
	out := map[string][]byte{s.Ranges.Digest(): s.Ranges.Binary()}
	s.Forget()
	return out
}

// listed are the elements of the list in the kernel.
func listed(t *testing.T) string {
	out, err := exec.Command("nft", "list", "table", "inet", filter.TableName).CombinedOutput()
	if err != nil {
		t.Errorf("nft: %v: %s", err, out)
	}
	_, set, _ := strings.Cut(string(out), "set set/blocked/4/")
	_, set, _ = strings.Cut(set, "elements = { ")
	set, _, _ = strings.Cut(set, " }")
	return strings.Join(strings.Fields(set), " ")
}

// Lists that do not come keep nobody waiting for ever.
func TestAwaitLists(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, contract.ListsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	env := &child.Env{Profile: &profiles.Profile{}, Root: root, Log: slog.New(slog.NewTextHandler(&log, nil))}
	awaitLists(t.Context(), env, time.Millisecond)
	if !strings.Contains(log.String(), "not there yet") {
		t.Errorf("the log says %q; want that lists are not there", log.String())
	}
}

// The lists of a child in a stranger's hands cannot make the sets larger than the kernel is given room for.
func TestWithLists(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, contract.ListsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i := range profiles.MaxListRanges - 10 {
		fmt.Fprintf(&b, "10.%d.%d.%d\n", i>>15&0xff, i>>7&0xff, i<<1&0xff)
	}
	hand(t, root, b.String())
	p := filtertest.Guarded()
	p.Sets[0].Source = &profiles.ListSource{URL: "https://lists.example/", Every: 3600}
	other := p.Sets[0]
	other.Name, other.Ranges = "many", nil
	for i := range 20 {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(2 * i)})
		other.Ranges = append(other.Ranges, profiles.AddrRange{First: a, Last: a})
	}
	p.Sets = append(p.Sets, other)
	env := &child.Env{Profile: p, Root: root, Log: slog.New(slog.DiscardHandler)}
	with, why, err := withLists(env, nil)
	if err != nil || len(with.Set("blocked").Ranges) != len(p.Sets[0].Ranges) || why == "" {
		t.Errorf("with lists that are too large together the set has %d ranges, said %q; want those of the profile, and why",
			len(with.Set("blocked").Ranges), why)
	}
	p.Sets = p.Sets[:len(p.Sets)-1]
	with, why, err = withLists(env, nil)
	if got := with.Set("blocked").Ranges; err != nil || len(got) != profiles.MaxListRanges-10 || why != "" {
		t.Errorf("the set has %d ranges, said %q; want those of the list", len(got), why)
	}
	// One that cannot be used does not empty the set: what is in force stays.
	hand(t, root, "0.0.0.0/0\n")
	after, why, err := withLists(env, with)
	if got := after.Set("blocked").Ranges; err != nil || len(got) != profiles.MaxListRanges-10 || why == "" {
		t.Errorf("after a list that cannot be used the set has %d ranges, said %q; want those in force, and why", len(got),
			why)
	}
	if len(p.Sets[0].Ranges) > 100 {
		t.Error("the profile itself was changed")
	}
}
