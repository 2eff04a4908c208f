// Package lists is the child that takes from elsewhere the members of sets, and names to be blocked: it fetches each
// list on its schedule, judges it, keeps the last good one on the state disk and hands it over to the policy child or
// to the name service. What was kept is handed over as soon as the state disk is there, before links come up.
//
// It reads what strangers serve, so it has no right but to connect and to write its own two directories. What it
// deliberately does not do: change rules or answers (packages filter/policy and dns do, and look at each list again),
// or decide what becomes of members.
package lists

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/lists/handover"
	"rempart/firstboot/refresh"
	"rempart/firstboot/refresh/get"
	"rempart/profiles"
)

// memory is what the child's heap may take, in bytes: a list of profiles.MaxListRanges ranges takes 12 MiB, and of IPv6
// ranges that are no prefixes some 35 more while it is written; a table of half a million names takes 16. What was
// handed over is on a tmpfs and counts too.
const memory = 80 << 20

// Spec is the child. It is no condition of READY that anything can be fetched: it is ready once what was kept is
// handed over.
func Spec() child.Spec {
	return child.Spec{
		Name: "lists",
		Run:  run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && len(p.Sourced())+len(p.BlockLists()) > 0
		},
		After:   []string{"state"},
		Follows: true,
		UID:     contract.UIDLists,
		Own:     []string{contract.ListsDir},
		// The resolver of the standard library reads the first three.
		Read: []string{"/etc/hosts", "/etc/resolv.conf", contract.LinkDir, contract.AuthoritiesPath, profiles.ListsDir},
		// On the state disk.
		Write:       []string{contract.ListsKept},
		OOMScore:    600,
		MemoryLimit: memory,
		GCPercent:   25,
	}
}

func run(ctx context.Context, env *child.Env) error {
	k, err := newKeeper(env, refresh.SystemClock(), (&net.Dialer{}).DialContext)
	if err != nil {
		return err
	}
	defer k.store.Close()
	if err := k.handOver(); err != nil {
		return err
	}
	env.Ready()
	k.refresher.Run(ctx, slices.DeleteFunc(slices.Clone(k.sources), func(s refresh.Source) bool {
		return k.useless[s.Name] != nil
	}))
	<-ctx.Done() // where there is nothing to be taken
	return ctx.Err()
}

// keeper is the child at work with one profile.
type keeper struct {
	env       *child.Env
	store     *refresh.Store
	refresher *refresh.Keeper
	sources   []refresh.Source
	lists     map[string]*list
	useless   map[string]error // lists whose source cannot be reached with this master, and why

	mu      sync.Mutex // of what follows
	status  map[string]handover.Status
	entries map[string]int // of the list in use
	stale   map[string]bool
	// unusable says of lists why nobody can use what is kept of them.
	unusable map[string]string
}

// list is what differs between lists of addresses and of names.
type list struct {
	source *profiles.ListSource
	called string // "set drop"
	judge  func(fresh, kept io.Reader, keep io.Writer) error
	count  func(kept io.Reader) (int, error)
	// As who uses it will find, for the profile may be another than when it was judged: fits tells of what is kept, and
	// usable of what was handed over, why it is of no use. One of the two is nil.
	fits   func(kept io.Reader) error
	usable func() error
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

func newKeeper(env *child.Env, clock refresh.Clock, dial dialer) (*keeper, error) {
	store, err := refresh.OpenStore(filepath.Join(env.Root, contract.ListsKept))
	if err != nil {
		return nil, err
	}
	k := &keeper{env: env, store: store, status: map[string]handover.Status{}, entries: map[string]int{},
		lists: map[string]*list{}, stale: map[string]bool{}, useless: map[string]error{}, unusable: map[string]string{}}
	k.refresher = &refresh.Keeper{Store: store, Clock: clock, Log: env.Log, Changed: k.changed, Told: k.told}
	for _, set := range env.Profile.Sourced() {
		k.add(set.Name, profiles.MaxList, k.ofSet(set), dial)
	}
	for i := range env.Profile.BlockLists() {
		l := &env.Profile.DNS.Block.Lists[i]
		k.add(handover.NamesList(l.Name), profiles.MaxBlockFile, k.ofNames(l), dial)
	}
	return k, nil
}

// add takes up a list, of so many bytes at most.
func (k *keeper) add(name string, most int64, l *list, dial dialer) {
	source, err := k.source(name, most, l, dial)
	k.lists[name] = l
	k.sources = append(k.sources, source)
	st := handover.Status{Name: name, From: source.URL + source.File}
	if err != nil {
		k.useless[name], k.stale[name] = err, true
		st.Error = cut(err.Error())
	}
	k.status[name] = st
}

// source is where a list is taken from.
func (k *keeper) source(name string, most int64, l *list, dial dialer) (refresh.Source, error) {
	s := refresh.Source{Name: name, URL: l.source.URL, Every: time.Duration(l.source.Every) * time.Second, Most: most,
		Judge: l.judge}
	if s.URL == "" {
		s.File = filepath.Join(k.env.Root, profiles.ListsDir, l.source.File)
		return s, nil
	}
	trust, err := k.trust(l.source)
	if err != nil {
		return s, err
	}
	s.Client = &get.Client{Dial: dial, TLS: trust, Insecure: l.source.Insecure, Agent: "rempart/" + contract.Version}
	return s, nil
}

// errKey is what a server is told that shows another key than the pinned one.
var errKey = errors.New("the server's public key is not the pinned one")

// trust says which servers are taken for the one of a source.
func (k *keeper) trust(s *profiles.ListSource) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.Insecure {
		return config, nil
	}
	if s.Pin != "" {
		pin, err := base64.StdEncoding.DecodeString(s.Pin)
		if err != nil {
			return nil, fmt.Errorf("pin: %w", err)
		}
		// The key alone says who the server is (RFC 7858, section 4.2); the handshake proves that it holds it.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(state tls.ConnectionState) error {
			sum := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
				return fmt.Errorf("%w: it is sha256//%s", errKey, base64.StdEncoding.EncodeToString(sum[:]))
			}
			return nil
		}
		return config, nil
	}
	pem, err := os.ReadFile(filepath.Join(k.env.Root, contract.AuthoritiesPath))
	if err != nil {
		return nil, fmt.Errorf("the master has no certificate authorities, build one of this profile: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", contract.AuthoritiesPath)
	}
	return config, nil
}

// handOver lays down what was kept of every source, and takes back what was handed over of others.
func (k *keeper) handOver() error {
	var names []string
	for i := range k.sources {
		names = append(names, k.sources[i].Name)
		k.hand(&k.sources[i])
	}
	for _, err := range []error{k.store.Prune(names), handover.Prune(k.env.Root, names)} {
		if err != nil {
			k.env.Log.Warn("lists that are no more", "error", err)
		}
	}
	if err := k.say(); err != nil {
		return err
	}
	return handover.SayLaid(k.env.Root)
}

// hand hands over what is kept of a source.
func (k *keeper) hand(s *refresh.Source) {
	kept, err := k.store.OpenOf(s)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	n, l := 0, k.lists[s.Name]
	if err == nil {
		defer kept.Close()
		if n, err = l.count(kept); err == nil && l.fits != nil {
			_, err = kept.Seek(0, io.SeekStart)
			if err == nil {
				err = l.fits(kept)
			}
			// Who uses it takes memory for it in a moment, which a small machine has only once.
			debug.FreeOSMemory()
		}
	}
	if err == nil {
		_, err = kept.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = handover.Write(k.env.Root, s.Name, kept)
	}
	if err == nil && l.usable != nil {
		err = l.usable()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.env.Log.Warn("list cannot be used", "list", l.called, "error", err)
		k.unusable[s.Name] = err.Error()
		return
	}
	delete(k.unusable, s.Name)
	k.entries[s.Name] = n
	st := k.status[s.Name]
	st.Entries = n
	k.status[s.Name] = st
}

// changed hands over a list that is new.
func (k *keeper) changed(name string) {
	i := slices.IndexFunc(k.sources, func(s refresh.Source) bool { return s.Name == name })
	k.hand(&k.sources[i])
	k.mu.Lock()
	n, unusable := k.entries[name], k.unusable[name]
	k.mu.Unlock()
	if unusable != "" {
		return
	}
	k.env.Log.Info("list renewed", "list", k.lists[name].called, "entries", n)
}

// told notes how a source stands.
func (k *keeper) told(st refresh.Status) {
	k.mu.Lock()
	unusable := k.unusable[st.Name]
	k.mu.Unlock()
	if unusable != "" && !st.Tried.IsZero() { // once more: a server that has nothing new brings nothing to hand over
		i := slices.IndexFunc(k.sources, func(s refresh.Source) bool { return s.Name == st.Name })
		k.hand(&k.sources[i])
	}
	k.mu.Lock()
	s := k.status[st.Name]
	s.Taken, s.Seen, s.Tried, s.Next = unix(st.Taken), unix(st.Seen), unix(st.Tried), unix(st.Next)
	s.Error = cut(st.Error)
	k.status[st.Name] = s
	k.stale[st.Name] = k.isStale(st)
	k.mu.Unlock()
	if err := k.say(); err != nil {
		k.env.Log.Warn("state of the lists", "error", err)
	}
}

// isStale tells whether a list is older than a server that is away now and then makes it.
func (k *keeper) isStale(st refresh.Status) bool {
	const few, late = 3, 2 // tries; times what the profile says
	return st.Fails >= few && (st.Seen.IsZero() ||
		st.Tried.Sub(st.Seen) > late*time.Duration(k.lists[st.Name].source.Every)*time.Second)
}

// say lays down how all lists stand, and has the report warn of those that are stale.
func (k *keeper) say() error {
	k.mu.Lock()
	all := slices.SortedFunc(maps.Values(k.status),
		func(a, b handover.Status) int { return strings.Compare(a.Name, b.Name) })
	var lines []string
	for i := range all {
		s := &all[i]
		why := k.unusable[s.Name]
		if s.Error == "" {
			s.Error = cut(why)
		}
		if k.stale[s.Name] || why != "" {
			lines = append(lines, k.lists[s.Name].called+": "+s.Error)
		}
	}
	k.mu.Unlock()
	k.env.Tell(child.KeyWarning, strings.Join(lines, "; "))
	return handover.WriteStatus(k.env.Root, all)
}

// maxError bounds why a try failed, in bytes.
const maxError = 300

func cut(s string) string {
	// Names in a server's certificate, and where it leads to, may be made for the terminal this is read on.
	s = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
	if len(s) > maxError {
		s = s[:maxError] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
