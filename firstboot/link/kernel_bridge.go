package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridging is how a bridge forwards.
type Bridging struct {
	STP   bool
	Delay int  // hundredths of a second before a new port forwards
	VLANs bool // by the tags of frames: a port takes and gives only those of its VLANs
}

func (b Bridging) String() string {
	return fmt.Sprintf("stp %t, forward delay %d, VLAN filtering %t", b.STP, b.Delay, b.VLANs)
}

// lookBridging reads it from sysfs: the library has no word for the delay.
func (k *kernel) lookBridging(name string) (b Bridging, ok bool) {
	dir := filepath.Join(k.root, "sys/class/net", name, "bridge")
	stp, err1 := readNumber(filepath.Join(dir, "stp_state"))
	delay, err2 := readNumber(filepath.Join(dir, "forward_delay"))
	// A kernel that cannot filter has no such file.
	vlans, err3 := readNumber(filepath.Join(dir, "vlan_filtering"))
	if errors.Is(err3, os.ErrNotExist) {
		err3 = nil
	}
	return Bridging{stp != 0, delay, vlans != 0}, errors.Join(err1, err2, err3) == nil
}

func readNumber(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// setBridging tells a bridge how to forward. STP goes first, in a request of its own: only without it is a delay of
// nothing allowed, and of one request the kernel looks at the delay before (br_changelink, br_set_forward_delay).
func setBridging(index int, have, b Bridging) error {
	if have.VLANs != b.VLANs {
		value := []byte{0}
		if b.VLANs {
			value[0] = 1
		}
		if err := tellKind(KindBridge, index, nl.IFLA_BR_VLAN_FILTERING, value); err != nil {
			return err
		}
	}
	stp := uint32(0)
	if b.STP {
		stp = 1
	}
	if err := tellKind(KindBridge, index, nl.IFLA_BR_STP_STATE, nl.Uint32Attr(stp)); err != nil {
		return err
	}
	return tellKind(KindBridge, index, nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(uint32(b.Delay)))
}

// Attributes of the VLANs of bridges, linux/if_bridge.h: BRIDGE_VLANDB_*.
const (
	vlanEntry      = 1 // of RTM_NEWVLAN
	vlanEntryInfo  = 1 // of an entry: struct bridge_vlan_info
	vlanEntryRange = 2 // of an entry: the last VLAN of a range
)

// vlanMessage is the bytes of struct br_vlan_msg: family, reserved, and at 4 the ifindex.
const vlanMessage = 8

// lookVLANs fills in the VLANs of bridges and their ports. The dump is the kernel's own for VLANs (RTM_GETVLAN, since
// Linux 5.6), which cuts itself into messages; that of links does not, and fails for a port with thousands of them.
func (k *kernel) lookVLANs(all []Interface, place map[int]int) error {
	messages, err := dump(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETVLAN, unix.NLM_F_DUMP)
		req.AddRawData([]byte{unix.AF_BRIDGE, vlanMessage - 1: 0})
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWVLAN)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil // this kernel's bridges know no VLANs: what wants some fails to add them
	}
	if err != nil {
		return fmt.Errorf("listing VLANs of bridges: %w", err)
	}
	for _, m := range messages {
		if len(m) < vlanMessage {
			return fmt.Errorf("listing VLANs of bridges: a message of %d bytes", len(m))
		}
		i, known := place[int(binary.NativeEndian.Uint32(m[4:]))]
		list, err := parseVLANs(m[vlanMessage:])
		if err != nil {
			return fmt.Errorf("listing VLANs of bridges: %w", err)
		}
		if known {
			all[i].VLANs = append(all[i].VLANs, list...)
		}
	}
	for i := range all {
		all[i].VLANs = normal(all[i].VLANs)
	}
	return nil
}

func parseVLANs(b []byte) ([]VLANs, error) {
	var list []VLANs
	for entry, err := range attributes(b) {
		if err != nil {
			return nil, err
		}
		if entry.kind != vlanEntry {
			continue
		}
		var v VLANs
		for a, err := range attributes(entry.value) {
			if err != nil {
				return nil, err
			}
			switch {
			case a.kind == vlanEntryInfo && len(a.value) >= nl.SizeofBridgeVlanInfo:
				flags, id := binary.NativeEndian.Uint16(a.value), binary.NativeEndian.Uint16(a.value[2:])
				v.First, v.Last = int(id), max(v.Last, int(id))
				v.PVID = flags&nl.BRIDGE_VLAN_INFO_PVID != 0
				v.Untagged = flags&nl.BRIDGE_VLAN_INFO_UNTAGGED != 0
			case a.kind == vlanEntryRange && len(a.value) >= 2:
				v.Last = int(binary.NativeEndian.Uint16(a.value))
			}
		}
		if v.First < 1 || v.First > v.Last || v.Last > maxVLAN {
			return nil, fmt.Errorf("VLANs %d to %d", v.First, v.Last)
		}
		list = append(list, v)
	}
	return list, nil
}

// tellVLANs adds VLANs to a port or takes them away, all in one request: RTM_SETLINK or RTM_DELLINK.
func tellVLANs(command, index int, self bool, list []VLANs) error {
	req := nl.NewNetlinkRequest(command, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	whose := uint16(nl.BRIDGE_FLAGS_MASTER)
	if self {
		whose = nl.BRIDGE_FLAGS_SELF
	}
	spec.AddRtAttr(nl.IFLA_BRIDGE_FLAGS, nl.Uint16Attr(whose))
	for _, v := range list {
		var flags uint16
		if v.PVID {
			flags |= nl.BRIDGE_VLAN_INFO_PVID
		}
		if v.Untagged {
			flags |= nl.BRIDGE_VLAN_INFO_UNTAGGED
		}
		info := func(flags uint16, id int) {
			b := binary.NativeEndian.AppendUint16(nil, flags) // struct bridge_vlan_info
			spec.AddRtAttr(nl.IFLA_BRIDGE_VLAN_INFO, binary.NativeEndian.AppendUint16(b, uint16(id)))
		}
		if v.First == v.Last {
			info(flags, v.First)
			continue
		}
		info(flags|nl.BRIDGE_VLAN_INFO_RANGE_BEGIN, v.First)
		info(flags|nl.BRIDGE_VLAN_INFO_RANGE_END, v.Last)
	}
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
