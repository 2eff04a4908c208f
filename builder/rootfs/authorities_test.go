package rootfs

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"rempart/builder/rootfs/debtest"
	"rempart/firstboot/contract"
	"rempart/profiles"
)

// Who fetches by https knows Debian's authorities; who does not carries none, and a lock without them is said to be.
func TestAuthorities(t *testing.T) {
	in := Inputs{Profile: &profiles.Profile{Sets: []profiles.Set{{Name: "x", Source: &profiles.ListSource{
		URL: "https://lists.example/"}}}}}
	if _, err := authorities(in); err == nil || !strings.Contains(err.Error(), "rempart lock") {
		t.Errorf("authorities without the package = %v; want an error that names the command", err)
	}
	in.Packages = []Package{{Name: authoritiesPackage, Entries: debtest.Entries(t, authoritiesPackage)}}
	entries, err := authorities(in)
	if err != nil || len(entries) != 1 || "/"+entries[0].Path != contract.AuthoritiesPath ||
		!strings.Contains(entries[0].Origin, authoritiesPackage) {
		t.Fatalf("authorities = %v, %v; want one file of the package", entries, err)
	}
	b, err := readEntry(&entries[0])
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !c.IsCA {
			t.Errorf("certificate %d: %v; want that of an authority", n, err)
		}
		n++
	}
	if n < 100 {
		t.Errorf("%d authorities; want the 100 and more that Mozilla trusts", n)
	}
	t.Logf("%d authorities, %d bytes", n, len(b))
	for _, s := range []profiles.ListSource{{URL: "https://x/", Pin: "x"}, {URL: "http://x/", Insecure: true},
		{File: "x"}} {
		in.Profile.Sets[0].Source = &s
		if entries, err := authorities(in); err != nil || len(entries) > 0 {
			t.Errorf("authorities of %+v = %v, %v; want none", s, entries, err)
		}
	}
}
