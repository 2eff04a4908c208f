package net

import (
	"bufio"
	"fmt"
	stdnet "net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"rempart/firstboot/filter/filtertest"
	"rempart/test/netns"
)

// An FTP client names an address and a port for the server to come to, or the server one for the client (RFC 959, PORT
// and PASV; RFC 2428, EPRT). Where a line or a forward asks for the helper, the other end reads an address it can reach
// and gets there; where none does, neither.
func TestHelperFTP(t *testing.T) {
	t.Parallel()
	p := filtertest.Translated()
	l := newLab(t, p)
	l.load(t, compile(t, p))
	for _, test := range []struct {
		what           string
		client, server string // "link address"
		dial           string
		port           uint16
		passive        bool
		helped         bool
		seen           string // the address the other end reads; empty: as it was written
	}{
		{"masqueraded", "in0 10.1.0.7", "up0 198.51.100.7", "198.51.100.7", 21, false, true, "203.0.113.2"},
		{"masqueraded, another port", "in0 10.1.0.7", "up0 198.51.100.7", "198.51.100.7", 2121, false, false, ""},
		{"untranslated", "in0 10.1.0.7", "srv0 10.2.0.7", "10.2.0.7", 21, false, true, ""},
		{"IPv6, another source", "in0 fd00:1::7", "up0 2001:db8::7", "2001:db8::7", 21, false, true, "2001:db8:1::3"},
		{"IPv6, another port", "in0 fd00:1::7", "up0 2001:db8::7", "2001:db8::7", 2121, false, false, ""},
		{"by a forward", "up0 198.51.100.7", "srv0 10.2.0.40", "203.0.113.2", 21, true, true, "203.0.113.2"},
	} {
		t.Run(test.what, func(t *testing.T) {
			client, server := l.at(t, test.client), l.at(t, test.server)
			own, at := addressOf(test.client), addressOf(test.server)
			to := netip.AddrPortFrom(netip.MustParseAddr(test.dial), test.port)
			near, far := dialFTP(t, client, own, to, listen(t, server, at, test.port))
			// Who names an address, and who comes there.
			host, guest, named, from := client, server, own, at
			if test.passive {
				host, guest, named, from, near, far = server, client, at, own, far, near
			}
			data := listen(t, host, named, 0)
			netns.Must(t, data.SetDeadline(time.Now().Add(patience)))
			came := make(chan error, 1)
			go func() {
				conn, err := data.Accept()
				if err == nil {
					conn.Close()
				}
				came <- err
			}()
			asked := netip.MustParseAddrPort(data.Addr().String())
			seen := announce(t, near, far, asked, test.passive)
			want := asked
			if test.seen != "" {
				want = netip.AddrPortFrom(netip.MustParseAddr(test.seen), seen.Port()) // the port may be another
			}
			if seen != want {
				t.Errorf("the other end reads %v; want %v", seen, want)
			}
			err := guest.Enter(func() error {
				d := stdnet.Dialer{Timeout: 3 * silence, LocalAddr: &stdnet.TCPAddr{IP: from.AsSlice()}}
				conn, err := d.Dial("tcp", seen.String())
				if err == nil {
					conn.Close()
				}
				return err
			})
			if got := err == nil; got != test.helped {
				t.Errorf("it reaches %v: %v; want %v", seen, err, test.helped)
			}
			if err != nil {
				data.Close() // nobody comes any more; who got here may still wait to be accepted
			}
			if err := <-came; (err == nil) != test.helped {
				t.Errorf("a data connection came: %v; want %v", err == nil, test.helped)
			}
		})
	}
}

func addressOf(place string) netip.Addr {
	return netip.MustParseAddr(place[strings.IndexByte(place, ' ')+1:])
}

func listen(t *testing.T, n *node, at netip.Addr, port uint16) *stdnet.TCPListener {
	t.Helper()
	var ln *stdnet.TCPListener
	n.In(t, func() (err error) {
		ln, err = stdnet.ListenTCP("tcp", stdnet.TCPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
		return err
	})
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// dialFTP makes a control connection and returns both its ends.
func dialFTP(t *testing.T, client *node, own netip.Addr, to netip.AddrPort,
	ln *stdnet.TCPListener) (near, far stdnet.Conn) {
	t.Helper()
	client.In(t, func() (err error) {
		d := stdnet.Dialer{Timeout: patience, LocalAddr: &stdnet.TCPAddr{IP: own.AsSlice()}}
		near, err = d.Dial("tcp", to.String())
		return err
	})
	far, err := ln.Accept()
	netns.Must(t, err)
	for _, conn := range []stdnet.Conn{near, far} {
		t.Cleanup(func() { _ = conn.Close() })
		netns.Must(t, conn.SetDeadline(time.Now().Add(patience)))
	}
	return near, far
}

var forms = map[bool]*regexp.Regexp{
	true:  regexp.MustCompile(`^227 Entering Passive Mode \((\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\)\r\n$`),
	false: regexp.MustCompile(`^PORT (\d+),(\d+),(\d+),(\d+),(\d+),(\d+)\r\n$`),
}

// announce writes an address for data connections on one end and returns what the other end reads. A line goes before
// it: the kernel looks for addresses at the beginning of lines only, and a first line it has not seen the beginning of.
func announce(t *testing.T, near, far stdnet.Conn, data netip.AddrPort, passive bool) netip.AddrPort {
	t.Helper()
	reader := bufio.NewReader(far)
	say := func(format string, args ...any) string {
		fmt.Fprintf(near, format+"\r\n", args...)
		line, err := reader.ReadString('\n')
		netns.Must(t, err)
		return line
	}
	say("%s", map[bool]string{true: "220 ready", false: "USER anonymous"}[passive])
	if data.Addr().Is6() {
		line := say("EPRT |2|%s|%d|", data.Addr(), data.Port())
		m := regexp.MustCompile(`^EPRT \|2\|([^|]+)\|(\d+)\|\r\n$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("the other end reads %q", line)
		}
		return netip.MustParseAddrPort("[" + m[1] + "]:" + m[2])
	}
	b := data.Addr().As4()
	form := "PORT %d,%d,%d,%d,%d,%d"
	if passive {
		form = "227 Entering Passive Mode (%d,%d,%d,%d,%d,%d)"
	}
	line := say(form, b[0], b[1], b[2], b[3], data.Port()>>8, data.Port()&0xff)
	m := forms[passive].FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the other end reads %q", line)
	}
	var n [6]byte
	for i := range n {
		v, err := strconv.ParseUint(m[i+1], 10, 8)
		netns.Must(t, err)
		n[i] = byte(v)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(n[:4])), uint16(n[4])<<8|uint16(n[5]))
}
