// Command tally runs go test for some parts of the tests, one part after the other, and says at the end what came of
// them: seconds for each part, every test that was skipped and why, every one that failed, and their numbers.
//
//	tally LOG -- NAME ARGS... [-- NAME ARGS...]
//
// ARGS are those of go test. A later part runs whatever became of the ones before it. All output goes to the file LOG,
// that of failed tests to standard output too. Exit status: 0 when nothing failed, else 1.
//
// What it deliberately does not do: choose tests, repeat them, or take a package that stayed silent for one that
// passed.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

func main() {
	if len(os.Args) < 5 || os.Args[2] != "--" {
		fmt.Fprintln(os.Stderr, "usage: tally LOG -- NAME ARGS... [-- NAME ARGS...]")
		os.Exit(2)
	}
	log, err := os.Create(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	all := &results{out: os.Stdout, log: log}
	for args := range split(os.Args[3:]) {
		if err := all.run(args[0], args[1:]); err != nil {
			all.broken = append(all.broken, fmt.Sprintf("%s: %v", args[0], err))
		}
	}
	all.summary()
	if err := log.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	if !all.good() {
		os.Exit(1)
	}
}

// split yields the arguments between the --, without empty ones.
func split(args []string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(args) > 0 {
			end := slices.Index(args, "--")
			if end < 0 {
				end = len(args)
			}
			if end > 0 && !yield(args[:end]) {
				return
			}
			args = args[min(end+1, len(args)):]
		}
	}
}

// run is one part.
func (r *results) run(name string, args []string) error {
	fmt.Fprintf(r.out, "== %s\n", name)
	start := time.Now()
	defer func() { r.parts = append(r.parts, part{name, time.Since(start)}) }()
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Env = os.Environ()
	if slices.Contains(args, "-race") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // the race detector is a C library
	}
	cmd.Stderr = io.MultiWriter(os.Stderr, r.log)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := r.failures()
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err != nil {
			break // the exit status tells whether all is well
		}
	}
	r.endPart()
	if err := cmd.Wait(); err != nil && r.failures() == before {
		return fmt.Errorf("go test: %w, and no test of it says why", err)
	}
	return nil
}

// summary prints what came of all parts.
func (r *results) summary() {
	fmt.Fprintln(r.out, "== times")
	var total time.Duration
	for _, p := range r.parts {
		fmt.Fprintf(r.out, "%7.1f s  %s\n", p.took.Seconds(), p.name)
		total += p.took
	}
	fmt.Fprintf(r.out, "%7.1f s  together\n", total.Seconds())
	slices.SortStableFunc(r.packages, func(a, b finished) int { return int((b.seconds - a.seconds) * 1000) })
	fmt.Fprintln(r.out, "the slowest packages:")
	for _, p := range r.packages[:min(len(r.packages), slowest)] {
		fmt.Fprintf(r.out, "%7.1f s  %s\n", p.seconds, p.name)
	}
	r.list("SKIPPED, NOT PASSED", r.skipped)
	r.list("FAILED", append(r.failed, r.broken...))
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, len(r.failed)+len(r.broken), len(r.skipped))
}

// slowest is how many packages the summary names.
const slowest = 8

func (r *results) list(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(r.out, "== %s\n", title)
	for _, l := range lines {
		fmt.Fprintln(r.out, "  "+strings.ReplaceAll(l, "\n", "\n      "))
	}
}
