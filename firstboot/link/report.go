package link

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"rempart/firstboot/contract"
)

// report tells PID 1 what the links are now, if that is news, and that the job holds when all are as declared.
func (r *runner) report(v view, have []Interface, failed map[int]error) {
	var links []contract.LinkReport
	ready := true
	for i, l := range r.plan.Links {
		rep := r.linkReport(i, l, v, have, failed)
		ready = ready && rep.Error == ""
		links = append(links, rep)
	}
	if !reflect.DeepEqual(links, r.told) {
		r.told = links
		r.env.Tell("links", links)
		for _, l := range links {
			r.log.Info("link", "name", l.Name, "up", l.Up, "addresses", strings.Join(l.Addresses, " "), "error", l.Error)
		}
	}
	var spare []string
	for _, w := range v.warnings {
		if w.Link == "" {
			spare = append(spare, w.Text)
		}
	}
	if fault := delegationFault(r.plan, r.uplinks.given6.current(), r.uplinks.now()); fault != "" {
		spare = append(spare, fault)
	}
	if text := strings.Join(spare, "; "); text != r.warned {
		r.warned = text
		r.env.Tell("warning", text)
	}
	text := ""
	if err := failed[0]; err != nil { // of no link
		text = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	if text != r.failure {
		r.failure = text
		r.env.Tell("failure", text)
	}
	if ready && text == "" && (r.unhurried || r.usable(have)) {
		r.env.Ready()
	}
}

// usable tells whether all that links have learnt can be used: no address waits for its duplicate detection, and what
// was asked for is delegated. It is looked at before the first word that all is well, and only for a while: a guest
// whose uplink delegates nothing serves what else it has.
func (r *runner) usable(have []Interface) bool {
	for _, h := range have {
		if slices.ContainsFunc(h.Addresses, func(a Address) bool {
			return a.Tentative && !a.Duplicate && !a.Prefix.Addr().IsLinkLocalUnicast()
		}) {
			return false
		}
	}
	return delegationFault(r.plan, r.uplinks.given6.current(), r.uplinks.now()) == ""
}

func (r *runner) linkReport(place int, l Link, v view, have []Interface, failed map[int]error) contract.LinkReport {
	rep := contract.LinkReport{Name: l.Name, MAC: l.MAC, Addresses: []string{}}
	at := slices.IndexFunc(v.assigned, func(a Assignment) bool { return a.Link == place })
	if at < 0 {
		rep.Error = "waiting for its NIC"
		for _, w := range v.warnings {
			if w.Link == l.Name {
				rep.Error = w.Text
			}
		}
		return rep
	}
	nic := v.assigned[at].NIC
	rep.MAC = nic.MAC
	at = slices.IndexFunc(have, func(h Interface) bool { return h.Index == nic.Index })
	if at < 0 {
		rep.Error = "its NIC went away"
		return rep
	}
	h := have[at]
	rep.Up = h.Up && h.Running
	var problems []string
	for _, a := range h.Addresses {
		switch {
		case a.Duplicate:
			problems = append(problems, fmt.Sprintf("another host has %s; give one of them another address", a.Prefix.Addr()))
		case a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Addr().Is6():
		case a.Tentative && a.Valid > 0:
			// It was learnt, and is told when it can be used: a guest whose prefix is replaced has not failed. What of it the
			// profile asks for is looked for below.
		case a.Tentative:
			problems = append(problems, fmt.Sprintf("asking whether another host has %s", a.Prefix.Addr()))
		default:
			rep.Addresses = append(rep.Addresses, a.Prefix.String())
		}
	}
	slices.Sort(rep.Addresses)
	if l.Lacking != "" {
		problems = append(problems, "its profile leaves this to the guest's identity disk, which has not got it: "+l.Lacking)
	}
	if l.DHCP {
		if lease, ok := r.uplinks.current4()[l.Name]; !ok {
			problems = append(problems, "no DHCP lease yet")
		} else if !slices.Contains(rep.Addresses, lease.Address.String()) {
			problems = append(problems, "the leased address "+lease.Address.String()+" is not on it")
		}
	}
	if fault := autoFault(l.Auto, l.DHCP6, r.uplinks.adverts.current()[l.Name], rep.Addresses); fault != "" {
		problems = append(problems, fault)
	}
	if l.DHCP6 && len(r.uplinks.given6.current()[l.Name].Addresses) == 0 {
		problems = append(problems, "no address by DHCPv6 yet")
	}
	if err := failed[nic.Index]; err != nil {
		problems = append(problems, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	switch {
	case !h.Up:
		problems = append(problems, "it is down")
	case !h.Running:
		problems = append(problems, "no carrier: nothing is attached on the other side")
	}
	for _, p := range l.Addresses {
		if !slices.ContainsFunc(h.Addresses, func(a Address) bool { return a.Prefix == p }) {
			problems = append(problems, fmt.Sprintf("address %s is missing", p))
		}
	}
	if text := l.Tunnel.untaken(h.Tunnel); text != "" {
		problems = append(problems, text)
	}
	rep.Error = strings.Join(problems, "; ")
	return rep
}
