// Package hostile is a corpus of packets that are wrong, for servers that run: what an attacker, or a broken device,
// sends to those who give out addresses. They are the same in each run.
//
// What it deliberately does not do: judge. Whoever replays it looks whether the server goes on serving.
package hostile

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// mangled are packets cut at every byte, with every byte changed, and with some added.
func mangled(whole ...[]byte) (all [][]byte) {
	random := rand.New(rand.NewPCG(4, 6))
	for _, b := range whole {
		for i := range b {
			all = append(all, b[:i])
			for _, v := range []byte{0, 0xff, b[i] ^ 1<<random.IntN(8)} {
				changed := bytes.Clone(b)
				changed[i] = v
				all = append(all, changed)
			}
		}
		all = append(all, append(bytes.Clone(b), b...), append(bytes.Clone(b), make([]byte, 64)...))
	}
	return all
}

// The fixed part of a DHCP message, RFC 2131 section 2, and where its fields are.
const (
	fixed4 = 236
	hlen4  = 2
	hops4  = 3
	giaddr = 24
	sname  = 44
	file   = 108
	cookie = "\x63\x82\x53\x63"
)

// dhcp4 is a message of a client with the given options.
func dhcp4(options string, edits ...func([]byte)) []byte {
	b := make([]byte, fixed4)
	copy(b, "\x01\x01\x06\x00\x12\x34\x56\x78")
	copy(b[28:], "\x02\x66\x6f\x65\x00\x01") // chaddr
	b = append(b, cookie+options...)
	for _, edit := range edits {
		edit(b)
	}
	return b
}

// DHCP4 are messages to a DHCPv4 server.
func DHCP4() [][]byte {
	const discover, request, end = "\x35\x01\x01", "\x35\x01\x03", "\xff"
	full := func(n int) string { return string(bytes.Repeat([]byte{0xfe}, n)) }
	at := func(i int, text string) func([]byte) { return func(b []byte) { copy(b[i:], text) } }
	all := [][]byte{
		{}, {1}, make([]byte, fixed4), make([]byte, fixed4+4), bytes.Repeat([]byte{0xff}, 1400),
		dhcp4(""), dhcp4(end), dhcp4("\x00\x00\x00"), dhcp4(discover), // no end
		dhcp4("\x35\x00" + end), dhcp4("\x35\x02\x01\x01" + end), dhcp4("\x35\x01\x00" + end), dhcp4("\x35\x01\xff" + end),
		dhcp4("\x35"), dhcp4("\x35\xff\x01"), dhcp4(discover + "\x32\xff"), dhcp4(discover + discover + request + end),
		// Options that mean an address, a list, a size or a name, with lengths and values that are none.
		dhcp4(discover + "\x32\x03\x0a\x00\x00" + end), dhcp4(discover + "\x32\x04\xff\xff\xff\xff" + end),
		dhcp4(discover + "\x32\x04\x00\x00\x00\x00" + end), dhcp4(request + "\x36\x00" + end),
		dhcp4(request + "\x36\x04\xe0\x00\x00\x01" + end), dhcp4(discover + "\x37\x00" + end),
		dhcp4(discover + "\x37\xff" + full(255) + end), dhcp4(discover + "\x39\x02\x00\x00" + end),
		dhcp4(discover + "\x39\x02\xff\xff" + end), dhcp4(discover + "\x39\x01\x02" + end),
		dhcp4(discover + "\x3d\x00" + end), dhcp4(discover + "\x3d\x01\x00" + end),
		dhcp4(discover + "\x3d\xff" + full(255) + end),
		dhcp4(discover + "\x33\x04\xff\xff\xff\xff" + end), dhcp4(discover + "\x33\x00" + end),
		dhcp4(discover + "\x0c\x00" + end), dhcp4(discover + "\x0c\xff" + full(255) + end),
		dhcp4(discover + "\x0c\x08a\x00b\nc;d\"" + end), dhcp4(discover + "\x0c\x05....." + end),
		dhcp4(discover + "\x51\x03\x00\x00\x00" + end), dhcp4(discover + "\x51\x05\x04\x00\x00\xc0\x00" + end),
		dhcp4(discover + "\x51\x06\x04\x00\x00\x3fab" + end), dhcp4(discover + "\x3c\x00" + end),
		dhcp4(discover + "\x4d\x03\xffab" + end), dhcp4(discover + "\x4d\x04\x00\x00\x00\x00" + end),
		dhcp4(discover + "\x5d\x01\x00" + end), dhcp4(discover + "\x52\x02\x01\xff" + end),
		dhcp4(discover + "\x52\x00" + end), dhcp4(discover + "\x52\x06\x01\x04\x0a\x00\x00\x09\x05" + end),
		// Overloaded fields (option 52) that do not end, and that send on to each other.
		dhcp4(discover+"\x34\x01\x03"+end, at(sname, full(64)), at(file, full(128))),
		dhcp4(discover+"\x34\x01\x01"+end, at(file, "\x34\x01\x03\x35\x01\x07")), dhcp4(discover + "\x34\x01\x07" + end),
		dhcp4(discover + "\x34\x00" + end), dhcp4("\x34\x01\x02"+end, at(sname, "\x35\x01\x01\xff")),
		// An option in many parts, RFC 3396.
		dhcp4(discover + string(bytes.Repeat([]byte("\x0c\x01a"), 380)) + end),
		dhcp4(discover + string(bytes.Repeat([]byte("\x2b\xff"+full(255)), 5)) + end),
		// The fixed part.
		dhcp4(discover+end, at(0, "\x02")), dhcp4(discover+end, at(0, "\x00")), dhcp4(discover+end, at(1, "\x00")),
		dhcp4(discover+end, at(hlen4, "\x00")), dhcp4(discover+end, at(hlen4, "\x10")),
		dhcp4(discover+end, at(hlen4, "\x11")),
		dhcp4(discover+end, at(hlen4, "\xff")), dhcp4(discover+end, at(hops4, "\xff")),
		dhcp4(discover+end, at(giaddr, "\xff\xff\xff\xff")), dhcp4(discover+end, at(giaddr, "\x7f\x00\x00\x01")),
		dhcp4(discover+end, at(giaddr, "\x0a\x00\x00\x01")), dhcp4(discover+end, at(giaddr, "\xe0\x00\x00\x01")),
		dhcp4(request+end, at(12, "\xe0\x00\x00\x01")), dhcp4(request+end, at(12, "\x0a\x00\x00\x01")),
		dhcp4(discover+end, at(28, "\xff\xff\xff\xff\xff\xff")), dhcp4(discover+end, at(28, "\x00\x00\x00\x00\x00\x00")),
		dhcp4("\x35\x01\x04"+end, at(12, "\x0a\x00\x00\x01")), dhcp4("\x35\x01\x07"+end, at(12, "\x0a\x00\x00\x01")),
	}
	whole := dhcp4(discover + "\x32\x04\x0a\x00\x00\x64\x37\x03\x01\x03\x06\x39\x02\x05\xdc\x3d\x07\x01\x02foe\x00\x01" +
		"\x0c\x03foe\x51\x06\x04\x00\x00\x03foe\x52\x06\x01\x04port" + end)
	return append(all, mangled(whole, dhcp4(request+"\x32\x04\x0a\x00\x00\x64\x36\x04\x0a\x00\x00\x01"+end))...)
}

// option6 is an option of DHCPv6, RFC 8415 section 21.1; said is the length it claims, or less than 0 for the true one.
func option6(code uint16, said int, value string) string {
	if said < 0 {
		said = len(value)
	}
	b := binary.BigEndian.AppendUint16(nil, code)
	return string(binary.BigEndian.AppendUint16(b, uint16(said))) + value
}

// DHCP6 are messages to a DHCPv6 server.
func DHCP6() [][]byte {
	const (
		client, server, na, ta, addr, oro, elapsed, relayMsg = 1, 2, 3, 4, 5, 6, 8, 9
		status, rapid, pd, prefix, fqdn, linkLayer           = 13, 14, 25, 26, 39, 79
		relay                                                = "\x0c"
	)
	duid := option6(client, -1, "\x00\x03\x00\x01\x02foe\x00\x01")
	message := func(kind byte, options string) []byte { return append([]byte{kind, 1, 2, 3}, options...) }
	ia := func(inner string) string {
		return option6(na, -1, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"+inner)
	}
	relayed := func(b []byte) []byte {
		return append([]byte(relay+"\x00"+string(make([]byte, 32))), option6(relayMsg, -1, string(b))...)
	}
	all := [][]byte{{}, {1}, {1, 2, 3}, bytes.Repeat([]byte{0xff}, 1400), make([]byte, 1400)}
	for kind := range 256 {
		all = append(all, message(byte(kind), ""), message(byte(kind), duid+ia("")))
	}
	solicit := func(options string) { all = append(all, message(1, options)) }
	for _, d := range []string{"", "\x00", "\x00\x03", "\x00\x03\x00\x01", string(make([]byte, 129)),
		string(make([]byte, 131)), string(bytes.Repeat([]byte{0xff}, 1200))} {
		solicit(option6(client, -1, d) + ia(""))
	}
	solicit(duid + duid + ia(""))
	solicit(duid + option6(server, -1, "") + ia(""))
	for _, code := range []uint16{client, server, na, ta, addr, oro, elapsed, relayMsg, status, rapid, pd, prefix, fqdn,
		linkLayer, 0, 0xffff} {
		for _, said := range []int{0, 1, 11, 0xff, 0xffff} {
			solicit(duid + option6(code, said, "\x00\x01"))
			solicit(duid + ia(option6(code, said, "\x00\x01")))
		}
		solicit(duid + option6(code, -1, ""))
		solicit(duid + ia(option6(code, -1, "")))
	}
	address := "\xfd\x00\x00\x01" + string(make([]byte, 12)) + "\xff\xff\xff\xff\xff\xff\xff\xff"
	deep := ""
	for range 40 { // an address in an address in an address
		deep = option6(addr, -1, address+deep)
	}
	solicit(duid + ia(deep))
	solicit(duid + string(bytes.Repeat([]byte(ia("")), 80)))
	solicit(duid + option6(fqdn, -1, "\x00\xc0\x00") + ia(""))
	solicit(duid + option6(fqdn, -1, "\x00\x3fa") + ia(""))
	solicit(duid + option6(oro, -1, "\x00") + ia(""))
	inside := message(1, duid+ia(""))
	for range 34 {
		inside = relayed(inside)
		all = append(all, slices.Clone(inside))
	}
	all = append(all, []byte(relay), []byte(relay+"\xff"+string(make([]byte, 32))), relayed(nil),
		relayed([]byte(relay)), relayed(message(7, duid)))
	whole := message(1, duid+option6(oro, -1, "\x00\x17\x00\x18")+option6(elapsed, -1, "\x00\x00")+
		option6(fqdn, -1, "\x00\x03foe")+ia(option6(addr, -1, address))+
		option6(pd, -1, "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	return append(all, mangled(whole, relayed(whole))...)
}

// Solicitations are ICMPv6 messages to routers, RFC 4861 section 4.1; their checksums are left to the kernel.
func Solicitations() [][]byte {
	const head = "\x85\x00\x00\x00\x00\x00\x00\x00"
	all := [][]byte{{0x85}, []byte(head[:4]), []byte("\x85\x01" + head[2:]), []byte(head + "\x01"),
		[]byte(head + "\x01\x00"),
		[]byte(head + "\x01\x00\x02foe\x00\x01"), []byte(head + "\x01\xff\x02foe\x00\x01"), []byte(head + "\xff\x00"),
		[]byte(head + string(make([]byte, 1200))),
		append([]byte(head), bytes.Repeat([]byte("\x01\x01\x02foe\x00\x01"), 150)...),
		[]byte("\x86" + head[1:] + string(make([]byte, 8)))}
	return append(all, mangled([]byte(head+"\x01\x01\x02foe\x00\x01"))...)
}
