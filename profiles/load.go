//go:build !guest

package profiles

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

//go:embed *.yaml
var builtin embed.FS

// Builtin are the names of the profiles that come with rempart, sorted: "home-firewall".
func Builtin() []string {
	entries, err := builtin.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("profiles: the embedded profiles cannot be read: %v", err)) // a test lists them
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return slices.Sorted(slices.Values(names))
}

// BuiltinSource is the YAML of a profile that comes with rempart, comments and all. For another name the error wraps
// fs.ErrNotExist and tells those there are.
func BuiltinSource(name string) ([]byte, error) {
	if !slices.Contains(Builtin(), name) {
		what := fmt.Sprintf("no profile named %s comes with rempart", quote(name))
		if hint := suggest(name, Builtin()); hint != "" {
			what += "; " + hint
		}
		return nil, noProfile(what)
	}
	return builtin.ReadFile(name + ".yaml")
}

// noProfile says that there is no profile of a name; it is fs.ErrNotExist to errors.Is.
type noProfile string

func (e noProfile) Error() string { return string(e) }
func (e noProfile) Unwrap() error { return fs.ErrNotExist }

// Stdin is the name of a profile for Load and Source that stands for standard input.
const Stdin = "-"

// Load reads and parses the profile a person named: a file; "-" for standard input; or, where there is no such file,
// one that comes with rempart. The error is Invalid when the profile was read and is wrong.
func Load(name string) (*Profile, error) {
	file, src, err := Source(name)
	if err != nil {
		return nil, err
	}
	return Parse(file, src)
}

// Source is the text of the profile a person named, as Load finds it, and what findings call its file. Of a file
// larger than MaxSource it reads just enough for Parse to refuse it.
func Source(name string) (file string, src []byte, err error) {
	if name == Stdin {
		src, err = bounded(os.Stdin)
		if err != nil {
			return "", nil, fmt.Errorf("reading the profile from standard input: %w", err)
		}
		return "<stdin>", src, nil
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		src, builtinErr := BuiltinSource(name)
		if builtinErr == nil {
			return name + ".yaml", src, nil
		}
		return "", nil, fmt.Errorf("there is no file %s, and %w", quote(name), builtinErr)
	}
	if err != nil {
		return "", nil, fmt.Errorf("opening the profile: %w", err)
	}
	defer f.Close()
	src, err = bounded(f)
	if err != nil {
		return "", nil, fmt.Errorf("reading the profile: %w", err)
	}
	return name, src, nil
}

func bounded(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, MaxSource+1)) }
