package admin

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/admin/pcap"
	"rempart/firstboot/contract/ctl"
)

// Bounds of a capture.
const (
	captureCount   = 1000
	captureSeconds = 60
	mostCaptured   = 1_000_000
	mostSeconds    = 3600
	captureQueue   = 1 << 20 // bytes the kernel keeps for us; what does not fit is counted
)

// sshPort is that of the guest's own SSH, whose packets carry the capture itself.
const sshPort = 22

// runCapture writes what passes a link to standard output, in libpcap's format.
func runCapture(ctx context.Context, d *desk, r ctl.Request) error {
	flags := flag.NewFlagSet(r.Args[0], flag.ContinueOnError)
	count := flags.Int("count", captureCount, "packets")
	seconds := flags.Int("seconds", captureSeconds, "how long")
	host := flags.String("host", "", "only to or from this address")
	port := flags.Uint("port", 0, "only to or from this port")
	words, err := parseWords(r, flags)
	if err != nil {
		return err
	}
	var filter pcap.Filter
	switch {
	case len(words) != 1:
		return usageError{errors.New("want the name of one link")}
	case *count < 1 || *count > mostCaptured:
		return usageError{fmt.Errorf("--count %d: want 1 to %d", *count, mostCaptured)}
	case *seconds < 1 || *seconds > mostSeconds:
		return usageError{fmt.Errorf("--seconds %d: want 1 to %d", *seconds, mostSeconds)}
	case *port > 65535:
		return usageError{fmt.Errorf("--port %d: want 1 to 65535", *port)}
	}
	if *host != "" {
		if filter.Host, err = netip.ParseAddr(*host); err != nil {
			return usageError{fmt.Errorf("--host %.64q is no address", *host)}
		}
	}
	filter.Port = uint16(*port)
	if r.Since != 0 && filter.Port != sshPort {
		filter.Not = sshPort
		fmt.Fprintln(r.Stderr, "leaving out SSH, by which this goes; --port 22 shows it")
	}
	link, err := netlink.LinkByName(words[0])
	if err != nil {
		return fmt.Errorf("there is no link %.32q; `links` lists them", words[0])
	}
	d.log.Info("capture", "link", words[0], "count", *count, "seconds", *seconds)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*seconds)*time.Second)
	defer cancel()
	return capture(ctx, r, link, filter, *count)
}

// capture copies packets until there are enough, or ctx is done.
func capture(ctx context.Context, r ctl.Request, link netlink.Link, filter pcap.Filter, count int) error {
	kind := uint32(pcap.Ethernet)
	switch link.Attrs().EncapType {
	case "ether", "loopback":
	case "none": // a tunnel
		kind = pcap.Raw
	default:
		return fmt.Errorf("link %s carries %s, which is not captured", link.Attrs().Name, link.Attrs().EncapType)
	}
	s, err := openTap(link.Attrs().Index)
	if err != nil {
		return err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(time.Now()) })()
	w, err := pcap.NewWriter(r.Stdout, kind)
	if err != nil {
		return err
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	t := &tap{raw: raw, frame: make([]byte, pcap.SnapLen), oob: make([]byte, unix.CmsgSpace(auxBytes))}
	n := 0
	for n < count {
		frame, length, err := t.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if errors.Is(err, unix.ENETDOWN) {
			continue // the link may come up again
		}
		if err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		if !filter.Match(kind, frame) {
			continue
		}
		if err := w.Write(time.Now(), frame, length); err != nil {
			return err
		}
		n++
	}
	fmt.Fprintf(r.Stderr, "%d packets%s\n", n, t.lost())
	return nil
}

// openTap opens a socket that sees all packets of a link (packet(7)).
func openTap(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureQueue),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
