//go:build !guest

package profiles

import (
	"fmt"
	"strings"
)

// services are the names a policy line may use, with their ports from the IANA Service Name and Transport Protocol
// Port Number Registry (RFC 6335). The order is that of the names.
func services() []service {
	tcp := func(ports ...uint16) []Match { return []Match{{Protocol: TCP, Ports: single16(ports)}} }
	udp := func(ports ...uint16) []Match { return []Match{{Protocol: UDP, Ports: single16(ports)}} }
	return []service{
		{"dhcp", []Match{{Protocol: UDP, Ports: []PortRange{{67, 68}}}}}, // RFC 2131, section 4.1
		{"dns", append(udp(53), tcp(53)...)},                             // RFC 1035 4.2, RFC 7766
		{"dns-tls", tcp(853)},
		{"git", tcp(9418)},
		{"http", tcp(80)},
		{"http3", udp(443)},
		{"https", tcp(443)},
		{"imap", tcp(143)},
		{"imaps", tcp(993)},
		{"ipp", tcp(631)},
		{"ldap", tcp(389)},
		{"ldaps", tcp(636)},
		{"mqtt", tcp(1883)},
		{"mysql", tcp(3306)},
		{"nfs", tcp(2049)},
		{"ntp", udp(123)},
		{"ping", []Match{{Protocol: Ping}}},
		{"postgresql", tcp(5432)},
		{"rdp", tcp(3389)},
		{"rsync", tcp(873)},
		{"smb", tcp(445)},
		{"smtp", tcp(25)},
		{"smtps", tcp(465)},
		{"snmp", udp(161)},
		{"ssh", tcp(22)},
		{"submission", tcp(587)},
		{"syslog", udp(514)},
		{"tcp", []Match{{Protocol: TCP}}}, // all of it
		{"udp", []Match{{Protocol: UDP}}},
		{"wireguard", udp(51820)},
	}
}

type service struct {
	name    string
	matches []Match
}

func single16(ports []uint16) []PortRange {
	var ranges []PortRange
	for _, p := range ports {
		ranges = append(ranges, PortRange{p, p})
	}
	return ranges
}

// The words of a policy line that are no services: anyService accepts everything, the others are actions.
const anyService = "any"

// serviceWords are all words a policy line may hold.
func serviceWords() []string {
	return append([]string{anyService, string(Accept), string(Drop), string(Reject)}, serviceNames()...)
}

// serviceNames are the services, and the protocols that are no services: all of icmp, gre and so on.
func serviceNames() []string {
	var names []string
	for _, s := range services() {
		names = append(names, s.name)
	}
	for _, p := range protocolNumbers() {
		if p.name != TCP && p.name != UDP { // these two are services
			names = append(names, string(p.name))
		}
	}
	return names
}

// parseService reads "ssh", "tcp/8006", "udp/4000-4010", "icmp/echo-request", "gre" or "proto/47". What is wrong comes
// back as a problem and a hint.
func parseService(text string) (matches []Match, problem, hint string) {
	name, what, slash := strings.Cut(text, "/")
	protocol := Protocol(name)
	switch {
	case slash && protocol.HasPorts():
		ranged, problem := parsePorts(what)
		if problem != "" {
			return nil, problem, fmt.Sprintf("for example %s/8006 or %s/4000-4010", protocol, protocol)
		}
		return []Match{{Protocol: protocol, Ports: []PortRange{ranged}}}, "", ""
	case slash && (protocol == ICMP || protocol == ICMP6):
		n, problem, hint := parseICMPType(protocol, what)
		return []Match{{Protocol: protocol, Types: []uint16{n}}}, problem, hint
	case slash && name+"/" == protoPrefix:
		n, ok := parseProtocolNumber(what)
		if !ok {
			return nil, "expected a protocol number from 0 to 255, found " + quote(what), "for example proto/47"
		}
		return []Match{{Protocol: protocolOf(n)}}, "", ""
	case slash:
		return nil, "unknown protocol " + quote(name),
			"expected tcp/PORT, udp/PORT, sctp/PORT, icmp/TYPE, icmpv6/TYPE or proto/NUMBER"
	}
	for _, s := range services() {
		if s.name == text {
			return s.matches, "", ""
		}
	}
	if _, ok := protocol.Number(); ok {
		return []Match{{Protocol: protocol}}, "", ""
	}
	hint = suggest(text, serviceWords())
	if hint == "" {
		hint = "use a known name such as ssh, http or ping, or tcp/PORT, udp/PORT, any"
	}
	return nil, "unknown service " + quote(text), hint
}

// serviceSchema is what may stand after the direction of a policy line.
func serviceSchema() schema {
	const portPattern = `^(tcp|udp|sctp)/[0-9]{1,5}(-[0-9]{1,5})?$|^icmp(v6)?/[a-z0-9-]{1,32}$|^proto/[0-9]{1,3}$`
	names := serviceNames()
	one := eitherOf(oneWordOf(names...), textLike(portPattern))
	actions := oneWordOf(string(Accept), string(Drop), string(Reject))
	long := schema{
		"type":                 "object",
		"minProperties":        1,
		"propertyNames":        eitherOf(oneWordOf(append(names, anyService)...), textLike(portPattern)),
		"additionalProperties": eitherOf(actions, matchFields().schema()),
	}
	return eitherOf(oneWordOf(serviceWords()...), textLike(portPattern), filled(listOf(one)), long)
}
