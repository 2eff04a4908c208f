package profiles

import "slices"

// Bounds of dynamic sets. Each holds so many sources of each family as package filter says, about 1 MiB of each.
const (
	maxDynamicSets    = 16
	maxDynamicTimeout = 30 * 24 * 60 * 60 // seconds
)

// dynamicSets checks each by itself.
func (v *validator) dynamicSets() {
	names := map[string]Pos{}
	for i, s := range v.p.DynamicSets {
		if i >= maxDynamicSets {
			v.reject(s.At, "", "dynamic_sets: more than %d", maxDynamicSets)
			return
		}
		if problem, hint := checkZoneName(s.Name); problem != "" {
			v.reject(s.At, hint, "dynamic_sets: not a name for a set: %s", problem)
		}
		if first, twice := names[s.Name]; twice {
			v.reject(s.At, "", "dynamic set %s is declared twice, first at %s", quote(s.Name), first)
		}
		names[s.Name] = s.At
		if v.p.Set(s.Name) != nil || slices.ContainsFunc(v.p.Hosts, func(h Host) bool { return h.Name == s.Name }) {
			v.reject(s.At, "choose another name", "dynamic set %s: a set or a host has the same name", quote(s.Name))
		}
		if s.Timeout < 1 || s.Timeout > maxDynamicTimeout {
			v.reject(s.At, "", "dynamic set %s: %d s, expected 1 s to 30d", quote(s.Name), s.Timeout)
		}
		adds := func(r Rule) bool { return r.Add == s.Name }
		if !slices.ContainsFunc(v.p.Policy, adds) && !v.places.spoilt("policy.lines") {
			v.warn(s.At, "write add: "+clip(s.Name)+" at a line", "dynamic set %s: no line adds to it", quote(s.Name))
		}
	}
}

// dynamicLine checks what a line says of dynamic sets.
func (v *validator) dynamicLine(rule Rule) {
	asks := func(list []string) bool {
		return slices.ContainsFunc(list, func(name string) bool { return v.p.DynamicSet(name) != nil })
	}
	from, to := false, false
	for _, m := range rule.Matches {
		from, to = from || asks(m.SourceSets), to || asks(m.DestinationSets)
	}
	if to {
		v.reject(rule.At, "name it in from", "policy: to: a dynamic set holds sources")
	}
	if rule.Add == "" && !from {
		return
	}
	if rule.Add != "" && v.p.DynamicSet(rule.Add) == nil {
		v.reject(rule.At, "", "policy: add: there is no dynamic set %s", quote(rule.Add))
	}
	if rule.From == Self {
		v.reject(rule.At, "", "policy: the guest's own packets have one source, no set is needed")
	}
	if rule.Add != "" && rule.SynProxy != nil || rule.NoTrack {
		v.reject(rule.At, "use a line of its own",
			"policy: dynamic sets are not for lines with notrack, nor add with synproxy")
	}
	for _, name := range []string{rule.From, rule.To} {
		if z := v.zone(name); z != nil && v.p.Bridged(z) {
			v.reject(rule.At, "name the zone of the bridge itself",
				"policy: dynamic sets are for what is routed, and zone %s is on members of a bridge", clip(name))
			return
		}
	}
}
