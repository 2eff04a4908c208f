package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// difference is what two profiles say differently, in the profile's own words.
type difference struct {
	lines []sectionLine
	flows []string // what the change does to packets
}

// sectionLine is one thing that only one of two profiles says.
type sectionLine struct {
	side    byte // '-': the first, '+': the second
	section string
	text    string
}

// compare tells what differs between two profiles. Places in the file are no difference.
func compare(from, to *profiles.Profile) (difference, error) {
	var d difference
	a, err := sections(from)
	if err != nil {
		return d, err
	}
	b, err := sections(to)
	if err != nil {
		return d, err
	}
	names := maps.Clone(a)
	maps.Copy(names, b)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		// The fewest lines, for the order of policy lines has a meaning.
		for _, c := range lineDiff(a[name], b[name]) {
			d.lines = append(d.lines, sectionLine{c.side, name, c.text})
		}
	}
	if !d.empty() {
		probes := slices.Concat(filter.Probes(from), filter.Probes(to))
		d.flows = fateDiff(fates(from, probes), fates(to, probes))
	}
	return d, nil
}

// fates says what becomes under a profile of the flows of the probes, which may be another profile's, as far as it has
// their zones.
func fates(p *profiles.Profile, probes []filter.Probe) map[string]string {
	out := map[string]string{}
	for _, probe := range probes {
		flow, _ := flowAndFate(probe)
		if _, known := out[flow]; known {
			continue
		}
		q := filter.Question{From: probe.From, To: probe.To, Src: probe.Src, Dst: probe.Dst, Protocol: probe.Protocol,
			Port: probe.Port}
		answers, err := filter.Explain(p, q)
		if err != nil { // a forward's probe names the zone of its target, and is sent to the guest itself
			q.To = profiles.Self
			answers, err = filter.Explain(p, q)
		}
		if err != nil || len(answers) == 0 {
			continue // the profile knows nothing of such a flow
		}
		_, out[flow] = flowAndFate(answers[0])
	}
	return out
}

// sections are the parts of a profile by the keys of its JSON, each as lines: the elements of a list, or one value.
func sections(p *profiles.Profile) (map[string][]string, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(b, &whole); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for name, raw := range whole {
		elements := []json.RawMessage{raw}
		if bytes.HasPrefix(raw, []byte("[")) {
			if err := json.Unmarshal(raw, &elements); err != nil {
				return nil, err
			}
		}
		for _, e := range elements {
			text, err := withoutPlaces(e)
			if err != nil {
				return nil, err
			}
			out[name] = append(out[name], text)
		}
	}
	return out, nil
}

// withoutPlaces is a value of a profile's JSON without the places of the file, which end in "at".
func withoutPlaces(raw json.RawMessage) (string, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", err
	}
	b, err := json.Marshal(dropPlaces(v))
	return string(b), err
}

func dropPlaces(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if place, ok := inner.(map[string]any); ok && len(place) == 2 && place["line"] != nil && place["column"] != nil {
				delete(v, key)
				continue
			}
			v[key] = dropPlaces(inner)
		}
	case []any:
		for i := range v {
			v[i] = dropPlaces(v[i])
		}
	}
	return v
}

// empty tells whether nothing differs.
func (d difference) empty() bool { return len(d.lines) == 0 }

// summary counts what differs: "+1 forwards, -2 policy".
func (d difference) summary() string {
	counts := map[string]*[2]int{}
	var order []string
	for _, l := range d.lines {
		if counts[l.section] == nil {
			counts[l.section] = &[2]int{}
			order = append(order, l.section)
		}
		if l.side == '+' {
			counts[l.section][0]++
		} else {
			counts[l.section][1]++
		}
	}
	var words []string
	for _, section := range order {
		for i, sign := range []string{"+", "-"} {
			if n := counts[section][i]; n > 0 {
				words = append(words, fmt.Sprintf("%s%d %s", sign, n, section))
			}
		}
	}
	return strings.Join(words, ", ")
}

// maxShown bounds one line of a difference: a set of 100,000 addresses is one.
const maxShown = 300

// print writes the whole difference. One of the two profiles may be what a guest says, in the hands of a stranger.
func (d difference) print(w io.Writer) {
	for _, l := range d.lines {
		text := l.text
		if len(text) > maxShown {
			text = fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(text[:maxShown], ""), len(l.text))
		}
		fmt.Fprintf(w, "%c %s: %s\n", l.side, l.section, printable(text))
	}
	for _, line := range d.flows {
		fmt.Fprintln(w, printable(line))
	}
}
