package profiles

import (
	"strings"
	"testing"
)

// TestFixedDisks: a guest that runs takes over no other data disks, whatever of them is another, but another place in
// the file.
func TestFixedDisks(t *testing.T) {
	with := func(change func(p *Profile)) *Profile {
		p := &Profile{Disks: []Disk{{Name: "a", Mount: "/srv/a", At: Pos{1, 1}}, {Name: "b", Mount: "/srv/b"}}}
		change(p)
		return p
	}
	for want, change := range map[string]func(p *Profile){
		"disks: ":        func(p *Profile) { p.Disks = p.Disks[:1] },
		"disks: data":    func(p *Profile) { p.Disks[1].Exec = true },
		"disks: data ":   func(p *Profile) { p.Disks[0], p.Disks[1] = p.Disks[1], p.Disks[0] },
		"disks: data d":  func(p *Profile) { p.Disks[1].Mount = "/srv/c" },
		"logging.disk: ": func(p *Profile) { p.Logging.Disk = "a" },
	} {
		why := strings.Join(Fixed(with(func(*Profile) {}), with(change)), "; ")
		if !strings.HasPrefix(why, want) {
			t.Errorf("Fixed = %q; want %q", why, want)
		}
	}
	if why := Fixed(with(func(*Profile) {}), with(func(p *Profile) { p.Disks[0].At = Pos{7, 7} })); len(why) > 0 {
		t.Errorf("Fixed of another place in the file = %q; want nothing", why)
	}
}
