package main

import (
	"strings"
	"testing"

	"rempart/profiles"
)

func TestCompareProfiles(t *testing.T) {
	const base = `rempart: 1
name: gw
admin: none
links: {lan0: {address: 10.0.0.1/24}, wan0: {address: 192.0.2.2/24}}
zones: {lan: lan0, wan: wan0}
policy:
  - lan -> wan: http
`
	for _, tt := range []struct {
		name, next, summary string
		flows               bool
	}{
		{"the same", base, "", false},
		{"the same elsewhere in the file", "# a comment\n\n" + base, "", false},
		{"one forward more", base + "forwards:\n  - {from: wan, tcp: 80, to: 10.0.0.9}\n", "+1 forwards", true},
		{"a line changed", strings.Replace(base, "http", "https", 1), "+1 policy, -1 policy", true},
		{"two lines in another order", base + "  - lan -> wan: https\n", "+1 policy", true},
		{"another address", strings.Replace(base, "10.0.0.1/", "10.0.0.2/", 1), "+1 links, -1 links", false},
		{"another name", strings.Replace(base, "name: gw", "name: gx", 1), "+1 name, -1 name", false},
	} {
		from, err := profiles.Parse("a.yaml", []byte(base))
		if err != nil {
			t.Fatal(err)
		}
		to, err := profiles.Parse("b.yaml", []byte(tt.next))
		if err != nil {
			t.Fatal(err)
		}
		d, err := compare(from, to)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.summary(); got != tt.summary || d.empty() != (tt.summary == "") {
			t.Errorf("%s: summary = %q; want %q", tt.name, got, tt.summary)
		}
		if got := len(d.flows) > 0; got != tt.flows {
			t.Errorf("%s: flows = %q; want some: %v", tt.name, d.flows, tt.flows)
		}
	}
}
