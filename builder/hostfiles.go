package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"rempart/builder/host"
)

// hostCommand is `rempart host`.
func hostCommand() *command {
	return &command{
		name:     "host",
		synopsis: "--output DIR --bridge NAME[=PORT,...] [OPTIONS]",
		summary:  "write the files a host of firewalls needs: bridges, bonds, names, its own filter",
		help: `
Writes into DIR, which must not be there yet, what people otherwise write by hand on a Debian host with Xen or KVM.
Nothing of this machine changes: look at the files, and install those you want below /.

    rempart host --output fwhost --mtu 9000 --bond bond0=eth1,eth2 --bridge brlan=bond0 --bridge brsrv \
        --bridge bradm=eth0 --address bradm=10.0.0.2/24 --gateway bradm=10.0.0.1 --emergency eth5=192.168.250.1/24

  etc/network/interfaces.d   bridges and bonds for ifupdown (with bridge-utils and ifenslave)
  etc/systemd/network        the same for systemd-networkd; a machine has one of the two
  etc/udev/rules.d           names of NICs by hardware address (--nic), and what keeps netfilter off bridges
  etc/sysctl.d               the same, for what is loaded already
  etc/nftables.d             what the host itself takes: SSH, NTP and ping, by the bridge with an address alone
  etc/xen/scripts            hotplug script for vifs: MTU of the bridge, no offloads, no ARP
  etc/systemd/system         guests of Xen wait for the network
  etc/default/xendomains     guests of Xen end with the host, none is saved with its keys

Bridges have neither STP nor a delay. One without --address is for guests alone: the host is silent on it.`,
		setup: func(flags *pflag.FlagSet) func(context.Context, *console, []string) error {
			output := flags.StringP("output", "o", "", "folder to write into")
			o := hostFlags(flags)
			return func(_ context.Context, c *console, args []string) error {
				switch {
				case len(args) > 0:
					return usageError{fmt.Sprintf("unexpected argument %q", args[0])}
				case *output == "":
					return usageError{"want --output DIR"}
				}
				h, err := o.host()
				if err != nil {
					return err
				}
				files, err := host.Files(h)
				if err != nil {
					return usageError{err.Error()}
				}
				if err := os.Mkdir(*output, 0o755); err != nil {
					return err
				}
				for _, f := range files {
					name := filepath.Join(*output, f.Path)
					err := os.MkdirAll(filepath.Dir(name), 0o755)
					if err == nil {
						err = os.WriteFile(name, f.Content, os.FileMode(f.Mode))
					}
					if err != nil {
						return errors.Join(err, os.RemoveAll(*output))
					}
					fmt.Fprintln(c.out, name)
				}
				return nil
			}
		},
	}
}

// hostOptions are what a host is described by.
type hostOptions struct {
	nics, bonds, bridges, addresses, gateways []string
	emergency                                 string
	mtu                                       int
}

func hostFlags(flags *pflag.FlagSet) *hostOptions {
	o := &hostOptions{}
	flags.StringArrayVar(&o.nics, "nic", nil, "NAME=MAC, a name for a NIC (repeat)")
	flags.StringArrayVar(&o.bonds, "bond", nil, "NAME=NIC,NIC,... joined by LACP (repeat)")
	flags.StringArrayVar(&o.bridges, "bridge", nil, "NAME, or NAME=PORT,... with what is plugged into it (repeat)")
	flags.StringArrayVar(&o.addresses, "address", nil, "BRIDGE=ADDRESS/LENGTH of the host itself (repeat)")
	flags.StringArrayVar(&o.gateways, "gateway", nil, "BRIDGE=ADDRESS of the host's default route (repeat)")
	flags.StringVar(&o.emergency, "emergency", "", "NIC=ADDRESS/LENGTH on no bridge, for when the firewall is down")
	flags.IntVar(&o.mtu, "mtu", 0, "MTU of bridges, bonds and their NICs; default 1500")
	return o
}

// host reads the options; all that is wrong is said at once.
func (o *hostOptions) host() (host.Host, error) {
	h := host.Host{MTU: o.mtu}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, usageError{fmt.Sprintf(format, args...)}) }
	for _, text := range o.nics {
		name, value, _ := strings.Cut(text, "=")
		mac, err := net.ParseMAC(value)
		if err != nil {
			bad("--nic %s: want NAME=MAC, such as ethlan1=52:54:00:00:00:01", text)
		}
		h.NICs = append(h.NICs, host.NIC{Name: name, MAC: mac})
	}
	for _, text := range o.bonds {
		name, value, _ := strings.Cut(text, "=")
		h.Bonds = append(h.Bonds, host.Bond{Name: name, Members: list(value)})
	}
	for _, text := range o.bridges {
		name, value, _ := strings.Cut(text, "=")
		h.Bridges = append(h.Bridges, host.Bridge{Name: name, Ports: list(value)})
	}
	bridge := func(option, text string) (*host.Bridge, string) {
		name, value, _ := strings.Cut(text, "=")
		for i := range h.Bridges {
			if h.Bridges[i].Name == name {
				return &h.Bridges[i], value
			}
		}
		bad("%s %s: there is no --bridge %s", option, text, name)
		return &host.Bridge{}, value
	}
	for _, text := range o.addresses {
		b, value := bridge("--address", text)
		a, err := host.ParsePrefix(value)
		if err != nil {
			bad("--address %s: %v", text, err)
		}
		b.Addresses = append(b.Addresses, a)
	}
	for _, text := range o.gateways {
		b, value := bridge("--gateway", text)
		if b.Gateway.IsValid() {
			bad("--gateway %s: bridge %s has the gateway %v already; want one", text, b.Name, b.Gateway)
		}
		var err error
		if b.Gateway, err = netip.ParseAddr(value); err != nil {
			bad("--gateway %s: want BRIDGE=ADDRESS", text)
		}
	}
	if o.emergency != "" {
		name, value, _ := strings.Cut(o.emergency, "=")
		a, err := host.ParsePrefix(value)
		if err != nil {
			bad("--emergency %s: %v", o.emergency, err)
		}
		h.Emergency = host.Port{NIC: name, Address: a}
	}
	return h, errors.Join(errs...)
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
