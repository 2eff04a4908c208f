package contract

import "testing"

func TestParseLeased(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.9": "10.0.0.9/32", "fd00::9": "fd00::9/128", "::ffff:10.0.0.9": "10.0.0.9/32",
		"2001:db8:0:100::/56": "2001:db8:0:100::/56", "10.0.0.0/24": "10.0.0.0/24",
		"": "", "x": "", "fe80::1%eth0": "", "2001:db8:0:100::1/56": "", "2001:db8::/129": "", "10.0.0.9/": "",
	} {
		p, err := ParseLeased(text)
		if (err != nil) != (want == "") || err == nil && p.String() != want {
			t.Errorf("ParseLeased(%q) = %v, %v; want %s", text, p, err, want)
		}
	}
}
