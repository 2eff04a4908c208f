package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"rempart/builder/guest"
	"rempart/firstboot/contract/identity"
	"rempart/profiles"
)

// identityOptions are what a person may say about a guest's identity.
type identityOptions struct {
	disk, logKey, dnsKey               *string
	keys, tunnels, addresses, gateways *[]string
	secrets, commands                  *[]string
}

func identityFlags(flags *pflag.FlagSet) identityOptions {
	return identityOptions{
		disk: flags.String("identity", "", "file of the identity disk; default: beside the master"),
		keys: flags.StringArrayP("key", "k", nil, "file of SSH public keys that may log in; may be given again"),
		tunnels: flags.StringArray("wireguard-key", nil,
			"file of a key, kept from then on: LINK=FILE, or LINK/PEER=FILE"),
		addresses: flags.StringArray("address", nil,
			"of a link whose profile says instance, kept from then on: LINK=ADDRESS/LENGTH; may be given again"),
		gateways: flags.StringArray("gateway", nil,
			"of a link whose profile says instance, kept from then on: LINK=ADDRESS; may be given again"),
		secrets: flags.StringArray("secret", nil, "kept from then on: CONSUMER/NAME=FILE; may be given again"),
		commands: flags.StringArray("secret-from", nil,
			"what a command prints, kept from then on: CONSUMER/NAME=COMMAND; may be given again"),
		logKey: flags.String("log-key", "",
			"file with the certificate and the private key (PEM) that the guest shows its log server, kept from then on"),
		dnsKey: flags.String("dns-key", "",
			"file with the certificate and the private key (PEM) of DNS over TLS, kept from then on; default: one is made"),
	}
}

// ensure makes the guest's identity disk, or brings it up to date, and returns the profile with what is on it.
func (o identityOptions) ensure(ctx context.Context, c *console, s guest.Settings, p *profiles.Profile) (
	*profiles.Profile, error) {
	keys := *o.keys
	if len(keys) == 0 && !p.Admin.None {
		if _, err := os.Stat(s.Identity); errors.Is(err, fs.ErrNotExist) {
			keys = guest.OwnKeys()
		}
	}
	lines, err := guest.ReadKeys(keys)
	if err != nil {
		return nil, err
	}
	id, err := guest.EnsureIdentity(s.Identity, s.Name, p, lines)
	if err != nil {
		return nil, err
	}
	err = errors.Join(guest.SetAddresses(id, p, *o.addresses, *o.gateways), guest.ReadTunnelKeys(id, p, *o.tunnels))
	if *o.logKey != "" {
		err = errors.Join(err, guest.ReadLogKey(id, *o.logKey))
	}
	if *o.dnsKey != "" {
		err = errors.Join(err, guest.ReadDNSKey(id, *o.dnsKey))
	}
	err = errors.Join(err, guest.ReadSecrets(id, *o.secrets), guest.AskSecrets(ctx, id, *o.commands))
	if err != nil {
		return nil, err
	}
	given := slices.Concat(*o.addresses, *o.gateways, *o.tunnels, *o.secrets, *o.commands)
	if len(given) > 0 || *o.logKey+*o.dnsKey != "" {
		if err := guest.WriteIdentity(s.Identity, id); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(sayTunnels(c, id, p), sayCertificate(c, id, p)); err != nil {
		return nil, err
	}
	return ownProfile(s, id, p)
}

// profileOfGuest is the profile that a guest of a master runs by; of another system's it says no more than its NICs.
func profileOfGuest(s guest.Settings, id *identity.Identity, m *guest.Master) (*profiles.Profile, error) {
	if m.Foreign() {
		return m.Profile, nil
	}
	return ownProfile(s, id, m.Profile)
}

// ownProfile is a profile with what a guest's identity disk has, as far as it gets there.
func ownProfile(s guest.Settings, id *identity.Identity, p *profiles.Profile) (*profiles.Profile, error) {
	if !s.Firmware.TakesIdentity() {
		id = &identity.Identity{} // what is on it does not get there
	}
	own, err := guest.Applied(id, p)
	if err != nil {
		return nil, err
	}
	if lacking := identity.Lacking(own); len(lacking) > 0 {
		return nil, fmt.Errorf("the profile of %s leaves to each guest what this one has not got: %s; "+
			"say it by --address LINK=ADDRESS/LENGTH and --gateway LINK=ADDRESS", s.Name, strings.Join(lacking, ", "))
	}
	return own, nil
}

// endsSoon is how long before its end people are told of a certificate that only they can replace.
const endsSoon = 30 * 24 * time.Hour

// sayCertificate tells by what clients know the name service that they ask by TLS.
func sayCertificate(c *console, id *identity.Identity, p *profiles.Profile) error {
	own, err := guest.DNSCertificate(id, p)
	if err != nil || own == nil {
		return err
	}
	fmt.Fprintf(c.err, "rempart: DNS over TLS has a certificate for %s, whose key has the pin %s\n",
		strings.Join(own.Names, ", "), own.Pin)
	if left := time.Until(own.Ends); own.Given && left < endsSoon {
		fmt.Fprintf(c.err, "rempart: WARNING: the certificate of DNS over TLS ends on %s: give the next one by "+
			"--dns-key FILE\n", own.Ends.UTC().Format(time.DateOnly))
	}
	return nil
}

// sayTunnels tells the public keys of the guest's tunnels, which their peers must know.
func sayTunnels(c *console, id *identity.Identity, p *profiles.Profile) error {
	tunnels, err := guest.Tunnels(id, p)
	for _, t := range tunnels {
		fmt.Fprintf(c.err, "rempart: the public key of the tunnel %s is %s\n", t.Link, t.Public)
		for _, peer := range t.Missing {
			fmt.Fprintf(c.err, "rempart: WARNING: the tunnel %s stays closed until the preshared key of %s is given: "+
				"--wireguard-key %s/%s=FILE\n", t.Link, peer, t.Link, peer)
		}
	}
	return err
}
