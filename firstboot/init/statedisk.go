package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/seed"
	"rempart/firstboot/state"
)

// varSize bounds /var in memory, for a guest without a state disk.
const varSize = "mode=0755,size=25%"

// stateOptions are those of the state disk. A filesystem that stumbles is kept as it is, for e2fsck, rather than
// written on.
const stateOptions = "errors=remount-ro"

// quotaModule is the kernel module for the format of the books that package state makes.
const quotaModule = "quota_v2"

// mountState mounts what the state child prepared on /var, or memory where there is nothing to mount. It runs once the
// child is done, before anything that needs /var.
func (g *guest) mountState() {
	g.mu.Lock()
	r := g.facts.result
	g.mu.Unlock()
	if r == nil {
		r = &child.StateResult{Action: state.FailedDisk, Error: "the state child ended without a word"}
	}
	report := contract.StateReport{Device: r.Device, Action: r.Action}
	why := oneLine(r.Error)
	dir := g.stateDir()
	switch r.Action {
	case state.Mounted, state.Formatted, state.Reformatted:
		node := filepath.Join(g.Root, "dev", r.Device)
		err := g.System.Mount(node, dir, "ext4", confined, stateOptions+",usrquota")
		if err != nil {
			err = g.System.Mount(node, dir, "ext4", confined, stateOptions) // no state was ever lost for want of quotas
		}
		if err != nil {
			report.Action, why = state.FailedDisk, fmt.Sprintf("mounting %s: %v", node, err)
			break
		}
		if r.Bytes > 0 {
			grown, err := state.Grow(dir, r.Bytes)
			if err != nil {
				g.log.Warn("state disk keeps its size", "error", err)
				g.fact(func(f *facts) { f.warnings["init: state"] = oneLine(err.Error()) })
			}
			if grown {
				report.Action = state.Grown
			}
		}
		report.Bytes = size(dir)
	}
	if report.Bytes == 0 {
		report.Device = ""
		if err := g.System.Mount("tmpfs", dir, "tmpfs", confined, varSize); err != nil {
			why = fmt.Sprintf("%s; nor could memory be mounted there: %v", why, err)
		}
	}
	if err := state.Skeleton(dir, g.Confine); err != nil {
		g.log.Warn("state", "error", err)
		g.fact(func(f *facts) { f.warnings["init: var"] = oneLine(err.Error()) })
	}
	if report.Bytes > 0 {
		g.warn("shares of the state disk", func() error { return g.shareState(report.Device) })
	}
	if why != "" && report.Action != state.Absent {
		g.log.Error("state disk", "error", why)
	}
	g.fact(func(f *facts) { f.state, f.stateErr = report, why })
	if report.Device != "" {
		g.warn("random seed", func() error {
			used, err := seed.Load(g.Root)
			if used {
				g.log.Info("the random seed of the last run was used: the host gives no random number generator")
			}
			return err
		})
		if !seed.HasGenerator(g.Root) {
			go g.warn("random seed", g.makeSeed)
		}
	}
}

// shareState has the kernel see to it that no child takes more of the state disk than its share.
func (g *guest) shareState(device string) error {
	limits, err := g.stateLimits()
	if err != nil {
		return err
	}
	lacks := g.loadNamed([]string{quotaModule})
	err = g.System.Share(g.stateDir(), filepath.Join(g.Root, "dev", device), limits)
	switch {
	case errors.Is(err, state.ErrUnbound): // the others are, and are by the next profile
		err = fmt.Errorf("%w; what those children write is bounded by the disk alone", err)
	case errors.Is(err, state.ErrUncounted):
		g.log.Warn("shares of the state disk", "error", err)
		err = nil
	case err != nil:
		return fmt.Errorf("%w; what a child writes is bounded by the disk alone", errors.Join(err, lacks))
	}
	var said []any
	for _, l := range limits {
		if l.Bytes > 0 {
			said = append(said, fmt.Sprintf("user %d", l.UID), fmt.Sprintf("%d KiB", l.Bytes>>10))
		}
	}
	g.log.Info("the state disk is shared out", said...)
	g.mu.Lock()
	g.shared = true
	g.mu.Unlock()
	return err
}

// shareAgain does so for a profile that has changed.
func (g *guest) shareAgain() error {
	g.mu.Lock()
	shared, device := g.shared, g.facts.state.Device
	g.mu.Unlock()
	if !shared {
		return nil
	}
	limits, err := g.stateLimits()
	if err != nil {
		return err
	}
	return g.System.Reshare(filepath.Join(g.Root, "dev", device), limits)
}

func (g *guest) stateLimits() ([]state.Limit, error) {
	room, err := state.Room(g.stateDir())
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	p := g.profile
	g.mu.Unlock()
	return state.Limits(p, room), nil
}

func (g *guest) stateDir() string { return filepath.Join(g.Root, contract.StateDir) }

// makeSeed leaves a seed as soon as there is randomness for one. A guest without a generator that nobody asks for a key
// would have none when it stops, and none at its next start.
func (g *guest) makeSeed() error {
	if err := seed.Await(); err != nil {
		return err
	}
	g.seedMutex.Lock()
	defer g.seedMutex.Unlock()
	if g.stateLeft {
		return nil
	}
	if err := seed.Save(g.Root); err != nil {
		return err
	}
	g.log.Info("a random seed was left for the next start: the kernel has made randomness of its own")
	return nil
}

func size(dir string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0
	}
	return int64(fs.Blocks) * fs.Bsize
}

// leaveState saves the seed and takes /var off; busy, it is made read-only, so that nothing is written after the sync.
func (g *guest) leaveState() {
	g.mu.Lock()
	device := g.facts.state.Device
	g.mu.Unlock()
	if device == "" {
		return
	}
	g.seedMutex.Lock()
	defer g.seedMutex.Unlock()
	g.stateLeft = true
	if err := seed.Save(g.Root); err != nil {
		g.log.Warn("random seed", "error", err)
	}
	if g.Root != "/" {
		return
	}
	unix.Sync()
	g.leave(contract.StateDir, confined)
}

// leave takes off what is mounted on a folder; busy, it is made read-only, so that nothing is written any more.
func (g *guest) leave(dir string, flags uintptr) {
	busy := unix.Unmount(dir, 0)
	if busy == nil {
		return
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""); err != nil {
		g.log.Error(dir+" could be neither taken off nor made read-only", "error", errors.Join(busy, err))
		return
	}
	g.log.Warn(dir+" could not be taken off and was made read-only", "error", busy)
}

// mountSyscall is System.Mount on a real machine.
func mountSyscall(source, target, fstype string, flags uintptr, data string) error {
	return os.NewSyscallError("mount", unix.Mount(source, target, fstype, flags, data))
}

// Machine is the real System.
func Machine() System {
	return System{Mount: mountSyscall, Reboot: unix.Reboot, Share: state.Bound, Reshare: state.Rebound}
}
