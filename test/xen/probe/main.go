// Command probe is all of a small guest of Xen that a test looks at a firewall with, or at its own disk: it configures
// one NIC as the kernel's command line says, answers on TCP ports, and does what the host orders in xenstore.
//
//	probe.address=ADDRESS/LENGTH,... probe.gateway=ADDRESS,... probe.mtu=BYTES
//
// Orders stand at data/probe/order, "NUMBER VERB ARGUMENTS"; what became of them at data/probe/answer, "NUMBER WORDS".
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract/xenstore"
	"rempart/firstboot/power"
	"rempart/test/xen/early"
)

// Nodes of xenstore.
const (
	orderPath  = "data/probe/order"
	answerPath = "data/probe/answer"
)

func main() {
	// As /sbin/poweroff it is what the kernel calls when xl shutdown asks for an end (drivers/xen/manage.c).
	if filepath.Base(os.Args[0]) != "poweroff" {
		if err := run(); err != nil {
			fmt.Println("probe:", err)
		}
	}
	_ = power.Sent(os.Stdout)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // an init that ends takes the kernel with it
}

func run() error {
	if err := early.Begin(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	given := map[string]string{}
	for _, word := range strings.Fields(string(line)) {
		key, value, _ := strings.Cut(word, "=")
		given[key] = value
	}
	if given["probe.address"] != "" {
		if err := configure(given); err != nil {
			return err
		}
	}
	for _, port := range []string{":80", ":8080"} {
		listener, err := net.Listen("tcp", port)
		if err != nil {
			return err
		}
		go serve(listener)
	}
	return obey()
}

// configure gives the one NIC its addresses and routes.
func configure(given map[string]string) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	mtu, err := strconv.Atoi(given["probe.mtu"])
	if err != nil {
		return fmt.Errorf("probe.mtu: %w", err)
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("MTU %d: %w", mtu, err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	for _, text := range strings.Split(given["probe.address"], ",") {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD // nobody else is there
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
	}
	for _, text := range strings.Split(given["probe.gateway"], ",") {
		gateway, all := net.ParseIP(text), &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		if gateway.To4() == nil {
			all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: gateway}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route by %s: %w", text, err)
		}
	}
	return nil
}

// serve answers each connection with the digest of what came by it.
func serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, conn); err == nil {
				fmt.Fprintf(conn, "%x\n", sum.Sum(nil))
			}
		}()
	}
}

// obey carries out orders, one after the other.
func obey() error {
	f, err := os.OpenFile(xenstore.Device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	conn, ctx := xenstore.New(f), context.Background()
	if err := conn.Watch(ctx, orderPath, "order"); err != nil {
		return err
	}
	last := ""
	for range conn.Events() {
		b, err := conn.Now().Read(ctx, orderPath)
		words := strings.Fields(string(b))
		if err != nil || len(words) < 2 || words[0] == last {
			continue
		}
		last = words[0]
		said, err := carryOut(words[1:])
		if err != nil {
			said = "error: " + err.Error()
		}
		if err := conn.Now().Write(ctx, answerPath, []byte(last+" "+said)); err != nil {
			return err
		}
	}
	return xenstore.ErrClosed
}

func carryOut(words []string) (string, error) {
	switch {
	case words[0] == "there":
		return "yes", nil
	case words[0] == "dial" && len(words) == 4:
		bytes, err := strconv.Atoi(words[2])
		if err != nil {
			return "", err
		}
		seconds, err := strconv.Atoi(words[3])
		if err != nil {
			return "", err
		}
		return dial(words[1], bytes, time.Duration(seconds)*time.Second)
	case words[0] == "overwrite" && len(words) == 2:
		return overwrite(words[1])
	}
	return "", fmt.Errorf("unknown order %q", words)
}

// dial sends bytes and has their digest come back: "ok MSS" with the largest segment that was sent, or "silence".
func dial(to string, bytes int, patience time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp", to, patience)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "silence", nil
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	tcp := conn.(*net.TCPConn)
	if err := tcp.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return "", err
	}
	payload := make([]byte, bytes)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	if _, err := tcp.Write(payload); err != nil {
		return "", err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return "", err
	}
	var info *unix.TCPInfo
	if ctlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); ctlErr != nil || err != nil {
		return "", errors.Join(ctlErr, err)
	}
	if err := tcp.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(tcp)
	if err != nil {
		return "", err
	}
	if want := fmt.Sprintf("%x\n", sha256.Sum256(payload)); string(answer) != want {
		return "", fmt.Errorf("the digest that came back is %q; want %q", answer, want)
	}
	return "ok " + strconv.Itoa(int(info.Snd_mss)), nil
}

// overwrite tries to write a disk with all that root of a guest can do, and says how each way ended and whether the
// disk changed.
func overwrite(node string) (string, error) {
	const size = 4096
	read := func() ([32]byte, error) {
		f, err := os.Open(node)
		if err != nil {
			return [32]byte{}, err
		}
		defer f.Close()
		_ = unix.Fadvise(int(f.Fd()), 0, size, unix.FADV_DONTNEED)
		b := make([]byte, size)
		_, err = f.ReadAt(b, 0)
		return sha256.Sum256(b), err
	}
	before, err := read()
	if err != nil {
		return "", err
	}
	var said []string
	try := func(what string, do func() error) {
		word := "done"
		if err := do(); err != nil {
			word = strings.ReplaceAll(err.Error(), " ", "-")
		}
		said = append(said, what+"="+word)
	}
	try("unlock", func() error {
		f, err := os.Open(node)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 0)
	})
	for _, flags := range []int{os.O_RDWR, os.O_RDWR | unix.O_DIRECT} {
		try("write", func() error {
			f, err := os.OpenFile(node, flags|unix.O_SYNC, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			copy(page, "overwritten by the guest")
			_, err = f.WriteAt(page, 0)
			return errors.Join(err, f.Sync())
		})
	}
	after, err := read()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s changed=%v", strings.Join(said, " "), before != after), nil
}
