//go:build !guest

package profiles

// optionKind is what the value of a DHCP option looks like in a profile, and how it is sent.
type optionKind uint8

// The kinds. Addresses are IPv4; numbers are unsigned unless they say otherwise.
const (
	optBytes     optionKind = iota // 0x and hex digits, or a text, sent as it is
	optText                        // a text
	optFlag                        // true or false, 1 or 0
	optByte                        // 8 bits
	optShort                       // 16 bits
	optLong                        // 32 bits
	optSigned                      // 32 bits, signed
	optShorts                      // a list of 16 bits
	optAddress                     // one address
	optAddresses                   // a list
	optPairs                       // a list of pairs of addresses
	optDomain                      // a name in the wire format of RFC 1035
	optDomains                     // a list of them (RFC 3397)
	optRoutes                      // a list of {to: PREFIX, via: ADDRESS} (RFC 3442)
	optReserved                    // the server itself says it, or nobody
)

// dhcpOption is an option of the registry.
type dhcpOption struct {
	code uint8
	name string // that of the registry, in lower case with dashes
	kind optionKind
}

// dhcpOptions are IANA's registry "BOOTP Vendor Extensions and DHCP Options" (bootp-dhcp-parameters), and the kinds of
// the RFCs it names: 2132 up to 76 unless noted, later ones by their own.
func dhcpOptions() []dhcpOption {
	return []dhcpOption{
		{1, "subnet-mask", optReserved}, {2, "time-offset", optSigned}, {3, "router", optAddresses},
		{4, "time-server", optAddresses}, {5, "name-server", optAddresses}, {6, "domain-server", optAddresses},
		{7, "log-server", optAddresses}, {8, "quotes-server", optAddresses}, {9, "lpr-server", optAddresses},
		{10, "impress-server", optAddresses}, {11, "rlp-server", optAddresses}, {12, "hostname", optText},
		{13, "boot-file-size", optShort}, {14, "merit-dump-file", optText}, {15, "domain-name", optText},
		{16, "swap-server", optAddress}, {17, "root-path", optText}, {18, "extension-file", optText},
		{19, "forward-on-off", optFlag}, {20, "srcrte-on-off", optFlag}, {21, "policy-filter", optPairs},
		{22, "max-dg-assembly", optShort}, {23, "default-ip-ttl", optByte}, {24, "mtu-timeout", optLong},
		{25, "mtu-plateau", optShorts}, {26, "mtu-interface", optShort}, {27, "mtu-subnet", optFlag},
		{28, "broadcast-address", optAddress}, {29, "mask-discovery", optFlag}, {30, "mask-supplier", optFlag},
		{31, "router-discovery", optFlag}, {32, "router-request", optAddress}, {33, "static-route", optPairs},
		{34, "trailers", optFlag}, {35, "arp-timeout", optLong}, {36, "ethernet", optFlag}, {37, "default-tcp-ttl", optByte},
		{38, "keepalive-time", optLong}, {39, "keepalive-data", optFlag}, {40, "nis-domain", optText},
		{41, "nis-servers", optAddresses}, {42, "ntp-servers", optAddresses}, {43, "vendor-specific", optBytes},
		{44, "netbios-name-srv", optAddresses}, {45, "netbios-dist-srv", optAddresses}, {46, "netbios-node-type", optByte},
		{47, "netbios-scope", optText}, {48, "x-window-font", optAddresses}, {49, "x-window-manager", optAddresses},
		{50, "address-request", optReserved}, {51, "address-time", optReserved}, {52, "overload", optReserved},
		{53, "dhcp-msg-type", optReserved}, {54, "dhcp-server-id", optReserved}, {55, "parameter-list", optReserved},
		{56, "dhcp-message", optReserved}, {57, "dhcp-max-msg-size", optReserved}, {58, "renewal-time", optReserved},
		{59, "rebinding-time", optReserved}, {60, "class-id", optText}, {61, "client-id", optReserved},
		{62, "netware-ip-domain", optText}, {63, "netware-ip-option", optBytes}, {64, "nis-domain-name", optText},
		{65, "nis-server-addr", optAddresses}, {66, "server-name", optText}, {67, "bootfile-name", optText},
		{68, "home-agent-addrs", optAddresses}, {69, "smtp-server", optAddresses}, {70, "pop3-server", optAddresses},
		{71, "nntp-server", optAddresses}, {72, "www-server", optAddresses}, {73, "finger-server", optAddresses},
		{74, "irc-server", optAddresses}, {75, "streettalk-server", optAddresses}, {76, "stda-server", optAddresses},
		{77, "user-class", optReserved}, {78, "directory-agent", optBytes}, {79, "service-scope", optBytes},
		{80, "rapid-commit", optReserved}, {81, "client-fqdn", optReserved}, {82, "relay-agent-information", optReserved},
		{83, "isns", optBytes}, {85, "nds-servers", optAddresses}, {86, "nds-tree-name", optText},
		{87, "nds-context", optText}, {88, "bcmcs-controller-domain-name-list", optDomains},
		{89, "bcmcs-controller-ipv4-address", optAddresses}, {90, "authentication", optReserved},
		{91, "client-last-transaction-time", optReserved}, {92, "associated-ip", optReserved},
		{93, "client-system", optReserved}, {94, "client-ndi", optReserved}, {95, "ldap", optText},
		{97, "uuid-guid", optReserved}, {98, "user-auth", optText}, {99, "geoconf-civic", optBytes}, {100, "pcode", optText},
		{101, "tcode", optText}, {108, "ipv6-only-preferred", optLong}, {109, "dhcp4o6-s46-saddr", optBytes},
		{112, "netinfo-address", optAddresses}, {113, "netinfo-tag", optText}, {114, "dhcp-captive-portal", optText},
		{116, "auto-config", optByte}, {117, "name-service-search", optShorts}, {118, "subnet-selection", optReserved},
		{119, "domain-search", optDomains}, {120, "sip-servers", optBytes}, {121, "classless-static-route", optRoutes},
		{122, "ccc", optBytes}, {123, "geoconf", optBytes}, {124, "vi-vendor-class", optBytes},
		{125, "vi-vendor-specific-information", optBytes}, {136, "pana-agent", optAddresses}, {137, "v4-lost", optDomain},
		{138, "capwap-ac-v4", optAddresses}, {139, "ipv4-address-mos", optBytes}, {140, "ipv4-fqdn-mos", optBytes},
		{141, "sip-ua-configuration-service-domains", optDomains}, {142, "ipv4-address-andsf", optAddresses},
		{143, "v4-sztp-redirect", optBytes}, {144, "geoloc", optBytes}, {145, "forcerenew-nonce-capable", optReserved},
		{146, "rdnss-selection", optBytes}, {147, "v4-dots-ri", optDomain}, {148, "v4-dots-address", optAddresses},
		{150, "tftp-server-address", optAddresses}, {151, "status-code", optReserved}, {152, "base-time", optReserved},
		{153, "start-time-of-state", optReserved}, {154, "query-start-time", optReserved},
		{155, "query-end-time", optReserved}, {156, "dhcp-state", optReserved}, {157, "data-source", optReserved},
		{158, "v4-pcp-server", optBytes}, {159, "v4-portparams", optBytes}, {161, "mud-url-v4", optText},
		{162, "v4-dnr", optBytes}, {175, "etherboot", optBytes}, {176, "ip-telephone", optText},
		{208, "pxelinux-magic", optBytes}, {209, "configuration-file", optText}, {210, "path-prefix", optText},
		{211, "reboot-time", optLong}, {212, "6rd", optBytes}, {213, "v4-access-domain", optDomain},
		{220, "subnet-allocation", optReserved}, {221, "virtual-subnet-selection", optReserved},
		{249, "microsoft-classless-static-route", optRoutes}, {252, "wpad", optText}, // private use, and usual
	}
}

// optionAliases are other names that people know options by: those of dhcp-options(5).
func optionAliases() map[string]string {
	return map[string]string{"routers": "router", "dns": "domain-server", "domain-name-servers": "domain-server",
		"dns-servers": "domain-server", "host-name": "hostname", "ip-forwarding": "forward-on-off",
		"interface-mtu": "mtu-interface", "static-routes": "static-route", "tftp-server-name": "server-name",
		"netbios-name-servers": "netbios-name-srv", "log-servers": "log-server", "time-servers": "time-server",
		"classless-static-routes": "classless-static-route", "captive-portal": "dhcp-captive-portal"}
}

// optionByName finds an option by its name, or one of the other names.
func optionByName(name string) (dhcpOption, bool) {
	if other := optionAliases()[name]; other != "" {
		name = other
	}
	for _, o := range dhcpOptions() {
		if o.name == name {
			return o, true
		}
	}
	return dhcpOption{}, false
}

// optionByCode finds an option by its number; one that the registry does not have is bytes.
func optionByCode(code int) dhcpOption {
	for _, o := range dhcpOptions() {
		if int(o.code) == code {
			return o
		}
	}
	return dhcpOption{code: uint8(code), kind: optBytes}
}

func optionNames() []string {
	var all []string
	for _, o := range dhcpOptions() {
		if o.kind != optReserved {
			all = append(all, o.name)
		}
	}
	for name := range optionAliases() {
		all = append(all, name)
	}
	return all
}
