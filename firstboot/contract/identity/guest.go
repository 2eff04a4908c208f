package identity

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Dir is where a running guest keeps its identity, on tmpfs: FactsPath, and a directory for each consumer.
const (
	Dir       = contract.RunDir + "/identity"
	FactsPath = Dir + "/facts.json" // Facts, for everyone
)

// Consumers of secrets in a guest.
const (
	ConsumerSSH       = "ssh"
	ConsumerWireGuard = "wireguard"
	ConsumerSyslog    = "syslog"
	ConsumerDNS       = "dns"
)

// Names of the secrets that have a meaning to rempart. A WireGuard private key is named after its link, the preshared
// key of a peer LINK/PEER; both are 32 bytes in base64, as `wg` writes them.
const (
	SSHHostKey        = "host_ed25519"    // PKCS #8 in PEM (RFC 5958, RFC 8410)
	SSHAuthorizedKeys = "authorized_keys" // as sshd(8) has it, without options
	SyslogClient      = "client.pem"      // certificate, what signed it, and its private key, each in PEM
	DNSGiven          = "given.pem"       // the same, of the name service
	DNSMade           = "made.pem"        // the same, made by rempart, for guests that are given none
)

// owners are the groups that may read a consumer's secrets: the one of the child that needs them.
var owners = map[string]uint32{
	ConsumerSSH:       contract.UIDSSH,
	ConsumerWireGuard: contract.UIDLink,
	ConsumerSyslog:    contract.UIDSyslog,
	ConsumerDNS:       contract.UIDDNS,
}

// Owner returns the id of the user and group that a consumer's secrets are for; false: nobody in this guest needs
// them, and they are not taken from the disk.
func Owner(consumer string) (id uint32, ok bool) {
	id, ok = owners[consumer]
	return id, ok
}

// Consumers are all consumers with an owner, by name.
func Consumers() []string {
	var all []string
	for c := range owners {
		all = append(all, c)
	}
	slices.Sort(all)
	return all
}

// ConsumerDir is the directory of a consumer's secrets in a guest. What reads them names it in Spec.Read.
func ConsumerDir(consumer string) string { return path.Join(Dir, consumer) }

// SecretPath is the file of a secret in a guest. A slash in its name is a colon there: one name may begin another.
func SecretPath(consumer, name string) string {
	return path.Join(ConsumerDir(consumer), strings.ReplaceAll(name, "/", ":"))
}

// Facts are the public part of an identity.
type Facts struct {
	Hostname string `json:"hostname,omitempty"`
	Links    []Link `json:"links,omitempty"`
}

// Facts returns the public part.
func (id *Identity) Facts() Facts { return Facts{id.Hostname, id.Links} }

// Check tells everything that is wrong with the facts, at once.
func (f Facts) Check() error { return (&Identity{Hostname: f.Hostname, Links: f.Links}).Check() }

// Apply makes a profile that of the guest with these facts: its name, the hardware addresses of its NICs, and what
// ApplyAddresses does. Facts about links the profile does not have, or that are no NICs, are left aside.
func (f Facts) Apply(p *profiles.Profile) {
	if f.Hostname != "" {
		p.Name = f.Hostname
	}
	nic := map[string]bool{}
	for _, l := range p.NICs() {
		nic[l.Name] = true
	}
	for _, l := range f.Links {
		i := slices.IndexFunc(p.Links, func(have profiles.Link) bool { return have.Name == l.Name })
		if i >= 0 && nic[l.Name] && l.MAC != "" {
			p.Links[i].MAC = l.MAC
		}
	}
	f.ApplyAddresses(p)
}

// ApplyAddresses gives the links of a profile that leave their addresses and gateways to the guest those of these
// facts. A gateway outside the link's subnets is reached on the link itself. All other links keep what the profile
// says.
func (f Facts) ApplyAddresses(p *profiles.Profile) {
	for i := range p.Links {
		l := &p.Links[i]
		at := slices.IndexFunc(f.Links, func(have Link) bool { return have.Name == l.Name })
		if at < 0 {
			continue
		}
		if l.Instance {
			l.Addresses = slices.Clone(f.Links[at].Addresses)
		}
		if !l.InstanceGateway {
			continue
		}
		l.Gateways = nil
		for _, g := range f.Links[at].Gateways {
			near := g.IsLinkLocalUnicast() || slices.ContainsFunc(l.Addresses, func(a netip.Prefix) bool {
				return a.Contains(g)
			})
			l.Gateways = append(l.Gateways, profiles.Gateway{Addr: g, OnLink: !near})
		}
	}
}

// Lacking tells what a profile with facts applied leaves to the guest and has not got: "wan: an address".
func Lacking(p *profiles.Profile) []string {
	var all []string
	for _, l := range p.Links {
		if l.Instance && len(l.Addresses) == 0 {
			all = append(all, l.Name+": an address")
		}
		if l.InstanceGateway && len(l.Gateways) == 0 {
			all = append(all, l.Name+": a gateway")
		}
	}
	return all
}
