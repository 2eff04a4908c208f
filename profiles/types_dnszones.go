package profiles

import "net/netip"

// DNSZone is a zone that the guest is authoritative for.
type DNSZone struct {
	Name string `json:"name"` // without a final dot
	// Records is the zone as package zonefile writes it: checked, a record a line, names absolute.
	Records string `json:"records"`
	// Query are those who may ask for its names at all; empty: whoever is answered. Transfer are those who may have all of
	// it; empty: nobody. The guest itself may ask in any case.
	Query    []netip.Prefix `json:"query,omitempty"`
	Transfer []netip.Prefix `json:"transfer,omitempty"`
	At       Pos            `json:"at"`
}

// Bounds of zones. Every child of a guest reads its profile, and the zones with it.
const (
	maxDNSZones  = 64
	maxZoneBytes = 1 << 20 // of all zones together
)
