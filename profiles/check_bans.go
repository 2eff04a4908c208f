package profiles

// Bounds of bans. The longest is about what a person remembers having made it; the most attempts are far above what
// anybody makes by mistake.
const (
	maxBans        = 64
	maxBanAttempts = 10_000
	minBanWindow   = 1
	maxBanSpan     = 30 * 24 * 60 * 60 // seconds
)

// bans checks each by itself, and that no port has two.
func (v *validator) bans() {
	if len(v.p.Bans) > maxBans {
		v.reject(v.p.Bans[maxBans].At, "", "bans: more than %d services", maxBans)
		return
	}
	for i, b := range v.p.Bans {
		if !plainService(b.Service) {
			v.reject(b.At, "", "bans: %s is no name of a service", quote(b.Service))
		}
		if len(b.Ports) == 0 {
			v.reject(b.At, "", "bans: %s has no ports", quote(b.Service))
		}
		for _, p := range b.Ports {
			if p.First == 0 || p.First > p.Last {
				v.reject(b.At, "", "bans: %s is no range of ports", p)
			}
		}
		if b.Attempts == 0 || b.Attempts > maxBanAttempts {
			v.reject(b.At, "", "bans: %d attempts, expected 1 to %d", b.Attempts, maxBanAttempts)
		}
		if b.Window < minBanWindow || b.Window > maxBanSpan || b.For < minBanWindow || b.For > maxBanSpan {
			v.reject(b.At, "", "bans: attempts are counted, and a ban holds, for 1s to 30d")
		}
		for _, earlier := range v.p.Bans[:i] {
			for _, p := range b.Ports {
				for _, q := range earlier.Ports {
					if p.First <= q.Last && q.First <= p.Last {
						v.reject(b.At, "remove one", "bans: port %s comes twice, first at %s", p, earlier.At)
					}
				}
			}
		}
	}
}

// plainService tells whether a name can be part of the name of a set: letters, digits, - and /.
func plainService(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '/' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}
