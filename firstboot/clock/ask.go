package clock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sync/errgroup"
)

// Bounds of a round.
const (
	maxPerName = 4               // addresses of one name, as pools have
	maxServers = 16              // addresses in all
	answerWait = 3 * time.Second // for one server
	lookupWait = 3 * time.Second // for one name
	atOnce     = 8               // exchanges and look-ups under way
	ntpPort    = 123
	// maxDistance is how wrong a server may be by its own account: ntpd's default of maxdist.
	maxDistance = 1500 * time.Millisecond
	// leastDistance keeps servers on the same switch from calling each other liars for microseconds.
	leastDistance = 5 * time.Millisecond
)

// asker asks time servers. Its fields are what a test may put others for.
type asker struct {
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	port   uint16
	// barred are servers that said they want no more questions (RFC 5905 section 7.4), and until when.
	barred map[netip.Addr]time.Time
}

// barTime is how long a server that sent a kiss-o'-death is left alone.
const barTime = time.Hour

func newAsker() *asker {
	return &asker{port: ntpPort, barred: map[netip.Addr]time.Time{}, lookup: func(ctx context.Context, name string) (
		[]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
	}}
}

// Answer is what became of one server.
type Answer struct {
	Name   string // as the profile has it
	Server netip.Addr
	Sample Sample
	Err    error
}

// round asks all servers once, side by side.
func (a *asker) round(ctx context.Context, names []string) []Answer {
	answers := a.addresses(ctx, names)
	var group errgroup.Group
	group.SetLimit(atOnce)
	now := time.Now()
	for i := range answers {
		if one := &answers[i]; one.Err == nil {
			if now.Before(a.barred[one.Server]) {
				one.Err = errors.New("it asked to be left alone")
				continue
			}
			group.Go(func() error {
				one.Sample, one.Err = a.exchange(ctx, one.Server)
				return nil
			})
		}
	}
	_ = group.Wait()
	for _, one := range answers {
		if errors.Is(one.Err, ntp.ErrKissOfDeath) {
			a.barred[one.Server] = now.Add(barTime)
		}
	}
	for server, until := range a.barred {
		if now.After(until) {
			delete(a.barred, server)
		}
	}
	return answers
}

// addresses resolves the names, anew for each round: pools change.
func (a *asker) addresses(ctx context.Context, names []string) []Answer {
	found := make([][]Answer, len(names))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil {
			found[i] = []Answer{{Name: name, Server: addr}}
			continue
		}
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, lookupWait)
			defer cancel()
			all, err := a.lookup(ctx, name)
			if err != nil {
				found[i] = []Answer{{Name: name, Err: err}}
			}
			for _, addr := range all[:min(len(all), maxPerName)] {
				found[i] = append(found[i], Answer{Name: name, Server: addr.Unmap()})
			}
			return nil
		})
	}
	_ = group.Wait()
	var answers []Answer
	for _, one := range slices.Concat(found...) {
		// The same server by two names has one voice.
		if one.Err != nil || !slices.ContainsFunc(answers, func(x Answer) bool { return x.Server == one.Server }) {
			answers = append(answers, one)
		}
	}
	return answers[:min(len(answers), maxServers)]
}

// exchange asks one server for the time. The question holds nothing but a random number that the answer must repeat.
func (a *asker) exchange(ctx context.Context, server netip.Addr) (s Sample, err error) {
	dial := func(_, remote string) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "udp", remote) }
	r, err := ntp.QueryWithOptions(net.JoinHostPort(server.String(), strconv.Itoa(int(a.port))),
		ntp.QueryOptions{Timeout: answerWait, Dialer: dial})
	if err != nil {
		return s, err
	}
	if err := r.Validate(); err != nil {
		return s, err
	}
	if r.RootDistance > maxDistance {
		return s, fmt.Errorf("it may be wrong by %v, by its own account", r.RootDistance)
	}
	if at := time.Now().Add(r.ClockOffset).Unix(); at < Released || at > latest {
		return s, fmt.Errorf("it says it is %s", time.Unix(at, 0).UTC().Format(time.RFC3339))
	}
	return Sample{Server: server, Offset: r.ClockOffset, Distance: max(r.RootDistance, leastDistance),
		Stratum: r.Stratum, RootDelay: r.RootDelay + max(r.RTT, 0), RootDispersion: r.RootDispersion,
		Leap: uint8(r.Leap)}, nil
}
