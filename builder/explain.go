package main

import (
	"fmt"
	"net/netip"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// question is what `rempart policy explain` is asked.
type question struct {
	from, to, src, dst string
	tcp, udp           uint16
	ping               bool
}

// asked turns the options into a question of package filter.
func (q question) asked() (filter.Question, error) {
	out := filter.Question{From: q.from, To: q.to}
	if q.from == "" || q.to == "" {
		return out, usageError{"--from and --to are needed: a zone each, or self"}
	}
	kinds := 0
	for _, kind := range []struct {
		given    bool
		protocol profiles.Protocol
		port     uint16
	}{{q.tcp != 0, profiles.TCP, q.tcp}, {q.udp != 0, profiles.UDP, q.udp}, {q.ping, profiles.Ping, 0}} {
		if kind.given {
			kinds++
			out.Protocol, out.Port = kind.protocol, kind.port
		}
	}
	if kinds != 1 {
		return out, usageError{"one of --tcp PORT, --udp PORT and --ping is needed"}
	}
	for _, a := range []struct {
		name, text string
		into       *netip.Addr
	}{{"--src", q.src, &out.Src}, {"--dst", q.dst, &out.Dst}} {
		if a.text == "" {
			continue
		}
		addr, err := netip.ParseAddr(a.text)
		if err != nil || addr.Zone() != "" || addr.Is4In6() {
			return out, usageError{fmt.Sprintf("%s %q is no IPv4 or IPv6 address", a.name, a.text)}
		}
		*a.into = addr
	}
	return out, nil
}

// answer is one line of `rempart policy explain --json`.
type answer struct {
	Pass bool       `json:"pass"`
	Why  string     `json:"why"` // with line:column of the profile
	From string     `json:"from"`
	To   string     `json:"to"`
	Src  netip.Addr `json:"src"` // an example where the question names none
	Dst  netip.Addr `json:"dst"` // empty: the address the guest has by DHCP
	// What the receiver sees; only of flows that pass.
	SeenSrc  netip.Addr `json:"seen_src,omitzero"`
	SeenLast netip.Addr `json:"seen_last,omitzero"` // any source from SeenSrc to it
	SeenDst  netip.Addr `json:"seen_dst,omitzero"`
	SeenPort uint16     `json:"seen_port,omitempty"`
}

func explainPolicy(c *console, name string, q question, asJSON bool) error {
	asked, err := q.asked()
	if err != nil {
		return err
	}
	p, err := profiles.Load(name)
	if err != nil {
		return err
	}
	probes, err := filter.Explain(p, asked)
	if err != nil {
		return fmt.Errorf("profile %s: %w", p.Name, err)
	}
	answers := []answer{}
	for _, probe := range probes {
		a := answer{Pass: probe.Pass, Why: probe.Proves, From: probe.From, To: probe.To, Src: probe.Src, Dst: probe.Dst}
		if probe.Pass {
			a.SeenSrc, a.SeenLast, a.SeenDst, a.SeenPort = probe.SeenSrc, probe.SeenLast, probe.SeenDst, probe.SeenPort
		}
		answers = append(answers, a)
	}
	if asJSON {
		return printJSON(c.out, answers)
	}
	for i, a := range answers {
		if _, err := fmt.Fprintln(c.out, a.line(probes[i])); err != nil {
			return err
		}
	}
	if prefix := p.SupposedPrefix(); prefix.IsValid() {
		_, err = fmt.Fprintf(c.out, "supposing that %s is delegated\n", prefix)
	}
	return err
}

// shownAddr is an address of a probe for people.
func shownAddr(a netip.Addr) string {
	if !a.IsValid() {
		return "its address by DHCP"
	}
	return a.String()
}

// shownSource is the sender of a probe as its receiver sees it.
func shownSource(p filter.Probe) string {
	if p.SeenLast.IsValid() {
		return shownAddr(p.SeenSrc) + "-" + shownAddr(p.SeenLast)
	}
	return shownAddr(p.SeenSrc)
}

// line is an answer for people.
func (a answer) line(p filter.Probe) string {
	verdict, seen := "blocked", ""
	if a.Pass {
		verdict = "passes"
		if a.SeenSrc != a.Src || a.SeenDst != a.Dst || a.SeenPort != p.Port {
			seen = fmt.Sprintf("; the receiver %s sees %s", shownAddr(a.SeenDst), shownSource(p))
			if a.SeenPort != p.Port {
				seen += fmt.Sprintf(" at port %d", a.SeenPort)
			}
		}
	}
	what := string(p.Protocol)
	if p.Protocol != profiles.Ping {
		what += fmt.Sprintf(" %d", p.Port)
	}
	return fmt.Sprintf("%s: %s (%s %s -> %s %s, %s%s)", verdict, a.Why, a.From, shownAddr(a.Src), a.To, shownAddr(a.Dst),
		what, seen)
}
