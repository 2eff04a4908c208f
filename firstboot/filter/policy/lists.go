package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/filter/kernel"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
)

// listsWait is how long a guest that starts waits for the lists that were kept: a state disk that is made takes a few
// seconds on a slow machine. Then links come up with what there is; a list that comes later is put in force then.
const listsWait = 20 * time.Second

// withLists is the profile with its sets as they are to be put in force: with the ranges that are stored beside it, and
// the lists that were handed over as members; and why some are not. A list that cannot be used leaves the set with what
// is in force, now, or where nothing is, nil, with what the profile gives it. What the profile stores must be there.
func withLists(env *child.Env, now *profiles.Profile) (with *profiles.Profile, why string, err error) {
	if len(env.Profile.Sourced())+len(env.Profile.Absent()) == 0 {
		return env.Profile, "", nil
	}
	p := *env.Profile
	p.Sets = slices.Clone(p.Sets)
	all, listed := 0, 0
	for i := range p.Sets {
		all += p.Sets[i].Len()
	}
	var unused []string
	var failed []error
	for i := range p.Sets {
		s := &p.Sets[i]
		if s.Source == nil {
			failed = append(failed, child.RestoreSet(env.Root, s))
			continue
		}
		list, err := handover.Read(env.Root, &p, s.Name)
		if err == nil && !handover.Fit(all+len(list)-s.Len(), listed+len(list)) {
			err = fmt.Errorf("list of set %s: all sets together would be too large with its %d ranges", s.Name, len(list))
		}
		switch {
		case err == nil:
			all, listed = all+len(list)-s.Len(), listed+len(list)
			s.Ranges, s.Stored = list, nil
			continue
		case !errors.Is(err, fs.ErrNotExist):
			unused = append(unused, err.Error())
			if now != nil {
				before := now.Set(s.Name)
				all, listed = all+before.Len()-s.Len(), listed+before.Len()
				s.Ranges, s.Stored = before.Ranges, before.Stored
				continue
			}
			env.Log.Error("list not used", "error", err)
		}
		failed = append(failed, child.RestoreSet(env.Root, s))
	}
	return &p, strings.Join(unused, "; "), errors.Join(failed...)
}

// forget leaves of the ranges of sets which they are: the kernel has them.
func forget(p *profiles.Profile) *profiles.Profile {
	less := *p
	less.Sets = slices.Clone(p.Sets)
	for i := range less.Sets {
		less.Sets[i].Forget()
	}
	return &less
}

// awaitLists waits until the lists that were kept are handed over, for so long at most.
func awaitLists(ctx context.Context, env *child.Env, most time.Duration) {
	ctx, stop := context.WithTimeout(ctx, most)
	defer stop()
	changes, err := handover.Watch(ctx, env.Root)
	for err == nil && ctx.Err() == nil {
		if handover.Laid(env.Root) {
			return
		}
		<-changes
	}
	env.Log.Warn("lists are not there yet; their sets hold what the profile says until they are", "error", err)
}

// follow puts lists in force when they change, until ctx is done.
func follow(ctx context.Context, env *child.Env, compile compiler, now *profiles.Profile) {
	if len(now.Sourced()) == 0 {
		<-ctx.Done()
		return
	}
	changes, err := handover.Watch(ctx, env.Root)
	if err != nil {
		env.Tell(child.KeyWarning, "lists stay as they are: "+err.Error())
		<-ctx.Done()
		return
	}
	const again = 30 * time.Second // after a change that could not be put in force
	retry := time.NewTimer(again)
	defer retry.Stop()
	retry.Stop()
	said := ""
	tell := func(text string) {
		if text != said {
			env.Tell(child.KeyWarning, text)
			said = text
		}
	}
	for {
		select {
		case _, ok := <-changes:
			if !ok {
				<-ctx.Done()
				return
			}
		case <-retry.C:
		case <-ctx.Done():
			return
		}
		next, why, err := withLists(env, now)
		if err == nil && sameLists(now, next) {
			tell(why)
			debug.FreeOSMemory() // the lists were in it once more
			continue
		}
		if err == nil {
			err = swap(ctx, compile, next)
		}
		if err != nil {
			env.Log.Error("lists not put in force", "error", err)
			tell("lists stay as they are: " + err.Error())
			retry.Reset(again)
			continue
		}
		now = forget(next)
		tell(why)
		for _, s := range now.Sourced() {
			env.Log.Info("list in force", "set", s.Name, "ranges", s.Len())
		}
		env.Ready() // what it took is given back
	}
}

func sameLists(a, b *profiles.Profile) bool {
	return slices.EqualFunc(a.Sourced(), b.Sourced(), func(a, b *profiles.Set) bool {
		return a.Which() == b.Which()
	})
}

func swap(ctx context.Context, compile compiler, p *profiles.Profile) error {
	rules, err := compile(p)
	if err != nil {
		return err
	}
	return kernel.Swap(ctx, rules, kernel.Options{})
}
