package v4

import "github.com/insomniacslk/dhcp/dhcpv4"

// The fields of a message that may carry options instead of what they are for (RFC 2131, section 2): where they begin,
// and how long they are, in bytes.
const (
	snameAt, snameLen = 44, 64
	fileAt, fileLen   = 108, 128
)

// Option 52 says which of them do (RFC 2132, section 9.3).
const (
	optionOverload = 52
	overFile       = 1
	overSname      = 2
)

// parse reads a message. Where its sender had more options than room for them, those in the fields file and sname are
// among its options, in this order (RFC 2131, section 4.1); of an option that comes in parts the parts are one value
// (RFC 3396, section 5). The fields are empty then.
func parse(b []byte) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, err
	}
	over := m.Options[optionOverload]
	if len(over) != 1 || over[0] == 0 || over[0] > overFile|overSname {
		return m, nil
	}
	if over[0]&overFile != 0 {
		m.BootFileName = ""
		merge(m.Options, b[fileAt:fileAt+fileLen])
	}
	if over[0]&overSname != 0 {
		m.ServerHostName = ""
		merge(m.Options, b[snameAt:snameAt+snameLen])
	}
	return m, nil
}

// merge adds the options of a field to others. What does not fit into the field is none.
func merge(into dhcpv4.Options, field []byte) {
	const pad, end = 0, 255 // RFC 2132, sections 3.1 and 3.2
	for len(field) > 0 && field[0] != end {
		code := field[0]
		if code == pad {
			field = field[1:]
			continue
		}
		if len(field) < 2 || int(field[1]) > len(field)-2 {
			return
		}
		value := field[2 : 2+int(field[1])]
		if code != optionOverload {
			into[code] = append(into[code][:len(into[code]):len(into[code])], value...)
		}
		field = field[2+len(value):]
	}
}
