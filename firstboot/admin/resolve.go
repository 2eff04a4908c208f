package admin

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// Bounds of a question to name servers.
const (
	resolveWait = 10 * time.Second
	maxResolv   = 64 << 10 // bytes of resolv.conf
	dnsPort     = "53"
)

// runResolve asks the guest's name servers, or the one named, for the addresses of a name, or the names of an address.
func runResolve(ctx context.Context, d *desk, r ctl.Request) error {
	flags := flag.NewFlagSet(r.Args[0], flag.ContinueOnError)
	server := flags.String("server", "", "address of the name server")
	words, err := parseWords(r, flags)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return usageError{errors.New("want one name or address")}
	}
	servers, err := d.nameServers()
	if *server != "" {
		var a netip.Addr
		if a, err = netip.ParseAddr(*server); err != nil {
			return usageError{fmt.Errorf("--server %.64q is no address", *server)}
		}
		servers = []netip.Addr{a}
	}
	if err != nil {
		return err
	}
	if len(servers) == 0 {
		return errors.New("the guest knows no name server; name one by --server")
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	var turn atomic.Int64 // the resolver asks for both families at once
	resolver := &net.Resolver{PreferGo: true, StrictErrors: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			to := servers[int(turn.Add(1)-1)%len(servers)] // another one at each try
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(to.String(), dnsPort))
		}}
	look := func(ctx context.Context, name string) ([]string, error) {
		return resolver.LookupHost(ctx, strings.TrimSuffix(name, ".")+".")
	}
	if _, err := netip.ParseAddr(words[0]); err == nil {
		look = resolver.LookupAddr
	}
	found, err := look(ctx, words[0])
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Errorf("%.255s: %s, say %v", words[0], dns.Err, servers) // its own words name another server
	}
	if err != nil {
		return err
	}
	for _, f := range found {
		fmt.Fprintln(r.Stdout, f)
	}
	return nil
}

// nameServers are those the guest has learnt.
func (d *desk) nameServers() ([]netip.Addr, error) {
	f, err := os.Open(filepath.Join(d.root, contract.ResolvPath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var servers []netip.Addr
	lines := bufio.NewScanner(io.LimitReader(f, maxResolv))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 2 && words[0] == "nameserver" {
			if a, err := netip.ParseAddr(words[1]); err == nil {
				servers = append(servers, a)
			}
		}
	}
	return servers, lines.Err()
}
