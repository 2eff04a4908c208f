package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"rempart/profiles"
)

// BanTable is the table of who is banned and of the rules that ban. It is no part of the policy, so that whoever is
// banned stays so when the policy is loaded again.
const BanTable = "rempart-bans"

// The sets of who is banned: IPv4 addresses, and the first 64 bits of IPv6 ones. Each element has a time of its own.
const (
	Banned4 = "banned/4"
	Banned6 = "banned/6"
)

// MaxBanned is how many sources of each family can be banned at a time. When so many are, further ones are not: the
// policy holds for them as for everybody.
const MaxBanned = 65_536

// Priorities of the ban table's chains: before antispoof, and before the policy judges what a connection may.
const (
	priorityBanned   = priorityRaw - 10
	priorityAttempts = priorityFilter - 10
)

// Names of what counts.
const (
	counterBanned = "banned" // packets of the banned, and to them
	// CounterBanning counts connections that brought a ban.
	CounterBanning = "banning"
	chainCount     = "count"
)

// banDefault is how long a ban holds that says nothing else.
const banDefault = time.Hour

// maxBanSeconds bounds how long attempts are counted and a ban holds: 30 days, as in package profiles.
const maxBanSeconds = 30 * 24 * 60 * 60

// Bans returns the rules that shut out sources by rate, and whoever is banned by hand. They are a table of their own:
// the policy's rules can be replaced without it.
//
// An attempt is a TCP connection whose handshake was completed, to the machine itself, or by it from an external zone
// to a host behind it. Who forges another's address would have to guess the acknowledgement, with a chance of about 1
// in 65,000 (2^32 over the 66,000 bytes that connection tracking takes for its window), once more for each attempt; the
// reset by which that other one answers does not count. A source is an IPv4 address or an IPv6 /64. Once banned,
// nothing of it passes but what IPv6 neighbours need to find each other, and nothing is handed on to it. The addresses
// that admin names are never counted, and reach SSH even when they are banned by hand: the one way in cannot be shut
// from afar. Hosts that are admins by their zone can be banned, each for itself.
func Bans(p *profiles.Profile) (Ruleset, error) {
	c, err := newCompiler(p)
	if err != nil {
		return Ruleset{}, err
	}
	if err := checkBans(p); err != nil {
		return Ruleset{}, err
	}
	c.table.Name = BanTable
	for _, v6 := range families {
		key, name := banKey(v6)
		c.set(Set{Name: name, Key: []Type{key}, Size: MaxBanned, Timeout: banDefault, Lasting: true})
	}
	shut := Chain{Name: "banned",
		Base: &Base{Type: "filter", Hook: Prerouting, Priority: priorityBanned, Policy: VerdictAccept}}
	c.adminPasses(&shut)
	shut.add("IPv6 neighbour discovery",
		Match{ICMP6Type, []Range{number(icmp6NeighborSolicit), number(icmp6NeighborAdvert)}}, accept)
	for _, v6 := range families {
		_, name := banKey(v6)
		shut.add("banned", FromSource{name, v6}, c.counter(counterBanned), drop)
	}
	*c.chain(shut.Name, nil) = shut
	c.unanswered()
	if len(p.Bans) > 0 {
		c.attempts()
	}
	c.table.Chains = append(c.table.Chains, Chain{Name: fingerprint(&c.table)})
	return Ruleset{Tables: []Table{c.table}}, nil
}

// unanswered adds the chain that keeps what others send from the banned: what is sent again for want of an answer would
// bring the connection to the short way once more, and there the banned are not asked for. It is asked behind network
// address translation, which says to whom an answer really goes.
func (c *compiler) unanswered() {
	through := Chain{Name: "banned.forward",
		Base: &Base{Type: "filter", Hook: Forward, Priority: priorityAttempts, Policy: VerdictAccept}}
	for _, v6 := range families {
		_, name := banKey(v6)
		through.add("to the banned", ToSource{name, v6}, c.counter(counterBanned), drop)
	}
	*c.chain(through.Name, nil) = through
}

// checkBans returns every reason for which the bans cannot be compiled, or nil. What is wrong with them is no reason to
// refuse the policy.
func checkBans(p *profiles.Profile) error {
	var errs []error
	bad := func(b *profiles.Ban, format string, args ...any) { errs = append(errs, errorAt(b.At, format, args...)) }
	for i := range p.Bans {
		b := &p.Bans[i]
		if !plainName(b.Service, "/") || len(b.Service) > 63 {
			bad(b, "bans: %q is no name of a service", b.Service)
		}
		if len(b.Ports) == 0 {
			bad(b, "bans: %q has no ports", b.Service)
		}
		for _, ports := range b.Ports {
			if ports.First == 0 || ports.First > ports.Last {
				bad(b, "bans: ports %d-%d: want 1 to 65535, the first not above the last", ports.First, ports.Last)
			}
		}
		if b.Attempts == 0 || b.Window < 1 || b.For < 1 || max(b.Window, b.For) > maxBanSeconds {
			bad(b, "bans: %d attempts in %d s for %d s: want one at least, and 1 to %d s", b.Attempts, b.Window, b.For,
				maxBanSeconds)
		}
	}
	return errors.Join(errs...)
}

func banKey(v6 bool) (Type, string) {
	if v6 {
		return TypeIPv6, Banned6
	}
	return TypeIPv4, Banned4
}

// adminPasses lets the addresses that admin names leave a chain of the ban table on their way to SSH.
func (c *compiler) adminPasses(ch *Chain) {
	for _, v6 := range families {
		if from := prefixSpans(c.profile.Admin.Prefixes, v6); len(from) > 0 {
			ch.add("admin"+at(c.profile.Admin.At), Match{srcField(v6), ranges(from)},
				Match{TCPDPort, []Range{portRange(PortSSH, PortSSH)}}, accept)
		}
	}
}

// attempts adds the chains that count connections and ban.
func (c *compiler) attempts() {
	count := Chain{Name: chainCount}
	var ports []profiles.PortRange
	count.add("each connection once", Counted{})
	for i := range c.profile.Bans {
		b := &c.profile.Bans[i]
		ports = append(ports, b.Ports...)
		for _, v6 := range families {
			c.banRule(&count, b, v6)
		}
	}
	*c.chain(count.Name, nil) = count
	fresh := []Expr{Match{TCPDPort, portRanges(ports)}, Bits{Field: TCPFlags, Mask: tcpRST, None: true},
		Bits{Field: CTState, Mask: ctEstablished}, Uncounted{}, Verdict{VerdictJump, chainCount}}
	in := Chain{Name: "attempts.input",
		Base: &Base{Type: "filter", Hook: Input, Priority: priorityAttempts, Policy: VerdictAccept}}
	c.adminPasses(&in)
	in.add("completed handshakes", fresh...)
	*c.chain(in.Name, nil) = in

	through := Chain{Name: "attempts.forward",
		Base: &Base{Type: "filter", Hook: Forward, Priority: priorityAttempts, Policy: VerdictAccept}}
	from := Chain{Name: "attempts.external"}
	from.add("completed handshakes", fresh...)
	for _, z := range c.profile.Zones {
		for _, v6 := range families {
			if z.External {
				c.ends(&through, "from "+z.Name, IIfName, z.Name, v6, from.Name)
			}
		}
	}
	if len(through.Rules) > 0 {
		*c.chain(from.Name, nil) = from
		*c.chain(through.Name, nil) = through
	}
}

// banRule adds the rule that counts and bans for one service and family. The set of attempts forgets a source so long
// after its first one, and until then lets no more than the number through: the rate by which it is refilled is the
// least there is.
func (c *compiler) banRule(ch *Chain, b *profiles.Ban, v6 bool) {
	key, banned := banKey(v6)
	window := time.Duration(b.Window) * time.Second
	name := "attempts/" + strings.ReplaceAll(b.Service, "/", "-") + "/" + strconv.Itoa(int(b.Attempts)) + "-" +
		strconv.FormatInt(b.Window, 10) + "s/" + banned[len(banned)-1:]
	c.set(Set{Name: name, Key: []Type{key}, Size: maxSources, Timeout: window, Lasting: true})
	ch.add("bans: "+b.Service+at(b.At), Match{TCPDPort, portRanges(b.Ports)},
		OverSource{name, v6, Rate{1, 24 * time.Hour, b.Attempts}},
		BanSource{banned, v6, time.Duration(b.For) * time.Second}, c.counter(CounterBanning), drop)
}

// MarkCounted is the bit of the connection mark that says that an attempt was counted. The other bits that are used are
// those of markSettings.
const MarkCounted = 1

// Uncounted continues with what the client of a connection sends, while MarkCounted is not set.
type Uncounted struct{}

// Counted sets MarkCounted.
type Counted struct{}

// FromSource continues when the source, as in LimitSource, is in the set.
type FromSource struct {
	Set  string
	IPv6 bool
}

// ToSource continues when the destination, cut to what a source is, is in the set.
type ToSource struct {
	Set  string
	IPv6 bool
}

// OverSource is LimitSource the other way round: it continues when the rate is exceeded. Only the first packet of a
// source starts the set's timeout. When the set is full it does not match.
type OverSource struct {
	Set  string
	IPv6 bool
	Rate Rate
}

// BanSource puts the source, as in LimitSource, into the set, for so long from now.
type BanSource struct {
	Set  string
	IPv6 bool
	For  time.Duration // whole seconds
}

func (Uncounted) text() string {
	return fmt.Sprintf("ct direction original ct mark & 0x%08x == 0x00000000", MarkCounted)
}

func (Counted) text() string { return fmt.Sprintf("ct mark set ct mark | 0x%08x", MarkCounted) }

func (f FromSource) text() string { return source(f.IPv6) + " @" + f.Set }

func (t ToSource) text() string { return party(IPDAddr, IP6DAddr, t.IPv6) + " @" + t.Set }

func (o OverSource) text() string {
	return "add @" + o.Set + " { " + source(o.IPv6) + " " + strings.Replace(o.Rate.text(), "rate", "rate over", 1) + " }"
}

func (b BanSource) text() string {
	return "update @" + b.Set + " { " + source(b.IPv6) + " timeout " + strconv.Itoa(int(b.For/time.Second)) + "s }"
}
