package kernel

import (
	"bytes"
	"fmt"
	"sort"

	"rempart/builder/rootfs/tree"
)

// The text indices, in the format that depmod writes and modules.dep(5) describes.
const (
	fileDep     = "modules.dep"
	fileAlias   = "modules.alias"
	fileSoftdep = "modules.softdep"
	fileBuiltin = "modules.builtin"
)

// Entries returns the modules and their indices at their places in a tree whose modules' directory is dir:
// "lib/modules/RELEASE".
func (s *Set) Entries(dir string) []tree.Entry {
	origin := "rempart"
	if len(s.Modules) > 0 {
		origin = s.Modules[0].Origin // made from nothing but the package
	}
	var entries []tree.Entry
	for _, m := range s.Modules {
		entries = append(entries, m.Entry(dir))
	}
	return append(entries,
		tree.Bytes(dir+"/"+fileAlias, 0o644, s.alias(), origin),
		tree.Bytes(dir+"/"+fileBuiltin, 0o644, s.listing, origin),
		tree.Bytes(dir+"/"+fileDep, 0o644, s.dep(), origin),
		tree.Bytes(dir+"/"+fileSoftdep, 0o644, s.softdep(), origin))
}

// dep lists for each module all it needs, directly or not, each one before those that it needs itself: loading from
// the right to the left works.
func (s *Set) dep() []byte {
	byName, rank := s.byName(), s.ranks()
	var b bytes.Buffer
	for _, m := range s.Modules {
		needs := needs(m, byName)
		sort.Slice(needs, func(i, j int) bool { return rank[needs[i].Name] < rank[needs[j].Name] })
		b.WriteString(m.Path + ":")
		for _, n := range needs {
			b.WriteString(" " + n.Path)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// needs returns all modules among those by name that m needs, without m.
func needs(m *Module, byName map[string]*Module) []*Module {
	seen := map[string]bool{m.Name: true}
	var needs []*Module
	for queue := []*Module{m}; len(queue) > 0; queue = queue[1:] {
		for _, d := range queue[0].Depends {
			if n := byName[d]; n != nil && !seen[d] {
				seen[d] = true
				needs, queue = append(needs, n), append(queue, n)
			}
		}
	}
	return needs
}

// ranks numbers the modules so that each has a smaller number than those it needs. Modules that need each other in
// a circle get no number.
func (s *Set) ranks() map[string]int {
	byName := s.byName()
	users := make(map[string]int)
	for _, m := range s.Modules {
		for _, d := range m.Depends {
			users[d]++
		}
	}
	rank := make(map[string]int)
	var ready []*Module
	for _, m := range s.Modules {
		if users[m.Name] == 0 {
			ready = append(ready, m)
		}
	}
	for len(ready) > 0 {
		m := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		rank[m.Name] = len(rank)
		for _, d := range m.Depends {
			if users[d]--; users[d] == 0 && byName[d] != nil {
				ready = append(ready, byName[d])
			}
		}
	}
	return rank
}

func (s *Set) byName() map[string]*Module {
	byName := make(map[string]*Module, len(s.Modules))
	for _, m := range s.Modules {
		byName[m.Name] = m
	}
	return byName
}

// alias lists "alias PATTERN MODULE".
func (s *Set) alias() []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases extracted from modules themselves.\n")
	for _, m := range s.Modules {
		for _, a := range m.Aliases {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.Name)
		}
	}
	return b.Bytes()
}

// softdep lists "softdep MODULE pre: ... post: ...".
func (s *Set) softdep() []byte {
	var b bytes.Buffer
	b.WriteString("# Soft dependencies extracted from modules themselves.\n")
	for _, m := range s.Modules {
		for _, d := range m.Softs {
			fmt.Fprintf(&b, "softdep %s %s\n", m.Name, d)
		}
	}
	return b.Bytes()
}
