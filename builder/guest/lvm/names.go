package lvm

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxName is how long the name of a mapped device may be: DM_NAME_LEN of <linux/dm-ioctl.h> without the zero at its
// end. It is the group's name and the volume's, in which each hyphen is two, with one between.
const maxName = 127

// layer is the longest of the endings that lvm2 gives devices below a volume itself: "-real", "-tpool".
const layer = len("-tpool")

var namePattern = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*$`)

// reserved are how no name of a volume may begin (lvm(8), "Valid names").
var reserved = []string{"snapshot", "pvmove"}

// CheckGroup tells what is wrong with the name of a volume group, or of a pool.
func CheckGroup(name string) error {
	if !namePattern.MatchString(name) || name == "." || name == ".." || len(name) > maxName {
		return fmt.Errorf("%.140q is no name of LVM: want letters, digits and + _ . -, which is not first", name)
	}
	return nil
}

// CheckName tells what is wrong with the name of a volume of a group.
func CheckName(group, name string) error {
	if err := errors.Join(CheckGroup(group), CheckGroup(name)); err != nil {
		return err
	}
	if slices.ContainsFunc(reserved, func(r string) bool { return strings.HasPrefix(name, r) }) {
		return fmt.Errorf("volume %s: LVM keeps names that begin with %s for itself", name, strings.Join(reserved, " or "))
	}
	n := len(mapped(group)) + 1 + len(mapped(name)) + layer
	if n > maxName {
		return fmt.Errorf("volume %s/%s: its device would have a name of %d bytes, the kernel takes %d; want a shorter name",
			group, name, n, maxName)
	}
	return nil
}

func mapped(name string) string { return strings.ReplaceAll(name, "-", "--") }

// Device is where a volume's device is.
func Device(group, name string) string { return "/dev/" + group + "/" + name }
