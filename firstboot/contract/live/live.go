// Package live holds the form in which the workstation sends a changed profile to a running guest. It is pure, and
// beside package contract because the boot stage, which knows no JSON, uses that.
//
// What it deliberately does not do: check the profile. The guest does, with the one decoder of package profiles.
package live

import "encoding/json"

// Change is a profile on its way into a running guest.
type Change struct {
	// Base is the digest of the profile that must be in force, contract.ProfileDigest of its JSON: what the difference
	// was shown against. A guest that runs another one refuses.
	Base string `json:"base"`
	// Modules are the kernel modules the profile needs loaded, as a master made from it would list them in
	// contract.PreloadPath.
	Modules []string `json:"modules"`
	// Profile is the JSON of the checked profile.
	Profile json.RawMessage `json:"profile"`
	// Sets are the parts that the profile stores beside its JSON and the one of Base does not: see profiles.StoredPart.
	Sets [][]byte `json:"sets,omitempty"`
}
