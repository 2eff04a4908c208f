//go:build !guest

package profiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Bounds of admin.keys.
const (
	maxAdminKeys = 64
	maxKeyFile   = 64 << 10 // bytes
	maxComment   = 128      // bytes
)

func readAdminKeys(r *reader, v value, a *Admin) {
	const what = "a file such as ~/.ssh/id_ed25519.pub, a line that begins with ssh-ed25519, or a list of these"
	for _, item := range r.items(v, what, maxAdminKeys) {
		text, ok := r.word(item, what)
		if !ok {
			continue
		}
		lines := []byte(text)
		file := "" // the key stands in the profile itself
		if !looksLikeKey(text) {
			var err error
			if lines, err = r.keyFile(text); err != nil {
				r.rejectAt(item.pos(), "name a file with public keys, or write the key itself", "%s: %v", item.name, err)
				continue
			}
			file = clip(text)
		}
		found := 0
		for n, line := range bytes.Split(lines, []byte("\n")) {
			line = bytes.TrimSpace(line)
			if len(line) == 0 || line[0] == '#' {
				continue
			}
			found++
			key, problem, hint := publicKey(string(line))
			if problem != "" {
				where := ""
				if file != "" {
					where = fmt.Sprintf(" in line %d of %s", n+1, file)
				}
				// What the file says is not repeated: it may be anything but a public key.
				r.rejectAt(item.pos(), hint, "%s:%s %s", item.name, where, problem)
				break
			}
			a.Keys = append(a.Keys, key)
		}
		if found == 0 {
			r.rejectAt(item.pos(), "", "%s: there is no key in %s", item.name, clip(text))
		}
	}
	if len(a.Keys) > maxAdminKeys {
		r.rejectAt(v.pos(), "", "%s: %d keys, expected at most %d", v.name, len(a.Keys), maxAdminKeys)
	}
}

// consoleOpen is the word for a console that asks nobody who it is.
const consoleOpen = "open"

func readConsole(r *reader, v value, a *Admin) {
	a.Console = r.choice(v, "none", consoleOpen) == consoleOpen
}

// looksLikeKey tells a key from the name of a file: a key has a blank after its type.
func looksLikeKey(text string) bool {
	kind, _, ok := strings.Cut(text, " ")
	return ok && (strings.HasPrefix(kind, "ssh-") || strings.HasPrefix(kind, "ecdsa-") || strings.HasPrefix(kind, "sk-"))
}

// plainComment is a comment as a log may show it.
func plainComment(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), maxComment)]
}

// keyFile reads a file with keys: below the home directory when it begins with ~/, else as seen from the directory of
// the profile.
func (r *reader) keyFile(name string) ([]byte, error) {
	path := name
	if rest, ok := strings.CutPrefix(name, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", clip(name), err)
		}
		path = filepath.Join(home, rest)
	} else if !filepath.IsAbs(name) {
		path = filepath.Join(filepath.Dir(r.file), name)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		var at *os.PathError
		if errors.As(err, &at) {
			err = at.Err
		}
		return nil, fmt.Errorf("%s: %w", clip(name), err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is no file of at most %d KiB", clip(name), maxKeyFile>>10)
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}
