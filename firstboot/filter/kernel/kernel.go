// Package kernel puts a filter.Ruleset into the Linux kernel by netlink, in one transaction: either the new tables
// are in force, complete, or the old ones still are. Tables the Ruleset does not name are never touched.
//
// What it deliberately does not do: compile a policy, keep state of its own, or wait for links. Everything it reads
// comes from the kernel.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"rempart/firstboot/filter"
)

// bufferBytes is the size asked for the netlink socket's buffers. The kernel acknowledges each message of a batch,
// and refuses a batch that does not fit: 16 MiB carried 20,000 set elements and 3,000 rules with room to spare.
const bufferBytes = 16 << 20

// elementsPerMessage keeps the list of elements in one netlink attribute below its limit of 65,535 bytes: an element
// of a map of (interface, IPv6 address) ranges takes about 170.
const elementsPerMessage = 250

// Options tell where to apply.
type Options struct {
	// NetNS is a file descriptor of the network namespace; 0: the caller's own.
	NetNS int
}

// ErrUnknown is returned when the kernel's answer was lost and reading back shows that the Ruleset is not in force.
var ErrUnknown = errors.New("the kernel's answer was lost and the rules are not in force")

// Apply replaces the tables of the Ruleset in one transaction. Applying what is in force already replaces it by
// itself; no packet sees a state in between. On an error the previous tables are in force, and the error names the
// rule the kernel refused as well as that can be found out. ctx is looked at before the transaction is sent.
func Apply(ctx context.Context, rs filter.Ruleset, opts Options) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	steps, err := withdraw(ctx, rs, opts)
	if err != nil {
		return err
	}
	var planned []step
	if hasLasting(rs) {
		planned, err = planLasting(ctx, rs, opts)
	} else {
		planned, err = plan(rs)
	}
	if err != nil {
		return err
	}
	return carryOut(ctx, rs, append(steps, planned...), opts)
}

// withdraw removes the table of bridges where an older policy has left one and this one has none: rules that nobody
// wants any more would go on dropping.
func withdraw(ctx context.Context, rs filter.Ruleset, opts Options) ([]step, error) {
	ours := false
	for i := range rs.Tables {
		if rs.Tables[i].Family == filter.FamilyBridge {
			return nil, nil
		}
		ours = ours || rs.Tables[i].Name == filter.TableName
	}
	if !ours {
		return nil, nil
	}
	old, err := find(ctx, &filter.Table{Family: filter.FamilyBridge, Name: filter.TableName}, opts)
	switch {
	case errors.Is(err, syscall.EPERM):
		return nil, needsAdmin(err)
	case err != nil:
		return nil, fmt.Errorf("apply policy: %w", err)
	case old == nil:
		return nil, nil
	}
	return []step{{"the end of table " + filter.FamilyBridge.String() + " " + filter.TableName,
		func(c *nftables.Conn) error { c.DelTable(old.table); return nil }}}, nil
}

// carryOut sends a transaction and makes sense of the answer.
func carryOut(ctx context.Context, rs filter.Ruleset, steps []step, opts Options) error {
	err := send(steps, opts)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOBUFS):
		// The buffer for answers was too small; the transaction itself may well have been carried out.
		inForce, readErr := InForce(ctx, rs, opts)
		if readErr != nil {
			return fmt.Errorf("apply policy: %w; reading back: %w", err, readErr)
		}
		if inForce {
			return nil
		}
		return fmt.Errorf("apply policy: %w: %w", ErrUnknown, err)
	}
	return culprit(ctx, steps, opts, err)
}

// InForce tells whether the kernel holds this very Ruleset, by the fingerprint it left there. It cannot see changes
// made behind our back by other programs.
func InForce(ctx context.Context, rs filter.Ruleset, opts Options) (bool, error) {
	if len(rs.Tables) == 0 {
		return false, errors.New("read policy: there are no rules")
	}
	for i := range rs.Tables {
		if ok, err := inForce(ctx, filter.Ruleset{Tables: rs.Tables[i : i+1]}, opts); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// inForce is InForce of a Ruleset of one table.
func inForce(ctx context.Context, rs filter.Ruleset, opts Options) (bool, error) {
	want := rs.Fingerprint()
	if want == "" {
		return false, errors.New("read policy: the rules carry no fingerprint")
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("read policy: %w", err)
	}
	conn, err := dial(opts)
	if err != nil {
		return false, err
	}
	// A dump that another change interrupts is incomplete, and says so with EINTR.
	var chains []*nftables.Chain
	for attempt := 0; ; attempt++ {
		chains, err = conn.ListChainsOfTableFamily(nftables.TableFamily(rs.Tables[0].Family))
		if err == nil || attempt == 4 || !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.ENOBUFS) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("read policy: list chains: %w", err)
	}
	for _, c := range chains {
		if c.Table.Name == rs.Tables[0].Name && c.Name == want {
			return true, nil
		}
	}
	return false, nil
}

// dial prepares a connection with buffers that hold a whole batch and its answers.
func dial(opts Options) (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(opts.NetNS), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Asked for with privilege (SO_*BUFFORCE) first, which passes net.core.*mem_max.
		if err := c.SetReadBuffer(bufferBytes); err != nil {
			return fmt.Errorf("set read buffer: %w", err)
		}
		if err := c.SetWriteBuffer(bufferBytes); err != nil {
			return fmt.Errorf("set write buffer: %w", err)
		}
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open netlink to nf_tables: %w", err)
	}
	return conn, nil
}

// numbering is held while a batch is made: the library numbers the sets of all connections by one counter that it does
// not lock (allocSetID in its set.go), and two sets of one batch with the same number would be taken for each other.
var numbering sync.Mutex

// send carries out steps in one transaction.
func send(steps []step, opts Options) error {
	conn, err := dial(opts)
	if err != nil {
		return err
	}
	if err := build(conn, steps); err != nil {
		return err
	}
	return conn.Flush()
}

// build adds the steps to the batch of a connection.
func build(conn *nftables.Conn, steps []step) error {
	numbering.Lock()
	defer numbering.Unlock()
	for _, s := range steps {
		if err := s.do(conn); err != nil {
			return fmt.Errorf("apply policy: %s: %w", s.what, err)
		}
	}
	return nil
}

// culprit finds the step that the kernel refuses: the shortest beginning of the transaction that already fails. The
// kernel reports an errno only. Each trial ends with a message that always fails, so that none takes effect.
func culprit(ctx context.Context, steps []step, opts Options, cause error) error {
	if errors.Is(cause, syscall.EPERM) {
		return needsAdmin(cause)
	}
	good, bad := 0, len(steps) // the first good steps are taken, the first bad ones are not
	for good+1 < bad && ctx.Err() == nil {
		middle := (good + bad) / 2
		err := send(append(append([]step{}, steps[:middle]...), poison()), opts)
		if onlyPoison(err) {
			good = middle
		} else {
			bad = middle
		}
	}
	return fmt.Errorf("apply policy: the kernel refuses %s: %w; the previous rules stay in force",
		steps[bad-1].what, cause)
}

// poison is a message that always fails.
func poison() step {
	return step{"a name that does not exist", func(c *nftables.Conn) error {
		c.DelChain(&nftables.Chain{Table: &nftables.Table{Name: "rempart", Family: nftables.TableFamilyINet},
			Name: "no/such/chain"})
		return nil
	}}
}

func needsAdmin(cause error) error {
	return fmt.Errorf("apply policy: %w; it takes CAP_NET_ADMIN in the network namespace", cause)
}

// onlyPoison tells whether a trial failed by its last message alone: ENOENT, once.
func onlyPoison(err error) bool {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return errors.Is(err, syscall.ENOENT)
	}
	all := joined.Unwrap()
	return len(all) == 1 && errors.Is(all[0], syscall.ENOENT)
}
