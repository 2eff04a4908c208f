package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/u-root/u-root/pkg/core"
)

// filter is a command that reads files, or standard input, line by line; u-root has these as programs of their own.
type filter struct {
	core.Base
	run func(f *filter, args []string) error
}

// RunContext implements core.Command.
func (f *filter) RunContext(_ context.Context, args ...string) error { return f.run(f, args) }

// Run implements core.Command.
func (f *filter) Run(args ...string) error { return f.run(f, args) }

// errNothing is the error of a grep that found nothing: there is nothing to say about it.
var errNothing = errors.New("nothing was found")

// maxLine bounds one line, in bytes.
const maxLine = 1 << 20

// each hands over the lines of each file, or of standard input, until take says that it has enough.
func (f *filter) each(files []string, take func(file, line string) (more bool)) error {
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files {
		in := f.Stdin
		if name != "-" {
			file, err := os.Open(f.ResolvePath(name))
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		lines := bufio.NewScanner(in)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			if !take(name, lines.Text()) {
				break
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// options reads a command's options, which end the command when they are wrong.
func (f *filter) options(name string, args []string, declare func(*flag.FlagSet)) ([]string, error) {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	declare(flags)
	err := flags.Parse(args)
	return flags.Args(), err
}

// grep [-i] [-v] [-c] [-n] PATTERN [FILE...]: a pattern is a regular expression of Go (RE2).
func grep(f *filter, args []string) error {
	var fold, invert, count, number bool
	args, err := f.options("grep", args, func(flags *flag.FlagSet) {
		flags.BoolVar(&fold, "i", false, "ignore case")
		flags.BoolVar(&invert, "v", false, "lines that do not match")
		flags.BoolVar(&count, "c", false, "how many")
		flags.BoolVar(&number, "n", false, "with line numbers")
		flags.Bool("E", true, "what it does anyway")
	})
	if err != nil || len(args) == 0 {
		return errors.New("want [-i] [-v] [-c] [-n] PATTERN [FILE...]")
	}
	text := args[0]
	if fold {
		text = "(?i)" + text
	}
	pattern, err := regexp.Compile(text)
	if err != nil {
		return err
	}
	found, at, last := 0, 0, ""
	err = f.each(args[1:], func(file, line string) bool {
		if file != last {
			at, last = 0, file
		}
		at++
		if pattern.MatchString(line) == invert {
			return true
		}
		found++
		before := ""
		if len(args) > 2 {
			before = file + ":"
		}
		if number {
			before += fmt.Sprint(at, ":")
		}
		if !count {
			_, err := fmt.Fprintln(f.Stdout, before+line)
			return err == nil
		}
		return true
	})
	if count {
		fmt.Fprintln(f.Stdout, found)
	}
	if err == nil && found == 0 {
		return errNothing
	}
	return err
}

// maxTail bounds what tail keeps, in lines.
const maxTail = 100_000

// lines reads how many lines head and tail are to show.
func (f *filter) lines(name string, args []string) (n int, files []string, err error) {
	files, err = f.options(name, args, func(flags *flag.FlagSet) { flags.IntVar(&n, "n", 10, "lines") })
	if err != nil || n < 0 || n > maxTail {
		return 0, nil, fmt.Errorf("want [-n LINES] [FILE...], with %d lines at most", maxTail)
	}
	return n, files, nil
}

// head [-n LINES] [FILE...]
func head(f *filter, args []string) error {
	n, files, err := f.lines("head", args)
	if err != nil {
		return err
	}
	shown, last := 0, ""
	return f.each(files, func(file, line string) bool {
		if file != last {
			shown, last = 0, file
		}
		if shown++; shown > n {
			return false
		}
		_, err := fmt.Fprintln(f.Stdout, line)
		return err == nil
	})
}

// tail [-n LINES] [FILE...]; `log -f` follows the guest's log.
func tail(f *filter, args []string) error {
	n, files, err := f.lines("tail", args)
	if err != nil {
		return err
	}
	var kept []string
	err = f.each(files, func(_, line string) bool {
		if kept = append(kept, line); len(kept) > n {
			kept = kept[len(kept)-n:]
		}
		return true
	})
	for _, line := range kept {
		fmt.Fprintln(f.Stdout, line)
	}
	return err
}

// wc [FILE...]: lines, words and bytes.
func wc(f *filter, args []string) error {
	lines, words, size := 0, 0, 0
	err := f.each(args, func(_, line string) bool {
		lines++
		size += len(line) + 1
		in := false
		for _, r := range line {
			blank := r == ' ' || r == '\t' || r == '\r'
			if !blank && !in {
				words++
			}
			in = !blank
		}
		return true
	})
	fmt.Fprintln(f.Stdout, lines, words, size)
	return err
}
