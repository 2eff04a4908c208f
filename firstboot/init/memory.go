package pid1

import (
	"os"
	"path/filepath"
	"strconv"

	"rempart/firstboot/child"
	"rempart/firstboot/init/cgroup"
)

// cgroupDir is where mounts has the control groups.
const cgroupDir = "sys/fs/cgroup"

// protect keeps PID 1 from being chosen when memory runs out. Its pages are not locked: all of the program is as little
// as PID 1 can lock, being what its children run from, and 10 MiB of a small guest are better used as they are needed.
func (g *guest) protect() error {
	if !g.Confine {
		return nil
	}
	return os.WriteFile(filepath.Join(g.Root, "proc/self/oom_score_adj"), []byte("-1000"), 0)
}

// makeGroups bounds what children take together, by what is there before the first of them.
func (g *guest) makeGroups() (err error) {
	if !g.Confine {
		return nil
	}
	g.groups, err = cgroup.New(filepath.Join(g.Root, cgroupDir), cgroup.Limit(g.memory().Available))
	return err
}

// group returns a child's control group, nil where there are none, and what it may take, 0: not bounded. A child
// without its group is still a child: the guest goes on, and says so.
func (g *guest) group(spec child.Spec) (*cgroup.Group, int64) {
	if g.groups == nil {
		return nil, 0
	}
	most := g.groups.MemoryOf(spec.MemoryLimit)
	group, err := g.groups.Group(spec.Name, most, child.MaxProcesses)
	if err != nil {
		g.log.Warn("child is not bounded", "child", spec.Name, "error", err)
		g.fact(func(f *facts) { f.warnings["init: group of "+spec.Name] = oneLine(err.Error()) })
		return nil, 0
	}
	return group, most
}

// kills is how many processes of a group memory ran out for.
func kills(group *cgroup.Group) int64 {
	if group == nil {
		return 0
	}
	u, err := group.Usage()
	if err != nil {
		return 0
	}
	return u.Kills
}

// heapLimit is GOMEMLIMIT of a child that may take so many bytes: what it sets itself, and three quarters at most, the
// rest being stacks and what the kernel holds for it; empty: none.
func heapLimit(spec child.Spec, most int64) string {
	limit := spec.MemoryLimit
	if share := most / 4 * 3; share > 0 && (limit <= 0 || limit > share) {
		limit = share
	}
	if limit <= 0 {
		return ""
	}
	return strconv.FormatInt(limit, 10)
}
