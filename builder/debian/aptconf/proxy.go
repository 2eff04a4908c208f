package aptconf

import (
	"fmt"
	"net/url"
	"strings"
)

// direct in the place of a proxy means none.
const direct = "DIRECT"

// Proxy returns the proxy that the configuration names for an address: nil and true for none at all, nil and false
// where it says nothing and the environment decides. That of a host comes before that of all hosts, and what is not
// said for https is as for http (apt-transport-https(1)).
func (c *Config) Proxy(u *url.URL) (proxy *url.URL, set bool, err error) {
	schemes := []string{"http"}
	switch u.Scheme {
	case "http":
	case "https":
		schemes = []string{"https", "http"}
	default:
		return nil, false, nil
	}
	for _, of := range []string{"::" + u.Hostname(), ""} {
		for _, scheme := range schemes {
			name := "Acquire::" + scheme + "::Proxy" + of
			value := c.Get(name)
			switch {
			case value == "":
				continue
			case strings.EqualFold(value, direct) || strings.EqualFold(value, "false"):
				return nil, true, nil
			}
			proxy, err := parseProxy(value)
			if err != nil {
				return nil, true, fmt.Errorf("apt's setting %s: %w", name, err)
			}
			if proxy.User == nil {
				proxy.User = c.Login(proxy)
			}
			return proxy, true, nil
		}
	}
	return nil, false, nil
}

// AutoDetect is the program that apt asks for a proxy, which this package does not run; empty for none.
func (c *Config) AutoDetect() string {
	for _, name := range []string{"Proxy-Auto-Detect", "ProxyAutoDetect"} {
		for _, scheme := range []string{"https", "http"} {
			if program := c.Get("Acquire::" + scheme + "::" + name); program != "" {
				return program
			}
		}
	}
	return ""
}

// parseProxy never repeats the address in an error: it may hold a password.
func parseProxy(value string) (*url.URL, error) {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("expected %s or an address such as http://proxy:3128", direct)
	}
	switch u.Scheme {
	case "http", "https", "socks5h":
		return u, nil
	}
	return nil, fmt.Errorf("scheme %q: expected http, https or socks5h", u.Scheme)
}
