package health

import (
	"fmt"
	"net/netip"
	"slices"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Told is what Judge needs to know beside the report.
type Told struct {
	Failures   []string // what PID 1 and the children say is wrong
	StateError string   // why the state disk is not as it should be
	AfterReady map[string]bool
	After      map[string][]string
	Overdue    bool // the time a start may take is over
}

// Judge fills in what a report amounts to: Failures, Ready, Settled, and the warnings that follow from the facts. It is
// pure. READY means: the root is verified, the state is what the profile declares, the policy is loaded, every declared
// link is up with its addresses, every child works.
func Judge(r *contract.Report, p *profiles.Profile, told Told) {
	r.Failures = slices.Clone(told.Failures)
	fail := func(format string, args ...any) { r.Failures = append(r.Failures, fmt.Sprintf(format, args...)) }
	if !r.Root.Verified {
		fail("root: not verified: it was not started by the boot stage")
	} else if !r.Root.ReadOnlyDisk {
		r.Warnings = append(r.Warnings, "root: the system disk is attached writable; attach it read-only")
	}
	judgeState(r, p, told.StateError, fail)
	if r.Policy != "loaded" {
		fail("policy: %s", r.Policy)
	}
	for _, l := range p.Links {
		if why := linkFault(r, l); why != "" {
			fail("link %s: %s", l.Name, why)
		}
	}
	for _, c := range r.Children {
		switch {
		case c.State == "ready" || c.State == "done":
		case told.AfterReady[c.Name] && c.State != "failed":
		case c.Last != "":
			state := c.State
			if state == "starting" {
				state = "restarting" // the same to whoever reads it, and no news
			}
			fail("child %s: %s: %s", c.Name, state, c.Last)
		default:
			fail("child %s: %s", c.Name, c.State)
		}
	}
	if len(r.Children) == 0 {
		fail("no child runs")
	}
	r.Ready = len(r.Failures) == 0
	r.Settled = r.Ready || told.Overdue || !moving(r, told)
}

// moving tells whether some child may still become ready.
func moving(r *contract.Report, told Told) bool {
	state := map[string]string{}
	for _, c := range r.Children {
		state[c.Name] = c.State
	}
	for _, c := range r.Children {
		if told.AfterReady[c.Name] {
			continue
		}
		switch c.State {
		case "starting", "restarting":
			return true
		case "waiting":
			stuck := false
			for _, name := range told.After[c.Name] {
				stuck = stuck || state[name] == "failed" || state[name] == "waiting"
			}
			if !stuck {
				return true
			}
		}
	}
	return false
}

func judgeState(r *contract.Report, p *profiles.Profile, why string, fail func(string, ...any)) {
	switch r.State.Action {
	case "mounted", "formatted", "reformatted", "grown":
		if why != "" {
			fail("state: %s", why)
		}
	case "":
		if p.State.Size > 0 {
			fail("state: not there yet")
		}
	case "absent":
		if p.State.Size > 0 {
			fail("state: /var is in memory and will be lost: %s", why)
		}
	default:
		fail("state: /var is in memory and will be lost: %s", why)
	}
}

// LinksUp tells whether every declared link is up with its addresses.
func LinksUp(r *contract.Report, p *profiles.Profile) bool {
	for _, l := range p.Links {
		if linkFault(r, l) != "" {
			return false
		}
	}
	return true
}

// linkFault says what a declared link lacks; empty: nothing.
func linkFault(r *contract.Report, want profiles.Link) string {
	i := slices.IndexFunc(r.Links, func(l contract.LinkReport) bool { return l.Name == want.Name })
	if i < 0 {
		return "no such interface"
	}
	got := r.Links[i]
	switch {
	case got.Error != "":
		return got.Error
	case !got.Up:
		return "down"
	}
	has := map[netip.Prefix]bool{}
	four, six := false, false
	for _, a := range got.Addresses {
		if prefix, err := netip.ParsePrefix(a); err == nil {
			has[prefix] = true
			four = four || prefix.Addr().Is4()
			six = six || prefix.Addr().Is6() && !slices.Contains(want.Addresses, prefix)
		}
	}
	for _, a := range want.Addresses {
		if !has[a] {
			return fmt.Sprintf("address %s is missing", a)
		}
	}
	if want.DHCP && !four {
		return "no address by DHCP yet"
	}
	if want.Auto && !six {
		return "no address by router advertisements yet"
	}
	return ""
}
