package blocklist

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Said is what reading a list found.
type Said struct {
	Names   int // taken, repetitions among them
	Foreign int // lines that are no name: rules for pages, exceptions, rubbish
	First   int // line of the first of these, from 1; 0: there is none
}

// maxLine bounds a line of a list, in bytes. Longer ones are foreign.
const maxLine = 4096

// Read adds the names of a list. A line is one of
//
//	0.0.0.0 NAME...       as in /etc/hosts: these names alone
//	NAME, *.NAME, .NAME   NAME and all below it
//	||NAME^               the same, as ad blockers write it
//	address=/NAME/...     the same, as dnsmasq has it; also local= and server=
//
// After # at the beginning of a word comes a comment, and a line that begins with ! or [ is one. A # within a word is
// an ad blocker's rule for parts of the pages of a site (NAME##..., NAME#@#...), which keeps nobody from the site.
// What the names of the machine itself are, every hosts file has; they are left out. The error is that of r, or of a
// list with more lines than a table has room for.
func (b *Builder) Read(r io.Reader) (said Said, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		long := false
		for err == bufio.ErrBufferFull {
			long = true
			_, err = in.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return said, err
		}
		foreign := long
		if !long {
			var taken int
			taken, foreign = b.line(line)
			said.Names += taken
		}
		if foreign {
			if said.Foreign++; said.First == 0 {
				said.First = n
			}
		}
		if most := b.most(); len(b.hashes) > 2*most {
			return said, fmt.Errorf("line %d: more than %d names, at most %d fit", n, 2*most, most)
		}
		if err == io.EOF {
			return said, nil
		}
	}
}

// own are names that hosts files give to the machine itself.
var own = map[string]bool{"localhost": true, "localhost.localdomain": true, "local": true, "broadcasthost": true,
	"ip6-localhost": true, "ip6-loopback": true, "ip6-localnet": true, "ip6-mcastprefix": true, "ip6-allnodes": true,
	"ip6-allrouters": true, "ip6-allhosts": true, "0.0.0.0": true}

// line takes the names of one line.
func (b *Builder) line(raw []byte) (taken int, foreign bool) {
	for i, c := range raw {
		if c == '#' && (i == 0 || raw[i-1] == ' ' || raw[i-1] == '\t') {
			raw = raw[:i]
			break
		}
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || raw[0] == '!' || raw[0] == '[' {
		return 0, false
	}
	words := strings.Fields(string(raw))
	if a, err := netip.ParseAddr(words[0]); err == nil {
		if len(words) == 1 || !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
			words[1] != "broadcasthost" {
			return 0, true // an address alone, or a host that is meant to be found
		}
		for _, word := range words[1:] {
			name, ok := Canonical(word)
			switch {
			case own[word]:
			case !ok:
				foreign = true
			default:
				b.Add(name, false)
				taken++
			}
		}
		return taken, foreign
	}
	if len(words) > 1 {
		return 0, true
	}
	word := words[0]
	if rest, ok := strings.CutPrefix(word, "||"); ok {
		rest, ok = strings.CutSuffix(rest, "^")
		if !ok {
			return 0, true
		}
		word = rest
	}
	for _, option := range []string{"address=/", "local=/", "server=/"} {
		if rest, ok := strings.CutPrefix(word, option); ok {
			word, _, _ = strings.Cut(rest, "/")
		}
	}
	name, ok := Canonical(strings.TrimPrefix(strings.TrimPrefix(word, "*"), "."))
	if !ok || own[name] {
		return 0, !ok
	}
	b.Add(name, true)
	return 1, false
}

// Canonical returns a name in lower case and without its final dot, and whether it is one: labels of 1 to 63 letters,
// digits, - and _, 253 bytes in all (RFC 1035 2.3.4), the last label no number.
func Canonical(name string) (string, bool) {
	const maxName, maxLabel = 253, 63
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > maxName {
		return "", false
	}
	upper, label, letters := false, 0, false
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '.':
			if label == 0 || i == len(name)-1 {
				return "", false
			}
			label, letters = 0, false
			continue
		case 'A' <= c && c <= 'Z':
			upper, letters = true, true
		case 'a' <= c && c <= 'z', c == '-', c == '_':
			letters = true
		case '0' <= c && c <= '9':
		default:
			return "", false
		}
		if label++; label > maxLabel {
			return "", false
		}
	}
	if !letters {
		return "", false
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, true
}
