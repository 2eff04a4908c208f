package aptconf

import (
	"net/url"
	"strings"
)

// login is an entry of auth.conf(5).
type login struct {
	protocol       string // empty for https
	host, port     string // port empty for any
	path           string
	user, password string
}

// parseLogins reads auth.conf(5): words, of which "machine" begins an entry. Words that mean nothing are passed over,
// as apt does.
func parseLogins(text string) []login {
	var logins []login
	var words []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			words = append(words, strings.Fields(line)...)
		}
	}
	for i := 0; i+1 < len(words); i++ {
		value := words[i+1]
		switch last := len(logins) - 1; {
		case words[i] == "machine":
			logins = append(logins, parseMachine(value))
		case last < 0:
			continue
		case words[i] == "login":
			logins[last].user = value
		case words[i] == "password":
			logins[last].password = value
		default:
			continue
		}
		i++
	}
	return logins
}

// parseMachine reads [protocol://]hostname[:port][/path].
func parseMachine(s string) login {
	var l login
	if protocol, rest, ok := strings.Cut(s, "://"); ok {
		l.protocol, s = protocol, rest
	}
	host, path, ok := strings.Cut(s, "/")
	if ok {
		l.path = "/" + path
	}
	// The brackets of an IPv6 address hold colons that begin no port.
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, l.port = host[:i], host[i+1:]
	}
	l.host = strings.Trim(host, "[]")
	return l
}

// matches says whether the entry is for an address, by the rules of apt_auth.conf(5): a port must be written in both,
// a path is a beginning of the address's, and an entry without a protocol is for encrypted ones only, so that no
// password leaves the machine in the clear unasked.
func (l login) matches(u *url.URL) bool {
	protocol := l.protocol == u.Scheme || l.protocol == "" && u.Scheme == "https"
	return protocol && l.host != "" && strings.EqualFold(l.host, u.Hostname()) && (l.port == "" || l.port == u.Port()) &&
		strings.HasPrefix(u.Path, l.path)
}

// Login returns the user and password for an address; nil where there are none.
func (c *Config) Login(u *url.URL) *url.Userinfo {
	for _, l := range c.logins {
		if l.matches(u) && (l.user != "" || l.password != "") {
			return url.UserPassword(l.user, l.password)
		}
	}
	return nil
}
