// Package filter turns a profile's policy into packet filter rules, and into the flows that prove them.
//
// Compile is pure: a profile goes in, a Ruleset comes out. The Ruleset is an intermediate form with two printers:
// Ruleset.Text is a script for nft(8), for people, for review and for golden files; package filter/kernel sends the
// same Ruleset to the kernel by netlink, in one transaction. A test applies both and compares what the kernel lists.
//
// # How a packet is judged
//
// Everything routed is in one table, "inet rempart"; a profile with zones on members of a bridge has another, "bridge
// rempart", which bridge.go tells of. Each link has a source space: its own subnets and the prefixes of its
// zones, and on a link with a default route everything that no other link claims more closely. A packet that enters
// by a link outside the link's source space is dropped before connection tracking sees it, and nothing is handed on in
// the machine's own name. The zones of a link divide its space; so a zone is a set of (link, address range), the same
// for source and destination.
//
// In the input and forward hooks answers and ICMP errors of known connections pass first, but for those that several
// uplinks lead astray (uplinks.go), then what is invalid is dropped, then come loopback, the admin path, what IPv6
// needs to live, and then the pair of zones is looked up: by link and the few ranges of that link, first for the source
// and then for the destination, so the cost does not grow with the policy. In the chain of the pair the profile's lines
// stand in their order; what reaches its end is counted and dropped. Where 16 or more lines in a row do the same, so
// that their order among each other means nothing, lookups take their place: one for each combination of fields, so a
// packet pays for kinds of lines and not for lines. Each element says which line it is from. Forwards are accepted in
// the same way where they are many, and translated by a map from ports to hosts.
//
// # Why addresses and links are compared one by one
//
// A policy is replaced in one transaction, and no packet may be lost over it. Measured on Linux 6.18 with a stream of
// 2,000 to 5,000 datagrams a second and twenty reloads: with verdict maps, concatenated ranges (pipapo) or sets of
// ranges (rbtree) on the way, between 2 and 19 datagrams and up to 6 of 1,000 first packets of connections were lost;
// with plain comparisons none. While old and new rules change places lookups in the sets of either can miss, it
// seems; rules do not. Comparisons are few: one for each link and one for each range of that link, and but for those
// of the source only new connections meet them. Lists in a line of the policy are sets all the same: a lost first
// packet is sent again.
//
// The sets of the profile and those of merged lines may be large. Each is named after its content, and package
// filter/kernel puts it in before the rules that ask it and keeps it as long as it is wanted: over 100 reloads of two
// policies with different ones no packet was lost.
//
// # What it deliberately does not do
//
// Prefixes are mapped to prefixes with connection tracking (NETMAP), not without as RFC 6296 (NPTv6) has it. Its
// mapping adds the difference of the prefixes to one word of the address in ones' complement (section 3.1), and
// expressions of nf_tables can mask, shift and exclusive-or what they load (net/netfilter/nft_bitwise.c) but not add;
// of prefixes longer than /48 the word is one of the host's, so a map of all sums would have 65,536 elements for each
// direction. The kernel's other way is a target of ip6tables (ip6t_NPT), which nf_tables reaches through nft_compat
// only. A prefix written into packets without connection tracking and without that word would need every protocol's
// checksum mended, and would leave the addresses in ICMP errors as they are, by which hosts learn the path MTU. What
// the mapping costs is an entry of connection tracking for each flow, which the policy keeps anyhow; what it gives up
// is that two firewalls share the flows of one prefix.
//
// It does not touch the kernel, know interface indices, or resolve names. Connection
// tracking helpers are given to the connections of lines and forwards that ask for one, and to no others: there
// "related" means what those connections announce, and ICMP errors everywhere.
package filter

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"rempart/profiles"
)

// TableName is the one table that holds the policy. Nothing outside it is ever changed.
const TableName = "rempart"

// Ports and ICMP types, from the IANA registries and the RFC that defines each.
const (
	PortSSH        = 22 // RFC 4251: the admin path
	portDHCPServer = 67 // RFC 2131, section 4.1
	portDHCPClient = 68

	icmpUnreachable = 3 // RFC 792; its code 4 is "fragmentation needed", RFC 1191
	icmpFragNeeded  = 4
	icmpEchoRequest = 8 // RFC 792

	icmp6PacketTooBig         = 2   // RFC 4443, section 3.2
	icmp6EchoRequest          = 128 // RFC 4443, section 4.1
	icmp6ListenerQuery        = 130 // RFC 2710: multicast listener discovery, version 1
	icmp6ListenerReport       = 131
	icmp6ListenerDone         = 132
	icmp6NeighborSolicit      = 135 // RFC 4861, section 4.3
	icmp6NeighborAdvert       = 136 // RFC 4861, section 4.4
	icmp6ListenerReport2      = 143 // RFC 3810: multicast listener discovery, version 2
	neighborDiscoveryHopsLeft = 255 // RFC 4861, section 7.1: proves that no router forwarded it
)

// Conntrack bits, from the kernel's include/uapi/linux/netfilter/nf_conntrack_common.h as nf_tables presents them.
const (
	ctInvalid     = 1 << 0
	ctEstablished = 1 << 1
	ctRelated     = 1 << 2
	ctUntracked   = 1 << 6
	ctDestNAT     = 1 << 5 // IPS_DST_NAT, in ct status

	tcpSYN = 1 << 1 // RFC 9293, section 3.1: control bits
	tcpRST = 1 << 2
)

// Chain priorities, from the kernel's include/uapi/linux/netfilter_ipv4.h.
const (
	priorityRaw    = -300 // before connection tracking (-200)
	priorityFree   = -290 // after antispoof, and still before connection tracking
	priorityMangle = -150
	priorityDstNAT = -100
	priorityFilter = 0
	prioritySrcNAT = 100
)

// Bounds of a profile that can be compiled: far above any real one, far below what would hurt a guest of 96 MB.
const (
	maxLinks    = 256
	maxZones    = 256
	maxRules    = 20_000
	maxForwards = 4_096
	maxPortMap  = 65_536 // elements of all port maps together

	maxTranslations = 4_096 // lines of masquerade and nat
)

// Compile returns the rules of a profile. The profile must be one that package profiles accepted; what Compile
// relies on it checks again, and its error names every place at which the profile cannot be compiled.
func Compile(p *profiles.Profile) (Ruleset, error) {
	c, err := newCompiler(p)
	if err != nil {
		return Ruleset{}, err
	}
	c.antispoof()
	c.untracked()
	c.clamp()
	c.settings()
	c.input()
	c.forward()
	c.output()
	c.destinationNAT()
	c.proxiedNAT()
	c.sourceNAT()
	return c.finish(false)
}

// Closed returns the rules that hold until the policy is loaded, and when it cannot be: nothing enters and nothing
// is forwarded, but for the admin path the profile declares and what keeps that path alive. It uses no connection
// tracking, so that it loads even where that is missing, and what the admin sends is accepted packet by packet.
func Closed(p *profiles.Profile) (Ruleset, error) {
	c, err := newCompiler(p)
	if err != nil {
		return Ruleset{}, err
	}
	c.closed()
	return c.finish(true)
}

// fingerprintPrefix starts the name of a chain without rules that is named after the digest of the whole table: it
// tells a reader, and a restarted child, which policy is loaded.
const fingerprintPrefix = "fingerprint/"

// fingerprint is the name of the fingerprint chain for a table without one. What lists hold at the moment is no part of
// it, and what sets of the profile hold is in their names.
func fingerprint(t *Table) string {
	plain := *t
	plain.Sets = slices.Clone(t.Sets)
	var names []string
	for i := range plain.Sets {
		s := &plain.Sets[i]
		s.Ranges, s.Absent = nil, 0
		if s.List != "" {
			names = append(names, s.Name, s.List)
		}
	}
	text := (&Ruleset{Tables: []Table{plain}}).Text()
	sum := sha256.Sum256([]byte(strings.NewReplacer(names...).Replace(text)))
	return fingerprintPrefix + hex.EncodeToString(sum[:16])
}

// Fingerprint is the name of the chain that identifies this policy, or empty for a Ruleset that has none. Two
// Rulesets with the same text have the same fingerprint.
func (r *Ruleset) Fingerprint() string {
	for i := range r.Tables {
		for _, chain := range r.Tables[i].Chains {
			if len(chain.Name) > len(fingerprintPrefix) && chain.Name[:len(fingerprintPrefix)] == fingerprintPrefix {
				return chain.Name
			}
		}
	}
	return ""
}

// at prints a place of the profile for comments: " (14:5)", or nothing when it is unknown.
func at(pos profiles.Pos) string {
	if pos.Line == 0 {
		return ""
	}
	return " (" + strconv.Itoa(pos.Line) + ":" + strconv.Itoa(pos.Column) + ")"
}

// errorAt is one thing that cannot be compiled.
func errorAt(pos profiles.Pos, format string, args ...any) error {
	return fmt.Errorf("filter: %w%s", fmt.Errorf(format, args...), at(pos))
}
