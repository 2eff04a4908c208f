package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
)

// nmapTries is how often nmap asks for a hardware address, half a second or more each time.
const nmapTries = 240

// unasked is what nmap says, in each format used here, of a host of the same link that did not give its hardware
// address within half a second: that it is down, and none of its ports was looked at, whatever -Pn says.
var unasked = regexp.MustCompile(`1 IP address \(0 hosts up\)`)

// Nmap runs nmap at one host, again as long as a busy host has not even told it the hardware address in nmap's little
// patience, and returns what it printed.
func (n *Node) Nmap(args ...string) ([]byte, error) {
	for try := 1; ; try++ {
		out, err := n.Command("nmap", args...).Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		if err != nil {
			return nil, fmt.Errorf("nmap %q: %w\n%s", args, err, out)
		}
		if try == nmapTries || !unasked.Match(out) {
			return out, nil
		}
	}
}
