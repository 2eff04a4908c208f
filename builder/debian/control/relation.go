package control

import (
	"fmt"
	"strings"
)

// Relation is one package named by another, perhaps with a bound on its version (policy 7.1).
type Relation struct {
	Name    string
	Arch    string  // architecture qualifier: "any", "native" or an architecture; "" is the usual case
	Op      string  // "<<", "<=", "=", ">=", ">>"; "" where any version will do
	Version Version // "" where any version will do
}

// maxRelations bounds one field; the longest of Debian's has about 1,500 (a Provides of rust and haskell packages).
const maxRelations = 10000

// ParseRelations reads a field such as Depends: groups that must all hold, each of alternatives of which one must.
// An empty field has no groups.
func ParseRelations(field string) ([][]Relation, error) {
	var groups [][]Relation
	n := 0
	for group := range strings.SplitSeq(field, ",") {
		if strings.TrimSpace(group) == "" {
			continue
		}
		var alternatives []Relation
		for one := range strings.SplitSeq(group, "|") {
			if n++; n > maxRelations {
				return nil, fmt.Errorf("more than %d relations in one field", maxRelations)
			}
			r, err := parseRelation(one)
			if err != nil {
				return nil, err
			}
			alternatives = append(alternatives, r)
		}
		groups = append(groups, alternatives)
	}
	return groups, nil
}

func parseRelation(s string) (Relation, error) {
	bad := func(what string) (Relation, error) {
		return Relation{}, fmt.Errorf("relation %.80q: %s", strings.TrimSpace(s), what)
	}
	name, bound, bounded := strings.Cut(s, "(")
	var r Relation
	r.Name, r.Arch, _ = strings.Cut(strings.TrimSpace(name), ":")
	if !IsPackageName(r.Name) {
		return bad("not a package name")
	}
	if r.Arch != "" && !IsArch(r.Arch) {
		return bad("not an architecture")
	}
	if !bounded {
		return r, nil
	}
	inside, after, closed := strings.Cut(bound, ")")
	if !closed || strings.TrimSpace(after) != "" {
		return bad("expected \"name (operator version)\"")
	}
	inside = strings.TrimSpace(inside)
	for _, op := range []string{"<<", "<=", ">=", ">>", "=", "<", ">"} {
		if rest, ok := strings.CutPrefix(inside, op); ok {
			r.Op, r.Version = op, Version(strings.TrimSpace(rest))
			break
		}
	}
	switch r.Op {
	case "":
		return bad("no operator before the version")
	case "<", ">": // long deprecated spellings of <= and >= (policy 7.1)
		r.Op += "="
	}
	if err := CheckVersion(r.Version); err != nil {
		return bad(err.Error())
	}
	return r, nil
}

// Allows says whether a version is within the bound.
func (r Relation) Allows(v Version) bool {
	c := Compare(v, r.Version)
	switch r.Op {
	case "":
		return true
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

// String is the relation as a control file writes it.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + string(r.Version) + ")"
	}
	return s
}

// IsPackageName says whether s is a package name: at least two lower-case letters, digits, + - and ., the first of
// them a letter or digit (policy 5.6.1). Upper case is let through where Debian's own archive has it: nowhere.
func IsPackageName(s string) bool {
	if len(s) < 2 || len(s) > 128 || !isWordStart(s[0]) {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == ""
}

// IsArch says whether s can name an architecture (policy 11.1).
func IsArch(s string) bool {
	return s != "" && len(s) <= 32 && isWordStart(s[0]) && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func isWordStart(c byte) bool { return c >= 'a' && c <= 'z' || isDigit(c) }
