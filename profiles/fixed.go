package profiles

import (
	"fmt"
	"slices"
)

// Fixed says what of a profile a guest that runs another one cannot take over while it runs: one line each with what
// differs and why; none when it can take over everything.
func Fixed(running, next *Profile) []string {
	var why []string
	if running.Memory != next.Memory {
		why = append(why, fmt.Sprintf("memory: %d MiB now, %d MiB in the profile: a guest is given its memory when it starts",
			running.Memory>>20, next.Memory>>20))
	}
	if running.Kernel != next.Kernel {
		why = append(why, fmt.Sprintf("kernel: %s now, %s in the profile: a kernel runs from start to end", running.Kernel,
			next.Kernel))
	}
	if running.State.Size != next.State.Size {
		why = append(why, fmt.Sprintf("state: %d MiB now, %d MiB in the profile: the disk is attached when the guest starts",
			running.State.Size>>20, next.State.Size>>20))
	}
	if !slices.EqualFunc(running.Disks, next.Disks, sameDisk) {
		why = append(why, "disks: data disks are mounted when the guest starts, on folders of the master's root")
	} else if running.Logging.Disk != next.Logging.Disk {
		why = append(why, "logging.disk: where the log is kept is decided when the guest starts")
	}
	if digest := blockDigest(next); digest != "" && digest != blockDigest(running) {
		why = append(why, "dns.block: other names than those in the master's root, where a guest finds them")
	}
	if next.Admin.Shell && !running.Admin.Shell {
		why = append(why, "admin.shell: the shell is a program of the root, and this guest's root was made without")
	}
	return why
}

// sameDisk tells whether two data disks are, wherever the profile says so.
func sameDisk(a, b Disk) bool {
	a.At, b.At = Pos{}, Pos{}
	return a == b
}

// blockDigest names the blocked names that come from files; empty: there are none.
func blockDigest(p *Profile) string {
	if p.DNS == nil || p.DNS.Block == nil {
		return ""
	}
	return p.DNS.Block.Digest
}
