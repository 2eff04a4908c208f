//go:build !guest

package profiles

import "strings"

// nicFields are the keys of what a NIC is found by.
func nicFields() table[Link] {
	return table[Link]{
		{name: "mac", doc: "Its hardware address, the same as mac of the link.", kind: textLike(macPattern),
			decode: func(r *reader, v value, l *Link) {
				if l.MAC != "" {
					r.rejectAt(v.pos(), "remove one", "%s: the link has a mac already", v.name)
					return
				}
				readMAC(r, v, l)
			}},
		{name: "pci", doc: "Its PCI address, such as \"0000:00:03.0\".", kind: textLike(pciPattern), decode: readPCI},
		{name: "driver", doc: "Its driver, such as virtio-net or e1000e. Just one NIC may have it.",
			kind: textLike(driverPattern), decode: readDriver},
		{name: "xen", doc: "Its number among the vifs of a Xen guest, counted from 0.", kind: numberIn(0, maxXenVIF),
			decode: func(r *reader, v value, l *Link) {
				if n, ok := r.integer(v, 0, maxXenVIF, ""); ok {
					l.Match.Xen = &n
				}
			}},
	}
}

func readMatch(r *reader, v value, l *Link) {
	r.places.put(v.keyPos(), "links.%s.match", l.Name)
	r.filled(v, "a mapping such as {pci: \"0000:00:03.0\"}, {driver: e1000e} or {xen: 2}")
	nicFields().read(r, v, l)
}

func readPCI(r *reader, v value, l *Link) {
	const what = "a PCI address such as 0000:00:03.0"
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	canonical, ok := pciAddress(text)
	if !ok {
		r.expected(v, what, "")
		return
	}
	l.Match.PCI = canonical
}

func readDriver(r *reader, v value, l *Link) {
	const what = "the name of a driver such as virtio-net or e1000e"
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	text = strings.ReplaceAll(text, "_", "-")
	if text == "" || len(text) > maxDriver || !allOf(text, isDriverByte) {
		r.expected(v, what, "")
		return
	}
	l.Match.Driver = text
}
