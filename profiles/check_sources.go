package profiles

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what sets are taken from.
const (
	maxSources   = 32
	maxURL       = 2048   // bytes; what servers and proxies commonly take
	maxListFile  = 64     // bytes of the name of a file
	minListEvery = 5 * 60 // seconds: no server of lists wants to be asked more often
	minFileEvery = 5      // seconds
	maxEvery     = 30 * 24 * 60 * 60
	// scratchPerSource is room on the state disk for what is kept of one source and for its successor, in bytes.
	scratchPerSource = 2 * MaxList
)

// sources checks where lists are taken from.
func (v *validator) sources() {
	all := v.p.taken()
	if n := len(v.p.Sourced()); n > maxSources {
		v.reject(all[maxSources].at, "", "sets: more than %d are taken from elsewhere", maxSources)
		return
	}
	if len(all) == 0 {
		return
	}
	for _, l := range all {
		before := len(v.findings)
		v.source(l)
		if l.URL != "" && len(v.findings) == before && !v.places.spoilt("links") && !v.places.spoilt("zones") {
			v.wayOut(l)
		}
	}
	if v.p.State.Size == 0 && !v.places.spoilt("state") {
		v.warn(all[0].At, "give the guest a state disk", "%s: without a state disk nothing of it is kept when the guest"+
			" stops", all[0].called)
	}
}

// source checks one source by itself.
func (v *validator) source(s takenList) {
	bad := func(key, hint, format string, args ...any) {
		at := v.places.find(s.At, "%s.%s", s.path, key)
		v.reject(at, hint, "%s.%s: %s", s.path, key, fmt.Sprintf(format, args...))
	}
	least := int64(minListEvery)
	switch {
	case s.URL != "" && s.File != "":
		bad("file", "", "both a file of the guest and a url")
	case s.URL == "" && s.File == "":
		bad("url", "", "neither a file of the guest nor a url")
	case s.File != "":
		least = minFileEvery
		if !allOf(s.File, isFileByte) || s.File[0] == '.' || len(s.File) > maxListFile {
			bad("file", "", "%s: expected the name of a file in %s, of letters, digits and . _ -", quote(s.File), ListsDir)
		}
	default:
		if problem, hint := checkURL(s.ListSource); problem != "" {
			bad("url", hint, "%s", problem)
		}
	}
	if s.Every < least || s.Every > maxEvery {
		bad("every", "", "%d seconds, expected %d to %d", s.Every, least, maxEvery)
	}
	if s.Least < 0 || s.Least > 100 {
		bad("least", "", "%d%%, expected 0%% to 100%%", s.Least)
	}
	if s.Pin != "" {
		b, err := base64.StdEncoding.Strict().DecodeString(s.Pin)
		switch {
		case err != nil || len(b) != sha256.Size:
			bad("pin", "", "expected a SHA-256 in base64")
		case s.URL == "" || s.Insecure:
			bad("pin", "remove it, or write https", "there is no key where there is no https")
		}
	}
	if s.File != "" && s.Insecure {
		bad("insecure", "remove it", "there is no url")
	}
}

func isFileByte(c byte) bool { return isLinkByte(c) }

// checkURL tells what is wrong with the address of a list.
func checkURL(s *ListSource) (problem, hint string) {
	if len(s.URL) > maxURL || !allOf(s.URL, func(c byte) bool { return c > ' ' && c <= '~' }) {
		return fmt.Sprintf("%s: expected at most %d letters, digits and signs of ASCII", quote(s.URL), maxURL), ""
	}
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return "expected an address such as https://lists.example/drop.txt, found " + quote(s.URL), ""
	case u.Scheme != "https" && u.Scheme != "http":
		return "expected https://, found " + quote(u.Scheme+"://"), ""
	case u.Scheme == "http" && !s.Insecure:
		return "whoever is on the way to " + clip(u.Hostname()) + " can change what is fetched by http",
			"write https, or add insecure: true if that does not matter"
	case u.Scheme == "https" && s.Insecure:
		return "insecure, and yet https", "remove insecure: true"
	case u.User != nil:
		return "a password would be on the master, where it is no secret", "remove what is before the @"
	case u.Fragment != "" || u.RawFragment != "":
		return "what comes after # is never sent to a server", "remove it"
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && (err != nil || port == 0) {
		return quote(u.Port()) + " is no port", ""
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		if strings.Contains(u.Hostname(), "%") {
			return "expected an address without a link after it", ""
		}
		return "", ""
	}
	return checkHostName(strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")))
}

// Host is the host of the URL in lower case, and the port. Both are zero when there is no URL.
func (s *ListSource) Host() (host string, port uint16) {
	u, err := url.Parse(s.URL)
	if err != nil || s.URL == "" {
		return "", 0
	}
	port = 443
	if u.Scheme == "http" {
		port = 80
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		port = uint16(n)
	}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), port
}

// wayOut warns of a list that the guest cannot get: what it sends passes unless a line forbids it, and needs a name
// server and a link that leads there.
func (v *validator) wayOut(l takenList) {
	host, port := l.Host()
	at := v.places.find(l.At, "%s.url", l.path)
	to, err := netip.ParseAddr(host)
	if err != nil {
		if i := slices.IndexFunc(v.p.Hosts, func(h Host) bool { return h.Name == host }); i >= 0 {
			if len(v.p.Hosts[i].Addresses) == 0 {
				return // hosts tells what is wrong with it
			}
			to = v.p.Hosts[i].Addresses[0]
		} else if !v.p.knowsNameServer() {
			v.warn(at, "give the host's address under hosts, or let the guest ask itself: dns: {self: true}",
				"%s: the guest knows no name server to ask for %s", l.called, clip(host))
		}
	}
	var blocked *Rule
	leads, open := false, false
	for i := range v.p.Zones {
		z := &v.p.Zones[i]
		if !v.leadsTo(z, to) {
			continue
		}
		leads = true
		rule := v.p.forbids(z.Name, to, port)
		if rule == nil {
			open = true
		} else if blocked == nil {
			blocked = rule
		}
	}
	switch {
	case !leads && !v.anyRest():
		v.warn(at, "add a gateway, or a route", "%s: no link leads to %s", l.called, clip(host))
	case leads && !open:
		v.warn(at, fmt.Sprintf("let it through before that line: - self -> %s: tcp/%d", clip(blocked.To), port),
			"%s: the guest may not send to port %d of %s, says the line %s -> %s at %s", l.called, port, clip(host),
			clip(blocked.From), clip(blocked.To), blocked.At)
	}
}

// anyRest tells whether a link could lead anywhere although no zone on it says so.
func (v *validator) anyRest() bool {
	return slices.ContainsFunc(v.p.Links, func(l Link) bool { return l.leadsOut() })
}

// leadsTo tells whether what is sent to an address, or when that is unknown to anywhere, may leave to a zone.
func (v *validator) leadsTo(z *Zone, to netip.Addr) bool {
	for _, m := range z.Members {
		l := v.link(m.Link)
		if l == nil {
			continue
		}
		if !to.IsValid() {
			if l.leadsOut() && (m.Rest || len(m.Prefixes) == 0) {
				return true
			}
			continue
		}
		if l.reaches(netip.PrefixFrom(to, to.BitLen())) && (m.Rest || len(m.Prefixes) == 0 ||
			slices.ContainsFunc(m.Prefixes, func(p netip.Prefix) bool { return p.Contains(to) })) {
			return true
		}
	}
	return false
}

// forbids is the line by which the guest may not connect to a TCP port of an address in a zone, nil when it may. An
// address that is not known is forbidden only by a line that forbids all.
func (p *Profile) forbids(zone string, to netip.Addr, port uint16) *Rule {
	for i := range p.Policy {
		r := &p.Policy[i]
		if r.From != Self || r.To != Any && r.To != zone {
			continue
		}
		wanted := PortRange{port, port}
		for _, m := range append(r.Matches[:len(r.Matches):len(r.Matches)], alternatives(r)...) {
			if m.Protocol != AnyProtocol && m.Protocol != TCP || len(m.Sources)+len(m.SourceSets)+len(m.DelegatedSources) > 0 ||
				len(m.Ports) > 0 && !slices.ContainsFunc(m.Ports, func(p PortRange) bool { return p.covers(wanted) }) {
				continue
			}
			if len(m.Destinations)+len(m.DestinationSets)+len(m.DelegatedDestinations) > 0 {
				known := to.IsValid() && slices.ContainsFunc(m.Destinations, func(d netip.Prefix) bool { return d.Contains(to) })
				if !known && r.Action != Accept {
					continue
				}
			}
			if r.Action == Accept {
				return nil
			}
			return r
		}
	}
	return nil
}

// alternatives is what a rule without matches matches: everything.
func alternatives(r *Rule) []Match {
	if len(r.Matches) == 0 {
		return []Match{{}}
	}
	return nil
}

// knowsNameServer tells whether the guest is a name server to itself, or learns of one from any of its links.
func (p *Profile) knowsNameServer() bool {
	return p.DNS != nil && p.DNS.Self ||
		slices.ContainsFunc(p.Links, func(l Link) bool { return (l.DHCP || l.Auto) && !l.Accept.NoDNS })
}
