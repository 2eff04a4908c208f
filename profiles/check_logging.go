package profiles

import "slices"

// logging checks whose drops are logged and where the log goes.
func (v *validator) logging() {
	l := v.p.Logging
	for i, name := range l.Drops {
		at := v.places.find(l.At, "logging.drops[%d]", i)
		if v.zone(name) == nil {
			v.reject(at, suggest(name, v.zoneNames()), "logging.drops: unknown zone %s", quote(name))
		} else if slices.Contains(l.Drops[:i], name) {
			v.reject(at, "remove one", "logging.drops: zone %s comes twice", clip(name))
		}
	}
	if l.AllDrops && len(l.Drops) > 0 {
		v.reject(l.At, "", "logging.drops: both true and zones")
	}
	to := l.To
	if to == nil || !to.Addr.IsValid() {
		return // what is wrong with the address has been told
	}
	at := v.places.find(l.At, "logging.to")
	if problem := checkUnicast(to.Addr); problem != "" {
		v.reject(at, "", "logging.to: %s", problem)
		return
	}
	if to.Port == 0 || to.Protocol != UDP && to.Protocol != TCP {
		v.reject(at, "", "logging.to: no port, or a protocol other than udp and tcp")
	}
	v.reachable(at, "logging.to", to.Addr, "name the host that keeps logs")
}
