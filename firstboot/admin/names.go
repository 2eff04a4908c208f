package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"text/tabwriter"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/dns"
	"rempart/firstboot/dns/dnssec"
	"rempart/firstboot/lists/handover"
)

// runDNS says how the name service does.
func runDNS(ctx context.Context, d *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	s, err := dns.ReadStatus(ctx, filepath.Join(d.root, contract.DNSSocket))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the guest serves no names: its profile has no dns, or the service has not started yet")
	}
	if err != nil {
		return fmt.Errorf("asking the name service: %w", err)
	}
	lists, err := d.nameLists()
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(r.Stdout, struct {
			dns.Status
			Lists []handover.Status `json:"lists,omitempty"`
		}{s, lists})
	}
	w := tabwriter.NewWriter(r.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "queries\t%d\tcached %d, forwarded %d, local %d, refused %d, limited %d, dropped %d\n", s.Queries,
		s.Cached, s.Forwarded, s.Local, s.Refused, s.Limited, s.Forward.Dropped)
	fmt.Fprintf(w, "connections\t%d\tby TLS %d, not begun %d, ended to make room %d\n", s.Connections, s.Secure,
		s.Handshakes, s.Ended)
	fmt.Fprintf(w, "answers\t\tnxdomain %d, servfail %d, stale %d, fetched ahead %d\n", s.NXDomain, s.ServFail,
		s.Forward.Stale, s.Forward.Refreshed)
	fmt.Fprintf(w, "kept out\t\tblocked %d (of %d names), private addresses %d\n", s.Blocked, s.BlockLen,
		s.Forward.Rebinding)
	for _, l := range lists {
		state := "next look in " + max(0, time.Until(time.Unix(l.Next, 0))).Round(time.Second).String()
		if l.Error != "" {
			state += "; " + l.Error
		}
		fmt.Fprintf(w, "list\t%d\tnames of %s, %s\n", l.Entries, l.From, state)
	}
	if v := s.DNSSEC; v != (dnssec.Counts{}) {
		fmt.Fprintf(w, "dnssec\t\tproven %d, unsigned %d, wrong %d\n", v.Secure, v.Insecure, v.Bogus)
	}
	fmt.Fprintf(w, "cache\t%d\tanswers, %d of %d KiB, %d made room\n", s.Cache.Entries, s.Cache.Bytes>>10,
		s.Cache.Limit>>10, s.Cache.Evicted)
	for _, u := range s.Servers {
		state := "answers"
		if u.Down {
			state = "is left alone"
		}
		fmt.Fprintf(w, "%s\t%d\tasked, answered %d, failed %d, forged %d; %s in %d us\n", u.Server, u.Asked, u.Answered,
			u.Failed, u.Forged, state, u.Micros)
	}
	return w.Flush()
}

// nameLists are how the lists of blocked names stand that the profile in force takes from elsewhere.
func (d *desk) nameLists() (out []handover.Status, err error) {
	p, _, err := child.ReadProfile(d.root)
	if err != nil {
		return nil, err
	}
	all, err := handover.ReadStatus(d.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, l := range p.BlockLists() {
		for _, s := range all {
			if s.Name == handover.NamesList(l.Name) {
				out = append(out, s)
			}
		}
	}
	return out, nil
}
