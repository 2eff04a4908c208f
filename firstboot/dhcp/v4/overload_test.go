package v4

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestOverload: what a client says in the fields file and sname counts as what it says in options.
func TestOverload(t *testing.T) {
	name := func(m *dhcpv4.DHCPv4) string { return string(m.Options[dhcpv4.OptionHostName.Code()]) }
	for what, c := range map[string]struct {
		overload    []byte
		file, sname string
		want        string
		kept        bool // the fields are what they are for
	}{
		"none":                     {nil, "\x0c\x03abc\xff", "", "", true},
		"no such value":            {[]byte{4}, "\x0c\x03abc\xff", "", "", true},
		"of two bytes":             {[]byte{1, 1}, "\x0c\x03abc\xff", "", "", true},
		"file":                     {[]byte{1}, "\x00\x0c\x03abc\xff\x0c\x03xyz", "\x0c\x03def\xff", "abc", false},
		"sname":                    {[]byte{2}, "\x0c\x03abc\xff", "\x0c\x03def\xff", "def", false},
		"both, in parts":           {[]byte{3}, "\x0c\x03abc\xff", "\x0c\x03def\xff", "abcdef", false},
		"longer than the field":    {[]byte{1}, "\x0c\x80abc", "", "", false},
		"an overload of overloads": {[]byte{1}, "\x34\x01\x03\x0c\x03abc\xff", "\x0c\x03def\xff", "abc", false},
	} {
		m := message(dhcpv4.MessageTypeDiscover, 1)
		if c.overload != nil {
			m.Options[optionOverload] = c.overload
		}
		b := m.ToBytes()
		copy(b[fileAt:fileAt+fileLen], c.file)
		copy(b[snameAt:snameAt+snameLen], c.sname)
		got, err := parse(b)
		if err != nil || name(got) != c.want {
			t.Errorf("%s: parse says the host is %q, %v; want %q", what, name(got), err, c.want)
			continue
		}
		if len(c.overload) == 1 && c.overload[0]&overFile != 0 && !c.kept && got.BootFileName != "" {
			t.Errorf("%s: options are taken for the boot file %q", what, got.BootFileName)
		}
	}
	// Who asks for an address there is given it.
	m := message(dhcpv4.MessageTypeDiscover, 1)
	m.Options[optionOverload] = []byte{overFile}
	b := m.ToBytes()
	copy(b[fileAt:], "\x32\x04\x0a\x00\x00\x66\xff") // option 50: 10.0.0.102
	overloaded, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	newBench(t, home()).want("an address asked for in the field", overloaded, "offer 10.0.0.102")
}
