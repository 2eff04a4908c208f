package main

import (
	"rempart/firstboot/admin"
	"rempart/firstboot/child"
	"rempart/firstboot/clock"
	"rempart/firstboot/console"
	"rempart/firstboot/control"
	"rempart/firstboot/dhcp"
	"rempart/firstboot/disks"
	"rempart/firstboot/dns"
	"rempart/firstboot/filter/policy"
	"rempart/firstboot/health"
	"rempart/firstboot/identity"
	"rempart/firstboot/link"
	"rempart/firstboot/lists"
	"rempart/firstboot/logging"
	"rempart/firstboot/ra"
	"rempart/firstboot/scrub"
	"rempart/firstboot/session"
	"rempart/firstboot/ssh"
	"rempart/firstboot/state"
	"rempart/firstboot/syslog"
)

// children are all children of PID 1, in the order they start where nothing else orders them, and stop in reverse. The
// log comes first (once there is a place for it) and so ends last; then control and health: what goes wrong later can
// be seen. The policy waits for the identity (policy.Spec), links for the policy (link.Spec).
func children() []child.Spec {
	return []child.Spec{
		logging.Spec(),
		health.Spec(),
		control.Spec(),
		admin.Spec(),
		identity.Spec(),
		policy.Spec(),
		link.Spec(),
		ra.Spec(),
		dns.Spec(),
		state.Spec(),
		disks.Spec(),
		dhcp.Spec(),
		lists.Spec(),
		ssh.Spec(),
		session.Spec(),
		console.Spec(),
		syslog.Spec(),
		clock.Spec(),
		scrub.Spec(),
	}
}
