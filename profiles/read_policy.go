//go:build !guest

package profiles

import (
	"net/netip"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

func readPolicy(r *reader, v value, p *Profile) {
	for _, item := range r.elements(v, "a list of lines such as - home -> self: ping", maxPolicy) {
		before := len(r.findings)
		r.policyLine(item, p)
		if len(r.findings) > before {
			r.places.spoil("policy.lines")
		}
	}
}

// policyLine reads one "FROM -> TO: SERVICES", which YAML takes for a mapping with one key.
func (r *reader) policyLine(item value, p *Profile) {
	const what = "a line such as home -> self: ping"
	switch {
	case item.node.Kind == yaml.MappingNode && len(item.node.Content) == 2:
	case item.node.Kind == yaml.MappingNode && len(item.node.Content) > 2:
		next := item.node.Content[2]
		r.rejectAt(Pos{next.Line, next.Column}, "begin a line of its own with -", "policy: a second direction in one line")
		return
	case item.node.Kind == yaml.ScalarNode && item.node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0:
		r.expected(item, what, "remove the quotes")
		return
	case item.node.Kind == yaml.ScalarNode && item.node.Tag == "!!str":
		r.expected(item, what, "add a colon and what may pass: ping, [ssh, http], any, drop")
		return
	default:
		r.expected(item, what, "")
		return
	}
	key := item.node.Content[0]
	from, to, ok := r.direction(key, "policy")
	if !ok {
		return
	}
	v := value{node: item.node.Content[1], key: key, name: "policy: " + clip(from.text) + " -> " + clip(to.text)}
	line := &policyLine{from: from, to: to, p: p}
	switch v.node.Kind {
	case yaml.MappingNode:
		r.filled(v, serviceForms)
		r.longServices(v, line)
	case yaml.SequenceNode:
		r.serviceList(v, line)
	default:
		r.oneService(v, line)
	}
}

// policyLine is the line being read, to which rules are added.
type policyLine struct {
	from, to place
	p        *Profile
}

func (l *policyLine) add(r *reader, at Pos, action Action, matches []Match) *Rule {
	i := len(l.p.Policy)
	r.places.put(l.from.at, "policy[%d].from", i)
	r.places.put(l.to.at, "policy[%d].to", i)
	l.p.Policy = append(l.p.Policy, Rule{From: l.from.text, To: l.to.text, Action: action, Matches: matches, At: at})
	return &l.p.Policy[i]
}

const serviceForms = "a service such as ssh or tcp/8006, any, drop, reject, or a list of services"

func (r *reader) oneService(v value, line *policyLine) {
	text, ok := r.service(v)
	if !ok {
		return
	}
	at := v.keyPos()
	switch text {
	case anyService, string(Accept):
		line.add(r, at, Accept, nil)
	case string(Drop), string(Reject):
		line.add(r, at, Action(text), nil)
	default:
		if matches, ok := r.matches(v, text); ok {
			line.add(r, at, Accept, matches)
		}
	}
}

// service reads the word for a service. A bare port is the likeliest slip.
func (r *reader) service(v value) (string, bool) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!int" {
		r.expected(v, serviceForms, "write tcp/"+clip(v.node.Value)+" or udp/"+clip(v.node.Value))
		return "", false
	}
	return r.word(v, serviceForms)
}

func (r *reader) matches(v value, text string) ([]Match, bool) {
	matches, problem, hint := parseService(text)
	if problem != "" {
		r.rejectAt(v.pos(), hint, "%s: %s", v.name, problem)
		return nil, false
	}
	return matches, true
}

func (r *reader) serviceList(v value, line *policyLine) {
	var all []Match
	good := true
	for _, item := range r.items(v, serviceForms, maxServices) {
		text, ok := r.service(item)
		if !ok {
			good = false
			continue
		}
		switch text {
		case anyService, string(Accept), string(Drop), string(Reject):
			r.rejectAt(item.pos(), "write it alone, not in a list", "%s: %s in a list of services", v.name, text)
			good = false
			continue
		}
		matches, ok := r.matches(item, text)
		good = good && ok
		all = append(all, matches...)
	}
	if good && len(all) > 0 {
		line.add(r, v.keyPos(), Accept, all)
	}
}

// longServices reads {SERVICE: {from:, to:, action:}}, each service a rule of its own, in the order of the file.
func (r *reader) longServices(v value, line *policyLine) {
	for _, entry := range r.entries(v, "a mapping such as {ping: {from: 62.210.16.0/24}}", maxServices) {
		name := value{node: entry.key, name: v.name}
		text, ok := r.service(name)
		if !ok {
			continue
		}
		var matches []Match
		if text != anyService {
			if matches, ok = r.matches(name, text); !ok {
				continue
			}
		}
		d := matchDraft{action: Accept}
		switch {
		case entry.node.Kind == yaml.ScalarNode && entry.node.Tag == "!!str":
			readAction(r, entry, &d)
		default:
			if len(matchFields().read(r, entry, &d)) > 0 {
				continue
			}
		}
		rule := line.add(r, entry.keyPos(), d.action, narrow(matches, d))
		rule.Limit, rule.Connections, rule.Log, rule.With = d.limit, uint32(d.connections), d.log, d.with
		rule.Helper = d.helper
		rule.DSCP, rule.TTL, rule.NoTrack, rule.SynProxy = d.dscp, d.ttl, d.notrack, d.synproxy
		rule.Add = d.add
		if d.logged && d.log == "" {
			rule.Log = line.from.text + " -> " + line.to.text
		}
		n := len(line.p.Policy) - 1
		for what, places := range map[string][]Pos{"sources": d.from.places, "destinations": d.to.places,
			"delegated_sources": d.from.hosts, "delegated_destinations": d.to.hosts} {
			for j, at := range places {
				r.places.put(at, "policy[%d].%s[%d]", n, what, j)
			}
		}
	}
}

// narrow limits matches to addresses.
func narrow(matches []Match, d matchDraft) []Match {
	if !d.from.any() && !d.to.any() {
		return matches
	}
	if len(matches) == 0 {
		matches = []Match{{}}
	}
	narrowed := make([]Match, len(matches))
	for i, m := range matches {
		m.Sources, m.SourceSets, m.DelegatedSources = d.from.prefixes, d.from.sets, d.from.delegated
		m.Destinations, m.DestinationSets, m.DelegatedDestinations = d.to.prefixes, d.to.sets, d.to.delegated
		narrowed[i] = m
	}
	return narrowed
}

func readAction(r *reader, v value, d *matchDraft) {
	text, ok := r.word(v, "accept, drop or reject")
	if !ok {
		return
	}
	switch Action(text) {
	case Accept, Drop, Reject:
		d.action = Action(text)
	default:
		r.expected(v, "accept, drop or reject", suggest(text, []string{"accept", "drop", "reject"}))
	}
}

// lineEnds are the ends of a line, as it is read.
type lineEnds struct {
	prefixes  []netip.Prefix
	places    []Pos // of each prefix
	sets      []string
	delegated []Delegated
	hosts     []Pos // the place of each delegated one
}

// any tells whether a line is narrowed to anything.
func (e *lineEnds) any() bool { return len(e.prefixes)+len(e.sets)+len(e.delegated) > 0 }

// lineEnds reads the ends of a line: those of ends, and hosts in what is delegated.
func (r *reader) lineEnds(v value) (e lineEnds) {
	e.prefixes, e.places, e.sets = r.someEnds(v, func(item value, text string) bool {
		rest, ok := strings.CutPrefix(text, delegatedWord)
		if !ok || !strings.HasPrefix(rest, "/") && !strings.HasPrefix(rest, ":") {
			return false
		}
		if d, ok := r.delegated(item, rest); ok {
			e.delegated, e.hosts = append(e.delegated, d), append(e.hosts, item.pos())
		}
		return true
	})
	return e
}

// ends reads addresses, prefixes, hosts and sets of the profile.
func (r *reader) ends(v value) (all []netip.Prefix, places []Pos, sets []string) {
	return r.someEnds(v, func(value, string) bool { return false })
}

// someEnds is ends without what taken takes.
func (r *reader) someEnds(v value, taken func(value, string) bool) (all []netip.Prefix, places []Pos, sets []string) {
	const what = "an address, a prefix, a host or set of this profile, or a list of these"
	for _, item := range r.items(v, what, maxPrefixes) {
		text, ok := r.dotted(item, what)
		if !ok || taken(item, text) {
			continue
		}
		if r.p.HasSet(text) {
			sets = append(sets, text)
			continue
		}
		if !looksNumeric(text) || r.hostNamed(text) != nil {
			for _, a := range r.hostAddresses(item, text) {
				all, places = append(all, netip.PrefixFrom(a, a.BitLen())), append(places, item.pos())
			}
			continue
		}
		p, problem, hint := parsePrefix(text)
		if problem != "" {
			r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
			continue
		}
		all, places = append(all, p), append(places, item.pos())
	}
	return all, places, sets
}

func readMasquerade(r *reader, v value, p *Profile) {
	for _, item := range r.elements(v, "a list of directions such as [inside -> internet]", maxPairs) {
		n := item.node
		var families Families
		if n.Kind == yaml.MappingNode {
			if len(n.Content) != 2 {
				r.expected(item, "a direction such as inside -> internet", "begin each line of its own with -")
				continue
			}
			n = item.node.Content[0]
			word := value{node: item.node.Content[1], key: n, name: "masquerade: " + clip(n.Value)}
			text, ok := r.word(word, "ipv4, ipv6 or both")
			if ok && !slices.Contains(familyWords(), text) {
				r.expected(word, "ipv4, ipv6 or both", "")
				ok = false
			}
			if !ok {
				continue
			}
			if text != familyWords()[0] {
				families = Families(text)
			}
		}
		from, to, ok := r.direction(n, "masquerade")
		if !ok {
			continue
		}
		i := len(p.Masquerade)
		r.places.put(from.at, "masquerade[%d].from", i)
		r.places.put(to.at, "masquerade[%d].to", i)
		p.Masquerade = append(p.Masquerade, Pair{From: from.text, To: to.text, Families: families, At: item.pos()})
	}
}
