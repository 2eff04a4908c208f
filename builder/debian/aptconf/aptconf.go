// Package aptconf reads what apt's configuration says about the way to a mirror: proxies (apt.conf(5),
// apt-transport-http(1)), and the user names and passwords of auth.conf(5). Whoever needs them for apt needs them here
// too, since the mirror comes from apt's list of sources.
//
// A machine's configuration is made by many hands. What cannot be understood is reported and passed over: apt would
// refuse everything, but here only a way to a mirror is sought.
//
// What it deliberately does not do: run the programs of Proxy-Auto-Detect, follow #include, Dir::Etc and APT_CONFIG,
// keep lists, or know any setting but those two.
package aptconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Bounds: a real configuration has some KiB in a dozen files.
const (
	maxFile  = 1 << 20
	maxFiles = 1000
	maxDepth = 64
)

// Config is a configuration. The zero value is an empty one.
type Config struct {
	values map[string]string // by name in lower case
	logins []login
}

// Read reads an apt configuration directory, usually /etc/apt. The second value tells what could not be read or
// understood, each with its file and where it can be told its line; files that only root may read are among them. The
// error is of reading the directory. A directory that is not there is an empty configuration.
func Read(dir string) (c *Config, problems []error, err error) {
	c = &Config{values: map[string]string{}}
	confs, err := parts(filepath.Join(dir, "apt.conf.d"), "apt.conf.d")
	if err != nil {
		return nil, nil, err
	}
	// The main file is read last and so has the last word (apt.conf(5)).
	for _, file := range append(confs, filepath.Join(dir, "apt.conf")) {
		text, err := readFile(file)
		if err == nil {
			err = c.parse(text)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("%s: %w", file, err))
		}
	}
	auths, err := parts(filepath.Join(dir, "auth.conf.d"), "auth.conf.d")
	if err != nil {
		return nil, nil, err
	}
	// The first entry that matches counts, and those of the main file come first.
	for _, file := range append([]string{filepath.Join(dir, "auth.conf")}, auths...) {
		text, err := readFile(file)
		if err == nil {
			c.logins = append(c.logins, parseLogins(text)...)
		} else if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return c, problems, nil
}

// parts are the files of a directory that apt reads, in its order: no extension or .conf, and of auth.conf.d only the
// latter.
func parts(dir, kind string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading apt's configuration: %w", err)
	}
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("reading apt's configuration: %s has more than %d files", dir, maxFiles)
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		known := strings.HasSuffix(name, ".conf") || kind == "apt.conf.d" && !strings.Contains(name, ".")
		if known && !strings.HasPrefix(name, ".") && strings.Trim(name, nameLetters) == "" {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files, nil
}

const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	return string(text), err
}

// Get returns the value of a setting, such as "Acquire::http::Proxy"; empty where it has none.
func (c *Config) Get(name string) string { return c.values[strings.ToLower(name)] }

// parse reads a file of apt.conf(5) over what the configuration holds already. What stands before an error counts.
func (c *Config) parse(text string) error {
	l := lexer{rest: text, line: 1}
	var scopes, words []string
	name := func() string { return strings.Join(append(append([]string{}, scopes...), words[0]), "::") }
	for {
		word, kind := l.next()
		switch kind {
		case 'w':
			words = append(words, word)
		case '{':
			if len(scopes) == maxDepth {
				return fmt.Errorf("line %d: more than %d braces inside each other", l.line, maxDepth)
			}
			if len(words) == 0 { // a member without a name
				words = []string{""}
			}
			scopes, words = append(scopes, strings.ToLower(strings.TrimSuffix(words[0], "::"))), nil
		case ';', '}':
			switch {
			case len(words) == 2 && strings.HasPrefix(words[0], "#"):
				if strings.EqualFold(words[0], "#clear") {
					words = words[1:]
					c.clear(strings.ToLower(name()))
				} // #include is not followed
			case len(words) == 2 && !strings.HasSuffix(words[0], "::"): // with :: it is one more member of a list
				c.values[strings.ToLower(name())] = words[1]
			case len(words) > 2:
				return fmt.Errorf("line %d: %d words; expected a name, a value and a semicolon", l.line, len(words))
			}
			words = nil
			if kind == ';' {
				continue
			}
			if len(scopes) == 0 {
				return fmt.Errorf("line %d: a brace is closed that was never opened", l.line)
			}
			scopes = scopes[:len(scopes)-1]
		case '"':
			return fmt.Errorf("line %d: a quotation mark is missing", l.line)
		case 0:
			if len(scopes) > 0 || len(words) > 0 {
				return fmt.Errorf("line %d: the file ends in the midst of a setting", l.line)
			}
			return nil
		}
	}
}

// clear removes a setting and all below it.
func (c *Config) clear(name string) {
	name = strings.TrimSuffix(name, "::")
	for key := range c.values {
		if key == name || strings.HasPrefix(key, name+"::") {
			delete(c.values, key)
		}
	}
}

// lexer cuts a configuration into words and punctuation.
type lexer struct {
	rest string
	line int
}

// next returns the next word (kind 'w'), or a kind of '{', '}', ';', '"' for a quotation that does not end, or 0 at the
// end.
func (l *lexer) next() (word string, kind byte) {
	for l.rest != "" {
		switch {
		case l.rest[0] == '\n':
			l.line++
			l.rest = l.rest[1:]
		case strings.ContainsRune(" \t\r\f\v", rune(l.rest[0])):
			l.rest = l.rest[1:]
		case strings.HasPrefix(l.rest, "//"), l.rest[0] == '#' && !directive(l.rest):
			_, after, _ := strings.Cut(l.rest, "\n")
			l.rest = after
			l.line++
		case strings.HasPrefix(l.rest, "/*"):
			comment, after, _ := strings.Cut(l.rest, "*/")
			l.rest = after
			l.line += strings.Count(comment, "\n")
		case strings.IndexByte("{};", l.rest[0]) >= 0:
			kind, l.rest = l.rest[0], l.rest[1:]
			return "", kind
		default:
			return l.word()
		}
	}
	return "", 0
}

func directive(s string) bool {
	for _, d := range []string{"#clear", "#include"} {
		if len(s) > len(d) && strings.EqualFold(s[:len(d)], d) && strings.IndexByte(" \t", s[len(d)]) >= 0 {
			return true
		}
	}
	return false
}

// word reads a word: quoted, or up to a blank, a brace, a semicolon or a comment.
func (l *lexer) word() (string, byte) {
	if l.rest[0] == '"' {
		quoted, after, ok := strings.Cut(l.rest[1:], `"`)
		if !ok || strings.Contains(quoted, "\n") {
			return "", '"'
		}
		l.rest = after
		return quoted, 'w'
	}
	end := strings.IndexAny(l.rest, " \t\r\f\v\n{};\"")
	if end < 0 {
		end = len(l.rest)
	}
	if comment := strings.Index(l.rest[:end], "//"); comment > 0 {
		end = comment
	}
	word := l.rest[:end]
	l.rest = l.rest[end:]
	return word, 'w'
}
