package profiles

import "slices"

// Set is a name for many addresses, for policy lines.
type Set struct {
	Name string `json:"name"`
	// Ranges are its members; of a set with a Source those until a list was taken from there for the first time.
	Ranges Ranges `json:"ranges"`
	// Stored stands for Ranges in the JSON of a set of many; nil: it has few.
	Stored *StoredRanges `json:"stored,omitempty"`
	Source *ListSource   `json:"source,omitempty"` // nil: nothing changes while the guest runs
	At     Pos           `json:"at"`
}

// ListSource says where a list of addresses is taken from again and again while the guest runs. The last good one is
// kept on the state disk.
type ListSource struct {
	// URL is where the list is fetched, by https, or by http when Insecure is set; it is empty when File is not.
	URL string `json:"url,omitempty"`
	// File is the name of a file in ListsDir of the guest.
	File  string `json:"file,omitempty"`
	Every int64  `json:"every"` // seconds from one look to the next
	// Least is how many ranges a list must have, in per cent of what the last good one has; 0: one range is enough.
	Least int `json:"least"`
	// Pin is the SHA-256 of the server's public key (its SubjectPublicKeyInfo, RFC 7469, section 2.4) in base64; empty:
	// the server must show a certificate of one of Debian's certificate authorities for the host in the URL.
	Pin      string `json:"pin,omitempty"`
	Insecure bool   `json:"insecure,omitempty"`
	At       Pos    `json:"at"`
}

// ListsDir is where a guest looks for lists that are files: a directory of its state disk that whoever makes such lists
// there may write.
const ListsDir = "/var/lib/lists"

// Sourced are the sets whose members change while the guest runs.
func (p *Profile) Sourced() []*Set {
	var out []*Set
	for i := range p.Sets {
		if p.Sets[i].Source != nil {
			out = append(out, &p.Sets[i])
		}
	}
	return out
}

// takenList is a list from elsewhere, whoever it is for.
type takenList struct {
	*ListSource
	path   string // of its keys: "sets.drop"
	called string // "set drop"
	at     Pos
	names  bool // of names, not of addresses
}

// taken are all lists that change while the guest runs.
func (p *Profile) taken() (out []takenList) {
	for _, s := range p.Sourced() {
		out = append(out, takenList{s.Source, "sets." + clip(s.Name), "set " + quote(s.Name), s.At, false})
	}
	for i := range p.BlockLists() {
		l := &p.DNS.Block.Lists[i]
		out = append(out, takenList{&l.Source, "dns.block.lists." + clip(l.Name), "list " + quote(l.Name), l.At, true})
	}
	return out
}

// NeedsAuthorities tells whether the guest must know the certificate authorities that vouch for servers.
func (p *Profile) NeedsAuthorities() bool {
	if slices.ContainsFunc(p.taken(), func(l takenList) bool {
		return l.URL != "" && !l.Insecure && l.Pin == ""
	}) {
		return true
	}
	return p.DNS != nil && p.DNS.needsAuthorities()
}

// needsAuthorities tells whether a name server is asked by TLS that neither a pin nor a certificate of the profile
// vouches for.
func (d *DNS) needsAuthorities() bool {
	all := slices.Clone(d.Upstreams)
	for i := range d.Domains {
		all = append(all, d.Domains[i].Upstreams...)
	}
	for i := range d.Links {
		all = append(all, d.Links[i].Upstreams...)
	}
	return d.CA == "" && slices.ContainsFunc(all, func(u Upstream) bool { return u.TLS != "" && u.Pin == "" })
}
