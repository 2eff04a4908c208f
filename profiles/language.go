//go:build !guest

package profiles

import (
	"net/netip"
	"strconv"
)

// Patterns of the words in a profile, for editors. The checks themselves are in check_*.go.
const (
	linkPattern    = `^[A-Za-z][A-Za-z0-9_.-]{0,14}$`
	linksPattern   = `^[A-Za-z][A-Za-z0-9_.-]{0,14}\*?$|^\*$`
	zonePattern    = `^[a-z][a-z0-9_-]{0,30}$`
	hostPattern    = `^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`
	sizePattern    = `^[0-9]{1,6} ?[MGT](iB)?$`
	subnetPattern  = `^[0-9a-fA-F.:]+/[0-9]{1,3}$`
	addressPattern = `^[0-9a-fA-F.:]+$`
	prefixPattern  = `^[0-9a-fA-F.:]+(/[0-9]{1,3})?$`
	macPattern     = `^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`
	pciPattern     = `^([0-9a-fA-F]{1,8}:)?[0-9a-fA-F]{1,2}:[01]?[0-9a-fA-F]\.[0-7]$`
	spanPattern    = `^[0-9]{1,5}[smhd]$`
	driverPattern  = `^[A-Za-z0-9_-]{1,32}$`
	clientPattern  = `^[A-Za-z0-9_.:-]{1,64}$`
	portsPattern   = `^[0-9]{1,5}(-[0-9]{1,5})?$`
	rangePattern   = `^[0-9a-fA-F.:]+(/[0-9]{1,3}|-[0-9a-fA-F.:]+)?$`
	limitPattern   = `^[0-9]{1,7}/[smhd]( burst [0-9]{1,7})?$`
	percentPattern = `^[0-9]{1,3}%$`
	urlPattern     = `^https?://[!-~]+$`
	keyPinPattern  = `^(sha256//)?[A-Za-z0-9+/]{43}=$`
	banPattern     = `^[0-9]{1,5}/[0-9]{1,5}[smhd] for [0-9]{1,5}[smhd]$`

	suffixPattern   = `^::[0-9a-fA-F:.]{1,39}$`
	suffixesPattern = `^::[0-9a-fA-F:.]{1,39} ?- ?::[0-9a-fA-F:.]{1,39}$`
	duidPattern     = `^([0-9a-fA-F]{2}:?){3,130}$`

	lengthsPattern    = `^[0-9]{1,2} *- *[0-9]{1,2}$`
	blockPattern      = `^(delegated(/[0-9a-fA-F]{1,8})?::|[0-9a-fA-F:.]+)/[0-9]{1,2}$`
	delegatedPattern  = `^delegated(/[0-9a-fA-F]{1,4})?::[0-9a-fA-F:.]{1,39}$`
	banServicePattern = `^([a-z][a-z0-9-]{0,30}|tcp/[0-9]{1,5}(-[0-9]{1,5})?)$`

	logPattern   = `^[A-Za-z0-9 _.:>-]{1,48}$`
	arrowPattern = `^\s*[a-z][a-z0-9_-]{0,30}\s*->\s*[a-z][a-z0-9_-]{0,30}\s*$`
)

// profileFields is the whole language. Later fields refer to names that earlier ones declare.
func profileFields() table[Profile] {
	return table[Profile]{
		{name: "rempart", doc: "Version of the profile language: write `rempart: 1`.", kind: schema{"const": 1},
			required: true, decode: func(*reader, value, *Profile) {}}, // looked at before all else
		{name: "name", doc: "Host name of the guest, an RFC 1123 label such as fw-1.",
			kind: textLike(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`), required: true, decode: readName},
		{name: "memory", doc: "RAM a guest is given: a number and M (MiB) or G (GiB). Default 128M.",
			kind: textLike(sizePattern), decode: readMemory},
		{name: "kernel", doc: "Kernel of the guest. cloud, the default, is Debian's kernel for virtual machines;" +
			" full is the one that drives hardware: NICs passed through to the guest, or emulated ones.",
			kind: oneWordOf(KernelCloud, KernelFull), decode: readKernel},
		{name: "state", doc: "Size of the writable disk, a number and M (MiB) or G (GiB), or none: /var is then kept" +
			" in RAM and lost at power-off. Default 256M.",
			kind: textLike(`^(none|[0-9]{1,6} ?[MGT](iB)?)$`), decode: readState},
		{name: "disks", doc: "Data disks, which nothing that is done to the guest changes: NAME: FOLDER, below /srv, or" +
			" NAME: {at: FOLDER, exec: true, optional: true, read-only: true}. rempart create --data NAME=FILE attaches one.",
			kind: filled(named(diskPattern, eitherOf(textLike(mountPattern), diskFields().schema()))), decode: readDisks},
		{name: "links", doc: "The network interfaces: their names, and how each is set up.",
			kind: filled(named(linkPattern, linkFields().schema())), required: true, decode: readLinks},
		{name: "zones", doc: "Parts of the network that are trusted alike: a name, and the links (by name," +
			" or vif* for all that begin so) or addresses in it.",
			kind:     filled(named(zonePattern, eitherOf(oneOrMore(textLike(linksPattern)), zoneFields().schema()))),
			required: true, decode: readZones},
		{name: "hosts", doc: "Names for addresses: NAME: ADDRESS, a list of them, or .10 for host 10 of the one IPv4 subnet.",
			kind: named(hostPattern, oneOrMore(hostAddress())), decode: readHosts},
		{name: "sets", doc: "Names for many addresses, for policy lines: NAME: [PREFIX, ADDRESS, RANGE], or" +
			" NAME: {file: FILE}, or NAME: {url: URL, every: 6h} for a list that is fetched again and again.",
			kind: named(zonePattern, setSchema()), decode: readSets},
		{name: "admin", doc: "Who may reach the guest by SSH, above every other rule: `admin: {from: ZONE or ADDRESS}`," +
			" or `admin: none` for the console only.",
			kind: eitherOf(oneWordOf("none"), adminFields().schema()), required: true, decode: readAdmin},
		{name: "bans", doc: "Sources shut out after repeated attempts: SERVICE: 5/10m for 1h bans who connects more than 5" +
			" times in 10 minutes, for an hour. SERVICE is ssh, another TCP service, or tcp/PORT.",
			kind: filled(named(banServicePattern, textLike(banPattern))), decode: readBans},
		{name: "dynamic_sets", doc: "Sets that lines fill while the guest runs: NAME: how long a source stays after it was" +
			" last added, such as 30s or 12h. A line fills it with add: NAME, others ask for it with from: NAME.",
			kind: filled(named(zonePattern, textLike(dynamicPattern))), decode: readDynamicSets},
		{name: "flowtable", doc: "true: the packets of TCP and UDP connections that were accepted are forwarded by a short" +
			" way that skips rules and routing, where the kernel has one. Default: false.",
			kind: yesOrNo(), decode: func(r *reader, v value, p *Profile) { p.FlowTable, _ = r.boolean(v) }},
		{name: "policy", doc: "What may pass, read top-down: - FROM -> TO: SERVICES. What no line accepts is dropped.",
			kind: listOf(single(arrowPattern, serviceSchema())), decode: readPolicy},
		{name: "masquerade", doc: "Directions whose IPv4 traffic leaves under the guest's own address: - FROM -> TO; or" +
			" - FROM -> TO: ipv6, or both.",
			kind:   listOf(eitherOf(textLike(arrowPattern), single(arrowPattern, oneWordOf(familyWords()...)))),
			decode: readMasquerade},
		{name: "nat", doc: "Address translation beyond masquerade and forwards: {source: [...], map: [...]}.",
			kind: natFields().schema(), decode: readNAT},
		{name: "forwards", doc: "Ports of the guest's own address that lead to hosts behind it. No policy line is needed.",
			kind: listOf(forwardSchema()), decode: readForwards},
		{name: "routes", doc: "Routes that lead nowhere: - {to: PREFIX, type: blackhole}. Others are written at their link.",
			kind: oneOrMore(deadRouteFields().schema()), decode: readDeadRoutes},
		{name: "rules", doc: "Which packets are routed by another table than the main one: - {from: PREFIX, table: NUMBER}.",
			kind: oneOrMore(routingRuleFields().schema()), decode: readRoutingRules},

		{name: "dns", doc: "Name service: {upstream: ADDRESS, LINK: {domain: NAME}}. Hosts on the links named may ask; the" +
			" ports are open to them without a line of the policy.", kind: dnsSchema(), decode: readDNS},
		{name: "dhcp6", doc: "DHCPv6 server on inside links: LINK: {pool: ::1000-::1fff, dns: self}; without pool and hosts" +
			" it tells of name servers only.", kind: filled(named(linkPattern, dhcp6Fields().schema())), decode: readDHCP6},
		{name: "ra", doc: "IPv6 router advertisements on inside links: LINK: {dns: self, search: NAME}, or LINK: {}. Hosts" +
			" there make addresses in the link's prefixes, and take the guest for their router while it leads anywhere.",
			kind: filled(named(linkPattern, advertFields().schema())), decode: readAdverts},
		{name: "ntp", doc: "Time: {servers: [ADDRESS or NAME], serve: [LINK]}. Without it the guest takes its hypervisor's" +
			" clock.", kind: filled(ntpFields().schema()), decode: readNTP},
		{name: "dhcp", doc: "Address leases on inside links: LINK: {pool: .100-.200, lease: 12h, options: {19: 1}}. The" +
			" port is open to them without a line of the policy.",
			kind: filled(named(linkPattern, dhcpFields().schema())), decode: readDHCP},
		{name: "sysctl", doc: "Kernel settings: KEY: VALUE.",
			later: "remove it, the guest sets what a firewall needs"},
		{name: "logging", doc: "What is logged and where to: {drops: ZONE, to: ADDRESS, disk: NAME}. The guest's own log is" +
			" kept in any case.", kind: loggingFields().schema(), decode: readLogging},
		{name: "services", doc: "Supervised services and containers: NAME: {image: DIGEST, cpu: 25%, memory: 50M, ...}.",
			later: "remove it, a master of this version is a firewall only"},
		{name: "proxy", doc: "Name-based web proxy: NAME: HOST:PORT.",
			later: "remove it, and forward tcp 80 and 443 to a host that runs one"},
		{name: "volumes", doc: "Parts of the state disk: NAME: {size: SIZE, exec: true}.",
			later: "remove it; what must last beside /var is kept on a disk of its own: disks"},
		{name: "overlays", doc: "File trees laid on the root: [DIRECTORY].", later: "remove it"},
		{name: "packages", doc: "Debian packages laid on the root: [NAME].", later: "remove it"},
		{name: "users", doc: "People who may log in: NAME: {keys: [FILE]}.", later: "remove it"},
		{name: "secrets", doc: "Values that are on the guest's identity disk only: [NAME].", later: "remove it"},
		{name: "health", doc: "Probes of the appliance's own job beyond those of the policy.",
			later: "remove it, the policy's own probes are always made"},
	}
}

// linkFields are the keys of one link.
func linkFields() table[Link] {
	return append(table[Link]{
		{name: "mac", doc: "Hardware address of the NIC meant, such as 52:54:00:12:34:56. Without it and match: the NIC" +
			" that rempart made for the link, else the next free one in bus order. Of a bond, bridge, macvlan or dummy:" +
			" the address it gets.",
			kind: textLike(macPattern), decode: readMAC},
		{name: "match", doc: "What the NIC is found by: {mac: ADDRESS}, {pci: ADDRESS}, {driver: NAME} or {xen: NUMBER}; of" +
			" several all must hold. When more than one NIC fits the link stays closed.",
			kind: filled(nicFields().schema()), decode: readMatch},
		{name: "address", doc: "Address with prefix length, such as 192.168.0.1/24 or fd00::1/64; or dhcp for IPv4 from" +
			" a DHCP server; auto for IPv6 from router advertisements; dhcp6 for IPv6 from a DHCPv6 server; instance for what" +
			" is on the identity disk of each guest (rempart run --address); delegated/1::1 for" +
			" host ::1 of subnet 1 of the prefix that the link with `delegation` is given; or a list of these.",
			kind: oneOrMore(eitherOf(oneWordOf("dhcp", "auto", "dhcp6", instanceWord), textLike(delegatedPattern),
				textLike(subnetPattern))), decode: readAddresses},
		{name: "delegation", doc: "An IPv6 prefix for the links inside is asked for on this link, by DHCPv6: any, or the" +
			" length that is wanted, 32 to 64.", kind: eitherOf(oneWordOf("any"), numberIn(minDelegation, maxDelegation)),
			decode: readDelegation},
		{name: "gateway", doc: "Default gateway: an address, {via: ADDRESS, onlink: true} for one outside the link's" +
			" subnets, instance for what is on the identity disk of each guest, or a list of one per address family.",
			kind:   oneOrMore(eitherOf(oneWordOf(instanceWord), textLike(addressPattern), gatewayFields().schema())),
			decode: readGateways},
		{name: "accept", doc: "What is taken of what DHCP servers and routers say: {default: false, dns: false," +
			" metric: 600}.",
			kind: filled(believedFields().schema()), decode: readBelieved},
		{name: "client_id", doc: "What DHCP servers know this link by. Default: its hardware address.",
			kind: textLike(clientPattern), decode: readClientID},
		{name: "routes", doc: "Static routes by this link: {to: PREFIX, via: ADDRESS}, or a list.",
			kind: oneOrMore(routeFields().schema()), decode: readLinkRoutes},
		{name: "mtu", doc: "Largest packet in bytes, " + strconv.Itoa(minMTU) + " to " + strconv.Itoa(maxMTU) +
			". Default: what the NIC says.", kind: numberIn(minMTU, maxMTU), decode: readMTU},

		{name: "wireguard", doc: "This link is a WireGuard tunnel: {port: 51820, from: ZONE, peers: {NAME: {key:" +
			" PUBLIC KEY, allowed: PREFIX, endpoint: ADDRESS:PORT}}}. Its private key is on the guest's identity disk.",
			kind: wireGuardFields().schema(), decode: readWireGuard},
	}, deviceFields()...)
}

// gatewayFields are the keys of a gateway that is more than an address.
func gatewayFields() table[Gateway] {
	return table[Gateway]{
		{name: "via", doc: "Address of the gateway.", kind: textLike(addressPattern), required: true, decode: readVia},
		{name: "onlink", doc: "true: the gateway answers on this link although its address is in none of the link's subnets.",
			kind: yesOrNo(), decode: readOnLink},
		{name: "metric", doc: "Which of several gateways of a family is taken: that with the lowest metric.",
			kind: numberIn(1, maxMetric), decode: func(r *reader, v value, g *Gateway) {
				n, _ := r.integer(v, 1, maxMetric, "")
				g.Metric = uint32(n)
			}},
	}
}

// zoneDraft is a zone as written.
type zoneDraft struct {
	links    []place
	prefixes []netip.Prefix
	places   []Pos // of the prefixes
	rest     bool
	external *bool
}

// zoneFields are the keys of a zone that is more than a link.
func zoneFields() table[zoneDraft] {
	return table[zoneDraft]{
		{name: "link", doc: "The link, or list of links, the zone is on; vif* is all whose names begin with vif.",
			kind:     oneOrMore(textLike(linksPattern)),
			required: true, decode: readZoneLinks},
		{name: "prefix", doc: "Addresses on these links that are the zone, such as 192.168.0.0/24, or a list; or rest: what" +
			" no other zone claims on these links. Default: all.",
			kind: oneOrMore(eitherOf(oneWordOf("rest"), textLike(prefixPattern))), decode: readZonePrefixes},
		{name: "external", doc: "true: strangers are here; the admin path is never opened to it. Default: true for zones" +
			" named internet or wan, else false.", kind: yesOrNo(), decode: readExternal},
	}
}

// adminFields are the keys of admin.
func adminFields() table[Admin] {
	return table[Admin]{
		{name: "from", doc: "Where SSH is accepted from: a zone, an address, a prefix, or a list of these.",
			kind:     oneOrMore(textLike(`^([a-z][a-z0-9_-]{0,30}|[0-9a-fA-F.:]+(/[0-9]{1,3})?)$`)),
			required: true, decode: readAdminFrom},
		{name: "keys", doc: "SSH public keys that may log in, or files with such keys: ~/.ssh/id_ed25519.pub, or a list." +
			" They are read when the profile is.", kind: oneOrMore(schema{"type": "string"}), decode: readAdminKeys},
		{name: "console", doc: "open: whoever has the guest's console, which is who may do anything to it anyway, presses" +
			" Enter there and has the prompt. none, the default: the console only tells.",
			kind: oneWordOf("none", consoleOpen), decode: readConsole},
		{name: "shell", doc: "Whether a terminal by SSH gets a shell, with u-root's core commands and no rights of its own," +
			" in place of a prompt that takes the guest's commands only. Default: no.", kind: yesOrNo(),
			decode: func(r *reader, v value, a *Admin) { a.Shell, _ = r.boolean(v) }},
	}
}

// matchDraft is what a policy line says of one service beyond its name.
type matchDraft struct {
	from, to    lineEnds
	action      Action
	limit       *Limit
	connections int
	log         string
	logged      bool
	with        RejectWith
	helper      Helper
	dscp        *uint8
	ttl         uint8
	notrack     bool
	synproxy    *SynProxy
	add         string
}

// matchFields are the keys below a service in the long form of a policy line.
func matchFields() table[matchDraft] {
	addresses := oneOrMore(eitherOf(textLike(hostPattern), textLike(prefixPattern), textLike(delegatedPattern)))
	const ends = "addresses, prefixes, hosts or sets; delegated/1::10 is host ::10 of subnet 1 of what is delegated."
	return table[matchDraft]{
		{name: "from", doc: "Only from these " + ends, kind: addresses,
			decode: func(r *reader, v value, into *matchDraft) { into.from = r.lineEnds(v) }},
		{name: "to", doc: "Only to these " + ends, kind: addresses,
			decode: func(r *reader, v value, into *matchDraft) { into.to = r.lineEnds(v) }},
		{name: "action", doc: "accept (the default), drop or reject.",
			kind: oneWordOf(string(Accept), string(Drop), string(Reject)), decode: readAction},
		{name: "limit", doc: "How fast one source may begin flows: 10/s, 10/m burst 20, also /h and /d. The default" +
			" burst is 5. What comes faster is dropped.", kind: textLike(limitPattern), decode: readLimit},
		{name: "connections", doc: "How many connections one source may have at a time. Further ones are dropped.",
			kind: numberIn(1, maxConnections), decode: readConnections},
		{name: "log", doc: "true, or a text: write what the line decides to the kernel log, 10 lines a minute at most," +
			" beginning with the text.", kind: eitherOf(yesOrNo(), textLike(logPattern)), decode: readLog},
		{name: "with", doc: "What reject answers with: port-unreachable, host-unreachable, no-route or admin-prohibited." +
			" Default: a TCP reset, else admin-prohibited.",
			kind: oneWordOf(rejectWords()...), decode: readWith},
		{name: "helper", doc: helperDoc, kind: oneWordOf(helperWords()...),
			decode: func(r *reader, v value, into *matchDraft) { into.helper = r.helper(v) }},
		{name: "dscp", doc: "Class of service of the packets of these connections, in both directions: a name such as ef," +
			" cs6 or af41, or 0 to 63. For what is routed, and for the guest's own.",
			kind: eitherOf(oneWordOf(dscpWords()...), numberIn(0, maxDSCP)), decode: readDSCP},
		{name: "ttl", doc: "Time to live (IPv6: hop limit) the packets of these connections leave with, in both directions," +
			" 1 to 255. Routers on the way can then not be seen by traceroute, and a loop lasts longer.",
			kind: numberIn(1, maxTTL), decode: readTTL},
		{name: "notrack", doc: "true: no connection tracking, for very many short flows. Every packet is judged by itself," +
			" and what comes back from the ports named passes. Not with address translation.",
			kind: yesOrNo(), decode: func(r *reader, v value, into *matchDraft) { into.notrack, _ = r.boolean(v) }},
		{name: "synproxy", doc: synproxyDoc, kind: synproxySchema(),
			decode: func(r *reader, v value, into *matchDraft) { into.synproxy = r.synproxy(v) }},
		{name: "add", doc: "The dynamic set that gets the sources of what the line matches, whatever it decides.",
			kind: textLike(zonePattern), decode: readAdd},
	}
}

// forwardDraft is a forward as written.
type forwardDraft struct {
	from     []place
	tcp, udp []PortRange
	tcpAt    []Pos
	udpAt    []Pos
	to       []netip.Addr
	toAt     Pos
	toPort   uint16
	snat     bool
	snatAt   Pos

	address      netip.Addr
	addressAt    Pos
	sources      []netip.Prefix
	sourcePlaces []Pos
	sourceSets   []string
	helper       Helper
	synproxy     *SynProxy
}

// forwardFields are the keys of a forward.
func forwardFields() table[forwardDraft] {
	ports := oneOrMore(eitherOf(numberIn(1, maxPort), textLike(portsPattern)))
	return table[forwardDraft]{
		{name: "from", doc: "Zone the traffic arrives from, or a list: hosts of a zone inside reach the server by any" +
			" address of the guest.", kind: oneOrMore(textLike(zonePattern)), required: true,
			decode: readForwardFrom},
		{name: "tcp", doc: "TCP ports as they arrive: 80, 8000-8010, or a list.", kind: ports,
			decode: func(r *reader, v value, into *forwardDraft) { into.tcp, into.tcpAt = r.ports(v) }},
		{name: "udp", doc: "UDP ports as they arrive: 80, 8000-8010, or a list.", kind: ports,
			decode: func(r *reader, v value, into *forwardDraft) { into.udp, into.udpAt = r.ports(v) }},
		{name: "to", doc: "Where to: an address or a host of this profile, with :PORT for another port; or a list of" +
			" these, which share the clients. Whether a target works is not looked at.",
			kind: oneOrMore(eitherOf(textLike(`^(\[[0-9a-fA-F.:]+\]|[0-9a-z.-]+|[0-9a-fA-F:.]+)(:[0-9]{1,5})?$`),
				shortHost())), required: true, decode: readTargets},
		{name: "snat", doc: "self: the target sees the guest's own address as the sender. Needed where its answers would" +
			" not come back through the guest.", kind: oneWordOf("self"), decode: readSNAT},
		{name: "helper", doc: helperDoc, kind: oneWordOf(helperWords()...),
			decode: func(r *reader, v value, into *forwardDraft) { into.helper = r.helper(v) }},
		{name: "synproxy", doc: synproxyDoc, kind: synproxySchema(),
			decode: func(r *reader, v value, into *forwardDraft) { into.synproxy = r.synproxy(v) }},
		{name: "address", doc: "Only what is sent to this address of the guest, where it has several.",
			kind: textLike(addressPattern), decode: readForwardAddress},
		{name: "source", doc: "Only from these addresses, prefixes, hosts or sets.",
			kind:   oneOrMore(eitherOf(textLike(hostPattern), textLike(prefixPattern))),
			decode: readForwardSource},
		{name: "balance", doc: "How several targets share the clients: source, the only way and the default. A client has" +
			" one target, by its address.", kind: oneWordOf(balanceSource), decode: readBalance},
	}
}

func forwardSchema() schema {
	s := forwardFields().schema()
	s["anyOf"] = []schema{{"required": []string{"tcp"}}, {"required": []string{"udp"}}}
	return s
}

// shortHost is ".10", which YAML takes for a number.
func shortHost() schema {
	return schema{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
}

func hostAddress() schema {
	return eitherOf(textLike(`^(\.[0-9]{1,3}(\.[0-9]{1,3}){0,2}|[0-9a-fA-F.:]+)$`), shortHost())
}
