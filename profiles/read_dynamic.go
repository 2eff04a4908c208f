//go:build !guest

package profiles

const dynamicPattern = `^[0-9]{1,6}[smhd]$`

func readDynamicSets(r *reader, v value, p *Profile) {
	const what = "a mapping of names to times, such as {knockers: 30s}"
	for _, entry := range r.entries(v, what, maxDynamicSets) {
		s := DynamicSet{Name: entry.key.Value, At: entry.keyPos()}
		const what = "how long a source stays: 30s, 10m, 12h or 7d"
		text, ok := r.word(entry, what)
		if !ok {
			continue
		}
		if s.Timeout, ok = parseSpan(text); !ok {
			r.expected(entry, what, "")
			continue
		}
		p.DynamicSets = append(p.DynamicSets, s)
	}
}

// readAdd reads the dynamic set that a line adds sources to.
func readAdd(r *reader, v value, d *matchDraft) {
	text, ok := r.word(v, "the name of a dynamic set")
	if !ok {
		return
	}
	if r.p.DynamicSet(text) != nil {
		d.add = text
		return
	}
	var known []string
	for _, s := range r.p.DynamicSets {
		known = append(known, s.Name)
	}
	hint := suggest(text, known)
	if hint == "" {
		hint = "declare it, such as dynamic_sets: {" + clip(text) + ": 1h}"
	}
	r.rejectAt(v.pos(), hint, "%s: there is no dynamic set %s", v.name, quote(text))
}
