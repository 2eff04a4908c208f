package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"time"
)

// nmapPatience is how long a host may take to tell nmap its hardware address.
const nmapPatience = 2 * time.Minute

// unasked is what nmap says, in each format used here, of a host of the same link that did not give its hardware
// address within half a second: that it is down, and none of its ports was looked at, whatever -Pn says.
var unasked = regexp.MustCompile(`1 IP address \(0 hosts up\)`)

// Nmap runs nmap at one host, again as long as a busy host has not even told it the hardware address in nmap's little
// patience, and returns what it printed; an error when it never does, as nothing was scanned then.
func (n *Node) Nmap(args ...string) ([]byte, error) {
	for end := time.Now().Add(nmapPatience); ; {
		out, err := n.Command("nmap", args...).Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		if err != nil {
			return nil, fmt.Errorf("nmap %q: %w\n%s", args, err, out)
		}
		if !unasked.Match(out) {
			return out, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("nmap %q: the host did not tell its hardware address in %v\n%s", args, nmapPatience, out)
		}
	}
}
