package profiles

import (
	"encoding/hex"
	"slices"
	"testing"
)

// TestDHCPOptions: values are sent as the RFCs of their options have them.
func TestDHCPOptions(t *testing.T) {
	for text, want := range map[string]string{
		"19: 1":                                "01",
		"forward-on-off: false":                "00",
		"ip-forwarding: true":                  "01",
		"2: -3600":                             "fffff1f0",
		"ntp-servers: [10.0.0.5, self]":        "0a0000050a000001",
		"42: .5":                               "0a000005",
		"26: 1400":                             "0578",
		"23: 64":                               "40",
		"35: 70000":                            "00011170",
		"25: [68, 296]":                        "00440128",
		"static-route: [[10.8.0.0, 10.0.0.2]]": "0a0800000a000002",
		// The examples of RFC 3442 and RFC 3397, the latter without its optional compression.
		"121: [{to: 0.0.0.0/0, via: .1}, {to: 10.17.0.0/16, via: .1}, {to: 10.229.0.128/25, via: .1}]": "000a000001" +
			"100a110a000001" + "190ae500800a000001",
		"119: [eng.apple.com, marketing.apple.com]": "03656e67056170706c6503636f6d00" +
			"096d61726b6574696e67056170706c6503636f6d00",
		"137: a.bc":        "0161026263" + "00",
		"17: /srv":         "2f737276",
		`43: "0x01:02ff"`:  "0102ff",
		"200: 0x0102":      "0102",
		"201: text":        "74657874",
		"116: 1":           "01",
		"log-servers: web": "0a000009",
	} {
		src := "rempart: 1\nname: x\nadmin: none\nlinks: {b: {address: 10.0.0.1/24}}\nzones: {z: b}\npolicy: []\n" +
			"hosts: {web: .9}\ndhcp: {b: {pool: .100-.200, router: none, options: {" + text + "}}}\n"
		p, err := Parse("x.yaml", []byte(src))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		o := p.DHCP[0].Subnets[0].Options
		o = slices.DeleteFunc(slices.Clone(o), func(o DHCPOption) bool { return o.Drop })
		if len(o) != 1 || hex.EncodeToString(o[0].Value) != want {
			t.Errorf("%s: sent as %v; want %s", text, o, want)
		}
	}
}

// TestDHCPOptionTable: the table of options is in order, each name is given once, and what the reader keeps from
// profiles is what the rules refuse.
func TestDHCPOptionTable(t *testing.T) {
	last, names := 0, map[string]bool{}
	var reserved []uint8
	for _, o := range dhcpOptions() {
		if int(o.code) <= last || names[o.name] {
			t.Errorf("option %d %s is out of order or given twice", o.code, o.name)
		}
		last, names[o.name] = int(o.code), true
		if o.kind == optReserved {
			reserved = append(reserved, o.code)
		}
	}
	if !slices.Equal(reserved, reservedOptions) {
		t.Errorf("kept from profiles: %v; the rules refuse %v", reserved, reservedOptions)
	}
	for other, name := range optionAliases() {
		if !names[name] || names[other] {
			t.Errorf("%s is another name of %s, which is none", other, name)
		}
	}
}
