package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"rempart/firstboot/contract/ctl"
)

// maxRows bounds what one command lists.
const maxRows = 20_000

// dumped runs a dump of the kernel, again when it was interrupted by a change.
func dumped[T any](dump func() (T, error)) (T, error) {
	const tries = 5
	var v T
	var err error
	for range tries {
		if v, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return v, err
}

// show prints rows as JSON, or as a table for a person.
func show[T any](r ctl.Request, rows []T, head string, line func(T) string) error {
	flags, asJSON := options(r)
	if err := parse(r, flags); err != nil {
		return err
	}
	if *asJSON {
		if rows == nil {
			rows = []T{}
		}
		return printJSON(r.Stdout, rows)
	}
	return table(r.Stdout, rows, head, line)
}

func table[T any](to io.Writer, rows []T, head string, line func(T) string) error {
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	if head != "" {
		fmt.Fprintln(w, head)
	}
	for _, row := range rows {
		fmt.Fprintln(w, line(row))
	}
	return w.Flush()
}

// linkRow is a link as the kernel has it.
type linkRow struct {
	Name      string   `json:"name"`
	Kind      string   `json:"kind"`
	State     string   `json:"state"` // operational (RFC 2863): up, down, unknown, lowerlayerdown
	MAC       string   `json:"mac,omitempty"`
	MTU       int      `json:"mtu"`
	Master    string   `json:"master,omitempty"`
	Addresses []string `json:"addresses"`
	RxBytes   uint64   `json:"rx_bytes"`
	RxPackets uint64   `json:"rx_packets"`
	RxDropped uint64   `json:"rx_dropped"`
	TxBytes   uint64   `json:"tx_bytes"`
	TxPackets uint64   `json:"tx_packets"`
	TxDropped uint64   `json:"tx_dropped"`
}

func runLinks(_ context.Context, _ *desk, r ctl.Request) error {
	links, err := dumped(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	names := linkNames(links)
	var rows []linkRow
	for _, l := range links {
		a := l.Attrs()
		row := linkRow{Name: a.Name, Kind: l.Type(), State: a.OperState.String(), MAC: a.HardwareAddr.String(), MTU: a.MTU,
			Master: names[a.MasterIndex], Addresses: []string{}}
		if s := a.Statistics; s != nil {
			row.RxBytes, row.RxPackets, row.RxDropped = s.RxBytes, s.RxPackets, s.RxDropped
			row.TxBytes, row.TxPackets, row.TxDropped = s.TxBytes, s.TxPackets, s.TxDropped
		}
		addresses, err := dumped(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addresses {
			row.Addresses = append(row.Addresses, addr.IPNet.String())
		}
		rows = append(rows, row)
	}
	return show(r, rows, "LINK\tSTATE\tMTU\tMAC\tRECEIVED\tSENT\tADDRESSES", func(l linkRow) string {
		return fmt.Sprintf("%s\t%s\t%d\t%s\t%d\t%d\t%s", l.Name, l.State, l.MTU, l.MAC, l.RxBytes, l.TxBytes,
			strings.Join(l.Addresses, " "))
	})
}

func linkNames(links []netlink.Link) map[int]string {
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names
}

// routeRow is a route.
type routeRow struct {
	To       string `json:"to"`
	Via      string `json:"via,omitempty"`
	Link     string `json:"link,omitempty"`
	Source   string `json:"source,omitempty"`
	Metric   int    `json:"metric"`
	Table    int    `json:"table"`
	Protocol string `json:"protocol"`
	Type     string `json:"type,omitempty"` // of one that leads nowhere
}

// routeTypes are those that lead nowhere; rtnetlink(7).
var routeTypes = map[int]string{unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable",
	unix.RTN_PROHIBIT: "prohibit"}

func runRoutes(_ context.Context, _ *desk, r ctl.Request) error {
	links, err := dumped(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	names := linkNames(links)
	var rows []routeRow
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// All tables but the kernel's own, which holds the guest's addresses once more.
		routes, err := dumped(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return fmt.Errorf("routes: %w", err)
		}
		for _, t := range routes {
			if t.Table == unix.RT_TABLE_LOCAL {
				continue
			}
			row := routeRow{To: "default", Link: names[t.LinkIndex], Metric: t.Priority, Table: t.Table,
				Protocol: t.Protocol.String(), Type: routeTypes[t.Type]}
			if t.Dst != nil {
				if ones, _ := t.Dst.Mask.Size(); ones > 0 || !t.Dst.IP.IsUnspecified() {
					row.To = t.Dst.String()
				}
			}
			row.Via, row.Source = text(t.Gw), text(t.Src)
			rows = append(rows, row)
		}
	}
	return show(r, rows, "TO\tVIA\tLINK\tSOURCE\tMETRIC\tTABLE\tBY", func(t routeRow) string {
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%d\t%s", strings.TrimSpace(t.Type+" "+t.To), dash(t.Via), dash(t.Link),
			dash(t.Source), t.Metric, t.Table, t.Protocol)
	})
}

func text(ip net.IP) string {
	if ip == nil {
		return ""
	}
	return ip.String()
}

func dash(s string) string { return cmp.Or(s, "-") }

// neighbourRow is what is known of a host on a link.
type neighbourRow struct {
	Address string `json:"address"`
	Link    string `json:"link"`
	MAC     string `json:"mac,omitempty"`
	State   string `json:"state"`
}

// neighbourStates are the NUD_ values of <linux/neighbour.h>.
var neighbourStates = map[int]string{netlink.NUD_INCOMPLETE: "incomplete", netlink.NUD_REACHABLE: "reachable",
	netlink.NUD_STALE: "stale", netlink.NUD_DELAY: "delay", netlink.NUD_PROBE: "probe", netlink.NUD_FAILED: "failed",
	netlink.NUD_NOARP: "noarp", netlink.NUD_PERMANENT: "permanent"}

func runNeighbours(_ context.Context, _ *desk, r ctl.Request) error {
	links, err := dumped(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	names := linkNames(links)
	var rows []neighbourRow
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := dumped(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, family) })
		if err != nil {
			return fmt.Errorf("neighbours: %w", err)
		}
		for _, n := range all {
			if n.State == netlink.NUD_NOARP {
				continue // multicast groups and the loopback: no hosts
			}
			rows = append(rows, neighbourRow{n.IP.String(), names[n.LinkIndex], n.HardwareAddr.String(),
				cmp.Or(neighbourStates[n.State], strconv.Itoa(n.State))})
		}
	}
	return show(r, rows, "ADDRESS\tLINK\tMAC\tSTATE", func(n neighbourRow) string {
		return fmt.Sprintf("%s\t%s\t%s\t%s", n.Address, n.Link, dash(n.MAC), n.State)
	})
}
