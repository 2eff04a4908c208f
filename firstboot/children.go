package main

import (
	"rempart/firstboot/child"
	"rempart/firstboot/control"
	"rempart/firstboot/filter/policy"
	"rempart/firstboot/health"
	"rempart/firstboot/link"
	"rempart/firstboot/scrub"
	"rempart/firstboot/state"
)

// children are all children of PID 1, in the order they start where nothing else orders them. Control and health come
// first: what goes wrong later can be seen. Links wait for the policy (link.Spec).
func children() []child.Spec {
	return []child.Spec{
		health.Spec(),
		control.Spec(),
		policy.Spec(),
		link.Spec(),
		state.Spec(),
		scrub.Spec(),
	}
}
