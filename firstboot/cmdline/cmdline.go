// Package cmdline reads the kernel command line the way the kernel does: words parted by white space, double quotes
// keep white space, and what follows a bare "--" belongs to init, not to the kernel.
//
// What it deliberately does not do: decide what any key means.
package cmdline

import (
	"fmt"
	"strings"
)

// Max is the number of bytes read of a command line: twice COMMAND_LINE_SIZE of x86 (arch/x86/include/asm/setup.h),
// so that no kernel's line is cut and nothing endless is parsed.
const Max = 4096

// Arg is one word: Key, or Key=Value.
type Arg struct {
	Key, Value string
	HasValue   bool
}

// Args are the words of a command line, in order. The zero value is an empty line.
type Args []Arg

// Parse reads a line. It takes any bytes; what lies beyond Max or behind "--" is left out.
func Parse(line string) Args {
	if len(line) > Max {
		line = line[:Max]
	}
	var args Args
	for len(line) > 0 {
		var word string
		if word, line = next(line); word == "" {
			continue
		}
		if word == "--" {
			break
		}
		key, value, has := strings.Cut(word, "=")
		args = append(args, Arg{Key: unquote(key), Value: unquote(value), HasValue: has})
	}
	return args
}

// next cuts the first word off; quotes hide white space, as lib/cmdline.c next_arg has it.
func next(s string) (word, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0):
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func unquote(s string) string { return strings.ReplaceAll(s, `"`, "") }

// One returns the value of a key that may be given once. Given twice with different values it is an error, because
// taking either would be a guess.
func (a Args) One(key string) (value string, ok bool, err error) {
	for _, arg := range a {
		if arg.Key != key {
			continue
		}
		if ok && arg.Value != value {
			return "", false, fmt.Errorf("kernel command line: %s is given twice, as %q and as %q; give it once",
				key, value, arg.Value)
		}
		value, ok = arg.Value, true
	}
	return value, ok, nil
}

// ModuleParameters returns the parameters the line holds for a kernel module ("virtio_mmio.device=..."), as modprobe
// passes them on: parted by spaces, in order. In module names "-" and "_" are the same.
func (a Args) ModuleParameters(module string) string {
	var out []string
	want := underscores(module)
	for _, arg := range a {
		mod, param, ok := strings.Cut(arg.Key, ".")
		if !ok || param == "" || underscores(mod) != want {
			continue
		}
		if arg.HasValue {
			value := arg.Value
			if strings.ContainsAny(value, " \t") {
				value = `"` + value + `"`
			}
			param += "=" + value
		}
		out = append(out, param)
	}
	return strings.Join(out, " ")
}

func underscores(s string) string { return strings.ReplaceAll(s, "-", "_") }
