package link

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// Layout of netlink attributes, linux/netlink.h: struct nlattr, NLA_ALIGN, NLA_TYPE_MASK.
const (
	attributeHead  = 4
	attributeAlign = 4
	attributeType  = 0x3fff
)

// attributes are the netlink attributes in b, each with its type and its value. It ends at the first that does not fit,
// with its error.
func attributes(b []byte) iter.Seq2[attribute, error] {
	return func(yield func(attribute, error) bool) {
		for len(b) > 0 {
			if len(b) < attributeHead {
				yield(attribute{}, fmt.Errorf("netlink: %d bytes are no attribute", len(b)))
				return
			}
			n := int(binary.NativeEndian.Uint16(b))
			if n < attributeHead || n > len(b) {
				yield(attribute{}, fmt.Errorf("netlink: an attribute of %d bytes in %d", n, len(b)))
				return
			}
			if !yield(attribute{binary.NativeEndian.Uint16(b[2:]) & attributeType, b[attributeHead:n]}, nil) {
				return
			}
			b = b[min(len(b), (n+attributeAlign-1)&^(attributeAlign-1)):]
		}
	}
}

// attribute is a type and the bytes of a value.
type attribute struct {
	kind  uint16
	value []byte
}
