package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"

	"rempart/firstboot/filter"
)

// flowTable is a flow table as the kernel takes it; nil devices: none yet.
func flowTable(table *nftables.Table, name string, devices []string) *nftables.Flowtable {
	return &nftables.Flowtable{Table: table, Name: name, Devices: devices, Flags: nftables.FlowtableFlagsCounter}
}

// flowTables lists those of a table; none on kernels without.
func flowTables(conn *nftables.Conn, table *nftables.Table) ([]*nftables.Flowtable, error) {
	all, err := conn.ListFlowtables(table)
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list flow tables: %w", err)
	}
	return slices.DeleteFunc(all, func(f *nftables.Flowtable) bool { return f.Table.Name != table.Name }), nil
}

// CanOffload tells whether the kernel takes a flow table and a rule that uses it. Nothing stays of the attempt.
func CanOffload(ctx context.Context, opts Options) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	trial := filter.Table{Family: filter.FamilyInet, Name: filter.TableName + "-trial",
		FlowTables: []string{filter.FlowTable},
		Chains:     []filter.Chain{{Name: filter.OffloadChain, Rules: []filter.Rule{filter.OffloadRule()}}}}
	steps, err := plan(filter.Ruleset{Tables: []filter.Table{trial}})
	if err != nil {
		return false, err
	}
	err = send(append(steps, poison()), opts)
	switch {
	case onlyPoison(err):
		return true, nil
	case errors.Is(err, syscall.EPERM):
		return false, needsAdmin(err)
	}
	return false, nil
}

// Offload binds the flow table of the policy in force to these devices, which must exist, and ends all short ways:
// flows that may pass find them again. It does nothing where the policy in force has no flow table.
func Offload(ctx context.Context, devices []string, opts Options) error {
	return renewFlows(ctx, opts, func(*nftables.Flowtable) []string { return devices })
}

// EndOffload ends all short ways, so that each flow meets the rules with its next packet.
func EndOffload(ctx context.Context, opts Options) error {
	return renewFlows(ctx, opts, func(old *nftables.Flowtable) []string { return old.Devices })
}

// renewFlows replaces the flow table in one transaction.
func renewFlows(ctx context.Context, opts Options, devices func(old *nftables.Flowtable) []string) error {
	found, err := find(ctx, &filter.Table{Family: filter.FamilyInet, Name: filter.TableName}, opts)
	if err != nil {
		return fmt.Errorf("flow table: %w", err)
	}
	if found == nil || len(found.flows) == 0 {
		return nil
	}
	old := found.flows[0]
	p := newPlanner(&filter.Table{Family: filter.FamilyInet, Name: filter.TableName})
	chain := &nftables.Chain{Table: p.table, Name: filter.OffloadChain}
	p.step("flow table "+old.Name, func(c *nftables.Conn) error {
		c.FlushChain(chain)
		c.DelFlowtable(&nftables.Flowtable{Table: p.table, Name: old.Name})
		c.AddFlowtable(flowTable(p.table, old.Name, devices(old)))
		return nil
	})
	rule := filter.OffloadRule()
	if err := p.rule(chain, &rule, 0, 0); err != nil {
		return err
	}
	if err := send(p.steps, opts); err != nil {
		return fmt.Errorf("bind the flow table to %q: %w", devices(old), err)
	}
	return nil
}
