package profiles

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// findingCase is one case of a file of findings.
type findingCase struct {
	name, edit, want string
	file             string
}

// findingsFile holds the base profile and the cases of no section; each section has a file of its own beside it,
// testdata/findings-SECTION.txt.
const findingsFile = "testdata/findings.txt"

// readFindingCases reads the base profile and the cases of all files, and the heads of the files.
func readFindingCases(t testing.TB) (heads map[string]string, base string, cases []findingCase) {
	t.Helper()
	sections, err := filepath.Glob("testdata/findings-*.txt")
	if err != nil {
		t.Fatal(err)
	}
	heads = map[string]string{}
	for _, file := range append([]string{findingsFile}, sections...) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split("\n"+string(raw), "\n== ")
		heads[file] = strings.TrimSpace(parts[0])
		for _, part := range parts[1:] {
			name, body, _ := strings.Cut(part+"\n", "\n")
			edit, want, _ := strings.Cut("\n"+body, "\n--\n")
			edit = strings.TrimRight(strings.TrimPrefix(edit, "\n"), "\n") + "\n"
			cases = append(cases, findingCase{name, edit, strings.TrimSpace(want), file})
		}
	}
	if len(cases) == 0 || cases[0].name != "base" {
		t.Fatalf("%s: the first case must be base", findingsFile)
	}
	return heads, cases[0].edit, cases
}

// applied is the profile a case means.
func (c findingCase) applied(base string) string {
	if text, alone := strings.CutPrefix(c.edit, "!"); alone {
		return text
	}
	if c.name == "base" || strings.HasPrefix(c.edit, "rempart: 1\n") {
		return c.edit
	}
	return edited(base, c.edit)
}

// edited replaces the top-level entries of a profile that an edit has too, and adds the others at the end.
func edited(base, edit string) string {
	old := entriesOf(base)
	replaced := make([]bool, len(old))
	var added strings.Builder
	for _, e := range entriesOf(edit) {
		key, _, _ := strings.Cut(e, ":")
		found := false
		for i := range old {
			if !replaced[i] && strings.HasPrefix(old[i], key+":") {
				old[i], replaced[i], found = e, true, true
				break
			}
		}
		if !found {
			added.WriteString(e)
		}
	}
	return strings.Join(old, "") + added.String()
}

// entriesOf cuts a profile into its top-level entries: a line, and the indented ones after it.
func entriesOf(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if n := len(all); n > 0 && (line[0] == ' ' || line[0] == '\t') {
			all[n-1] += line
			continue
		}
		all = append(all, line)
	}
	return all
}

// verdict is all that is told of a profile, and what the schema says.
func verdict(t *testing.T, src string) string {
	t.Helper()
	p, err := Parse("fw.yaml", []byte(src))
	var out strings.Builder
	var invalid Invalid
	switch {
	case err == nil:
		for _, w := range p.Warnings {
			fmt.Fprintf(&out, "warning %s\n", strings.TrimPrefix(w.String(), "fw.yaml:"))
		}
		fmt.Fprintln(&out, "ok")
	case errors.As(err, &invalid):
		for _, f := range invalid {
			fmt.Fprintln(&out, strings.TrimPrefix(f.String(), "fw.yaml:"))
		}
	default:
		t.Errorf("Parse: error %T %v; want Invalid", err, err)
	}
	schemaErr, readable := againstSchema(t, []byte(src))
	switch {
	case !readable:
	case schemaErr != nil && err == nil:
		t.Errorf("the schema refuses what Parse takes: %v", schemaErr)
	case schemaErr != nil:
		fmt.Fprintln(&out, "schema: refused")
	default:
		fmt.Fprintln(&out, "schema: taken")
	}
	return strings.TrimSpace(out.String())
}

func TestFindings(t *testing.T) {
	t.Setenv("HOME", "testdata/home") // of admin.keys
	heads, base, cases := readFindingCases(t)
	renewed := map[string]*bytes.Buffer{}
	for file, head := range heads {
		renewed[file] = &bytes.Buffer{}
		if head != "" {
			fmt.Fprintln(renewed[file], head)
		}
	}
	done := 0
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			src := c.applied(base)
			got := verdict(t, src)
			if got != c.want && !*update {
				t.Errorf("findings of\n%s\nare\n%s\n\nwant\n%s", src, got, c.want)
			}
			done++
			into := renewed[c.file]
			if into.Len() > 0 {
				fmt.Fprintln(into)
			}
			fmt.Fprintf(into, "== %s\n%s--\n%s\n", c.name, c.edit, got)
		})
	}
	if *update && !t.Failed() && done == len(cases) { // not after -run Findings/one
		for file, b := range renewed {
			if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"16M": 16 << 20, "1G": 1 << 30, "2 TiB": 2 << 40, "3GiB": 3 << 30} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0M", "M", "128", "-1M", "1K", "1.5G", "01M", "1MM", "1  M", "1iB",
		"9999999M", "1m"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d; want an error", text, got)
		}
	}
}
