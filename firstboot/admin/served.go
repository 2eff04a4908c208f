package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/ctl"
)

// servedPatience is how long the DHCP server may take to answer, and servedLine bounds a line of it in bytes.
const (
	servedPatience = 30 * time.Second
	servedLine     = 16 << 10
)

func runServed(ctx context.Context, d *desk, r ctl.Request) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	rows, all, err := askDHCP(ctx, d.root, contract.LeaseQuestion{})
	if err != nil {
		return err
	}
	if all > len(rows) {
		fmt.Fprintf(r.Stderr, "%d of %d leases\n", len(rows), all)
	}
	if *asJSON {
		return rowsAsJSON(r.Stdout, rows)
	}
	head := "ADDRESS\tHARDWARE\tSTATE\tENDS\tNAME"
	for first := 0; first == 0 || first < len(rows); first += rowsTogether {
		piece := rows[first:min(first+rowsTogether, len(rows))]
		if err := table(r.Stdout, piece, head, leaseWords); err != nil {
			return err
		}
		head = ""
	}
	return nil
}

func leaseWords(l contract.ServedLease) string {
	ends := "never"
	if l.Ends != 0 {
		ends = time.Unix(l.Ends, 0).UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", l.Address, l.Hardware, l.State, ends, printable(l.Name))
}

// rowsAsJSON writes one array, a row at a time: of tens of thousands the text takes more memory than the rows.
func rowsAsJSON[T any](w io.Writer, rows []T) error {
	if len(rows) == 0 {
		_, err := io.WriteString(w, "[]\n")
		return err
	}
	before := "[\n  "
	for _, row := range rows {
		b, err := json.Marshal(row)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s", before, b); err != nil {
			return err
		}
		before = ",\n  "
	}
	_, err := io.WriteString(w, "\n]\n")
	return err
}

// printable makes what a client calls itself fit for a terminal.
func printable(name string) string {
	quoted := fmt.Sprintf("%+q", name)
	return quoted[1 : len(quoted)-1]
}

func runRelease(ctx context.Context, d *desk, r ctl.Request) error {
	words, err := parseWords(r, flag.NewFlagSet(r.Args[0], flag.ContinueOnError))
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return usageError{fmt.Errorf("want one address or prefix, not %d words", len(words))}
	}
	a := words[0]
	if _, err := contract.ParseLeased(a); err != nil {
		return usageError{err}
	}
	rows, _, err := askDHCP(ctx, d.root, contract.LeaseQuestion{Release: a})
	switch {
	case err != nil:
		return err
	case len(rows) != 1:
		return fmt.Errorf("the DHCP server gave %d answers, expected one", len(rows))
	case rows[0].Error != "":
		return errors.New(rows[0].Error)
	}
	d.log.Info("lease ended by an administrator", "address", a)
	_, err = fmt.Fprintf(r.Stdout, "the lease of %v has ended; its client may have it again until others get it\n", a)
	return err
}

// askDHCP asks the guest's DHCP server one question. It returns the first maxRows answers, and how many there are.
func askDHCP(ctx context.Context, root string, q contract.LeaseQuestion) (rows []contract.ServedLease, all int,
	err error) {
	ctx, cancel := context.WithTimeout(ctx, servedPatience)
	defer cancel()
	var dial net.Dialer
	conn, err := dial.DialContext(ctx, "unix", filepath.Join(root, contract.DHCPSocket))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, 0, errors.New("the guest gives out no addresses: its profile has no section dhcp, or the server is down")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("asking the DHCP server: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return nil, 0, fmt.Errorf("asking the DHCP server: %w", err)
	}
	in := bufio.NewScanner(conn)
	in.Buffer(nil, servedLine)
	for in.Scan() {
		if all++; all > maxRows {
			continue
		}
		var l contract.ServedLease
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return nil, 0, fmt.Errorf("the DHCP server's answer: %w", err)
		}
		rows = append(rows, l)
	}
	if err := in.Err(); err != nil {
		return nil, 0, fmt.Errorf("the DHCP server's answer: %w", err)
	}
	return rows, all, nil
}
