//go:build !guest

package profiles

import "strconv"

// icmpType is a type of ICMP messages by name. Messages about a known flow pass by themselves and need no line.
type icmpType struct {
	name   string
	number uint16
}

// icmpTypes are the names of the types of a protocol, from the IANA registries "ICMP Type Numbers" and "ICMPv6 type
// Numbers", as nft(8) spells them.
func icmpTypes(p Protocol) []icmpType {
	if p == ICMP {
		return []icmpType{{"echo-reply", 0}, {"destination-unreachable", 3}, {"source-quench", 4}, {"redirect", 5},
			{"echo-request", 8}, {"router-advertisement", 9}, {"router-solicitation", 10}, {"time-exceeded", 11},
			{"parameter-problem", 12}, {"timestamp-request", 13}, {"timestamp-reply", 14}, {"info-request", 15},
			{"info-reply", 16}, {"address-mask-request", 17}, {"address-mask-reply", 18}}
	}
	return []icmpType{{"destination-unreachable", 1}, {"packet-too-big", 2}, {"time-exceeded", 3},
		{"parameter-problem", 4}, {"echo-request", 128}, {"echo-reply", 129}, {"mld-listener-query", 130},
		{"mld-listener-report", 131}, {"mld-listener-done", 132}, {"nd-router-solicit", 133}, {"nd-router-advert", 134},
		{"nd-neighbor-solicit", 135}, {"nd-neighbor-advert", 136}, {"nd-redirect", 137}, {"router-renumbering", 138},
		{"ind-neighbor-solicit", 141}, {"ind-neighbor-advert", 142}, {"mld2-listener-report", 143}}
}

// parseICMPType reads the name or number of a type.
func parseICMPType(p Protocol, text string) (n uint16, problem, hint string) {
	var names []string
	for _, t := range icmpTypes(p) {
		if t.name == text {
			return t.number, "", ""
		}
		names = append(names, t.name)
	}
	if number, err := strconv.ParseUint(text, 10, 8); err == nil && strconv.FormatUint(number, 10) == text {
		return uint16(number), "", ""
	}
	hint = suggest(text, names)
	if hint == "" {
		hint = "write a name such as " + string(p) + "/echo-request, or a number up to 255"
	}
	return 0, "unknown type " + quote(text) + " of " + string(p), hint
}
