package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sayConfinement prints for each running child what the kernel holds it to: one line each, "confinement CHILD
// KEY=VALUE ...", with the keys of statusKeys and the version of Landlock laid on.
func (g *guest) sayConfinement() {
	if g.sup == nil {
		return
	}
	for _, c := range g.sup.States() {
		if c.PID == 0 {
			continue
		}
		line, err := confinement(filepath.Join(g.Root, "proc", strconv.Itoa(c.PID)))
		if err != nil {
			g.log.Warn("confinement", "child", c.Name, "error", err)
			continue
		}
		g.mu.Lock()
		abi := g.landlock[c.Name]
		g.mu.Unlock()
		g.console.say(fmt.Sprintf("confinement %s %s Landlock=%d", c.Name, line, abi))
	}
}

// statusKeys are the lines of /proc/PID/status (Documentation/filesystems/proc.rst) that make a confinement, in the
// order the kernel has them.
var statusKeys = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs",
	"Seccomp"}

var errThreads = errors.New("its threads are not confined alike")

// confinement reads what all threads of a process are held to: Linux has it for each thread.
func confinement(process string) (string, error) {
	threads, err := filepath.Glob(filepath.Join(process, "task/*/status"))
	if err != nil {
		return "", err
	}
	var said string
	for _, file := range threads {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a thread that ended meanwhile
		}
		if err != nil {
			return "", err
		}
		one := statusLine(string(b))
		if said != "" && one != said {
			return "", fmt.Errorf("%w: %s, and %s", errThreads, said, one)
		}
		said = one
	}
	if said == "" {
		return "", fs.ErrNotExist
	}
	return said, nil
}

func statusLine(status string) string {
	var words []string
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		if slices.Contains(statusKeys, key) {
			words = append(words, key+"="+strings.Join(strings.Fields(value), ","))
		}
	}
	return strings.Join(words, " ")
}
