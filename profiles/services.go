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
	words := []string{anyService, string(Accept), string(Drop), string(Reject)}
	for _, s := range services() {
		words = append(words, s.name)
	}
	return words
}

// parseService reads "ssh", "tcp/8006" or "udp/4000-4010". What is wrong comes back as a problem and a hint.
func parseService(text string) (matches []Match, problem, hint string) {
	protocol, ports, slash := strings.Cut(text, "/")
	if slash {
		if protocol != string(TCP) && protocol != string(UDP) {
			return nil, "unknown protocol " + quote(protocol), "expected tcp/PORT or udp/PORT"
		}
		ranged, problem := parsePorts(ports)
		if problem != "" {
			return nil, problem, fmt.Sprintf("for example %s/8006 or %s/4000-4010", protocol, protocol)
		}
		return []Match{{Protocol: Protocol(protocol), Ports: []PortRange{ranged}}}, "", ""
	}
	for _, s := range services() {
		if s.name == text {
			return s.matches, "", ""
		}
	}
	hint = suggest(text, serviceWords())
	if hint == "" {
		hint = "use a known name such as ssh, http or ping, or tcp/PORT, udp/PORT, any"
	}
	return nil, "unknown service " + quote(text), hint
}

// serviceSchema is what may stand after the direction of a policy line.
func serviceSchema() schema {
	portPattern := `^(tcp|udp)/[0-9]{1,5}(-[0-9]{1,5})?$`
	names := make([]string, 0, 32)
	for _, s := range services() {
		names = append(names, s.name)
	}
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
