package pid1

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/contract"
	"rempart/firstboot/contract/identity"
)

func TestWithoutIdentity(t *testing.T) {
	g := startGuest(t, "", oneLink())
	g.wait(t, "READY", func(r contract.Report) bool { return r.Ready && r.Name == "gw" && isDone(r, "identity") })
	if _, err := os.Stat(filepath.Join(g.root, identity.Dir)); err == nil {
		t.Errorf("a guest without an identity disk has %s", identity.Dir)
	}
}

func TestIdentityNamesTheGuest(t *testing.T) {
	g := startGuest(t, "with-identity", oneLink())
	g.wait(t, "READY", func(r contract.Report) bool { return r.Ready && r.Name == "fw-2" && isDone(r, "identity") })
	info, err := os.Stat(filepath.Join(g.root, identity.ConsumerDir(identity.ConsumerSSH)))
	if err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o750 {
		t.Errorf("directory of ssh's secrets: %v, %v; want mode 2750", info, err)
	}
	if !strings.Contains(g.console(), "not a name") {
		t.Errorf("a host name that is none was taken without a word; the console says:\n%s", g.console())
	}
}

func isDone(r contract.Report, name string) bool {
	for _, c := range r.Children {
		if c.Name == name {
			return c.State == "done"
		}
	}
	return false
}
