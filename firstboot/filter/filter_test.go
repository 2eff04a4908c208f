package filter_test

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rempart/firstboot/filter"
	"rempart/firstboot/filter/filtertest"
	"rempart/profiles"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func compile(t *testing.T, p *profiles.Profile) filter.Ruleset {
	t.Helper()
	rs, err := filter.Compile(p)
	if err != nil {
		t.Fatalf("Compile(%s) = %v; want no error", p.Name, err)
	}
	return rs
}

// everyProfile is the built-in profiles and the tests' own.
func everyProfile(t *testing.T) []*profiles.Profile {
	t.Helper()
	all := append(filtertest.Profiles(), filtertest.Bridged())
	for _, name := range profiles.Builtin() {
		p, err := profiles.Load(name)
		if err != nil {
			t.Fatalf("built-in profile %s: %v", name, err)
		}
		all = append(all, p)
	}
	return all
}

// golden compares with a file under testdata, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs from what is compiled now; look at the difference after `go test -update`:\n%s", path, got)
	}
}

func TestBansGolden(t *testing.T) {
	for _, p := range []*profiles.Profile{filtertest.Banning(), filtertest.OneArmed()} {
		rs, err := filter.Bans(p)
		if err != nil {
			t.Fatalf("Bans(%s) = %v; want no error", p.Name, err)
		}
		golden(t, p.Name+".bans.nft", rs.Text())
	}
}

func TestTextGolden(t *testing.T) {
	for _, p := range append(everyProfile(t), filtertest.Fast(), filtertest.Knocking(), filtertest.Homed()) {
		rs := compile(t, p)
		golden(t, p.Name+".nft", rs.Text())
		closed, err := filter.Closed(p)
		if err != nil {
			t.Fatalf("Closed(%s) = %v; want no error", p.Name, err)
		}
		golden(t, p.Name+".closed.nft", closed.Text())
	}
}

// nft judges: every text must be a script it accepts, in a network namespace of its own.
func TestTextIsAccepted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PASSED: needs root for a network namespace of its own")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("nft is missing: apt-get install nftables")
	}
	for _, p := range everyProfile(t) {
		closed, err := filter.Closed(p)
		if err != nil {
			t.Fatal(err)
		}
		for name, rs := range map[string]filter.Ruleset{"": compile(t, p), " closed": closed} {
			rs = filtertest.WithoutBridgeConntrack(rs)
			cmd := exec.Command("unshare", "-n", "nft", "-f", "-")
			cmd.Stdin = strings.NewReader(rs.Text())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("nft -f of %s%s: %v\n%s", p.Name, name, err, out)
			}
		}
	}
}
