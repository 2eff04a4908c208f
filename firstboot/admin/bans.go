package admin

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"time"

	"rempart/firstboot/child"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/filter/ban"
	"rempart/firstboot/filter/kernel"
)

// banLength is how long a ban by hand holds unless told otherwise.
const banLength = time.Hour

// banRow is a source that is shut out.
type banRow struct {
	Source  string `json:"source"`
	Seconds int64  `json:"seconds"` // until it ends by itself
}

func runBans(ctx context.Context, _ *desk, r ctl.Request) error {
	all, err := ban.List(ctx, kernel.Options{})
	if err != nil {
		return err
	}
	var rows []banRow
	for _, b := range all {
		rows = append(rows, banRow{b.Source.String(), int64(b.Left.Round(time.Second).Seconds())})
	}
	return show(r, rows, "SOURCE\tENDS IN", func(b banRow) string {
		return fmt.Sprintf("%s\t%v", b.Source, time.Duration(b.Seconds)*time.Second)
	})
}

func runBan(ctx context.Context, d *desk, r ctl.Request) error {
	flags := flag.NewFlagSet(r.Args[0], flag.ContinueOnError)
	length := flags.Duration("for", banLength, "how long")
	a, err := parseAddress(r, flags)
	if err != nil {
		return err
	}
	p, _, err := child.ReadProfile(d.root)
	if err != nil {
		return err
	}
	who, err := ban.Add(ctx, p, a, *length, kernel.Options{})
	if err != nil {
		return err
	}
	d.log.Info("banned by an administrator", "source", who, "for", *length)
	_, err = fmt.Fprintf(r.Stdout, "%v is banned for %v\n", who, *length)
	return err
}

func runUnban(ctx context.Context, d *desk, r ctl.Request) error {
	a, err := parseAddress(r, flag.NewFlagSet(r.Args[0], flag.ContinueOnError))
	if err != nil {
		return err
	}
	who, err := ban.Remove(ctx, a, kernel.Options{})
	if err != nil {
		return err
	}
	d.log.Info("unbanned by an administrator", "source", who)
	_, err = fmt.Fprintf(r.Stdout, "%v is banned no more\n", who)
	return err
}

// parseAddress reads the options of a command and its one word, an address.
func parseAddress(r ctl.Request, flags *flag.FlagSet) (netip.Addr, error) {
	words, err := parseWords(r, flags)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(words) != 1 {
		return netip.Addr{}, usageError{fmt.Errorf("want one address, not %d words", len(words))}
	}
	a, err := netip.ParseAddr(words[0])
	if err != nil {
		return a, usageError{fmt.Errorf("%.64q is no address", words[0])}
	}
	return a, nil
}
