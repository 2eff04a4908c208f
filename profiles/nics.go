package profiles

import (
	"fmt"
	"strconv"
	"strings"
)

// NICMatch says which NIC a link is, by other things than its hardware address. Zero fields match every NIC; all that
// are set must hold.
type NICMatch struct {
	PCI    string `json:"pci,omitempty"`    // address of the function, lower case with its domain: 0000:00:03.0
	Driver string `json:"driver,omitempty"` // as the kernel calls it, with - for _: virtio-net, e1000e
	Xen    *int   `json:"xen,omitempty"`    // index of the vif, 0 and up
}

// Empty tells whether every NIC fits.
func (m NICMatch) Empty() bool { return m.PCI == "" && m.Driver == "" && m.Xen == nil }

// String is how a person would say it.
func (m NICMatch) String() string {
	var words []string
	if m.PCI != "" {
		words = append(words, "PCI address "+m.PCI)
	}
	if m.Xen != nil {
		words = append(words, "Xen index "+strconv.Itoa(*m.Xen))
	}
	if m.Driver != "" {
		words = append(words, "driver "+m.Driver)
	}
	return strings.Join(words, " and ")
}

// Bounds of what NICs are told apart by.
const (
	maxDriver = 32   // bytes; the longest of the kernel's network drivers have 20
	maxXenVIF = 1023 // xen-netback numbers them within a few hundred
)

// MaxXenNICs is how many NICs a Xen guest with one virtual processor and three disks can have: each takes 514 of the
// 32760 grants that Xen lets a guest give by default. builder/hypervisor/xen has the sum.
const MaxXenNICs = 57

// pciAddress reads dddd:bb:dd.f or bb:dd.f, in hexadecimal, into its canonical form: a domain of up to 8 digits, a bus
// of 8 bits, a device of 5 and a function of 3.
func pciAddress(text string) (string, bool) {
	parts := strings.Split(strings.ToLower(text), ":")
	if len(parts) == 2 {
		parts = append([]string{"0000"}, parts...)
	}
	if len(parts) != 3 {
		return "", false
	}
	device, function, dotted := strings.Cut(parts[2], ".")
	if !dotted {
		return "", false
	}
	var n [4]uint64
	for i, part := range []struct {
		text   string
		digits int
		most   uint64
	}{{parts[0], 8, 1<<32 - 1}, {parts[1], 2, 1<<8 - 1}, {device, 2, 1<<5 - 1}, {function, 1, 1<<3 - 1}} {
		v, err := strconv.ParseUint(part.text, 16, 32)
		if err != nil || len(part.text) > part.digits || v > part.most {
			return "", false
		}
		n[i] = v
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", n[0], n[1], n[2], n[3]), true
}

func isDriverByte(c byte) bool {
	return isLower(c) || c >= 'A' && c <= 'Z' || isDigit(c) || c == '-'
}

// matches checks what links are told apart by: each by itself, and that no two must be the same NIC.
func (v *validator) matches() {
	type exact struct{ pci, xen, driver string }
	seen := map[exact]*Link{}
	v.xenNICs()
	for i := range v.p.Links {
		l := &v.p.Links[i]
		m := l.Match
		at := v.places.find(l.At, "links.%s.match", l.Name)
		if m.Empty() || v.places.spoilt("links.%s.match", l.Name) {
			continue
		}
		bad := func(hint, format string, args ...any) {
			v.reject(at, hint, "links.%s.match%s", clip(l.Name), fmt.Sprintf(format, args...))
		}
		if !l.NIC() {
			bad("remove it", ": the link is no NIC, the guest makes it")
			continue
		}
		if canonical, ok := pciAddress(m.PCI); m.PCI != "" && (!ok || canonical != m.PCI) {
			bad("", ".pci: %s is no PCI address such as 0000:00:03.0", quote(m.PCI))
		}
		if m.Driver != "" && (len(m.Driver) > maxDriver || !allOf(m.Driver, isDriverByte)) {
			bad("", ".driver: %s is no driver such as virtio-net", quote(m.Driver))
		}
		key := exact{pci: m.PCI, driver: m.Driver}
		if m.Xen != nil {
			key.xen = strconv.Itoa(*m.Xen)
			if *m.Xen < 0 || *m.Xen > maxXenVIF {
				bad("", ".xen: %d, expected 0 to %d", *m.Xen, maxXenVIF)
			}
			if m.PCI != "" {
				bad("remove one", ": a NIC is at a PCI address or a vif of Xen, not both")
			}
		}
		if m.PCI != "" || m.Xen != nil {
			key.driver = "" // the place is one NIC, whatever drives it
		}
		if l.MAC != "" {
			key.driver = key.driver + " " + l.MAC
		}
		if first := seen[key]; first != nil {
			bad("tell them apart by mac or pci", ": %s is what link %s is found by already, at %s", m, clip(first.Name),
				first.At)
			continue
		}
		seen[key] = l
	}
}

// xenNICs checks what Xen gives a guest, where a profile says that it is one: by the number of a vif.
func (v *validator) xenNICs() {
	var first *Link
	nics := 0
	for i := range v.p.Links {
		l := &v.p.Links[i]
		if !l.NIC() {
			continue
		}
		nics++
		if first == nil && l.Match.Xen != nil {
			first = l
		}
	}
	if first != nil && nics > MaxXenNICs {
		v.reject(v.places.find(first.At, "links.%s.match", first.Name), "carry several networks as VLANs over one vif",
			"links: %d NICs, and match.xen says that Xen makes them: it gives a guest %d at most", nics, MaxXenNICs)
	}
}
