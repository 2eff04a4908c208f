package link

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"rempart/firstboot/announce"
	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
	"rempart/firstboot/dhcp/downstream"
	"rempart/profiles"
)

// Spec is this child as PID 1 starts it: after the policy, because a link that is up without one is open.
//
// CAP_NET_ADMIN configures and writes /proc/sys/net, CAP_NET_RAW speaks DHCP and ARP, CAP_NET_BIND_SERVICE holds the
// DHCP client's port.
func Spec() child.Spec {
	return child.Spec{
		Name:    "link",
		Run:     Run,
		After:   []string{"policy"},
		Follows: true,
		UID:     contract.UIDLink,
		Caps:    []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE},
		Own:     []string{contract.LinkDir},
		Read: []string{"/sys/class/net", "/sys/devices", "/proc/sys/net", contract.DownstreamDir,
			identity.ConsumerDir(identity.ConsumerWireGuard)},
		Write:       []string{"/proc/sys/net", contract.LinkDir},
		OOMScore:    100,
		MemoryLimit: 24 << 20,
	}
}

// Times of the loop.
const (
	// settleTime is how long links without a MAC wait for the others' NICs before bus order is taken from the NICs
	// there are: drivers probe in any order, and a lan that became wan for a moment is what must not happen.
	settleTime = 3 * time.Second
	// learnTime is how long the first word that all is well waits for what is to be delegated and for duplicate
	// detection: four times a client asks in it (RFC 8415 15: after 1, 2, 4 and 8 s), of which one may be lost.
	learnTime = 15 * time.Second
	// debounce gathers the events of one change.
	debounce = 20 * time.Millisecond
	// recheck looks without an event: nobody announces a changed sysctl.
	recheck = time.Minute
	// retryFirst to recheck, doubling, is how soon a change that failed is tried again.
	retryFirst = time.Second
	// maxPasses bounds how often one look leads to changes at once; what is left then waits for the next event.
	maxPasses = 6
	// Fighting with another program over a link is bounded to so many rounds, and then one a second.
	fightBurst = 30
)

// announced is what the kernel tells of that may need a look: interfaces, addresses, routes and rules.
const announced = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE |
	unix.RTMGRP_IPV6_ROUTE | 1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1)

// Run brings the links to the state the profile declares and keeps them there until ctx is done. It leaves them as
// they are when it ends, so that the next run finds nothing to do: the policy is what protects them, not this
// program.
func Run(ctx context.Context, env *child.Env) error {
	k, err := newKernel(env.Root)
	if err != nil {
		return err
	}
	defer k.close()
	ev, err := announce.Subscribe(announced)
	if err != nil {
		return err
	}
	defer ev.Close()
	r := &runner{
		env:    env,
		log:    env.Log,
		kernel: k,
		dirty:  make(chan struct{}, 1),
		retry:  retryFirst,
		fight:  rate.NewLimiter(rate.Every(time.Second), fightBurst),
	}
	r.plan = Compile(env.Profile)
	r.uplinks = newUplinks(env, r.plan)
	if err := r.machine(); err != nil {
		return err // links stay down: they would be up without a switch that protects them
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer r.uplinks.wait()
	defer cancel()
	broken := make(chan error, 1)
	go func() { broken <- ev.Watch(r.dirty) }()
	ways, err := r.downstream(ctx)
	if err != nil {
		return err
	}
	return r.loop(ctx, broken, ways)
}

// downstream tells when what is delegated behind leads elsewhere; never where nothing is.
func (r *runner) downstream(ctx context.Context) (<-chan struct{}, error) {
	if !slices.ContainsFunc(r.env.Profile.DHCP6, func(d profiles.DHCP6) bool { return d.Delegate != nil }) {
		return nil, nil
	}
	r.uplinks.stale = true // read before the first look at the kernel: routes of the run before this one stay
	return downstream.Watch(ctx, r.env.Root)
}

type runner struct {
	env     *child.Env
	log     *slog.Logger
	plan    Plan
	kernel  *kernel
	dirty   chan struct{}
	uplinks *uplinks

	settled bool
	// unhurried: what is learnt was waited for long enough.
	unhurried bool
	retry     time.Duration
	checked   time.Time // when addresses somebody else had were last asked for again
	fight     *rate.Limiter
	told      []contract.LinkReport
	warned    string
	failure   string
}

// machine writes the switches of the whole machine.
func (r *runner) machine() error {
	sysctls := r.plan.Sysctls
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		sysctls = slices.Concat(sysctls, ConntrackSysctls(int64(info.Totalram)*int64(info.Unit)))
	}
	for _, s := range sysctls {
		if _, err := r.kernel.setSysctl(s, ""); err != nil {
			if !s.Optional {
				return err
			}
			r.log.Warn("a switch could not be set", "error", err)
		}
	}
	return nil
}

func (r *runner) loop(ctx context.Context, broken <-chan error, ways <-chan struct{}) error {
	settle, learnt := time.After(settleTime), time.After(learnTime)
	timer := time.NewTimer(0)
	defer timer.Stop()
	soon := true // the timer is already set because of an event: a stream of events must not put it off
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-settle:
			r.settled = true
			timer.Reset(0)
			soon = true
			continue
		case <-learnt:
			r.unhurried = true
			timer.Reset(0)
			soon = true
			continue
		case _, open := <-ways:
			if !open {
				ways = nil // ctx is done
				continue
			}
			r.uplinks.stale = true
			if !soon { // as after any event: routers that ask again and again keep nobody busy
				timer.Reset(r.pause())
				soon = true
			}
			continue
		case learn := <-r.uplinks.news:
			learn()
			timer.Reset(0)
			soon = true
			continue
		case <-r.dirty:
			if !soon {
				timer.Reset(r.pause())
				soon = true
			}
			continue
		case <-timer.C:
		}
		soon = false
		wait, err := r.converge(ctx)
		if err != nil {
			return err
		}
		timer.Reset(wait)
	}
}

// pause is how long to wait after an event: for the rest of what it belongs to, and longer when somebody keeps
// changing what is changed back.
func (r *runner) pause() time.Duration {
	if r.fight.Tokens() < 1 {
		return time.Second
	}
	return debounce
}

// converge compares, changes and reports, and says after how long to look again without an event.
func (r *runner) converge(ctx context.Context) (time.Duration, error) {
	again := time.Since(r.checked) >= recheck
	if again {
		r.checked = time.Now()
	}
	r.uplinks.lookDownstream()
	var failed map[int]error
	for pass := 1; ; pass++ {
		have, nics, err := r.kernel.look()
		if err != nil {
			return 0, err
		}
		tunnels := r.tunnels()
		v := r.view(nics, have)
		learnt := r.uplinks.learnt()
		want := Want(r.plan, v.assigned, v.spare, learnt, r.uplinks.now())
		mtu6(want, have, r.plan, learnt.Adverts)
		for i := range want {
			want[i].Tunnel = tunnels[want[i].Name]
		}
		for _, h := range have {
			if h.Kept { // lo: the kernel gives it its addresses once it is up
				want = append(want, Interface{Index: h.Index, Name: h.Name, Up: true, Kept: true})
			}
		}
		r.kernel.readSysctls(have, want)
		routing, err := r.kernel.lookRouting()
		if err != nil {
			return 0, err
		}
		wanted := r.plan.Routing
		wanted.Dead = slices.Concat(wanted.Dead, unused(r.plan, v.assigned, learnt.Given6, r.uplinks.now()))
		wanted.Dead = append(wanted.Dead, r.uplinks.lost(wanted.Dead)...)
		before, after := RoutingChanges(routing, wanted)
		changes := slices.Concat(before, v.found.Remove, Changes(have, want), v.found.Create)
		if len(v.found.Create) == 0 { // what is made has its routes in the next pass
			changes = append(changes, after...)
		}
		if again && pass == 1 {
			changes = append(duplicates(have, want), changes...)
		}
		if len(changes) == 0 || pass > maxPasses || ctx.Err() != nil {
			r.uplinks.follow(ctx, v.assigned, have, r.dirty)
			r.report(v, have, failed)
			return r.next(failed, len(changes)), nil
		}
		r.fight.Allow()
		for _, c := range changes {
			level := slog.LevelInfo
			if c.Kind == SetSysctl || c.Kind == SetClaim || c.Kind == AddAddress && c.Address.Valid > 0 {
				level = slog.LevelDebug
			}
			r.log.Log(ctx, level, c.String())
		}
		failed = r.kernel.apply(ctx, changes)
		if len(failed) > 0 {
			pass = max(pass, maxPasses) // look once more, report, and try again later
		}
	}
}

// next says when to look again: soon and then less often while something fails.
func (r *runner) next(failed map[int]error, left int) time.Duration {
	if len(failed) == 0 && left == 0 {
		r.retry = retryFirst
		return recheck
	}
	wait := r.retry
	r.retry = min(2*r.retry, recheck-1)
	return wait
}

// duplicates asks the kernel to check addresses again that another host had: it marks them once and for all.
func duplicates(have, want []Interface) []Change {
	var out []Change
	for _, h := range have {
		for _, a := range h.Addresses {
			wanted := func(w Interface) bool {
				return w.Index == h.Index &&
					slices.ContainsFunc(w.Addresses, func(b Address) bool { return b.Prefix == a.Prefix })
			}
			if a.Duplicate && slices.ContainsFunc(want, wanted) {
				out = append(out, Change{Kind: DeleteAddress, Index: h.Index, Link: h.Name, Address: a})
			}
		}
	}
	return out
}

// view is what Match made of the NICs, less what is not settled yet.
type view struct {
	assigned []Assignment
	spare    []NIC
	warnings []Warning
	found    Found
}

func (r *runner) view(nics []NIC, have []Interface) view {
	device := map[int]Device{}
	for _, h := range have {
		device[h.Index] = h.Device
	}
	// What this program makes is no NIC. A macvlan may be one: somebody else's, in a namespace.
	nics = slices.DeleteFunc(nics, func(n NIC) bool {
		kind := device[n.Index].Kind
		return made(kind) && (kind != KindMacvlan || slices.ContainsFunc(r.plan.Links, func(l Link) bool {
			return l.Device.Kind == KindMacvlan && (l.Name == n.Claim || l.Name == n.Name)
		}))
	})
	wanted := 0
	for _, l := range r.plan.Links {
		if l.Device.Kind == "" {
			wanted++
		}
	}
	assigned, warnings := Match(r.plan, nics)
	if len(assigned) == wanted {
		r.settled = true
	}
	for i := range assigned {
		if n := &assigned[i].NIC; n.Own != "" {
			n.MAC = n.Own // from here on it is what others see
		}
	}
	if !r.settled {
		v := view{assigned: slices.DeleteFunc(assigned, func(a Assignment) bool { return a.By == ByBus })}
		return r.devices(v, have)
	}
	v := view{assigned: assigned, warnings: warnings}
	for _, n := range nics {
		used := slices.ContainsFunc(assigned, func(a Assignment) bool { return a.NIC.Index == n.Index })
		if n.Bus != "" && !used {
			v.spare = append(v.spare, n)
		}
	}
	return r.devices(v, have)
}

// devices adds the links that this program makes.
func (r *runner) devices(v view, have []Interface) view {
	v.found = Devices(r.plan, have, v.assigned)
	v.assigned = append(v.assigned, v.found.Made...)
	slices.SortFunc(v.assigned, func(a, b Assignment) int { return a.Link - b.Link })
	v.warnings = append(v.warnings, v.found.Waiting...)
	return v
}
