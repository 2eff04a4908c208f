package link

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// lookCarriers counts how often each interface's carrier came or went. One that went and came between two looks is
// seen by nothing else.
func (k *kernel) lookCarriers(all []Interface, place map[int]int) error {
	messages, err := dump(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return fmt.Errorf("listing carriers: %w", err)
	}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			return fmt.Errorf("listing carriers: a message of %d bytes", len(m))
		}
		i, known := place[int(binary.NativeEndian.Uint32(m[4:]))]
		for a, err := range attributes(m[unix.SizeofIfInfomsg:]) {
			if err != nil {
				return fmt.Errorf("listing carriers: %w", err)
			}
			if known && a.kind == unix.IFLA_CARRIER_CHANGES && len(a.value) == 4 {
				all[i].Flaps = binary.NativeEndian.Uint32(a.value)
			}
		}
	}
	return nil
}
