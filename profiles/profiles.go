// Package profiles holds what a profile says: the types, the strict reader of the YAML people write, every rule a
// profile must keep, the JSON Schema of the language, and the profiles that come with rempart.
//
// Parse and Load turn YAML into a Profile or into Invalid: everything that is wrong, each with its line and column,
// what was expected and what to write instead. Decode reads the JSON form a guest carries, by the same rules but
// without a YAML parser. A Profile that any of them returns keeps all rules; nobody after them checks again.
//
// # The language, version 1
//
//	rempart: 1                    the version of the language
//	name: fw-1                    host name
//	memory: 128M                  RAM of a guest; M is MiB, G is GiB; default 128M
//	kernel: cloud                 Debian's cloud kernel, or full, which drives hardware
//	state: 256M                   size of the state disk, or none; default 256M
//	admin: {from: home}           who may reach SSH: zones and addresses; or none
//	disks: {logs: /srv/logs}      data disks, which outlive whatever is done to the guest
//	links:                        network interfaces, in bus order unless they name a mac
//	  lan0: {address: 192.168.0.101/24, gateway: 192.168.0.1}
//	zones:                        parts of the network that are trusted alike
//	  home: {link: lan0, prefix: 192.168.0.0/24}
//	  internet: {link: lan0, prefix: rest}
//	policy:                       what may pass
//	  - home -> self: ping
//	masquerade: [home -> internet]
//	nat:
//	  source: [inside -> internet: 203.0.113.8-203.0.113.11]
//	  map: [{zone: internet, outside: 203.0.113.9, inside: 10.2.0.9}]
//	forwards:
//	  - {from: internet, tcp: [80, 443], to: 192.168.0.102, snat: self}
//	hosts: {web: 192.168.0.102}
//	sets: {partners: [203.0.113.0/24, 198.51.100.1-198.51.100.9], blocked: {file: blocked.txt}}
//
// A packet belongs to a zone by the link and, where zones share a link, by its address on that link. Between zones,
// and between two links of one zone, everything is dropped that no policy line accepts; the lines are read top-down and
// the first that matches decides. "any" is every zone but not the guest, which is "self"; what the guest itself sends
// passes unless a line from self forbids it. Answers to what was accepted always pass. Masquerading is for IPv4, unless
// the line says "ipv6" or "both": IPv6 is translated only where a profile asks for it.
//
// A forward needs no policy line. It may come from several zones, be about one of the guest's addresses, and be for
// some sources only; those that name the address come first, and of two the one that stands first. From an external
// zone only addresses of the link by which the traffic arrives count, from others any address of the guest. Clients
// in the server's own subnet are answered by way of the guest, which stands for them as the sender.
//
// A forward to several hosts gives each client one of them, by a hash of its address; whether they work nobody asks.
// "helper: ftp" of a line or a forward, also tftp and sip, has the kernel read those connections and let in what they
// announce. "synproxy: true" of a line or a forward has the guest answer SYNs for the server until a client has shown
// that it is there; the guest then takes up no connection in its midst any more, whatever it is for.
//
// "add: knockers" of a line puts the sources of what it matches into a dynamic set, which "dynamic_sets: {knockers:
// 30s}" declares, and "from: knockers" asks for them. "flowtable: true" lets the packets of accepted TCP and UDP
// connections skip rules and routing, where the kernel can; who is banned is cut all the same, within a second.
//
// "dscp: ef" and "ttl: 64" of a line are written into all packets of the connections it accepts, in both directions,
// of what is routed. "notrack: true" keeps flows out of connection tracking: each packet is judged by the line
// itself, what comes back passes by its source port or protocol alone, and nothing is translated.
//
// nat.source gives what leaves the addresses named, before masquerading, line by line. nat.map makes hosts, or the
// hosts of a prefix, known under other addresses in both directions; a prefix keeps the host part and is not the
// checksum-neutral mapping of RFC 6296, which nf_tables has no arithmetic for: see package filter. What a mapping
// lets in the policy decides, and its lines speak of the inside addresses. Of what may take a flow to an address,
// forwards that name it come first, then mappings, then other forwards. Addresses on a link's own subnet must be
// among the guest's, or nobody would answer for them; others must be routed to it.
//
// A line names services: names such as ssh or ping, tcp/PORT, udp/PORT, sctp/PORT, icmp/TYPE, icmpv6/TYPE, protocols
// such as gre, or proto/NUMBER. In the long form, FROM -> TO: {SERVICE: {...}}, each may be narrowed by from and to,
// have another action, be logged, and be limited by source: "limit: 10/s burst 20" and "connections: 30". A line
// decides all that it names: what is above its limit is dropped and no later line is asked. How fast sources were is
// forgotten when a policy is loaded. Sets name many addresses for from and to; a file of them is read with the profile.
// "drop: {url: https://..., every: 6h}" is a set whose members the guest fetches again and again: the last good list is
// kept on the state disk and is in force before links come up, until the first one was fetched the set is empty.
//
// The zones "internet" and "wan" are external unless they say otherwise, and an external zone never gets the admin
// path.
//
// A link is a NIC unless it says what else it is made of: vlan and macvlan have a parent, bond and bridge have
// members, a bridge may sort by VLAN (vlan_filtering), and wireguard has peers, whose allowed prefixes become its
// routes. The keys that nobody but the guest may know are on its identity disk; a tunnel without them stays closed.
// Its port is open to the zones that wireguard.from names, above the policy, and to no others.
//
// NICs are found by mac or bus order; virtual_mac is the address one uses in place of its own. Members of a
// bond or bridge need no address, and those of a bond are in no zone. Zones on members of a bridge are about what the
// bridge passes between them, and about nothing that is routed: that is of the zone of the bridge itself. Between
// members in zones passes what lines between these zones allow; a bridge with no member in a zone passes everything.
// Routes stand at the link they lead out by; rules choose another table than the main one for some packets. Return
// traffic that comes by another link than the main table names needs its sources in the prefix of a zone on that link.
//
// Names are served on the links that dns names, from whatever its upstreams say, the profile's own answers and, with a
// domain, the names of the hosts. Only hosts on the link's subnets may ask, unless from says otherwise; for which of
// them others are asked, recurse says.
//
// Data disks are attached by who runs the guest, found by name, and mounted nosuid, nodev and, without exec, noexec. A
// blank one is formatted, one with anything but ext4 on it is left alone. The log is kept on the one that logging.disk
// names; shells of admins may read what everybody may, keep things in a folder of their own on each that is not
// read-only, and run programs of those with exec.
//
// Keys that are planned and not carried out by this version, such as volumes, are known and refused, never
// ignored. The tables in language.go are the whole language.
//
// What the package deliberately does not do: resolve names over the network, expand variables, include other
// files but those of sets, keys, certificates and blocked names, or know how anything is built or booted.
package profiles

// MaxSource is how large a profile may be, in bytes. The largest honest one, a thousand forwards and hosts, has about
// a tenth of that; the limit keeps hostile files from costing time.
const MaxSource = 1 << 20

// Bounds of lists, so that a small file cannot ask for endless work. Each is several times what the largest known
// deployment has.
const (
	maxLinks     = 64 // a deployment with 20 NICs exists
	maxZones     = 64
	maxAddresses = 64 // of one link or host
	maxPrefixes  = 1024
	maxRules     = 1024 // of routing
	maxServices  = 64   // of one policy line
	maxPorts     = 256
	maxPairs     = 1024
	maxForwards  = 1024
	maxTargets   = 64 // of one forward
	maxHosts     = 4096
)

// What a profile gets where it does not say.
const (
	defaultMemory = 128 * mebibyte // what the smallest deployment gives a firewall
	defaultState  = 256 * mebibyte // leases, keys and logs of a year, and room
	KernelCloud   = "cloud"        // Debian's linux-image-cloud-ARCH
	KernelFull    = "full"         // Debian's linux-image-ARCH, which drives hardware
)

// macBytes is the length of an EUI-48 hardware address (IEEE 802).
const macBytes = 6
