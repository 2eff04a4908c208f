package link

import (
	"fmt"
	"maps"
	"slices"
)

// renames gives every wanted interface its name, around whoever has that name now, also in a circle. A kernel before
// 6.2 renames an interface only while it is down.
func renames(have, want []Interface) []Change {
	var out []Change
	holder := map[string]int{}
	now := map[int]Interface{}
	for _, h := range have {
		holder[h.Name] = h.Index
		now[h.Index] = h
	}
	rename := func(index int, to string) {
		i := now[index]
		if i.Up {
			out = append(out, Change{Kind: SetDown, Index: index, Link: i.Name})
		}
		out = append(out, Change{Kind: SetName, Index: index, Link: i.Name, Name: to})
		delete(holder, i.Name)
		holder[to] = index
		i.Name, i.Up = to, false
		now[index] = i
	}
	todo := map[int]string{}
	for _, w := range want {
		if h, ok := now[w.Index]; ok && h.Name != w.Name && (w.Up || w.Claim != "") {
			todo[w.Index] = w.Name
		}
	}
	for len(todo) > 0 {
		progress := false
		for _, index := range slices.Sorted(maps.Keys(todo)) {
			if _, taken := holder[todo[index]]; !taken {
				rename(index, todo[index])
				delete(todo, index)
				progress = true
			}
		}
		if progress {
			continue
		}
		// Every name still wanted is held by somebody: move one of them out of the way.
		first := slices.Min(slices.Collect(maps.Keys(todo)))
		rename(holder[todo[first]], freeName(holder, holder[todo[first]]))
	}
	return out
}

// freeName is a name nobody has: at most 15 bytes (IFNAMSIZ-1).
func freeName(holder map[string]int, index int) string {
	for n := index; ; n++ {
		name := fmt.Sprintf("spare%d", n)
		if _, taken := holder[name]; !taken {
			return name
		}
	}
}
