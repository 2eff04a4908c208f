package link

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// NIC is a network interface the guest was given, as found in the kernel.
type NIC struct {
	Index int    // ifindex; says nothing about the bus, drivers finish probing in any order
	Name  string // as it is now
	MAC   string // lower case with colons
	// Bus is the device's path below /sys/devices; empty for interfaces that are not on a bus (veth, macvlan): they
	// are only ever taken by MAC.
	Bus  string
	Port int // dev_port: which of several ports of one device
	// Driver is the driver's name, with - for _; empty for interfaces without a device.
	Driver string
	// Own is the hardware address it uses at present; empty: MAC.
	Own   string
	Claim string // the link this NIC was given to earlier, as kept by the kernel in ifalias; see claimAlias
}

// By is how a NIC was recognised.
type By int

// The ways, in the order they are tried.
const (
	ByMAC    By = iota // the profile names its hardware address
	ByPlace            // the profile names its place on the bus
	ByName             // it has the MAC that rempart derives from the names of the guest and the link
	ByClaim            // it was given to this link earlier since the guest started
	ByDriver           // the profile names its driver, and just one has that
	ByBus              // the next free one in bus order
	ByMaking           // it was made for this link
)

// Assignment says that Links[Link] of the plan is this NIC.
type Assignment struct {
	Link int
	NIC  NIC
	By   By
}

// Warning is what Match could not do.
type Warning struct {
	Link string // the link that stays closed; empty: a NIC nobody claims
	Text string
}

// Match says which NIC is which link. Links whose NIC the profile names by its MAC or place take theirs first, then
// those whose NIC has the MAC derived from their names, then those named by driver; the others take the remaining NICs
// in bus order. A NIC once given to a link stays with it, so that a NIC
// added to a running guest never shifts the others' roles. Whatever is ambiguous stays closed: it is left out of the
// assignments and is in the warnings.
func Match(plan Plan, nics []NIC) ([]Assignment, []Warning) {
	m := matcher{plan: plan, nics: slices.Clone(nics), link: map[int]Assignment{}, taken: map[int]bool{}}
	slices.SortStableFunc(m.nics, CompareBus)
	m.byWord(ByMAC)
	m.byWord(ByPlace)
	m.byName()
	m.byClaim()
	m.byWord(ByDriver)
	m.byBus()
	m.leftovers()
	out := make([]Assignment, 0, len(m.link))
	for i := range plan.Links {
		if a, ok := m.link[i]; ok {
			out = append(out, a)
		}
	}
	return out, m.warnings
}

type matcher struct {
	plan     Plan
	nics     []NIC
	link     map[int]Assignment // by place in plan.Links
	taken    map[int]bool       // by ifindex
	warnings []Warning
}

func (m *matcher) warn(link, format string, args ...any) {
	m.warnings = append(m.warnings, Warning{link, fmt.Sprintf(format, args...)})
}

func (m *matcher) give(link int, nic NIC, by By) {
	m.link[link] = Assignment{link, nic, by}
	m.taken[nic.Index] = true
}

// by is what the profile says a NIC is found by; ByBus when it says nothing.
func (l Link) by() By {
	switch {
	case l.MAC != "":
		return ByMAC
	case l.Match.PCI != "" || l.Match.Xen != nil:
		return ByPlace
	case l.Match.Driver != "":
		return ByDriver
	}
	return ByBus
}

// sought is what the profile says of the NIC, for people.
func (l Link) sought() string {
	var words []string
	if l.MAC != "" {
		words = append(words, "MAC "+l.MAC)
	}
	if !l.Match.Empty() {
		words = append(words, l.Match.String())
	}
	return strings.Join(words, " and ")
}

// fits tells whether a NIC is what the profile says of a link's.
func (l Link) fits(n NIC) bool {
	if l.MAC != "" && n.MAC != l.MAC || l.Match.Driver != "" && n.Driver != l.Match.Driver {
		return false
	}
	if l.Match.PCI != "" {
		// Of the functions on the way to the NIC, bridges first, the last is its own.
		var own uint64
		found := false
		for element := range strings.SplitSeq(n.Bus, "/") {
			if a, ok := pciAddress(element); ok && !strings.HasPrefix(element, "pci") {
				own, found = a, true
			}
		}
		if want, ok := pciAddress(l.Match.PCI); !ok || !found || own != want {
			return false
		}
	}
	return l.Match.Xen == nil || n.Bus == "vif-"+strconv.Itoa(*l.Match.Xen) // a device of xenbus, right below /sys/devices
}

// byWord gives the links their NICs that the profile names in one way.
func (m *matcher) byWord(by By) {
	for i, l := range m.plan.Links {
		if _, done := m.link[i]; done || l.Device.Kind != "" || l.by() != by {
			continue
		}
		var found []NIC
		for _, n := range m.nics {
			if l.fits(n) && !m.taken[n.Index] {
				found = append(found, n)
			}
		}
		// A macvlan or bridge port repeats the MAC of the NIC below it: the one on a bus is meant.
		if onBus := slices.DeleteFunc(slices.Clone(found), func(n NIC) bool { return n.Bus == "" }); len(onBus) > 0 {
			found = onBus
		}
		switch len(found) {
		case 0:
			m.warn(l.Name, "link %s: no NIC has the %s; attach one or correct the profile", l.Name, l.sought())
		case 1:
			m.give(i, found[0], by)
		default:
			m.warn(l.Name, "link %s: %d NICs have the %s (%s); it stays closed until just one has",
				l.Name, len(found), l.sought(), names(found))
			for _, n := range found {
				m.taken[n.Index] = true // nor may it serve another link
			}
		}
	}
}

// byName gives links of which the profile says nothing the NIC that was made for them by name.
func (m *matcher) byName() {
	for i, l := range m.plan.Links {
		if l.Device.Kind != "" || l.by() != ByBus || l.Derived == "" {
			continue
		}
		same := func(n NIC) bool { return n.Bus != "" && n.MAC == l.Derived && !m.taken[n.Index] }
		at := slices.IndexFunc(m.nics, same)
		if at < 0 || slices.ContainsFunc(m.nics[at+1:], same) {
			continue
		}
		m.give(i, m.nics[at], ByName)
	}
}

func (m *matcher) byClaim() {
	for i, l := range m.plan.Links {
		by := l.by()
		if _, done := m.link[i]; done || l.Device.Kind != "" || by == ByMAC || by == ByPlace {
			continue
		}
		for _, n := range m.nics {
			if n.Claim == l.Name && l.fits(n) && !m.taken[n.Index] {
				m.give(i, n, ByClaim)
				break
			}
		}
	}
}

func (m *matcher) byBus() {
	var free []NIC
	for _, n := range m.nics {
		if n.Bus != "" && !m.taken[n.Index] {
			free = append(free, n)
		}
	}
	for i, l := range m.plan.Links {
		if _, done := m.link[i]; done || l.by() != ByBus || l.Device.Kind != "" {
			continue
		}
		if len(free) == 0 {
			m.warn(l.Name, "link %s: no NIC is left for it; the guest has fewer NICs than the profile has links", l.Name)
			continue
		}
		n := free[0]
		if len(free) > 1 && CompareBus(n, free[1]) == 0 {
			m.warn(l.Name, "link %s: NICs %s and %s cannot be told apart by their place on the bus; give the link a mac",
				l.Name, n.Name, free[1].Name)
			continue
		}
		if other, ok := m.outOfOrder(i, n); !ok {
			m.warn(l.Name, "link %s: NIC %s (%s) came late and lies on the wrong side of link %s on the bus; restart the "+
				"guest or give the links macs", l.Name, n.Name, n.MAC, other)
			continue
		}
		free = free[1:]
		m.give(i, n, ByBus)
	}
}

// outOfOrder reports whether giving n to link i keeps links that are found by nothing else in bus order; if not, it
// names the link that is in the way.
func (m *matcher) outOfOrder(i int, n NIC) (string, bool) {
	for j, a := range m.link {
		if a.By == ByName || m.plan.Links[j].by() != ByBus {
			continue
		}
		if c := CompareBus(a.NIC, n); (j < i && c >= 0) || (j > i && c <= 0) {
			return m.plan.Links[j].Name, false
		}
	}
	return "", true
}

func (m *matcher) leftovers() {
	for _, n := range m.nics {
		if n.Bus != "" && !m.taken[n.Index] {
			m.warn("", "NIC %s (%s) belongs to no link and stays down; the guest has more NICs than the profile has links",
				n.Name, n.MAC)
		}
	}
}

func names(nics []NIC) string {
	s := make([]string, len(nics))
	for i, n := range nics {
		s[i] = n.Name
	}
	return strings.Join(s, ", ")
}

// CompareBus orders NICs as the hypervisor attached them: by PCI address, virtio-mmio slot or Xen vif index, then by
// port. It compares the paths below /sys/devices element by element, PCI addresses as numbers and other names in
// natural order (vif-9 before vif-10). Below a PCI function the number of virtioN is in the order of probing, but no
// two NICs share a function without differing in port. NICs without a bus come last. Zero: cannot be told apart.
func CompareBus(a, b NIC) int {
	if (a.Bus == "") != (b.Bus == "") {
		if a.Bus == "" {
			return 1
		}
		return -1
	}
	x, y := strings.Split(a.Bus, "/"), strings.Split(b.Bus, "/")
	for i := range min(len(x), len(y)) {
		if c := compareElement(x[i], y[i]); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a.Port, b.Port))
}

func compareElement(a, b string) int {
	x, okX := pciAddress(a)
	y, okY := pciAddress(b)
	switch {
	case okX && okY:
		return cmp.Compare(x, y)
	case okX:
		return -1 // before what is no PCI address, so that the order is one whatever the names
	case okY:
		return 1
	}
	return compareNatural(a, b)
}

// pciAddress reads "dddd:bb:dd.f" (hexadecimal domain, bus, device, function) or a root "pcidddd:bb".
func pciAddress(s string) (uint64, bool) {
	s, root := strings.CutPrefix(s, "pci")
	domain, rest, ok := strings.Cut(s, ":")
	if !ok {
		return 0, false
	}
	bus, devfn, full := strings.Cut(rest, ":")
	device, function, dotted := "0", "0", true
	if full {
		device, function, dotted = strings.Cut(devfn, ".")
	}
	if root == full || !dotted {
		return 0, false
	}
	var n uint64
	// Domains have up to 8 digits (VMD makes 10000 and above), a bus 8 bits, a device 5, a function 3.
	for _, part := range []struct {
		text string
		bits int
	}{{domain, 32}, {bus, 8}, {device, 5}, {function, 3}} {
		v, err := strconv.ParseUint(part.text, 16, part.bits)
		if err != nil {
			return 0, false
		}
		n = n<<part.bits | v
	}
	return n, true
}

// compareNatural compares runs of digits as numbers and everything else as text.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a = run(a)
		y, b = run(b)
		if digit(x[0]) && digit(y[0]) {
			x, y := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			continue
		}
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// run splits off the leading run of digits or of other bytes.
func run(s string) (head, tail string) {
	i := 1
	for i < len(s) && digit(s[i]) == digit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
