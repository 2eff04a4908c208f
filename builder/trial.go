package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"rempart/builder/files"
	"rempart/builder/guest"
	"rempart/builder/guest/home"
	"rempart/builder/guest/reprovision"
	"rempart/builder/hypervisor"
	"rempart/builder/hypervisor/qemu"
	"rempart/builder/master/store"
	"rempart/builder/packettest"
	"rempart/profiles"
)

// trial is a guest that is booted for nothing but to have its packets judged: every link leads into a network inside
// this process.
type trial struct {
	master   *guest.Master
	settings guest.Settings    // without backends
	profile  *profiles.Profile // as that of the guest with the identity of the settings
	timeout  time.Duration     // until it is READY
	captures string            // folder for a capture of each link; empty: none
	say      func(format string, args ...any)
}

// errNoBench is returned for a guest around which no network can be made.
var errNoBench = errors.New("its packets cannot be tried here")

// run boots the guest, tries every flow of its policy, and ends it. A flow that is not as the profile says is in the
// report, and no error.
func (t trial) run(ctx context.Context) (report packettest.Report, err error) {
	s := t.settings
	s.StandIns = true
	nics, err := guest.NICs(t.master.Profile, s)
	if err != nil {
		return report, err
	}
	macs := make([]net.HardwareAddr, len(nics))
	s.Backends = map[string]hypervisor.Backend{}
	for i, n := range nics {
		macs[i] = n.MAC
		s.Backends[n.Link] = hypervisor.Backend{Kind: hypervisor.Wire}
	}
	bench, err := packettest.New(t.profile, macs, packettest.Options{Log: s.Log, Captures: t.captures})
	if err != nil {
		return report, fmt.Errorf("%w: %w", errNoBench, err)
	}
	defer func() { err = errors.Join(err, bench.Close()) }()

	started := time.Now()
	g, err := guest.Start(ctx, t.master, s)
	if err != nil {
		return report, err
	}
	defer func() {
		g.Stop(context.WithoutCancel(ctx), 0) // its state disk goes with it: nothing to put in order
		g.Wait()
	}()
	for i, wire := range g.Wires {
		bench.Plug(i, wire)
	}
	booting, ready := context.WithCancel(ctx)
	defer ready()
	knocks := make(chan packettest.Knocks, 1)
	go func() { knocks <- bench.Knock(booting) }()
	t.say("booting %s by %s on %s (%s) ...", t.master.Profile.Name, s.Firmware, g.Accel, g.AccelReason)
	wait, cancel := context.WithTimeoutCause(ctx, t.timeout, fmt.Errorf("not READY within %v", t.timeout))
	err = g.AwaitReady(wait)
	cancel()
	ready()
	if err != nil {
		return report, err
	}
	t.say("READY after %.1f s; trying %d flows ...", time.Since(started).Seconds(), len(bench.Probes()))
	early := <-knocks
	report, err = bench.Run(ctx)
	report.Knocks = &early
	return report, err
}

// prove has the packets of a master judged as those of a guest: with its name, addresses and keys, a blank state, and
// no network but one in this process. Others stand in for its data disks: nothing that lasts is written. A copy of its
// identity is in the folder work meanwhile.
func prove(ctx context.Context, c *console, g *home.Guest, masters *store.Store, to, work string,
	patience time.Duration) (proof reprovision.Proof, err error) {
	kept, err := masters.Find(to)
	if err != nil {
		return proof, err
	}
	m, err := guest.OpenMaster(kept.Dir)
	if err != nil {
		return proof, err
	}
	s := proofSettings(g, work)
	s.Log = logger(c, false)
	if err := files.Clone(ctx, g.Identity(), s.Identity); err != nil {
		return proof, err
	}
	id, err := guest.EnsureIdentity(s.Identity, g.Name, m.Profile, nil)
	if err != nil {
		return proof, err
	}
	p, err := ownProfile(s, id, m.Profile)
	if err != nil {
		return proof, err
	}
	report, err := trial{master: m, settings: s, profile: p, timeout: patience,
		say: func(string, ...any) {}}.run(ctx)
	if errors.Is(err, qemu.ErrNotInstalled) && g.Xen != nil {
		return proof, fmt.Errorf("%w; or prove the master on a machine that has QEMU, by `rempart test`, and then have it "+
			"here with --prove never", err)
	}
	if errors.Is(err, errNoBench) {
		return reprovision.Proof{Verdict: "NOT PROVEN: " + err.Error()}, nil
	}
	if err != nil {
		return proof, err
	}
	return proofOf(report)
}

// proofSettings are how a guest runs to be proven: from the system disk of the master in question, not from a volume of
// its own, which has the master of now.
func proofSettings(g *home.Guest, work string) guest.Settings {
	s := g.Settings()
	s.System, s.State, s.Data, s.RebootEnds = "", "", nil, true
	s.Identity = filepath.Join(work, filepath.Base(g.Identity()))
	return s
}

// proofOf is what a report amounts to.
func proofOf(r packettest.Report) (proof reprovision.Proof, err error) {
	proof.Verdict = fmt.Sprintf("%d of %d flows tried with packets are as it says", r.Right, r.Right+r.Wrong)
	for _, row := range r.Rows {
		if !row.Right {
			proof.Wrong = append(proof.Wrong, fmt.Sprintf("%s, %s: expected %s, seen %s", row.Flow, row.Packet, row.Expected,
				row.Seen))
		}
	}
	if !r.OK() && len(proof.Wrong) == 0 {
		proof.Wrong = []string{"what is forbidden passed before the policy was in force, or nothing was tried"}
	}
	proof.Report, err = json.MarshalIndent(r, "", " ")
	return proof, err
}
