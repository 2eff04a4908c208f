package verify

import (
	"errors"

	"rempart/builder/disk/ext4"
)

// What a state disk and a data disk have in common: damage is suspect and ends nothing else.

// ended tells why a walk ended early, unless it is that the disk cannot be read.
func (n *inspection) ended(err error) error {
	if errors.Is(err, errRoom) || err != nil && isDamage(err) {
		n.suspect("", err.Error())
		return nil
	}
	return err
}

// target is where a link leads; nowhere where that cannot be told for damage, which is suspect.
func (n *inspection) target(shown string, i *ext4.Inode) (string, error) {
	target, err := n.f.Readlink(i)
	if err != nil && isDamage(err) {
		n.suspect(shown, err.Error())
		return "", nil
	}
	return target, err
}
