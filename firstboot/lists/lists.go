// Package lists is the child that takes the members of sets from elsewhere: it fetches each list on its schedule,
// judges it, keeps the last good one on the state disk and hands it over to the policy child. What was kept is handed
// over as soon as the state disk is there, before links come up.
//
// It reads what strangers serve, so it has no right but to connect and to write its own two directories. What it
// deliberately does not do: change rules (package filter/policy does, and looks at each list again), or decide what
// becomes of members.
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
// ranges that are no prefixes some 35 more while it is written. What was handed over is on a tmpfs and counts too.
const memory = 80 << 20

// Spec is the child. It is no condition of READY that anything can be fetched: it is ready once what was kept is
// handed over.
func Spec() child.Spec {
	return child.Spec{
		Name: "lists",
		Run:  run,
		Needed: func(root string) bool {
			p, _, err := child.ReadProfile(root)
			return err == nil && len(p.Sourced()) > 0
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
	useless   map[string]error // sets whose source cannot be reached with this master, and why

	mu     sync.Mutex // of what follows
	status map[string]handover.Status
	ranges map[string]int // by set; of the list in use
	stale  map[string]bool
	// unusable says of sets why nobody can use the list that is kept.
	unusable map[string]string
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

func newKeeper(env *child.Env, clock refresh.Clock, dial dialer) (*keeper, error) {
	store, err := refresh.OpenStore(filepath.Join(env.Root, contract.ListsKept))
	if err != nil {
		return nil, err
	}
	k := &keeper{env: env, store: store, status: map[string]handover.Status{}, ranges: map[string]int{},
		stale: map[string]bool{}, useless: map[string]error{}, unusable: map[string]string{}}
	k.refresher = &refresh.Keeper{Store: store, Clock: clock, Log: env.Log, Changed: k.changed, Told: k.told}
	for _, set := range env.Profile.Sourced() {
		source, err := k.source(set, dial)
		k.sources = append(k.sources, source)
		st := handover.Status{Set: set.Name, From: source.URL + source.File}
		if err != nil {
			k.useless[set.Name], k.stale[set.Name] = err, true
			st.Error = cut(err.Error())
		}
		k.status[set.Name] = st
	}
	return k, nil
}

// source is where a set is taken from.
func (k *keeper) source(set *profiles.Set, dial dialer) (refresh.Source, error) {
	s := refresh.Source{Name: set.Name, URL: set.Source.URL, Every: time.Duration(set.Source.Every) * time.Second,
		Most: profiles.MaxList, Judge: func(fresh, kept io.Reader, keep io.Writer) error {
			return k.judge(set, fresh, kept, keep)
		}}
	if s.URL == "" {
		s.File = filepath.Join(k.env.Root, profiles.ListsDir, set.Source.File)
		return s, nil
	}
	trust, err := k.trust(set.Source)
	if err != nil {
		return s, err
	}
	s.Client = &get.Client{Dial: dial, TLS: trust, Insecure: set.Source.Insecure, Agent: "rempart/" + contract.Version}
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
			k.env.Log.Warn("lists of sets that are no more", "error", err)
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
	n := 0
	if err == nil {
		defer kept.Close()
		if n, err = handover.Count(kept); err == nil {
			_, err = kept.Seek(0, io.SeekStart)
		}
	}
	if err == nil {
		err = handover.Write(k.env.Root, s.Name, kept)
	}
	if err == nil { // as who uses it will: the profile may be another than when it was judged
		_, err = handover.Read(k.env.Root, k.env.Profile, s.Name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.env.Log.Warn("list cannot be used", "set", s.Name, "error", err)
		k.unusable[s.Name] = err.Error()
		return
	}
	delete(k.unusable, s.Name)
	k.ranges[s.Name] = n
	st := k.status[s.Name]
	st.Ranges = n
	k.status[s.Name] = st
}

// judge keeps a list that can be what is meant.
func (k *keeper) judge(set *profiles.Set, fresh, kept io.Reader, keep io.Writer) error {
	list, strange, err := profiles.ReadList(fresh)
	if err != nil {
		return err
	}
	if err := handover.Sane(k.env.Profile, list); err != nil {
		return err
	}
	if kept != nil {
		// What is kept and cannot be read any more is no measure.
		if before, err := handover.Count(kept); err == nil && len(list)*100 < before*set.Source.Least {
			return fmt.Errorf("%w: it has %d ranges and the last good one %d, less than %d%%; if it is right, lower least",
				handover.ErrAbsurd, len(list), before, set.Source.Least)
		}
	}
	if err := k.room(set, len(list)); err != nil {
		return err
	}
	k.mu.Lock()
	st := k.status[set.Name]
	st.Strange = strange
	k.status[set.Name] = st
	k.mu.Unlock()
	return handover.Encode(keep, list)
}

// room tells whether all sets together still fit when one has so many ranges.
func (k *keeper) room(set *profiles.Set, ranges int) error {
	all := ranges
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.env.Profile.Sets {
		if s := &k.env.Profile.Sets[i]; s != set && s.Name != set.Name {
			all += max(s.Len(), k.ranges[s.Name])
		}
	}
	if most := handover.Most(); all > most {
		return fmt.Errorf("%w: with it all sets would have %d ranges, at most %d with the guest's memory",
			handover.ErrAbsurd, all, most)
	}
	return nil
}

// changed hands over a list that is new.
func (k *keeper) changed(name string) {
	i := slices.IndexFunc(k.sources, func(s refresh.Source) bool { return s.Name == name })
	k.hand(&k.sources[i])
	k.mu.Lock()
	n, unusable := k.ranges[name], k.unusable[name]
	k.mu.Unlock()
	if unusable != "" {
		return
	}
	k.env.Log.Info("list renewed", "set", name, "ranges", n)
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
	set := k.env.Profile.Set(st.Name)
	return st.Fails >= few && (st.Seen.IsZero() ||
		st.Tried.Sub(st.Seen) > late*time.Duration(set.Source.Every)*time.Second)
}

// say lays down how all lists stand, and has the report warn of those that are stale.
func (k *keeper) say() error {
	k.mu.Lock()
	all := slices.SortedFunc(maps.Values(k.status),
		func(a, b handover.Status) int { return strings.Compare(a.Set, b.Set) })
	var lines []string
	for i := range all {
		s := &all[i]
		why := k.unusable[s.Set]
		if s.Error == "" {
			s.Error = cut(why)
		}
		if k.stale[s.Set] || why != "" {
			lines = append(lines, "set "+s.Set+": "+s.Error)
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
