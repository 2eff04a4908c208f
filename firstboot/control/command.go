package control

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
)

// MaxCommand bounds one line from the host, in bytes with its newline.
const MaxCommand = 256

// grammar is what a line may be, for messages.
const grammar = "status, confinement, poweroff, reboot or kill CHILD [SIGNAL]"

// Verbs of a Command that PID 1 does not see.
const verbStatus = "status"

// ParseCommand reads one line from the host: "status", "confinement", "poweroff", "reboot" or "kill CHILD [SIGNAL]"
// with the signal as a name, "SIGKILL" or "KILL"; without one it is SIGTERM. Whether a child of that name exists
// PID 1 knows.
func ParseCommand(line string) (child.Request, error) {
	if len(line) > MaxCommand {
		return child.Request{}, fmt.Errorf("command of %d bytes: at most %d", len(line), MaxCommand)
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return child.Request{}, fmt.Errorf("empty command; want %s", grammar)
	}
	r := child.Request{Verb: words[0]}
	most := 1
	switch r.Verb {
	case verbStatus, "confinement", "poweroff", "reboot":
	case "kill":
		most = 3
		if len(words) < 2 {
			return child.Request{}, fmt.Errorf("kill: want kill CHILD [SIGNAL]")
		}
		if r.Child = words[1]; !isName(r.Child) {
			return child.Request{}, fmt.Errorf("kill: %.32q is no name of a child", r.Child)
		}
		sig := syscall.SIGTERM
		if len(words) > 2 {
			name := strings.ToUpper(words[2])
			if !strings.HasPrefix(name, "SIG") {
				name = "SIG" + name
			}
			if sig = unix.SignalNum(name); sig == 0 {
				return child.Request{}, fmt.Errorf("kill: %.32q is no signal; want a name such as SIGKILL", words[2])
			}
		}
		r.Signal = int(sig)
	default:
		return child.Request{}, fmt.Errorf("unknown command %.32q; want %s", r.Verb, grammar)
	}
	if len(words) > most {
		return child.Request{}, fmt.Errorf("%s: unexpected %.32q", r.Verb, words[most])
	}
	return r, nil
}

func isName(s string) bool {
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return len(s) <= 32
}
