package filtertest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"rempart/firstboot/filter"
	"rempart/profiles"
)

// Bits of the state of a connection, of what was done to it, and of TCP, as filter's rules ask for them. From the
// kernel's include/uapi/linux/netfilter/nf_conntrack_common.h and RFC 9293, section 3.1.
const (
	CTInvalid     = 1 << 0
	CTEstablished = 1 << 1
	CTRelated     = 1 << 2
	CTNew         = 1 << 3
	CTUntracked   = 1 << 6
	ctDestNAT     = 1 << 5

	TCPSyn = 1 << 1
	TCPRst = 1 << 2
	TCPAck = 1 << 4
	// begins are the bits that tell a connection's first packet: it has SYN alone of FIN, SYN, RST and ACK.
	begins = 1<<0 | TCPSyn | TCPRst | TCPAck
)

// Hook priorities between which connection tracking sits, and after which a packet goes where its connection does;
// from the kernel's include/uapi/linux/netfilter_ipv4.h.
const (
	priorityConntrack = -200
	priorityDstNAT    = -100
)

// Packet is what rules can know of one.
type Packet struct {
	What     string // for whoever reads
	In       string // link, or member of a bridge, it enters by; "lo": this machine's own; empty: it is sent from here
	Out      string // of what a bridge passes or this machine sends; otherwise found by its destination
	Bridge   bool   // a bridge passes it
	Ether    uint16 // type in the frame, of what a bridge passes
	Behind   uint16 // type behind the tag, where Ether is one
	Src, Dst netip.Addr
	Protocol uint8
	SrcPort  uint16
	DstPort  uint16
	Type     uint8 // of ICMP and ICMPv6
	Code     uint8
	Hops     uint8
	Flags    uint32 // of TCP
	State    uint32
	Mark     uint32 // of its connection
	Over     bool   // its source, or the line of the log, has used up what it may
	Reply    bool   // the other end of its connection sent the first
	// Listed is whom the sets hold that rules fill; not valid: nobody.
	Listed netip.Addr
	// Client is, of an answer to what was translated, where connection tracking sends it.
	Client netip.Addr
}

// Fate is what became of a packet.
type Fate struct {
	Passed   bool
	Local    bool   // it was for this machine
	Out      string // the link it left by
	Dst      netip.Addr
	DstPort  uint16
	First    netip.Addr // the source it left with, or the first of several
	Last     netip.Addr // the last
	Masked   bool       // it left with an address of the link, whichever that is
	State    uint32     // what connection tracking was left to think of it
	Mark     uint32     // of its connection
	Proxied  bool       // a SYN proxy stood before
	Counters []string   // that counted it, and what else was done that somebody could see
}

// String is the whole of it.
func (f Fate) String() string { return fmt.Sprintf("%+v", struct{ Fate }{f}.Fate.plain()) }

func (f Fate) plain() any { type plain Fate; return plain(f) }

// RuleID tells where a rule stands.
type RuleID struct{ Table, Chain, Rule int }

// Walker carries packets through rules as the kernel would, by the words of the nft manual: a second reading of them,
// quick enough to try every flow against every rule left out.
//
// What it deliberately does not do: remember. Whether a source has used up what it may is said by the packet.
type Walker struct {
	profile *profiles.Profile
	rules   filter.Ruleset
	chains  []map[string]int
	sets    []map[string]*filter.Set
	own     []netip.Addr
	onLink  map[string][]netip.Addr
}

// Where a link with DHCP is: RFC 5737.
var (
	Leased        = netip.MustParsePrefix("203.0.113.10/24")
	LeasedGateway = netip.MustParseAddr("203.0.113.1")
)

// NewWalker prepares rules of a profile.
func NewWalker(p *profiles.Profile, rules filter.Ruleset) *Walker {
	p = p.Supposed()
	w := &Walker{profile: p, rules: rules, onLink: map[string][]netip.Addr{}}
	for i := range rules.Tables {
		chains, sets := map[string]int{}, map[string]*filter.Set{}
		for k, c := range rules.Tables[i].Chains {
			chains[c.Name] = k
		}
		for k := range rules.Tables[i].Sets {
			sets[rules.Tables[i].Sets[k].Name] = &rules.Tables[i].Sets[k]
		}
		w.chains, w.sets = append(w.chains, chains), append(w.sets, sets)
	}
	for _, l := range p.Links {
		for _, a := range addresses(&l) {
			w.own = append(w.own, a.Addr())
			w.onLink[l.Name] = append(w.onLink[l.Name], a.Addr())
		}
	}
	return w
}

func addresses(l *profiles.Link) []netip.Prefix {
	if l.DHCP {
		return append(slices.Clone(l.Addresses), Leased)
	}
	return l.Addresses
}

// WithRules is the walker with other rules in one chain.
func (w *Walker) WithRules(table, chain int, rules []filter.Rule) *Walker {
	other := *w
	other.rules.Tables = slices.Clone(w.rules.Tables)
	t := &other.rules.Tables[table]
	t.Chains = slices.Clone(t.Chains)
	t.Chains[chain].Rules = rules
	return &other
}

// route is the link that leads to an address, or empty.
func (w *Walker) route(to netip.Addr) string {
	best, bits := "", -1
	better := func(link string, p netip.Prefix) {
		if p.Contains(to) && p.Bits() > bits {
			best, bits = link, p.Bits()
		}
	}
	for _, l := range w.profile.Links {
		for _, a := range addresses(&l) {
			better(l.Name, a)
		}
		for _, g := range l.Gateways {
			better(l.Name, netip.PrefixFrom(g.Addr, 0))
		}
		for _, r := range l.Routes {
			better(l.Name, r.To)
		}
		if l.DHCP {
			better(l.Name, netip.PrefixFrom(LeasedGateway, 0))
		}
		if l.WireGuard != nil {
			for _, p := range l.WireGuard.Peers {
				for _, a := range p.Allowed {
					better(l.Name, a)
				}
			}
		}
	}
	return best
}

// walk is one packet on its way.
type walk struct {
	*Walker
	p       Packet
	fate    Fate
	status  uint32
	touched map[RuleID]bool
	proxied bool // a SYN proxy took it
	problem error
}

// Walk carries a packet through all hooks. Touched gets the rules whose conditions it met; it may be nil. An error is
// something in the rules that a Walker does not know.
func (w *Walker) Walk(p Packet, touched map[RuleID]bool) (Fate, error) {
	x := &walk{Walker: w, p: p, touched: touched}
	x.fate.Passed = x.through()
	if x.fate.Proxied = x.proxied; x.proxied {
		x.begin(p)
	}
	x.fate.Dst, x.fate.DstPort, x.fate.State, x.fate.Mark = x.p.Dst, x.p.DstPort, x.p.State, x.p.Mark
	if !x.fate.First.IsValid() {
		x.fate.First, x.fate.Last = p.Src, p.Src
	}
	slices.Sort(x.fate.Counters)
	if !x.fate.Passed { // where it would have gone is nobody's business
		x.fate = Fate{Counters: x.fate.Counters}
	}
	return x.fate, x.problem
}

// begin is what a SYN proxy does for a client that returns its cookie: it begins the connection in the client's name,
// by a packet of this machine's own.
func (x *walk) begin(first Packet) {
	x.p, x.status = first, 0
	x.p.In, x.p.Flags, x.p.State, x.proxied = "", TCPSyn, CTNew, false
	if x.p.Out = x.route(x.p.Dst); slices.Contains(x.own, x.p.Dst) {
		x.p.Out = "lo"
	}
	if x.fate.Passed = x.at(filter.FamilyInet, filter.Output); !x.fate.Passed {
		return
	}
	if x.fate.Local = slices.Contains(x.own, x.p.Dst); x.fate.Local {
		x.p.In, x.p.Out = "lo", ""
		x.fate.Passed = x.at(filter.FamilyInet, filter.Input)
		return
	}
	x.fate.Out = x.p.Out
	x.fate.Passed = x.at(filter.FamilyInet, filter.Postrouting)
}

func (x *walk) through() bool {
	if x.p.Bridge {
		x.fate.Out = x.p.Out
		return x.at(filter.FamilyBridge, filter.Forward)
	}
	if x.p.In == "" {
		x.fate.Out = x.p.Out
		return x.at(filter.FamilyInet, filter.Output) && x.at(filter.FamilyInet, filter.Postrouting)
	}
	out := x.p.Out
	x.p.Out = "" // known from the routing on
	if !x.at(filter.FamilyInet, filter.Prerouting) {
		return false
	}
	if x.fate.Local = x.p.In == "lo" || slices.Contains(x.own, x.p.Dst) || x.p.Dst.IsMulticast() ||
		x.p.Dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}); x.fate.Local {
		return x.at(filter.FamilyInet, filter.Input)
	}
	if x.p.Out = out; out == "" {
		x.p.Out = x.route(x.p.Dst)
	}
	x.fate.Out = x.p.Out
	return x.p.Out != "" && x.at(filter.FamilyInet, filter.Forward) && x.at(filter.FamilyInet, filter.Postrouting)
}

// at carries the packet through the base chains of a hook.
func (x *walk) at(family filter.Family, hook filter.Hook) bool {
	type base struct{ table, chain int }
	var all []base
	for t := range x.rules.Tables {
		for c, ch := range x.rules.Tables[t].Chains {
			if x.rules.Tables[t].Family == family && ch.Base != nil && ch.Base.Hook == hook {
				all = append(all, base{t, c})
			}
		}
	}
	priority := func(b base) int32 { return x.rules.Tables[b.table].Chains[b.chain].Base.Priority }
	slices.SortStableFunc(all, func(a, b base) int { return cmp.Compare(priority(a), priority(b)) })
	moved := false
	for _, b := range all {
		ch := &x.rules.Tables[b.table].Chains[b.chain]
		if hook == filter.Prerouting && !moved && ch.Base.Priority > priorityDstNAT {
			x.follow()
			moved = true
		}
		if ch.Base.Type == "nat" && x.p.State != CTNew {
			continue // translated as its connection is
		}
		verdict := x.chain(b.table, b.chain)
		if verdict == 0 {
			verdict = ch.Base.Policy
		}
		if verdict == filter.VerdictDrop {
			return false
		}
	}
	if hook == filter.Prerouting && !moved {
		x.follow()
	}
	return true
}

// follow sends an answer where its connection came from.
func (x *walk) follow() {
	if x.p.Client.IsValid() {
		x.p.Dst = x.p.Client
	}
}

// chain is what the rules of a chain decide; 0: nothing.
func (x *walk) chain(table, chain int) filter.VerdictKind {
	ch := &x.rules.Tables[table].Chains[chain]
	for r := range ch.Rules {
		v, done := x.rule(RuleID{table, chain, r}, &ch.Rules[r])
		switch {
		case !done:
		case v.Kind == filter.VerdictAccept || v.Kind == filter.VerdictDrop:
			return v.Kind
		default:
			to, ok := x.chains[table][v.Chain]
			if !ok {
				x.problem = fmt.Errorf("rule %s of chain %s: there is no chain %q", ch.Rules[r].Text(), ch.Name, v.Chain)
				return filter.VerdictDrop
			}
			if got := x.chain(table, to); got != 0 || v.Kind == filter.VerdictGoto {
				return got
			}
		}
	}
	return 0
}

// rule carries out one rule; false when it decides nothing.
func (x *walk) rule(id RuleID, r *filter.Rule) (v filter.Verdict, done bool) {
	accept := filter.Verdict{Kind: filter.VerdictAccept}
	acts := false // its conditions are met as far as they go
	for _, e := range r.Do {
		switch e := e.(type) {
		case filter.Match, filter.Bits, filter.HostPart, filter.Lookup, filter.Share, filter.HasMark, filter.Begins:
			if v, ok := x.meets(id.Table, e); !ok {
				return filter.Verdict{}, false
			} else if v.Kind != 0 {
				x.touch(id)
				return v, true
			}
			continue
		case filter.Rate, filter.LimitSource, filter.CountSource:
			if x.p.Over {
				return filter.Verdict{}, false
			}
			continue
		case filter.FromSource, filter.ToSource, filter.OverSource, filter.Uncounted:
			if !x.known(e) {
				return filter.Verdict{}, false
			}
			continue
		case filter.Counted:
			x.p.Mark |= filter.MarkCounted
		case filter.BanSource:
			x.fate.Counters = append(x.fate.Counters, r.Text())
		case filter.SetMark:
			x.p.Mark = x.p.Mark&^e.Mask | e.Value
		case filter.NoTrack:
			x.p.State = CTUntracked
		case filter.SynProxy:
			if x.p.Flags != TCPSyn && x.p.Flags != TCPAck {
				break // it takes none but the first and the third packet of a handshake
			}
			x.touch(id)
			x.proxied = true
			x.fate.Counters = append(x.fate.Counters, r.Text())
			return filter.Verdict{Kind: filter.VerdictDrop}, true
		case filter.Log, filter.SetHelper, filter.ClampMSS:
		case filter.SetDSCP, filter.SetHops:
			if !x.speaks(e) {
				return filter.Verdict{}, false
			}
		case filter.Count:
			if !slices.Contains(x.fate.Counters, e.Name) {
				x.fate.Counters = append(x.fate.Counters, e.Name)
			}
		case filter.Verdict:
			x.touch(id)
			return e, true
		case filter.Reject:
			x.touch(id)
			x.fate.Counters = append(x.fate.Counters, "refused: "+r.Text())
			return filter.Verdict{Kind: filter.VerdictDrop}, true
		case filter.DestinationNAT, filter.SourceNAT, filter.MapPrefix, filter.Masquerade:
			if !x.speaks(e) {
				return filter.Verdict{}, false
			}
			if dnat, ok := e.(filter.DestinationNAT); ok && dnat.Targets != "" {
				if _, known := x.target(id.Table, dnat); !known {
					return filter.Verdict{}, false
				}
			}
			x.touch(id)
			x.translate(id.Table, e)
			return accept, true
		default:
			x.problem = fmt.Errorf("rule %s: %T is not known here", r.Text(), e)
			return filter.Verdict{Kind: filter.VerdictDrop}, true
		}
		if !acts {
			acts = true
			x.touch(id)
		}
		switch e.(type) {
		case filter.Log, filter.SetHelper, filter.ClampMSS, filter.SetDSCP, filter.SetHops: // somebody sees it
			x.fate.Counters = append(x.fate.Counters, fmt.Sprintf("%T: %s", e, r.Text()))
		}
	}
	return filter.Verdict{}, false
}

func (x *walk) touch(id RuleID) {
	if x.touched != nil {
		x.touched[id] = true
	}
}

// meets tells whether a condition is met, and of a verdict map what it says.
func (x *walk) meets(table int, e filter.Expr) (filter.Verdict, bool) {
	within := func(f filter.Field, list ...filter.Range) bool {
		v := x.value(f)
		return v != nil && slices.ContainsFunc(list, func(r filter.Range) bool {
			return bytes.Compare(r.First, v) <= 0 && bytes.Compare(v, r.Last) <= 0
		})
	}
	switch e := e.(type) {
	case filter.Match:
		return filter.Verdict{}, within(e.Field, e.Ranges...)
	case filter.Bits:
		v := x.value(e.Field)
		return filter.Verdict{}, v != nil && (binary.NativeEndian.Uint32(v)&e.Mask != 0) != e.None
	case filter.HostPart:
		v, host := x.value(e.Field), e.Host.As16()
		return filter.Verdict{}, len(v) == len(host) && bytes.Equal(v[len(v)/2:], host[len(host)/2:])
	case filter.HasMark:
		return filter.Verdict{}, x.p.Mark&e.Mask == e.Value
	case filter.Begins:
		return filter.Verdict{}, x.p.Protocol == filter.ProtoTCP && x.p.Flags&begins == TCPSyn
	case filter.Share:
		return filter.Verdict{}, x.p.Src.Is6() == e.IPv6 && filter.ShareOf(x.p.Src, e.Of) == e.Part
	case filter.Lookup:
		set := x.sets[table][e.Set]
		if set == nil {
			x.problem = fmt.Errorf("there is no set %q", e.Set)
			return filter.Verdict{}, false
		}
		for i := range set.Len() {
			el, all := set.At(i), true
			for k, f := range e.Fields {
				all = all && within(f, el.Key[k])
			}
			if all {
				return el.Verdict, true
			}
		}
	}
	return filter.Verdict{}, false
}
