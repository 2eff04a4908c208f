package admin

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract/ctl"
)

// flowRow is a connection the kernel tracks, as JSON has it.
type flowRow struct {
	Protocol string `json:"protocol"`
	From     string `json:"from"`
	To       string `json:"to"`
	Answers  string `json:"answers"` // whom answers come from and go to: another than From and To, with NAT
	Seconds  uint32 `json:"seconds"` // left until it is forgotten
	Packets  uint64 `json:"packets"` // both ways; 0 unless the kernel counts
	Bytes    uint64 `json:"bytes"`
}

// flow is the same while there may be many of them.
type flow struct {
	original, reply tuple
	packets, bytes  uint64
	seconds         uint32
}

// tuple is one direction of a connection.
type tuple struct {
	from, to         netip.Addr
	fromPort, toPort uint16 // 0: the protocol has none
	protocol         uint8
}

// Pieces of a long answer: how many rows are put in columns together.
const rowsTogether = 1000

// runConntrack lists connections. A guest of 96 MB may have 50,000: they are looked at one by one as the kernel tells
// them, and no more are kept than are shown.
func runConntrack(_ context.Context, _ *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	var flows []flow
	all := 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		kept, before := flows, all
		_, err := dumped(func() (int, error) {
			flows, all = kept, before // a dump that was interrupted begins anew
			return 0, eachFlow(family, func(f flow) {
				if all++; len(flows) < maxRows {
					flows = append(flows, f)
				}
			})
		})
		if err != nil {
			return fmt.Errorf("connections: %w", err)
		}
	}
	if all > len(flows) {
		fmt.Fprintf(r.Stderr, "%d of %d connections\n", len(flows), all)
	}
	slices.SortFunc(flows, func(a, b flow) int {
		return cmp.Or(a.original.from.Compare(b.original.from), cmp.Compare(a.original.fromPort, b.original.fromPort),
			a.original.to.Compare(b.original.to), cmp.Compare(a.original.toPort, b.original.toPort))
	})
	if *asJSON {
		return flowsAsJSON(r.Stdout, flows)
	}
	head := "PROTOCOL\tFROM\tTO\tANSWERS FROM, TO\tSECONDS\tBYTES"
	for first := 0; first == 0 || first < len(flows); first += rowsTogether {
		piece := flows[first:min(first+rowsTogether, len(flows))]
		if err := table(r.Stdout, piece, head, func(x flow) string {
			f := x.row()
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%d", f.Protocol, f.From, f.To, f.Answers, f.Seconds, f.Bytes)
		}); err != nil {
			return err
		}
		head = ""
	}
	return nil
}

// flowsAsJSON writes one array, a row at a time.
func flowsAsJSON(w io.Writer, flows []flow) error {
	before := "[\n  "
	for _, f := range flows {
		b, err := json.Marshal(f.row())
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s", before, b); err != nil {
			return err
		}
		before = ",\n  "
	}
	end := "\n]\n"
	if len(flows) == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

func (f flow) row() flowRow {
	return flowRow{Protocol: protocolName(f.original.protocol), From: end(f.original.from, f.original.fromPort),
		To:      end(f.original.to, f.original.toPort),
		Answers: end(f.reply.from, f.reply.fromPort) + " " + end(f.reply.to, f.reply.toPort),
		Seconds: f.seconds, Packets: f.packets, Bytes: f.bytes}
}

func end(a netip.Addr, port uint16) string {
	switch {
	case !a.IsValid():
		return "?"
	case port == 0:
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

func protocolName(n uint8) string {
	switch n {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(n))
}

// eachFlow asks the kernel for the connections of a family and hands over each as it comes.
func eachFlow(family uint8, take func(flow)) error {
	req := nl.NewNetlinkRequest(int(netlink.ConntrackTable)<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		if f, ok := parseFlow(message); ok {
			take(f)
		}
		return true
	})
}

// Attributes of a connection, <linux/netfilter/nfnetlink_conntrack.h>.
const (
	ctTupleOriginal, ctTupleReply       = 1, 2
	ctTimeout                           = 7
	ctCountersOriginal, ctCountersReply = 9, 10

	ctTupleIP, ctTupleProto = 1, 2

	ctIPv4Source, ctIPv4Destination, ctIPv6Source, ctIPv6Destination = 1, 2, 3, 4

	ctProtoNumber, ctProtoSourcePort, ctProtoDestinationPort = 1, 2, 3

	ctCounterPackets, ctCounterBytes = 1, 2
)

// Of an attribute (<linux/netlink.h>): its header, its alignment, and the bits of its type that say more.
const (
	attrHeader = 4
	attrAlign  = 4
	attrFlags  = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
	genHeader  = 4 // struct nfgenmsg, before the attributes
)

// attributes walks over a message; what is no attribute ends it.
func attributes(b []byte, take func(kind uint16, value []byte)) bool {
	for len(b) >= attrHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < attrHeader || size > len(b) {
			return false
		}
		take(binary.NativeEndian.Uint16(b[2:])&^attrFlags, b[attrHeader:size])
		b = b[min(len(b), (size+attrAlign-1)&^(attrAlign-1)):]
	}
	return len(b) == 0
}

// parseFlow reads what the kernel says about one connection; false: it is none.
func parseFlow(message []byte) (f flow, ok bool) {
	if len(message) < genHeader {
		return f, false
	}
	ok = attributes(message[genHeader:], func(kind uint16, b []byte) {
		switch kind {
		case ctTupleOriginal:
			f.original = parseTuple(b)
		case ctTupleReply:
			f.reply = parseTuple(b)
		case ctTimeout:
			f.seconds = uint32(number(b, 4))
		case ctCountersOriginal, ctCountersReply:
			attributes(b, func(kind uint16, b []byte) {
				switch kind {
				case ctCounterPackets:
					f.packets += number(b, 8)
				case ctCounterBytes:
					f.bytes += number(b, 8)
				}
			})
		}
	})
	return f, ok && f.original.from.IsValid() && f.original.to.IsValid()
}

func parseTuple(b []byte) (t tuple) {
	attributes(b, func(kind uint16, b []byte) {
		switch kind {
		case ctTupleIP:
			attributes(b, func(kind uint16, b []byte) {
				a, ok := netip.AddrFromSlice(b)
				switch {
				case !ok:
				case kind == ctIPv4Source || kind == ctIPv6Source:
					t.from = a
				case kind == ctIPv4Destination || kind == ctIPv6Destination:
					t.to = a
				}
			})
		case ctTupleProto:
			attributes(b, func(kind uint16, b []byte) {
				switch kind {
				case ctProtoNumber:
					t.protocol = uint8(number(b, 1))
				case ctProtoSourcePort:
					t.fromPort = uint16(number(b, 2))
				case ctProtoDestinationPort:
					t.toPort = uint16(number(b, 2))
				}
			})
		}
	})
	return t
}

// number is a big-endian one of so many bytes; 0: it is not.
func number(b []byte, size int) (n uint64) {
	if len(b) != size {
		return 0
	}
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}
