package boot

import (
	"fmt"
	"testing"

	"rempart/firstboot/contract"
	"rempart/test/rig"
)

// daemons are the children of a guest that live as long as it does.
var daemons = []string{"policy", "link", "control", "health", "log", "admin", "ssh"}

func childOf(r contract.Report, name string) contract.ChildState {
	for _, c := range r.Children {
		if c.Name == name {
			return c
		}
	}
	return contract.ChildState{}
}

// TestKilledChildren kills every daemon of a running guest: the guest lives, the service is back.
func TestKilledChildren(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	g := m.Boot(t, rig.Options{})
	r := g.AwaitReady()
	for _, name := range daemons {
		before := childOf(r, name)
		if before.PID == 0 {
			t.Fatalf("there is no child %s in %+v", name, r.Children)
		}
		g.Order(fmt.Sprintf("kill %s KILL", name))
		r = g.Await("child "+name+" to be back", func(r contract.Report) bool {
			c := childOf(r, name)
			return r.Ready && c.Restarts > before.Restarts && c.PID != before.PID && c.State == "ready"
		})
		if r.Policy != "loaded" {
			t.Errorf("after %s was killed the policy is %s; want loaded", name, r.Policy)
		}
	}
	g.PowerOff()
}

// TestPanickingChildren lets every daemon panic once, shortly after it became ready.
func TestPanickingChildren(t *testing.T) {
	t.Parallel()
	m := rig.Build(t, profile)
	inject := contract.KeyInject + "="
	for i, name := range daemons {
		if i > 0 {
			inject += ","
		}
		inject += "panic:" + name
	}
	g := m.Boot(t, rig.Options{Append: inject})
	r := g.Await("all children to be back after a panic", func(r contract.Report) bool {
		for _, name := range daemons {
			if c := childOf(r, name); c.Restarts == 0 || c.State != "ready" {
				return false
			}
		}
		return r.Ready
	})
	for _, name := range daemons {
		if c := childOf(r, name); c.Restarts != 1 {
			t.Errorf("child %s was restarted %d times after one panic: %s", name, c.Restarts, c.Last)
		}
	}
	g.PowerOff()
}
