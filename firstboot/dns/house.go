package dns

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/dns/answer"
	"rempart/firstboot/dns/cache"
	"rempart/firstboot/dns/dnssec"
	"rempart/firstboot/dns/forward"
	"rempart/firstboot/dns/local"
	"rempart/firstboot/dns/override"
	"rempart/firstboot/dns/server"
	"rempart/firstboot/dns/upstream"
	"rempart/firstboot/dns/zone"
	"rempart/firstboot/lists/handover"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// caPath is the machine's list of certificate authorities, as Debian's ca-certificates has it.
const caPath = "/etc/ssl/certs/ca-certificates.crt"

// house is all of the child that a profile makes.
type house struct {
	log        *slog.Logger
	server     *server.Server
	forward    *forward.Forwarder
	blocked    *override.Blocked
	table      []byte // mapped
	lists      *nameLists
	access     map[string]*server.Access
	tls        map[string]bool // links that are to be served by TLS too
	secure     *tls.Config     // nil: none is
	self       *server.Access
	maker      maker
	groups     []*upstream.Group
	uplink     []*uplinkGroup
	learnt     map[netip.Addr]*upstream.Server // of the uplink
	named      []byte                          // what that was read from
	local      *local.Names
	zones      *zone.Zones
	validators []*dnssec.Validator
	leases     string // socket where names of leases come from; empty: there are none
}

// uplinkGroup is a group that also asks whom DHCP and router advertisements name.
type uplinkGroup struct {
	group *upstream.Group
	fixed []*upstream.Server
}

// maker makes servers, one for each that a profile names, however often.
type maker struct {
	log     *slog.Logger
	roots   func() (*x509.CertPool, error)
	sockets chan struct{}
	made    map[string]*upstream.Server
}

func newHouse(env *child.Env) (*house, error) {
	d := env.Profile.DNS
	h := &house{log: env.Log, access: map[string]*server.Access{}, tls: map[string]bool{}}
	h.maker = maker{log: env.Log, sockets: upstream.Sockets(maxAskingSockets), made: map[string]*upstream.Server{},
		roots: func() (*x509.CertPool, error) { return authorities(d.CA, filepath.Join(env.Root, caPath)) }}
	var views []answer.Exchanger
	numbers := map[string]uint8{}
	view := func(list []profiles.Upstream) (uint8, error) {
		key := name(list)
		if n, ok := numbers[key]; ok {
			return n, nil
		}
		g, err := h.group(list)
		if err != nil {
			return 0, err
		}
		e, err := h.proven(d, g)
		if err != nil {
			return 0, err
		}
		n := uint8(len(views)) // links are 64 at most
		numbers[key] = n
		views = append(views, e)
		return n, nil
	}
	main, err := view(d.Upstreams)
	if err != nil {
		return nil, err
	}
	for _, l := range d.Links {
		n := main
		if len(l.Upstreams) > 0 {
			if n, err = view(l.Upstreams); err != nil {
				return nil, err
			}
		}
		limit := l.Limit
		if limit == 0 {
			limit = profiles.DefaultDNSLimit
		}
		h.tls[l.Link] = l.TLS
		h.access[l.Link] = &server.Access{Link: l.Link, View: n, From: l.From, Recurse: l.Recurse,
			NoRecursion: l.NoRecursion, Limit: limit, Subnets: func() []netip.Prefix { return subnets(l.Link) }}
	}
	h.self = &server.Access{View: main, Limit: profiles.DefaultDNSLimit, From: []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"), netip.PrefixFrom(netip.IPv6Loopback(), 128)}}
	var routes []forward.Route
	for _, s := range d.Domains {
		r := forward.Route{Domain: s.Domain + "."}
		if len(s.Upstreams) > 0 {
			if r.To, err = h.group(s.Upstreams); err != nil {
				return nil, err
			}
		}
		routes = append(routes, r)
	}
	rebindOK := make([]string, len(d.RebindOK))
	for i, domain := range d.RebindOK {
		rebindOK[i] = domain + "."
	}
	h.forward = forward.New(cache.New(d.Cache), views, routes, rebindOK, env.Log)
	sources, err := h.sources(env)
	if err != nil {
		return nil, err
	}
	h.server = server.New(sources, h.forward, d.Log, env.Log)
	h.server.Zones = h.zones
	return h, nil
}

// sources are those that are asked before anybody else, in their order.
func (h *house) sources(env *child.Env) ([]answer.Source, error) {
	d := env.Profile.DNS
	var all []answer.Source
	if len(d.Names) > 0 {
		all = append(all, override.NewNames(d.Names))
	}
	if d.Block != nil {
		table, err := h.mapTable(filepath.Join(env.Root, contract.BlockedPath), d.Block)
		if err != nil {
			return nil, err
		}
		h.blocked = override.NewBlocked(d.Block, table, ownDomain(d))
		h.lists = &nameLists{root: env.Root, profile: env.Profile, log: env.Log, blocked: h.blocked,
			most: handover.MostNames(), seen: map[string]fs.FileInfo{}, tables: map[string]blocklist.Table{}}
		h.lists.renew() // what was handed over to whom we are after
		all = append(all, h.blocked)
	}
	own, err := h.names(env)
	if err != nil {
		return nil, err
	}
	return append(append(all, own...), override.NewPrivate(h.forward.Routed)), nil
}

// mapTable maps the table of blocked names. It is a file of the root, which never changes while it is mapped, and its
// pages are the kernel's to drop and to read again.
func (h *house) mapTable(path string, b *profiles.Block) (blocklist.Table, error) {
	if b.Digest == "" {
		return blocklist.Table{}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return blocklist.Table{}, fmt.Errorf("blocked names: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return blocklist.Table{}, fmt.Errorf("blocked names: %w", err)
	}
	if h.table, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return blocklist.Table{}, fmt.Errorf("blocked names: mapping %s: %w", path, err)
	}
	table, err := blocklist.Open(h.table)
	if err == nil && table.Len() != b.Count {
		err = fmt.Errorf("it has %d names and not the %d of the profile", table.Len(), b.Count)
	}
	if err != nil {
		return blocklist.Table{}, fmt.Errorf("blocked names: %s: %w", path, err)
	}
	return table, nil
}

func (h *house) close() {
	if h.table != nil {
		_ = unix.Munmap(h.table) // who looked things up in it has ended
	}
}

// name tells lists of upstreams apart.
func name(list []profiles.Upstream) string {
	var b strings.Builder
	for _, u := range list {
		fmt.Fprintf(&b, "%v %s %d %s %s\n", u.Uplink, u.Addr, u.Port, u.TLS, u.Pin)
	}
	return b.String()
}

// group makes a group of a list.
func (h *house) group(list []profiles.Upstream) (*upstream.Group, error) {
	var servers []*upstream.Server
	uplink := false
	for _, u := range list {
		if u.Uplink {
			uplink = true
			continue
		}
		s, err := h.maker.server(u)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	g := upstream.NewGroup(h.log, servers)
	h.groups = append(h.groups, g)
	if uplink {
		h.uplink = append(h.uplink, &uplinkGroup{g, servers})
	}
	return g, nil
}

func (m *maker) server(u profiles.Upstream) (*upstream.Server, error) {
	key := name([]profiles.Upstream{u})
	if s := m.made[key]; s != nil {
		return s, nil
	}
	var t *upstream.TLS
	if u.TLS != "" {
		t = &upstream.TLS{Name: u.TLS}
		var err error
		if u.Pin != "" {
			t.Pin, err = base64.StdEncoding.DecodeString(u.Pin)
		} else {
			t.Roots, err = m.roots()
		}
		if err != nil {
			return nil, fmt.Errorf("name server %s: %w", u.Addr, err)
		}
	}
	s := upstream.NewServer(netip.AddrPortFrom(u.Addr, u.Port), t, m.sockets, m.log)
	m.made[key] = s
	return s, nil
}

// authorities are who may vouch for name servers: those of the profile, or the machine's.
func authorities(pem, file string) (*x509.CertPool, error) {
	b := []byte(pem)
	if pem == "" {
		var err error
		if b, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, errors.New("certificate authorities: there is no certificate")
	}
	return pool, nil
}

// followEach is how often it is looked whether other name servers were learnt.
const followEach = 2 * time.Second

// maxLearnt bounds the file of servers that were learnt, in bytes.
const maxLearnt = 4096

// followUplink has the groups that say so ask whom the uplink names, as that changes.
func (h *house) followUplink(ctx context.Context, path string) {
	if len(h.uplink) == 0 {
		return
	}
	tick := time.NewTicker(followEach)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.lookUplink(path)
		case <-ctx.Done():
			return
		}
	}
}

// lookUplink looks once whom the uplink names.
func (h *house) lookUplink(path string) {
	if len(h.uplink) == 0 {
		return
	}
	b, err := child.ReadUntrusted(path, maxLearnt)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		h.log.Warn("name servers of the uplink cannot be read", "error", err)
	case !bytes.Equal(b, h.named):
		h.named = b
		h.setUplink(slices.DeleteFunc(nameServers(b), own))
	}
}

// setUplink keeps the servers that stay, with what is known of them.
func (h *house) setUplink(all []netip.Addr) {
	var learnt []*upstream.Server
	made := map[netip.Addr]*upstream.Server{}
	for _, a := range all {
		s := h.learnt[a]
		if s == nil {
			s = upstream.NewServer(netip.AddrPortFrom(a, profiles.PortDNS), nil, h.maker.sockets, h.log)
		}
		made[a] = s
		learnt = append(learnt, s)
	}
	h.learnt = made
	h.log.Info("name servers of the uplink", "servers", all)
	for _, g := range h.uplink {
		g.group.Set(slices.Concat(g.fixed, learnt))
	}
}

// nameServers reads a resolv.conf(5).
func nameServers(b []byte) (all []netip.Addr) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 2 || words[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		// A server on this machine would be ourselves.
		if err == nil && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// own tells whether an address is one of this machine's: asked, it would ask itself.
func own(a netip.Addr) bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(own net.Addr) bool {
		p, err := netip.ParsePrefix(own.String())
		return err == nil && p.Addr() == a.WithZone("")
	})
}

// Details are the parts of a Status beside the queries.
type Details struct {
	Forward  forward.Counts    `json:"forward"`
	Cache    cache.Usage       `json:"cache"`
	Blocked  uint64            `json:"blocked"`       // queries for blocked names
	BlockLen int               `json:"blocked_names"` // names of files and lists
	DNSSEC   dnssec.Counts     `json:"dnssec"`        // all zero where nothing is validated
	Servers  []upstream.Counts `json:"servers"`
}

func (h *house) status() Status {
	s := Status{h.server.Totals(), Details{Forward: h.forward.Counts(), Cache: h.forward.Cache.Usage(),
		Servers: []upstream.Counts{}}}
	if h.blocked != nil {
		s.Blocked, s.BlockLen = h.blocked.Count(), h.blocked.Len()
	}
	for _, v := range h.validators {
		c := v.Counts()
		s.DNSSEC.Secure += c.Secure
		s.DNSSEC.Insecure += c.Insecure
		s.DNSSEC.Bogus += c.Bogus
	}
	seen := map[*upstream.Server]bool{}
	for _, g := range h.groups {
		for _, u := range g.Servers() {
			if !seen[u] {
				seen[u] = true
				s.Servers = append(s.Servers, u.Counts())
			}
		}
	}
	return s
}
