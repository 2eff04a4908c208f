package debian

import (
	"fmt"
	"slices"
	"strings"

	"rempart/builder/debian/control"
)

// chosen is a package of the result.
type chosen struct {
	*available
	via  *chosen // what asked for it first; nil for a root
	want control.Relation
	next []*chosen // what its dependencies led to
}

// chain tells how a package came in: "e2fsprogs 1.47 -> libc6 (>= 2.34)".
func (c *chosen) chain() string {
	if c.via == nil {
		return c.name + " " + string(c.version)
	}
	return c.via.chain() + " -> " + c.want.String()
}

// maxChosen bounds the packages of one lock; a whole desktop has 2,000.
const maxChosen = maxLockPackages

// resolver follows dependencies breadth first. The first alternative that can be had is taken, as apt does; what is
// chosen already is preferred; nothing is ever taken back.
type resolver struct {
	*universe
	arch   string
	chosen map[string]*chosen
	queue  []*chosen
}

// resolve returns the packages of the roots with the roots each is there for, in the order of their names.
func (u *universe) resolve(arch string, roots []Root) ([]Locked, error) {
	u.sortProviders()
	for_ := map[*available][]string{}
	mark := func(a *available, root string) {
		if !slices.Contains(for_[a], root) {
			for_[a] = append(for_[a], root)
		}
	}
	r := &resolver{universe: u, arch: arch, chosen: map[string]*chosen{}}
	var whole []*chosen
	for _, root := range roots {
		newest := u.byName[root.Name]
		if len(newest) == 0 {
			return nil, wrap(ErrUnsatisfied, "no suite has the package %s (%s)", root.Name, root.Why)
		}
		a := newest[0]
		switch root.Follow {
		case FollowNone:
			mark(a, root.Name)
		case FollowMeta:
			targets, err := u.metaTargets(a, arch)
			if err != nil {
				return nil, err
			}
			for _, target := range targets {
				mark(target, root.Name)
			}
		case FollowAll:
			c, err := r.take(a, nil, control.Relation{Name: root.Name})
			if err != nil {
				return nil, err
			}
			whole = append(whole, c)
		default:
			return nil, fmt.Errorf("root %s: follow %q is none of %s, %s and %s",
				root.Name, root.Follow, FollowAll, FollowNone, FollowMeta)
		}
	}
	if err := r.run(); err != nil {
		return nil, err
	}
	if err := r.checkConflicts(); err != nil {
		return nil, err
	}
	for _, root := range whole {
		seen := map[*chosen]bool{root: true}
		for queue := []*chosen{root}; len(queue) > 0; queue = queue[1:] {
			mark(queue[0].available, root.name)
			for _, next := range queue[0].next {
				if !seen[next] {
					seen[next] = true
					queue = append(queue, next)
				}
			}
		}
	}
	var locked []Locked
	for a, names := range for_ {
		slices.Sort(names)
		locked = append(locked, a.locked(names))
	}
	slices.SortFunc(locked, func(a, b Locked) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(locked); i++ {
		if locked[i].Name == locked[i-1].Name {
			return nil, wrap(ErrUnsatisfied, "%s is wanted in two versions, %s for %v and %s for %v", locked[i].Name,
				locked[i-1].Version, locked[i-1].For, locked[i].Version, locked[i].For)
		}
	}
	return locked, nil
}

// metaTargets are what a metapackage depends on.
func (u *universe) metaTargets(meta *available, arch string) ([]*available, error) {
	r := &resolver{universe: u, arch: arch, chosen: map[string]*chosen{}}
	top, err := r.take(meta, nil, control.Relation{Name: meta.name})
	if err != nil {
		return nil, err
	}
	r.queue = nil
	if err := r.follow(top); err != nil {
		return nil, err
	}
	if len(top.next) == 0 {
		return nil, wrap(ErrUnsatisfied, "%s is no metapackage: it depends on nothing", meta.name)
	}
	var targets []*available
	for _, c := range top.next {
		targets = append(targets, c.available)
	}
	return targets, nil
}

// run follows all that is queued.
func (r *resolver) run() error {
	for len(r.queue) > 0 {
		c := r.queue[0]
		r.queue = r.queue[1:]
		if err := r.follow(c); err != nil {
			return err
		}
	}
	return nil
}

// follow chooses what one package needs.
func (r *resolver) follow(c *chosen) error {
	for _, field := range []int{preDepends, depends} {
		groups, err := control.ParseRelations(c.fields[field])
		if err != nil {
			return wrap(ErrUnsatisfied, "%s: %s: %v", c.chain(), relationFields[field], err)
		}
		for _, group := range groups {
			next, err := r.satisfy(c, group)
			if err != nil {
				return err
			}
			c.next = append(c.next, next)
		}
	}
	return nil
}

// satisfy chooses one of several alternatives.
func (r *resolver) satisfy(c *chosen, group []control.Relation) (*chosen, error) {
	for _, want := range group {
		if have, ok := r.chosen[want.Name]; ok && r.matches(have.available, want) {
			return have, nil
		}
		for _, p := range r.providers[want.Name] {
			if have, ok := r.chosen[p.name]; ok && have.available == p.available && r.provides(p, want) {
				return have, nil
			}
		}
	}
	for _, want := range group {
		for _, a := range r.byName[want.Name] {
			if r.matches(a, want) {
				return r.take(a, c, want)
			}
		}
		for _, p := range r.providers[want.Name] {
			if r.provides(p, want) {
				return r.take(p.available, c, want)
			}
		}
	}
	var texts, offers []string
	for _, want := range group {
		texts = append(texts, want.String())
		for _, a := range r.byName[want.Name] {
			offers = append(offers, fmt.Sprintf("%s %s (%s, %s)", a.name, a.version, a.arch, a.suite))
		}
	}
	offer := "nothing of that name is there"
	if len(offers) > 0 {
		offer = "there is " + strings.Join(offers, ", ")
	}
	return nil, wrap(ErrUnsatisfied, "%s needs %s; %s", c.chain(), strings.Join(texts, " | "), offer)
}

// matches says whether a package itself is what is wanted (policy 7.1; architecture qualifiers: dpkg's Multi-Arch
// specification).
func (r *resolver) matches(a *available, want control.Relation) bool {
	return r.sameArch(a, want) && want.Allows(a.version)
}

// sameArch says whether the architecture qualifier lets a package in. All packages here are of one architecture.
func (r *resolver) sameArch(a *available, want control.Relation) bool {
	switch want.Arch {
	case "", "native", r.arch:
		return true
	case "any":
		return a.multiArch == "allowed"
	}
	return false
}

// provides says whether a provider is what is wanted: with a bound only where it names a version (policy 7.5).
func (r *resolver) provides(p provider, want control.Relation) bool {
	return r.sameArch(p.available, want) && (want.Op == "" || p.version != "" && want.Allows(p.version))
}

// take adds a package; another version of it cannot be there as well.
func (r *resolver) take(a *available, via *chosen, want control.Relation) (*chosen, error) {
	c := &chosen{available: a, via: via, want: want}
	if have, ok := r.chosen[a.name]; ok {
		if have.available == a {
			return have, nil
		}
		return nil, wrap(ErrUnsatisfied, "%s needs version %s, but %s has brought %s",
			c.chain(), a.version, have.chain(), have.version)
	}
	if len(r.chosen) == maxChosen {
		return nil, wrap(ErrUnsatisfied, "%s: more than %d packages", c.chain(), maxChosen)
	}
	r.chosen[a.name] = c
	r.queue = append(r.queue, c)
	return c, nil
}

// checkConflicts reports packages that cannot be together.
func (r *resolver) checkConflicts() error {
	names := make([]string, 0, len(r.chosen))
	for name := range r.chosen {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		c := r.chosen[name]
		for _, field := range []int{conflicts, breaks} {
			groups, err := control.ParseRelations(c.fields[field])
			if err != nil {
				return wrap(ErrUnsatisfied, "%s: %s: %v", c.chain(), relationFields[field], err)
			}
			for _, against := range slices.Concat(groups...) {
				if other := r.hit(c, against); other != nil {
					return wrap(ErrUnsatisfied, "%s (from %s) and %s (from %s) cannot be together: the first has %s: %s", c.name,
						c.chain(), other.name, other.chain(), relationFields[field], against)
				}
			}
		}
	}
	return nil
}

// hit returns a chosen package that a conflict is about; a package never conflicts with itself (policy 7.4).
func (r *resolver) hit(c *chosen, against control.Relation) *chosen {
	if other, ok := r.chosen[against.Name]; ok && other != c && r.matches(other.available, against) {
		return other
	}
	for _, p := range r.providers[against.Name] {
		if other, ok := r.chosen[p.name]; ok && other != c && other.available == p.available && r.provides(p, against) {
			return other
		}
	}
	return nil
}
