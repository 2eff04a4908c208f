package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is what go test -json prints (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

type part struct {
	name string
	took time.Duration
}

// finished is a package that has ended.
type finished struct {
	name    string
	seconds float64
}

// results gather what the parts report.
type results struct {
	out, log io.Writer
	running  map[string]*suite // by package
	parts    []part
	packages []finished
	passed   int
	skipped  []string // "package test: why"
	failed   []string // "package test", and how it begins to say why
	broken   []string // parts that failed without a failed test
}

// suite is a package whose tests run.
type suite struct {
	output map[string]*strings.Builder // by test, the package's own under ""
	ended  map[string]string           // action by test
}

func (r *results) good() bool { return r.failures() == 0 }

func (r *results) failures() int { return len(r.failed) + len(r.broken) }

// line takes one line of go test -json.
func (r *results) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		// Not of test2json: a complaint of the go command, which nobody should miss.
		fmt.Fprintf(r.out, "%s", line)
		fmt.Fprintf(r.log, "%s", line)
		return
	}
	if e.Action == "build-output" {
		fmt.Fprint(r.out, e.Output)
		fmt.Fprint(r.log, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	if r.running == nil {
		r.running = map[string]*suite{}
	}
	s := r.running[e.Package]
	if s == nil {
		s = &suite{map[string]*strings.Builder{}, map[string]string{}}
		r.running[e.Package] = s
	}
	switch e.Action {
	case "output":
		fmt.Fprint(r.log, e.Output)
		if s.output[e.Test] == nil {
			s.output[e.Test] = &strings.Builder{}
		}
		s.output[e.Test].WriteString(e.Output)
	case "run":
		s.ended[e.Test] = "" // not yet
	case "pass", "fail", "skip":
		if e.Test != "" {
			s.ended[e.Test] = e.Action
			return
		}
		delete(r.running, e.Package)
		r.end(e.Package, e.Action, e.Elapsed, s)
	}
}

// endPart counts what go test left without an end as failed: it was killed, or crashed.
func (r *results) endPart() {
	for _, name := range slices.Sorted(maps.Keys(r.running)) {
		r.end(name, "fail", 0, r.running[name])
	}
	clear(r.running)
}

// end counts the tests of a package. A test with parts is counted by them, unless its own result is worse than theirs.
func (r *results) end(name, action string, seconds float64, s *suite) {
	passed, skipped, failed := 0, len(r.skipped), len(r.failed)
	for _, test := range slices.Sorted(maps.Keys(s.ended)) {
		worst, parts := "", false
		for other, result := range s.ended {
			if strings.HasPrefix(other, test+"/") {
				parts = true
				if result != "pass" && worst != "fail" {
					worst = result
				}
				if result == "" {
					worst = "fail"
				}
			}
		}
		switch result := s.ended[test]; {
		case result == "pass" && !parts:
			passed++
		case result == "skip" && worst == "":
			r.skipped = append(r.skipped, name+" "+test+": "+reason(s.text(test)))
		case (result == "fail" || result == "") && worst != "fail":
			r.failed = append(r.failed, name+" "+test+brief(s.text(test)))
		}
	}
	r.passed += passed
	switch {
	case action == "fail" && len(r.failed) == failed:
		r.failed = append(r.failed, name+", outside of its tests")
	case action == "pass" && len(s.ended) == 0 && !strings.Contains(s.text(""), "[no tests to run]"):
		r.skipped = append(r.skipped, name+", all of it: "+reason(s.text("")))
	}
	r.packages = append(r.packages, finished{name, seconds})
	if action == "skip" { // it has no test files
		return
	}
	verdict := map[string]string{"pass": "ok", "fail": "FAIL"}[action]
	fmt.Fprintf(r.out, "%-4s %s %.1f s, %d passed", verdict, name, seconds, passed)
	if n := len(r.failed) - failed; n > 0 {
		fmt.Fprintf(r.out, ", %d failed", n)
	}
	if n := len(r.skipped) - skipped; n > 0 {
		fmt.Fprintf(r.out, ", %d skipped", n)
	}
	fmt.Fprintln(r.out)
	for _, test := range slices.Sorted(maps.Keys(s.output)) {
		switch {
		case action == "fail" && (test == "" || s.ended[test] == "fail" || s.ended[test] == ""):
			fmt.Fprint(r.out, s.text(test))
		case test == "":
			for line := range strings.Lines(s.text("")) {
				if strings.HasPrefix(line, "NOTE") {
					fmt.Fprint(r.out, line)
				}
			}
		}
	}
}

func (s *suite) text(test string) string {
	if b := s.output[test]; b != nil {
		return b.String()
	}
	return ""
}

// place is what the testing package puts before what a test says: "    file_test.go:12: ".
var place = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// Bounds of what the summary repeats of a failed test: lines in all, half of them the last ones, for many a test logs a
// lot before it fails; lines of one complaint; bytes of a line.
const (
	briefLines = 16
	briefEach  = 3
	briefWidth = 300
)

// brief is how each thing begins that a failed test says, every line after a newline: for whoever sees but the end of a
// long output.
func brief(output string) string {
	var lines []string
	left := 0
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		said := strings.TrimSpace(line)
		if place.MatchString(line) || strings.HasPrefix(said, "panic:") || strings.Contains(said, "DATA RACE") {
			left = briefEach
		}
		if left == 0 || said == "" || strings.HasPrefix(said, "--- ") {
			continue
		}
		left--
		lines = append(lines, strings.ToValidUTF8("\n"+said[:min(len(said), briefWidth)], ""))
	}
	if n := len(lines); n > briefLines {
		const half = briefLines / 2
		lines = slices.Concat(lines[:half], []string{fmt.Sprintf("\n(%d lines)", n-briefLines)}, lines[n-half:])
	}
	return strings.Join(lines, "")
}

// reason is what a skipped test says, without what go test adds.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case word == "" || word == "===" || word == "---" || word == "PASS" || strings.HasPrefix(word, "ok\t"):
		default:
			said = append(said, strings.TrimSpace(place.ReplaceAllString(line, "")))
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, "\n")
}
