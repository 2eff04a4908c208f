package dns_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// malformed is a packet that is no ordinary query, and what may be said to it: words of RCODEs, "" for silence, which
// by TCP is the end of the connection.
type malformed struct {
	name   string
	packet []byte
	want   string
}

// corpus are packets as scanners, broken stubs and attackers send them.
func corpus() []malformed {
	question := []byte("\x03www\x07example\x00\x00\x01\x00\x01")
	header := func(flags uint16, counts ...uint16) []byte {
		b := binary.BigEndian.AppendUint16(nil, 0) // the id is put in when it is sent
		b = binary.BigEndian.AppendUint16(b, flags)
		for _, c := range counts {
			b = binary.BigEndian.AppendUint16(b, c)
		}
		return b
	}
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	const rd = 0x0100
	one := header(rd, 1, 0, 0, 0)
	withOPT := header(rd, 1, 0, 0, 1)
	opt := func(size uint16, ttl string, length uint16, data string) []byte {
		b := binary.BigEndian.AppendUint16([]byte{0, 0, 41}, size)
		b = append(b, ttl...)
		return append(binary.BigEndian.AppendUint16(b, length), data...)
	}
	const plain = "\x00\x00\x00\x00"
	record := []byte("\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x42")
	types := func(qtype, class uint16) []byte {
		b := binary.BigEndian.AppendUint16([]byte("\x03www\x07example\x00"), qtype)
		return binary.BigEndian.AppendUint16(b, class)
	}
	long := strings.Repeat("\x3f"+strings.Repeat("a", 63), 4) + "\x00" // 257 bytes
	all := []malformed{
		{"an id and nothing else", []byte{0, 0}, ""}, {"eleven bytes of a header", one[:11], ""},
		{"a header alone", one, "FORMERR"}, {"a header that asks nothing", header(rd, 0, 0, 0, 0), "FORMERR"},
		{"a name cut within a label", join(one, question[:2]), "FORMERR"},
		{"a name cut between labels", join(one, question[:4]), "FORMERR"},
		{"a name without type", join(one, question[:13]), "FORMERR"},
		{"a type cut in two", join(one, question[:14]), "FORMERR"},
		{"a class cut in two", join(one, question[:16]), "FORMERR"},
		{"a pointer to itself", join(one, []byte("\xc0\x0c\x00\x01\x00\x01")), "FORMERR"},
		{"a pointer to the one before, which leads back", join(one, []byte("\x01a\xc0\x10\xc0\x0c\x00\x01\x00\x01")),
			"FORMERR"},
		{"a pointer forward", join(one, []byte("\xc0\x12\x00\x01\x00\x01\x03www\x00")), "FORMERR"},
		{"a pointer out of the packet", join(one, []byte("\xff\xff\x00\x01\x00\x01")), "FORMERR"},
		{"a pointer into the header", join(one, []byte("\xc0\x00\x00\x01\x00\x01")), "FORMERR"},
		{"half a pointer", join(one, []byte("\xc0")), "FORMERR"},
		{"a label of 64 bytes", join(one, []byte("\x40"+strings.Repeat("a", 64)+"\x00\x00\x01\x00\x01")), "FORMERR"},
		{"a label of a reserved kind", join(one, []byte("\x80a\x00\x00\x01\x00\x01")), "FORMERR"},
		{"a bit string label (RFC 2673)", join(one, []byte("\x41\x08\xff\x00\x00\x01\x00\x01")), "FORMERR"},
		{"a name of 257 bytes", join(one, []byte(long), []byte("\x00\x01\x00\x01")), "FORMERR"},
		{"every count at its end", join(header(rd, 65535, 65535, 65535, 65535), question), "FORMERR"},
		{"two questions (RFC 9619)", join(header(rd, 2, 0, 0, 0), question, question), "FORMERR"},
		{"an answer in a query", join(header(rd, 1, 1, 0, 0), question, record), "FORMERR"},
		{"an authority in a query", join(header(rd, 1, 0, 1, 0), question, record), "FORMERR"},
		{"an address as additional record", join(header(rd, 1, 0, 0, 1), question, record), "FORMERR"},
		{"an answer that is announced and not there", join(header(rd, 1, 1, 0, 0), question), "FORMERR"},
		{"bytes after the message", join(one, question, []byte("GET / HTTP/1.1\r\n\r\n")), "FORMERR"},
		{"an answer, which nobody asked for", join(header(0x8180, 1, 1, 0, 0), question, record), ""},
		{"a cut answer", join(header(0x8380, 1, 0, 0, 0), question), ""},
		{"a query that is cut (TC)", join(header(rd|0x0200, 1, 0, 0, 0), question), "FORMERR"},
		{"a query with an RCODE", join(header(rd|0x0003, 1, 0, 0, 0), question), "FORMERR"},
		{"a query that is authoritative (AA)", join(header(rd|0x0400, 1, 0, 0, 0), question), "NOERROR"},
		{"a query with the reserved bit", join(header(rd|0x0040, 1, 0, 0, 0), question), "NOERROR"},
		{"EDNS of version 1", join(withOPT, question, opt(1232, "\x00\x01\x00\x00", 0, "")), "BADVERS"},
		{"EDNS of version 255", join(withOPT, question, opt(1232, "\x00\xff\x00\x00", 0, "")), "BADVERS"},
		{"EDNS with an extended RCODE", join(withOPT, question, opt(1232, "\x01\x00\x00\x00", 0, "")), "FORMERR"},
		{"EDNS for 0 bytes", join(withOPT, question, opt(0, plain, 0, "")), "NOERROR"},
		{"EDNS for 65535 bytes", join(withOPT, question, opt(65535, plain, 0, "")), "NOERROR"},
		{"EDNS with reserved flags", join(withOPT, question, opt(1232, "\x00\x00\x7f\xff", 0, "")), "NOERROR"},
		{"EDNS twice", join(header(rd, 1, 0, 0, 2), question, opt(1232, plain, 0, ""), opt(512, plain, 0, "")), "FORMERR"},
		{"EDNS of another name than the root", join(withOPT, question, []byte("\x01a"), opt(1232, plain, 0, "")), "FORMERR"},
		{"EDNS among the answers", join(header(rd, 1, 1, 0, 0), question, opt(1232, plain, 0, "")), "FORMERR"},
		{"EDNS longer than the packet", join(withOPT, question, opt(1232, plain, 65535, "")), "FORMERR"},
		{"EDNS shorter than it says", join(withOPT, question, opt(1232, plain, 2, "\x00\x0a\x00\x00")), "FORMERR"},
		{"half an option", join(withOPT, question, opt(1232, plain, 3, "\x00\x0a\x00")), "FORMERR"},
		{"an option longer than its record", join(withOPT, question, opt(1232, plain, 4, "\xff\xfe\xff\xff")), "FORMERR"},
		{"an option nobody knows", join(withOPT, question, opt(1232, plain, 6, "\xff\xfe\x00\x02ab")), "NOERROR"},
		{"a cookie of 7 bytes", join(withOPT, question, opt(1232, plain, 11, "\x00\x0a\x00\x071234567")), "FORMERR"},
		{"a cookie of 41 bytes", join(withOPT, question, opt(1232, plain, 45, "\x00\x0a\x00\x29"+strings.Repeat("c", 41))),
			"FORMERR"},
		{"a cookie twice", join(withOPT, question, opt(1232, plain, 24, strings.Repeat("\x00\x0a\x00\x0812345678", 2))),
			"FORMERR"},
		{"a server's cookie that is none of ours", join(withOPT, question, opt(1232, plain, 28, "\x00\x0a\x00\x18"+
			strings.Repeat("c", 24))), "NOERROR"},
		{"a subnet of the client's", join(withOPT, question, opt(1232, plain, 11,
			"\x00\x08\x00\x07\x00\x01\x18\x00\x0a\x0a\x0a")),
			"NOERROR"},
		{"a subnet of no family", join(withOPT, question, opt(1232, plain, 8, "\x00\x08\x00\x04\xff\xff\xff\xff")),
			"NOERROR"},
		{"a signature (TSIG) of a key nobody has", join(withOPT, question, []byte("\x01k\x00\x00\xfa\x00\xff\x00\x00\x00\x00"+
			"\x00\x00")), "FORMERR"},
		{"of class CHAOS", join(one, types(16, 3)), "REFUSED"}, {"of class NONE", join(one, types(1, 254)), "REFUSED"},
		{"of class ANY", join(one, types(1, 255)), "REFUSED"}, {"of class 0", join(one, types(1, 0)), "REFUSED"},
		{"for everything (ANY)", join(one, types(255, 1)), "NOERROR"},
		{"for a zone (AXFR)", join(one, types(252, 1)), "REFUSED"},
		{"for the changes of a zone (IXFR)", join(one, types(251, 1)), "REFUSED"},
		{"for mailboxes (MAILB)", join(one, types(253, 1)), "REFUSED"},
		{"for mail agents (MAILA)", join(one, types(254, 1)), "REFUSED"},
		{"for the root", join(one, []byte("\x00\x00\x01\x00\x01")), "NOERROR NXDOMAIN SERVFAIL"},
		{"for a name of nothing but dots and zeros", join(one, []byte("\x03.\x00.\x07example\x00\x00\x01\x00\x01")),
			"NXDOMAIN"},
		{"something else: HTTP", []byte("  GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "NOTIMP FORMERR"},
		{"something else: zeros", make([]byte, 100), "FORMERR"},
		{"something else: ones", append([]byte{0, 0}, []byte(strings.Repeat("\xff", 100))...), ""},
	}
	for opcode := uint16(1); opcode < 16; opcode++ {
		all = append(all, malformed{fmt.Sprintf("opcode %d", opcode), join(header(rd|opcode<<11, 1, 0, 0, 0), question),
			"NOTIMP"})
	}
	return all
}

// rcodes are words for those that may come (RFC 1035 4.1.1, RFC 6891 9).
var rcodes = map[int]string{0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED",
	16: "BADVERS"}

// rcodeOf is the word of an answer, with what an OPT record at its end adds to the RCODE.
func rcodeOf(answer []byte) string {
	code := int(answer[3] & 0xf)
	if n := len(answer); n >= 23 && answer[11] == 1 && answer[n-11] == 0 && answer[n-10] == 0 && answer[n-9] == 41 {
		code |= int(answer[n-6]) << 4
	}
	return rcodes[code]
}

// right tells what is wrong with an answer to a packet; empty: nothing.
func (m malformed) right(answer []byte) string {
	switch word := rcodeOf(answer); {
	case len(answer) < 12 || answer[2]&0x80 == 0:
		return fmt.Sprintf("% x is no answer", answer)
	case m.want == "":
		return word + "; want silence"
	case word == "" || !strings.Contains(" "+m.want+" ", " "+word+" "):
		return word + "; want " + m.want
	case answer[2]&0x78 != m.packet[2]&0x78:
		return "another opcode"
	}
	return ""
}

// TestCorpus replays the corpus against the running service by UDP, by TCP and by TLS: each packet is answered as it
// may be or not at all, and who asks for something is served throughout.
func TestCorpus(t *testing.T) {
	l := newLab(t)
	l.unbound(upstreamA, records...)
	l.certified()
	all := corpus()
	l.client.In(t, func() error { return replayPackets(t, all) })
	for name, dial := range map[string]func() (net.Conn, error){
		"TCP": func() (net.Conn, error) { return net.DialTimeout("tcp", gatewayAddr+":53", patience) },
		"TLS": func() (net.Conn, error) {
			return tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", gatewayAddr+":853",
				&tls.Config{InsecureSkipVerify: true})
		}} {
		l.client.In(t, func() error {
			for _, m := range all {
				conn, err := dial()
				if err != nil {
					return fmt.Errorf("%s after %s: %w", name, m.name, err)
				}
				answer, err := m.over(conn)
				conn.Close()
				switch {
				case errors.Is(err, io.EOF) && m.want == "":
				case err != nil:
					t.Errorf("by %s, %s: %v; want %q", name, m.name, err, m.want)
				default:
					if wrong := m.right(answer); wrong != "" {
						t.Errorf("by %s, %s: %s", name, m.name, wrong)
					}
				}
			}
			return nil
		})
	}
	for _, how := range []string{"+notcp", "+tcp"} {
		if got := l.short(how, "www.example"); got != "203.0.113.80" {
			t.Errorf("afterwards, %s: %q", how, got)
		}
	}
}

// over sends the packet by a connection and returns what comes back; io.EOF: the connection ended.
func (m malformed) over(conn net.Conn) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	// At once: who gets but a length waits for the rest.
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m.packet))), m.packet...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		if !errors.Is(err, io.EOF) && strings.Contains(err.Error(), "connection reset") {
			err = io.EOF // it ended with our bytes unread
		}
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(conn, answer)
	return answer, err
}

// replayPackets sends the packets by UDP until all that are to be answered are: answers to what is no query are few a
// second (ISC-TN-2012-1), and silence is judged when all others have spoken.
func replayPackets(t *testing.T, all []malformed) error {
	conn, err := net.Dial("udp", gatewayAddr+":53")
	if err != nil {
		return err
	}
	defer conn.Close()
	pending, answer := map[int]bool{}, make([]byte, 65536)
	for i, m := range all {
		if m.want != "" {
			pending[i] = true
		}
		m.packet = binary.BigEndian.AppendUint16(nil, uint16(i))
		if _, err := conn.Write(append(m.packet, all[i].packet[2:]...)); err != nil {
			return err
		}
	}
	for end := time.Now().Add(3 * patience); len(pending) > 0; {
		if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		n, err := conn.Read(answer)
		if err != nil { // for now: those that are missing once more
			if time.Now().After(end) {
				for i := range pending {
					t.Errorf("by UDP, %s: silence; want %s", all[i].name, all[i].want)
				}
				return nil
			}
			for i := range pending {
				again := binary.BigEndian.AppendUint16(nil, uint16(i))
				if _, err := conn.Write(append(again, all[i].packet[2:]...)); err != nil {
					return err
				}
			}
			continue
		}
		i := len(all)
		if n >= 12 {
			i = int(binary.BigEndian.Uint16(answer))
		}
		if i >= len(all) {
			t.Errorf("by UDP, an answer to nothing that was asked: % x", answer[:n])
			continue
		}
		if wrong := all[i].right(answer[:n]); wrong != "" {
			t.Errorf("by UDP, %s: %s", all[i].name, wrong)
		}
		if sent := len(all[i].packet); n > 3*sent+64 {
			t.Errorf("by UDP, %s: %d bytes are answered with %d", all[i].name, sent, n)
		}
		delete(pending, i)
	}
	return nil
}
