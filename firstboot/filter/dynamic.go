package filter

import (
	"strconv"
	"time"

	"rempart/profiles"
)

// # Sets that lines fill
//
// A line may add the sources of what it matches to a set, and other lines may ask for its members. The set is named
// after what it is, and kept when the policy is loaded again; sources leave it when their time is over. When it is full
// further ones are not added: what asks for members then treats them as strangers, and the line that adds does the rest
// of what it says all the same. What a source is nobody checks: who sends datagrams or SYNs can forge it, so a set
// filled by such may keep out or let in others than meant.

// maxDynamic is how many sources of each family a set holds: about 1 MiB in the kernel.
const maxDynamic = 8_192

// dynamicSet is the name of the table's set for one family of a dynamic set, which it adds when it is first asked for.
func (c *compiler) dynamicSet(d *profiles.DynamicSet, v6 bool) string {
	key, version := TypeIPv4, "4"
	if v6 {
		key, version = TypeIPv6, "6"
	}
	name := "dynamic/" + d.Name + "/" + strconv.FormatInt(d.Timeout, 10) + "s/" + version
	c.sourceSet(Set{Name: name, Key: []Type{key}, Size: maxDynamic, Timeout: time.Duration(d.Timeout) * time.Second,
		Lasting: true})
	return name
}

// adding is what a line does to note the source of a packet; nil: nothing. Nobody's source is noted who passes a
// bridge.
func (c *compiler) adding(r *profiles.Rule, v6 bool) []Expr {
	d := c.profile.DynamicSet(r.Add)
	if d == nil || c.table.Family != FamilyInet {
		return nil
	}
	return []Expr{BanSource{c.dynamicSet(d, v6), v6, time.Duration(d.Timeout) * time.Second}}
}

// checkDynamic checks what the rules rely on.
func checkDynamic(p *profiles.Profile, bad func(profiles.Pos, string, ...any)) {
	for _, d := range p.DynamicSets {
		if !plainName(d.Name, "") || len(d.Name) > 63 || d.Timeout < 1 || d.Timeout > maxBanSeconds {
			bad(d.At, "dynamic set %q of %d s: want a name of 1 to 63 letters, digits, '_' or '-', and 1 to %d s", d.Name,
				d.Timeout, maxBanSeconds)
		}
	}
	for i := range p.Policy {
		r := &p.Policy[i]
		if r.Add != "" && (p.DynamicSet(r.Add) == nil || r.From == profiles.Self || r.SynProxy != nil || r.NoTrack) {
			bad(r.At, "policy: nothing can be added to %q here", r.Add)
		}
		for _, m := range r.Matches {
			for _, name := range m.DestinationSets {
				if p.DynamicSet(name) != nil {
					bad(r.At, "policy: the dynamic set %q holds sources", name)
				}
			}
			for _, name := range m.SourceSets {
				if p.DynamicSet(name) != nil && (r.From == profiles.Self || r.NoTrack) {
					bad(r.At, "policy: the dynamic set %q cannot be asked for here", name)
				}
			}
		}
	}
}
