package filter

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Text is the Ruleset as a script for `nft -f`. Loading it replaces each of its tables in one transaction and leaves
// all others alone.
func (r *Ruleset) Text() string {
	var b strings.Builder
	for i := range r.Tables {
		r.Tables[i].write(&b)
	}
	return b.String()
}

func (f Family) String() string {
	switch f {
	case FamilyInet:
		return "inet"
	case FamilyNetdev:
		return "netdev"
	case FamilyBridge:
		return "bridge"
	}
	return fmt.Sprintf("Family(%d)", uint8(f))
}

func (h Hook) String() string {
	names := [...]string{"prerouting", "input", "forward", "output", "postrouting"}
	if int(h) < len(names) {
		return names[h]
	}
	return fmt.Sprintf("Hook(%d)", uint32(h))
}

func (t *Table) write(b *strings.Builder) {
	name := t.Family.String() + " " + t.Name
	// Adding first makes deleting succeed whether the table existed or not.
	fmt.Fprintf(b, "add table %s\ndelete table %s\ntable %s {\n", name, name, name)
	for _, c := range t.Counters {
		fmt.Fprintf(b, "\tcounter %s {\n\t}\n\n", c)
	}
	for _, h := range t.Helpers {
		proto := map[uint8]string{ProtoTCP: "tcp", ProtoUDP: "udp"}[h.Proto]
		fmt.Fprintf(b, "\tct helper %s {\n\t\ttype %q protocol %s\n\t\tl3proto inet\n\t}\n\n", h.Name, h.Kind, proto)
	}
	for _, name := range t.FlowTables {
		fmt.Fprintf(b, "\tflowtable %s {\n\t\thook ingress priority 0\n\t\tcounter\n\t}\n\n", name)
	}
	for i := range t.Sets {
		t.Sets[i].write(b)
	}
	for i := range t.Chains {
		if i > 0 {
			b.WriteString("\n")
		}
		t.Chains[i].write(b)
	}
	b.WriteString("}\n")
}

func (s *Set) write(b *strings.Builder) {
	kind, to := "set", ""
	switch s.Map {
	case MapVerdict:
		kind, to = "map", " : verdict"
	case MapPort:
		kind, to = "map", " : "+TypePort.Name()
	case MapTarget:
		kind, to = "map", " : "+s.targetType().Name()+" . "+TypePort.Name()
	}
	var types []string
	for _, t := range s.Key {
		types = append(types, t.Name())
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.Name, strings.Join(types, " . "), to)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	if s.Size > 0 {
		flags := "dynamic"
		if s.Timeout > 0 {
			flags += ",timeout"
		}
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags %s\n", s.Size, flags)
	}
	if s.Timeout > 0 {
		fmt.Fprintf(b, "\t\ttimeout %ds\n", int64(s.Timeout/time.Second))
	}
	for i := range s.Len() {
		e := s.At(i)
		var key []string
		for k, r := range e.Key {
			key = append(key, s.Key[k].format(r))
		}
		text := strings.Join(key, " . ")
		if e.Comment != "" {
			text += ` comment "` + e.Comment + `"`
		}
		switch s.Map {
		case MapVerdict:
			text += " : " + e.Verdict.text()
		case MapPort:
			text += " : " + strconv.Itoa(int(e.Port))
		case MapTarget:
			text += " : " + s.targetType().format(e.To) + " . " + strconv.Itoa(int(e.Port))
		}
		if i == 0 {
			b.WriteString("\t\telements = { ")
		} else {
			b.WriteString(",\n\t\t\t     ")
		}
		b.WriteString(text)
	}
	if s.Len() > 0 {
		b.WriteString(" }\n")
	}
	if s.Absent > 0 {
		fmt.Fprintf(b, "\t\t# %d ranges, which the profile has\n", s.Absent)
	}
	b.WriteString("\t}\n\n")
}

// targetType is the type of the addresses a MapTarget leads to, which has an element at least.
func (s *Set) targetType() Type {
	if len(s.Elements[0].To.First) == IPv6Size {
		return TypeIPv6
	}
	return TypeIPv4
}

func (c *Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Base != nil {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy %s;\n", c.Base.Type, c.Base.Hook, c.Base.Priority,
			Verdict{Kind: c.Base.Policy}.text())
	}
	for i := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", c.Rules[i].Text())
	}
	b.WriteString("\t}\n")
}

// Text is one rule as nft writes it, with its comment.
func (r *Rule) Text() string {
	var words []string
	for _, e := range r.Do {
		words = append(words, e.text())
	}
	if c := r.CommentText(); c != "" {
		words = append(words, `comment "`+c+`"`)
	}
	return strings.Join(words, " ")
}

// CommentText is the comment as the kernel gets it: MaxComment bytes at most, printable, and without the quotes that
// nft cannot escape.
func (r *Rule) CommentText() string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '?'
		}
		return c
	}, r.Comment)
	if len(clean) > MaxComment {
		clean = clean[:MaxComment]
	}
	return clean
}

func (m Match) text() string {
	t := m.Field.Type()
	if len(m.Ranges) == 1 {
		return m.Field.String() + " " + t.format(m.Ranges[0])
	}
	var values []string
	for _, r := range m.Ranges {
		values = append(values, t.format(r))
	}
	return m.Field.String() + " { " + strings.Join(values, ", ") + " }"
}

func (m Bits) text() string {
	names := []struct {
		field Field
		bit   uint32
		name  string
	}{
		{CTState, ctInvalid, "invalid"}, {CTState, ctEstablished, "established"}, {CTState, ctRelated, "related"},
		{CTState, ctUntracked, "untracked"},
		{CTStatus, ctDestNAT, "dnat"}, {TCPFlags, tcpSYN, "syn"}, {TCPFlags, tcpRST, "rst"},
	}
	var set []string
	for _, n := range names {
		if n.field == m.Field && m.Mask&n.bit != 0 {
			set = append(set, n.name)
		}
	}
	if m.None {
		return m.Field.String() + " & (" + strings.Join(set, "|") + ") == 0x0"
	}
	return m.Field.String() + " " + strings.Join(set, ",")
}

func (l Lookup) text() string {
	var names []string
	for _, f := range l.Fields {
		names = append(names, f.String())
	}
	text := strings.Join(names, " . ")
	if l.Map == MapVerdict {
		text += " vmap"
	}
	return text + " @" + l.Set
}

func (c Count) text() string { return `counter name "` + c.Name + `"` }

func (v Verdict) text() string {
	switch v.Kind {
	case VerdictAccept:
		return "accept"
	case VerdictDrop:
		return "drop"
	case VerdictJump:
		return "jump " + v.Chain
	case VerdictGoto:
		return "goto " + v.Chain
	}
	return fmt.Sprintf("VerdictKind(%d)", uint8(v.Kind))
}

func (r Reject) text() string {
	if r.TCPReset {
		return "reject with tcp reset"
	}
	names := [...]string{"no-route", "port-unreachable", "host-unreachable", "admin-prohibited"}
	if int(r.With) < len(names) {
		return "reject with icmpx " + names[r.With]
	}
	return fmt.Sprintf("Unreachable(%d)", uint8(r.With))
}

func (r Rate) text() string {
	unit := "day"
	switch r.Per {
	case time.Second:
		unit = "second"
	case time.Minute:
		unit = "minute"
	case time.Hour:
		unit = "hour"
	}
	return fmt.Sprintf("limit rate %d/%s burst %d packets", r.Packets, unit, r.Burst)
}

// source is what stands for the sender of a packet in a set that rules fill.
func source(v6 bool) string { return party(IPSAddr, IP6SAddr, v6) }

// party is what stands for one end of a packet, as in source.
func party(v4, v6 Field, six bool) string {
	if six {
		return v6.String() + " & ffff:ffff:ffff:ffff::"
	}
	return v4.String()
}

func (l LimitSource) text() string {
	return "update @" + l.Set + " { " + source(l.IPv6) + " " + l.Rate.text() + " }"
}

func (c CountSource) text() string {
	return "add @" + c.Set + " { " + source(c.IPv6) + " ct count " + strconv.Itoa(int(c.Max)) + " }"
}

func (l Log) text() string { return `log prefix "` + l.Prefix + `" level info` }

func (d DestinationNAT) text() string {
	word, typ := natFamily(d.IPv6)
	if d.Targets != "" {
		return "dnat " + word + " to " + d.Field.String() + " map @" + d.Targets
	}
	open, shut := "", ""
	if d.IPv6 && (d.Port != 0 || d.PortMap != "") {
		open, shut = "[", "]" // nft reads the port after the bracket
	}
	text := "dnat " + word + " to " + open + typ.format(d.To) + shut
	switch {
	case d.PortMap != "":
		text += ":" + d.Field.String() + " map @" + d.PortMap
	case d.Port != 0:
		text += ":" + strconv.Itoa(int(d.Port))
	}
	return text
}

// natFamily is the word for the family of a translation.
func natFamily(v6 bool) (word string, t Type) {
	if v6 {
		return "ip6", TypeIPv6
	}
	return "ip", TypeIPv4
}

func (h SetHelper) text() string { return `ct helper set "` + h.Name + `"` }

func (s Share) text() string {
	return fmt.Sprintf("jhash %s mod %d seed 0x%x %d", srcField(s.IPv6), s.Of, ShareSeed, s.Part)
}

func (s SourceNAT) text() string {
	word, typ := natFamily(s.IPv6)
	text := "snat " + word + " to " + typ.format(one(s.To.First))
	if !s.To.Single() {
		text += "-" + typ.format(one(s.To.Last)) + " persistent"
	}
	return text
}

func (m MapPrefix) text() string {
	word, typ := natFamily(m.IPv6)
	kind := "dnat "
	if m.Source {
		kind = "snat "
	}
	return kind + word + " prefix to " + typ.format(m.To)
}

func (Masquerade) text() string { return "masquerade" }

func (ClampMSS) text() string { return "tcp option maxseg size set rt mtu" }
