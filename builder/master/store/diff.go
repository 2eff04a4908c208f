package store

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"rempart/builder/master"
	"rempart/firstboot/contract"
)

// Difference is one thing in which two masters differ.
type Difference struct {
	Kind string `json:"kind"` // "file", "package", "kernel", "size", "cmdline"; of whoever knows profiles others
	Name string `json:"name"`
	// Before and After are what it is in each, in words; empty: it is not there.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Diff tells in what one master differs from another, packages first, then what a guest is given, then files by path.
// It is pure.
func Diff(from, to *master.Manifest) (all []Difference) {
	add := func(kind, name, before, after string) {
		if before != after {
			all = append(all, Difference{kind, name, before, after})
		}
	}
	versions := func(m *master.Manifest) map[string]string {
		out := map[string]string{}
		for _, p := range m.Packages {
			out[p.Name+" "+p.Arch] = p.Version
		}
		return out
	}
	before, after := versions(from), versions(to)
	for _, name := range union(before, after) {
		add("package", name, before[name], after[name])
	}
	add("kernel", "kernel", from.Master.Kernel, to.Master.Kernel)
	add("size", "system disk", fmt.Sprint(from.Disk.Size), fmt.Sprint(to.Disk.Size))
	add("size", "state disk", fmt.Sprint(from.State), fmt.Sprint(to.State))
	add("size", "memory", fmt.Sprint(from.Memory), fmt.Sprint(to.Memory))
	add("cmdline", "cmdline", withoutRoot(from), withoutRoot(to))
	for i, lists := range [][2][]master.File{{from.Root, to.Root}, {from.Boot, to.Boot}} {
		prefix := [...]string{"", "boot partition: "}[i]
		before, after := fileWords(lists[0]), fileWords(lists[1])
		for _, name := range union(before, after) {
			add("file", prefix+name, before[name], after[name])
		}
	}
	return all
}

// withoutRoot is a command line without what names the root: that differs whenever anything does.
func withoutRoot(m *master.Manifest) string {
	words := slices.DeleteFunc(strings.Fields(m.Cmdline), func(w string) bool {
		return strings.HasPrefix(w, contract.KeyVerity+"=")
	})
	return strings.Join(words, " ")
}

// fileWords says what each file is.
func fileWords(files []master.File) map[string]string {
	out := map[string]string{}
	for _, f := range files {
		words := fmt.Sprintf("%s %d:%d", f.Mode, f.UID, f.GID)
		switch {
		case f.Link != "":
			words += " -> " + f.Link
		case f.SHA256 != "":
			words += fmt.Sprintf(" %d bytes sha256 %.16s", f.Size, f.SHA256)
		}
		out[f.Path] = words
	}
	return out
}

func union(a, b map[string]string) (names []string) {
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}
