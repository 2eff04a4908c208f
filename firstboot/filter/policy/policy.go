// Package policy is the child that loads the packet filter: the closed rules first, then the profile's policy. Links
// come up after it is ready, so no packet ever meets a guest without rules.
//
// What it deliberately does not do: bring up links, load kernel modules, or open anything when it fails. Then the
// closed rules stay, with the admin path the profile declares.
package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/filter"
	"rempart/firstboot/filter/ban"
	"rempart/firstboot/filter/kernel"
	"rempart/firstboot/filter/offload"
	"rempart/profiles"
)

// What the child says of the policy in force, for contract.Report.
const (
	stateClosed = "closed"
	stateLoaded = "loaded"
)

// Spec describes the child: it needs the one capability that nf_tables asks for, and no file but the ranges of large
// sets and the lists that are handed over. It waits for the identity, which may say what is meant by a link: with one
// that cannot be read nothing is opened.
func Spec() child.Spec {
	return child.Spec{Name: "policy", Run: Run, After: []string{"identity"}, UID: contract.UIDPolicy, Follows: true,
		Caps: []uintptr{unix.CAP_NET_ADMIN}, Read: []string{contract.ListsDir, contract.SetsDir}, GCPercent: 25}
}

// Run loads the policy and waits for ctx to end. A child that is started again finds its predecessor's policy in the
// kernel and replaces it in one transaction: the closed rules do not come between, so no connection is cut. So does
// one that finds the policy of the profile before a live change. When the policy cannot be compiled or loaded the
// rules in force stay as they are, which are the closed ones unless one of these two was loaded before, and the error
// says why.
func Run(ctx context.Context, env *child.Env) error {
	return run(ctx, env, filter.Compile)
}

func run(ctx context.Context, env *child.Env, compile compiler) error {
	compile, can := affordable(ctx, env, compile)
	loaded, err := load(ctx, env, compile)
	if err != nil {
		env.Tell(child.KeyFailure, err.Error())
		return err
	}
	if err := ban.Keep(ctx, env.Profile, kernel.Options{}); err != nil {
		// Said, and no reason to keep the links down: nothing is open that the policy does not open.
		env.Tell(child.KeyFailure, "the policy is loaded, but nobody can be banned: "+err.Error())
	}
	env.Ready()
	if !env.Profile.FlowTable || !can() {
		follow(ctx, env, compile, loaded)
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	following := make(chan struct{})
	go func() {
		defer close(following)
		follow(ctx, env, compile, loaded)
	}()
	defer func() { stop(); <-following }()
	if err := offload.Keep(ctx, env.Profile, env.Log, kernel.Options{}); err != nil {
		env.Tell(child.KeyWarning, err.Error())
		return err
	}
	return nil
}

// affordable is compile for this kernel: where it has no flow table, known flows meet the rules as all others do, and
// it is said. It is asked once, and only when a profile wants it.
func affordable(ctx context.Context, env *child.Env, compile compiler) (compiler, func() bool) {
	can := sync.OnceValue(func() bool {
		can, err := kernel.CanOffload(ctx, kernel.Options{})
		if !can {
			text := "flowtable: this kernel takes none, all packets meet the rules"
			if err != nil {
				text += ": " + err.Error()
			}
			env.Log.Warn(text)
			env.Tell(child.KeyWarning, text)
		}
		return can
	})
	return func(p *profiles.Profile) (filter.Ruleset, error) {
		if p.FlowTable && !can() {
			slower := *p
			slower.FlowTable = false
			p = &slower
		}
		return compile(p)
	}, can
}

// compiler is filter.Compile, or what stands in for it in a test.
type compiler = func(*profiles.Profile) (filter.Ruleset, error)

// load puts the policy in force and returns the profile it is of, with the lists that are in force.
func load(ctx context.Context, env *child.Env, compile compiler) (*profiles.Profile, error) {
	p, full, compileErr := compiled(env, compile)
	inForce := false
	if len(full.Tables) > 0 {
		var err error
		if inForce, err = kernel.InForce(ctx, full, kernel.Options{}); err != nil {
			env.Log.Warn("cannot see which policy is loaded; closing first", "error", err)
		}
	}
	if inForce = inForce || previousInForce(ctx, env, compile); inForce {
		env.Tell(child.KeyPolicy, stateLoaded)
	} else {
		if err := closeDown(ctx, env); err != nil {
			return nil, errors.Join(err, compileErr)
		}
		env.Tell(child.KeyPolicy, stateClosed)
		if len(p.Sourced()) > 0 && compileErr == nil { // while nothing is open
			awaitLists(ctx, env, listsWait)
			p, full, compileErr = compiled(env, compile)
		}
	}
	switch {
	case compileErr != nil && inForce:
		return nil, fmt.Errorf("the policy cannot be compiled, the one before the change stays in force: %w", compileErr)
	case compileErr != nil:
		return nil, fmt.Errorf("the policy cannot be compiled, traffic stays blocked: %w", compileErr)
	}
	if err := kernel.Apply(ctx, full, kernel.Options{}); err != nil {
		if inForce {
			return nil, fmt.Errorf("the policy cannot be loaded again, it stays as it is: %w", err)
		}
		return nil, fmt.Errorf("the policy cannot be loaded, traffic stays blocked: %w", err)
	}
	ok, err := kernel.InForce(ctx, full, kernel.Options{})
	if err != nil {
		return nil, fmt.Errorf("the policy was loaded but cannot be read back: %w", err)
	}
	if !ok {
		return nil, errors.New("the policy was loaded but is not in force; another program changes the table inet " +
			filter.TableName)
	}
	env.Tell(child.KeyPolicy, stateLoaded)
	env.Log.Info("policy loaded", "rules", full.Fingerprint())
	return forget(p), nil
}

// compiled is the profile with its sets, and its rules. Should some of what it stores not be there, the rules are there
// all the same, to be compared with those in force.
func compiled(env *child.Env, compile compiler) (*profiles.Profile, filter.Ruleset, error) {
	p, _, err := withLists(env, nil)
	rules, compileErr := compile(p)
	return p, rules, errors.Join(err, compileErr)
}

// previousInForce tells whether the rules in the kernel are those of the profile before a live change: then the new
// ones replace them in one step. Everything else that is found there was not made for this guest, and is closed
// first.
func previousInForce(ctx context.Context, env *child.Env, compile compiler) bool {
	b, err := os.ReadFile(filepath.Join(env.Root, contract.PreviousPath))
	if err != nil {
		return false // the usual case: no profile was ever changed
	}
	p, _, err := child.DecodeProfile(b)
	if err != nil {
		env.Log.Warn("the profile before the change cannot be read", "error", err)
		return false
	}
	rules, err := compile(p)
	if err != nil {
		return false
	}
	ok, err := kernel.InForce(ctx, rules, kernel.Options{})
	return ok && err == nil
}

// closeDown puts the closed rules in force.
func closeDown(ctx context.Context, env *child.Env) error {
	closed, err := filter.Closed(env.Profile)
	if err != nil {
		// A profile that cannot even be closed by its own words: close everything.
		env.Log.Error("the closed rules cannot be compiled; closing the admin path too", "error", err)
		if closed, err = filter.Closed(&profiles.Profile{Admin: profiles.Admin{None: true}}); err != nil {
			return fmt.Errorf("compile the closed rules: %w", err)
		}
	}
	if err := kernel.Apply(ctx, closed, kernel.Options{}); err != nil {
		return fmt.Errorf("the closed rules cannot be loaded; links must stay down: %w", err)
	}
	return nil
}
