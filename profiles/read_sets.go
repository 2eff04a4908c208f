//go:build !guest

package profiles

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"
)

// setDraft is a set as written in the long form.
type setDraft struct {
	ranges []AddrRange
	source ListSource
	given  map[string]Pos // the keys there are
}

// setFields are the keys of a set that is a list from elsewhere.
func setFields() table[setDraft] {
	return table[setDraft]{
		{name: "file", doc: "File below the profile's directory with an address, prefix or range a line; # begins a " +
			"comment. It is read when the profile is, and holds until url was fetched. Or " + ListsDir + "/NAME, a file on" +
			" the guest's state disk that is looked at again and again.", kind: schema{"type": "string"},
			decode: readSetFile},
		{name: "url", doc: "Where the guest fetches the list again and again: https://HOST/PATH. The last good one is kept" +
			" on the state disk.", kind: textLike(urlPattern), decode: func(r *reader, v value, d *setDraft) {
			d.source.URL, _ = r.word(v, "an address such as https://lists.example/drop.txt")
			d.note(v)
		}},
		{name: "every", doc: "How often, such as 30m, 6h (the default) or 1d; a file every minute if nothing is said.",
			kind: textLike(spanPattern), decode: func(r *reader, v value, d *setDraft) {
				const what = "a time such as 30m, 6h or 1d"
				text, ok := r.word(v, what)
				if !ok {
					return
				}
				if d.source.Every, ok = parseSpan(text); !ok {
					r.expected(v, what, "")
				}
				d.note(v)
			}},
		{name: "least", doc: "How much of the last good list a new one must have, in per cent of its ranges; what has less" +
			" is refused. Default: 50%.", kind: textLike(percentPattern), decode: func(r *reader, v value, d *setDraft) {
			const what = "a part in per cent, such as 50%"
			text, ok := r.word(v, what)
			n, err := strconv.ParseUint(strings.TrimSuffix(text, "%"), 10, 7)
			if ok && (err != nil || n > 100 || !strings.HasSuffix(text, "%")) {
				r.expected(v, what, "")
			}
			d.source.Least = int(n)
			d.note(v)
		}},
		{name: "pin", doc: "The SHA-256 of the server's public key, as curl --pinnedpubkey has it: sha256//BASE64. It is" +
			" then known by that and needs no certificate of an authority.", kind: textLike(keyPinPattern), decode: readPin},
		{name: "insecure", doc: "true: url is http, and whoever is on the way can put what he likes into the set.",
			kind: yesOrNo(), decode: func(r *reader, v value, d *setDraft) {
				d.source.Insecure, _ = r.boolean(v)
				d.note(v)
			}},
	}
}

// note remembers the place of a key.
func (d *setDraft) note(v value) {
	if d.given == nil {
		d.given = map[string]Pos{}
	}
	d.given[v.key.Value] = v.pos()
}

// What is taken of a source that does not say.
const (
	defaultListEvery = 6 * 60 * 60 // seconds
	defaultFileEvery = 60
	defaultLeast     = 50 // per cent
)

// taken is the source of a list as written at v, nil when it has none. The places of its keys are kept under a path.
func (d *setDraft) taken(r *reader, v value, path string) *ListSource {
	s := d.source
	s.At = v.keyPos()
	if d.given["file"].Line > 0 && d.given["url"].Line > 0 && s.File != "" {
		r.rejectAt(d.given["file"], "write two, each has one source", "%s: both a file of the guest and a url", v.name)
		return nil
	}
	if s.URL == "" && s.File == "" {
		for _, key := range []string{"every", "least", "pin", "insecure"} {
			if at, ok := d.given[key]; ok && d.given["url"].Line == 0 {
				r.rejectAt(at, "add url, or "+key+" means nothing", "%s.%s: the file is read when the profile is, and not again",
					v.name, key)
			}
		}
		return nil
	}
	if s.Every == 0 {
		if s.Every = defaultListEvery; s.File != "" {
			s.Every = defaultFileEvery
		}
	}
	if _, ok := d.given["least"]; !ok {
		s.Least = defaultLeast
	}
	for _, key := range []string{"pin", "insecure"} {
		if at, ok := d.given[key]; ok && s.URL == "" {
			r.rejectAt(at, "remove it", "%s.%s: there is no url", v.name, key)
		}
	}
	for key, at := range d.given {
		r.places.put(at, "%s.%s", path, key)
	}
	return &s
}

// pinPrefix is how curl begins a digest of a public key.
const pinPrefix = "sha256//"

func readPin(r *reader, v value, d *setDraft) {
	const what = "the SHA-256 of a public key: sha256//BASE64"
	d.note(v)
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	sum := strings.TrimPrefix(text, pinPrefix)
	if b, err := base64.StdEncoding.Strict().DecodeString(sum); err != nil || len(b) != sha256.Size {
		r.expected(v, what, "openssl s_client -connect HOST:443 </dev/null | openssl x509 -pubkey -noout |"+
			" openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64")
		return
	}
	d.source.Pin = sum
}

func setSchema() schema {
	return eitherOf(oneOrMore(textLike(rangePattern)), setFields().schema())
}

func readSets(r *reader, v value, p *Profile) {
	const what = "a mapping such as office: [203.0.113.0/24], office: {file: office.txt} or drop: {url: https://...}"
	for _, entry := range r.entries(v, what, maxSets) {
		var d setDraft
		var source *ListSource
		before := len(r.findings)
		if entry.node.Kind == yaml.MappingNode {
			setFields().read(r, entry, &d)
			if len(r.findings) == before && len(d.given) == 0 {
				r.rejectAt(entry.keyPos(), asHint(setFields()[0].doc), "missing %s.file or url", entry.name)
			}
			source = d.taken(r, entry, "sets."+entry.key.Value)
		} else {
			const what = "an address, a prefix, a range such as 10.0.0.1-10.0.0.9, or a list of these"
			for _, item := range r.items(entry, what, maxPrefixes) {
				text, ok := r.dotted(item, what)
				if !ok {
					continue
				}
				s, problem, hint := parseRange(text)
				if problem != "" {
					r.rejectAt(item.pos(), hint, "%s: %s", item.name, problem)
					continue
				}
				d.ranges = append(d.ranges, s)
			}
		}
		if len(r.findings) > before {
			r.places.spoil("sets.%s", entry.key.Value)
		}
		set := Set{Name: entry.key.Value, Ranges: mergeRanges(d.ranges), Source: source, At: entry.keyPos()}
		set.store()
		p.Sets = append(p.Sets, set)
	}
}

func readSetFile(r *reader, v value, d *setDraft) {
	name, ok := r.word(v, "the name of a file")
	if !ok {
		return
	}
	d.note(v)
	if inGuest, ok := strings.CutPrefix(name, ListsDir+"/"); ok {
		d.source.File = inGuest
		return
	}
	src, err := r.beside(name)
	if err != nil {
		r.rejectAt(v.pos(), "name a file below the directory of the profile", "%s: %v", v.name, err)
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(src))
	const maxWrong = 5 // past that it is another kind of file
	for n, wrong := 1, 0; lines.Scan() && wrong < maxWrong; n++ {
		s, ok, problem, hint := listLine(lines.Text())
		switch {
		case problem != "":
			r.rejectAt(v.pos(), hint, "%s: line %d of %s: %s", v.name, n, clip(name), problem)
			wrong++
		case ok:
			d.ranges = append(d.ranges, s)
		}
	}
	if err := lines.Err(); err != nil {
		r.rejectAt(v.pos(), "", "%s: %s: %v", v.name, clip(name), err)
	}
}

// beside reads a file of addresses below the directory of the profile.
func (r *reader) beside(name string) ([]byte, error) {
	src, err := r.below(name, MaxList)
	if err == nil && len(src) > MaxList {
		err = fmt.Errorf("%s is larger than %d MiB", clip(name), MaxList>>20)
	}
	return src, err
}

// below reads at most so many bytes and one more of a file below the directory of the profile, and nothing that a link
// leads to elsewhere.
func (r *reader) below(name string, most int) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(r.file))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", clip(name))
	}
	return io.ReadAll(io.LimitReader(f, int64(most)+1))
}
