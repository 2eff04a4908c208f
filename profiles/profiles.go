// Package profiles holds what a profile says: the types, the strict reader of the YAML people write, every rule a
// profile must keep, the JSON Schema of the language, and the profiles that come with rempart.
//
// Parse and Load turn YAML into a Profile or into Invalid: everything that is wrong, each with its line and column,
// what was expected and what to write instead. Decode reads the JSON form a guest carries, by the same rules but
// without a YAML parser. A Profile that any of them returns keeps all rules; nobody after them checks again.
//
// # The language, version 1
//
//	rempart: 1                    the version of the language
//	name: fw-1                    host name
//	memory: 128M                  RAM of a guest; M is MiB, G is GiB; default 128M
//	kernel: cloud                 Debian's cloud kernel
//	state: 256M                   size of the state disk, or none; default 256M
//	admin: {from: home}           who may reach SSH: zones and addresses; or none
//	links:                        network interfaces, in bus order unless they name a mac
//	  lan0: {address: 192.168.0.101/24, gateway: 192.168.0.1}
//	zones:                        parts of the network that are trusted alike
//	  home: {link: lan0, prefix: 192.168.0.0/24}
//	  internet: {link: lan0, prefix: rest}
//	policy:                       what may pass
//	  - home -> self: ping
//	masquerade: [home -> internet]
//	forwards:
//	  - {from: internet, tcp: [80, 443], to: 192.168.0.102, snat: self}
//	hosts: {web: 192.168.0.102}
//
// A packet belongs to a zone by the link and, where zones share a link, by its address on that link. Between zones,
// and between two links of one zone, everything is dropped that no policy line accepts; the lines are read top-down and
// the first that matches decides. "any" is every zone but not the guest, which is "self"; what the guest itself sends
// passes unless a line from self forbids it. Answers to what was accepted always pass. A forward needs no policy line.
// Masquerading is for IPv4. The zones "internet" and "wan" are external unless they say otherwise, and an external zone
// never gets the admin path.
//
// Keys that are planned and not carried out by this version, such as dhcp or vlan, are known and refused, never
// ignored. The tables in language.go are the whole language.
//
// What the package deliberately does not do: resolve names over the network, expand variables, include other files,
// or know how anything is built or booted.
package profiles

import "slices"

// MaxSource is how large a profile may be, in bytes. The largest honest one, a thousand forwards and hosts, has about
// a tenth of that; the limit keeps hostile files from costing time.
const MaxSource = 1 << 20

// maxFindings is how many findings one profile is told: past that the file is something else.
const maxFindings = 100

// Parse reads a profile in YAML. The name of the file is used in findings only. The error, if any, is Invalid.
func Parse(file string, src []byte) (*Profile, error) {
	root, findings := readDocument(file, src)
	if root == nil {
		return nil, inOrder(file, findings)
	}
	r := &reader{file: file, p: &Profile{}, places: newPlaces(), findings: findings}
	if !r.profile(root) {
		return nil, inOrder(file, r.findings)
	}
	v := &validator{file: file, p: r.p, places: r.places, findings: r.findings}
	v.profile()
	if len(v.findings) > 0 {
		return nil, inOrder(file, v.findings)
	}
	r.p.Warnings = inOrder(file, v.warnings)
	return r.p, nil
}

// inOrder sorts findings by their place, drops repetitions, and cuts a list nobody would read.
func inOrder(file string, findings []Finding) Invalid {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	findings = slices.Compact(findings) // a service that is two matches tells the same twice
	if n := len(findings); n > maxFindings {
		last := findings[maxFindings-1]
		findings = append(findings[:maxFindings:maxFindings], Finding{File: file, Pos: last.Pos,
			What: "more findings follow", Hint: "mend these first"})
	}
	return findings
}
