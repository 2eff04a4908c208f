package admin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"rempart/firstboot/child"
	"rempart/firstboot/contract/ctl"
	"rempart/firstboot/filter"
	"rempart/firstboot/filter/kernel"
)

// runPolicy prints the rules of the profile in force, as nft text, and fails when the kernel does not hold them.
func runPolicy(ctx context.Context, d *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	p, _, err := child.ReadProfile(d.root)
	if err != nil {
		return err
	}
	rules, err := filter.Compile(p)
	if err != nil {
		return err
	}
	loaded, err := kernel.InForce(ctx, rules, kernel.Options{})
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(r.Stdout, struct {
			Loaded      bool   `json:"loaded"`
			Fingerprint string `json:"fingerprint"`
			Text        string `json:"text"`
		}{loaded, rules.Fingerprint(), rules.Text()})
	} else {
		_, err = io.WriteString(r.Stdout, rules.Text())
	}
	if err == nil && !loaded {
		err = errors.New("the kernel holds other rules than these, which the profile makes; `status` says why")
	}
	return err
}

// counterRow is what a counter of the rules has counted; `policy` shows which rules count with it.
type counterRow struct {
	Table   string `json:"table"`
	Counter string `json:"counter"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func runCounters(_ context.Context, _ *desk, r ctl.Request) error {
	rows, err := counters()
	if err != nil {
		return fmt.Errorf("counters: %w", err)
	}
	return show(r, rows, "TABLE\tCOUNTER\tPACKETS\tBYTES", func(c counterRow) string {
		return fmt.Sprintf("%s\t%s\t%d\t%d", c.Table, c.Counter, c.Packets, c.Bytes)
	})
}

// counters reads the counters of all tables.
func counters() ([]counterRow, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	var rows []counterRow
	for _, t := range tables {
		objects, err := c.GetNamedObjects(t)
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", t.Name, err)
		}
		for _, o := range objects {
			named, ok := o.(*nftables.NamedObj)
			if !ok {
				continue
			}
			if n, ok := named.Obj.(*expr.Counter); ok {
				rows = append(rows, counterRow{t.Name, named.Name, n.Packets, n.Bytes})
			}
		}
	}
	return rows, nil
}
