package profiles

// DynamicSet is a set that lines fill while the guest runs, with the sources of what they match: IPv4 addresses, and
// the first 64 bits of IPv6 ones. It outlives changes of the policy, and is empty when the guest starts.
type DynamicSet struct {
	Name    string `json:"name"`
	Timeout int64  `json:"timeout"` // seconds a source stays after it was last added, 1 and more
	At      Pos    `json:"at"`
}

// DynamicSet is the dynamic set of that name, or nil.
func (p *Profile) DynamicSet(name string) *DynamicSet {
	for i := range p.DynamicSets {
		if p.DynamicSets[i].Name == name {
			return &p.DynamicSets[i]
		}
	}
	return nil
}

// HasSet tells whether there is a set of that name, of either kind.
func (p *Profile) HasSet(name string) bool { return p.Set(name) != nil || p.DynamicSet(name) != nil }
