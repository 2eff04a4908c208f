// Package get fetches one thing from a web server: a GET by HTTP/1.1 (RFC 9110, RFC 9112), over TLS or not, with what
// makes it cheap to ask again, and a bound on everything the server says.
//
// It is here because package net/http costs every process of the guest what a whole browser's worth of protocol needs
// (measured: 1.1 MiB of the program beside crypto/tls), for one GET an hour. What it deliberately does not do: keep
// connections, send bodies, cookies or passwords, take compressed answers, speak HTTP/2, or use a proxy.
package get

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Bounds of what a server says.
const (
	maxRedirects = 5
	maxInterim   = 5       // 1xx answers before the one that counts
	maxLine      = 8 << 10 // bytes of a line of the head, or of one that begins a chunk
	maxFields    = 100     // lines of the head, and of the trailer
	maxValidator = 256     // bytes of an ETag or a date that is sent back
)

// Client says how servers are reached.
type Client struct {
	// Dial connects to a host and port by TCP. Required.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS says whom to trust; a copy of it with the name of each server is used. Required for https.
	TLS *tls.Config
	// Insecure lets http be fetched, and https lead to http.
	Insecure bool
	// Agent is how the client calls itself; empty: not at all.
	Agent string
}

// Validators are what a server gave with an answer so that it can be asked whether that is still the one. Empty: none.
type Validators struct {
	ETag     string // RFC 9110, section 8.8.3
	Modified string // section 8.8.2
}

// Errors that callers decide on.
var (
	// ErrUnchanged is returned when the server says that what the Validators are of is still the one.
	ErrUnchanged = errors.New("has not changed")
	// ErrTooLarge is returned when there is more than asked for.
	ErrTooLarge = errors.New("is larger than allowed")
	// ErrProtocol is wrapped when the answer breaks the rules or the bounds of this package.
	ErrProtocol = errors.New("not an answer of a web server")
)

// StatusError is the error of an answer other than the thing asked for.
type StatusError struct {
	Code   int
	Reason string
}

func (e StatusError) Error() string { return fmt.Sprintf("the server answers %d %s", e.Code, e.Reason) }

// Fetch writes what is at an address to w, most bytes of it at most, and returns what to ask again with. After an error
// w may have been given a part. The deadline of ctx is that of the whole.
func (c *Client) Fetch(ctx context.Context, address string, have Validators, most int64, w io.Writer) (
	Validators, error) {
	at, err := url.Parse(address)
	if err != nil {
		return Validators{}, fmt.Errorf("fetch: %w", err)
	}
	for range maxRedirects + 1 {
		got, next, err := c.once(ctx, at, have, most, w)
		if err != nil {
			return got, fmt.Errorf("fetch %s: %w", at.Redacted(), err)
		}
		if next == nil {
			return got, nil
		}
		at = next
	}
	return Validators{}, fmt.Errorf("fetch %s: %w: more than %d redirections", address, ErrProtocol, maxRedirects)
}

// once asks one server. next is where it sends us instead; nil: w has it.
func (c *Client) once(ctx context.Context, at *url.URL, have Validators, most int64, w io.Writer) (
	got Validators, next *url.URL, err error) {
	conn, wire, err := c.connect(ctx, at)
	if err != nil {
		return got, nil, err
	}
	defer conn.Close()
	// Whatever is being waited for then, it ends.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer func() {
		if ctx.Err() != nil && err != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
	}()
	if _, err := io.WriteString(conn, c.request(at, have)); err != nil {
		return got, nil, fmt.Errorf("asking: %w", err)
	}
	in := bufio.NewReaderSize(conn, maxLine)
	h, err := readHead(in)
	if err != nil {
		return got, nil, err
	}
	switch h.code {
	case 200:
	case 304:
		if have == (Validators{}) {
			return got, nil, fmt.Errorf("%w: %d without a question for it", ErrProtocol, h.code)
		}
		return have, nil, ErrUnchanged
	case 301, 302, 303, 307, 308:
		next, err := at.Parse(h.field("location"))
		if err != nil || h.field("location") == "" {
			return got, nil, fmt.Errorf("%w: %d to nowhere", ErrProtocol, h.code)
		}
		next.User, next.Fragment = nil, ""
		return got, next, nil
	default:
		return got, nil, StatusError{h.code, h.reason}
	}
	got = Validators{plain(h.field("etag")), plain(h.field("last-modified"))}
	if err := h.body(in, most, w); err != nil {
		return got, nil, err
	}
	if wire != nil && wire.cut {
		return got, nil, fmt.Errorf("the connection was cut: %w", io.ErrUnexpectedEOF)
	}
	return got, nil, nil
}

// wire is what TLS reads. crypto/tls takes a connection that ends between two records for one that the server ended;
// anybody on the way can do that.
type wire struct {
	net.Conn
	cut bool // it ended before the server said by TLS that there is no more
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.cut = w.cut || errors.Is(err, io.EOF)
	return n, err
}

// connect opens the connection an address asks for, and gives what is below TLS with it.
func (c *Client) connect(ctx context.Context, at *url.URL) (net.Conn, *wire, error) {
	port := "443"
	switch at.Scheme {
	case "https":
	case "http":
		if port = "80"; !c.Insecure {
			return nil, nil, fmt.Errorf("%w: it is http, which was not asked for", ErrProtocol)
		}
	default:
		return nil, nil, fmt.Errorf("%w: %.16q is neither https nor http", ErrProtocol, at.Scheme)
	}
	if at.Port() != "" {
		port = at.Port()
	}
	conn, err := c.Dial(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil || at.Scheme == "http" {
		return conn, nil, err
	}
	config := c.TLS.Clone()
	config.ServerName = strings.TrimSuffix(at.Hostname(), ".")
	below := &wire{Conn: conn}
	secure := tls.Client(below, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("TLS with %s: %w", at.Hostname(), err)
	}
	return secure, below, nil
}

// request is the head that asks for an address. What is put into it cannot end a line: url.Parse takes no control
// characters, and validators are plain.
func (c *Client) request(at *url.URL, have Validators) string {
	var b strings.Builder
	b.WriteString("GET " + at.RequestURI() + " HTTP/1.1\r\nHost: " + at.Host + "\r\n")
	for _, f := range [][2]string{{"User-Agent", c.Agent}, {"If-None-Match", plain(have.ETag)},
		{"If-Modified-Since", plain(have.Modified)}} {
		if f[1] != "" {
			b.WriteString(f[0] + ": " + f[1] + "\r\n")
		}
	}
	b.WriteString("Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n")
	return b.String()
}

// plain is a validator as it can be kept and sent back, or nothing.
func plain(s string) string {
	if len(s) > maxValidator || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
		return ""
	}
	return s
}

// head is the head of an answer.
type head struct {
	code   int
	reason string
	fields map[string][]string // by name in lower case
}

// field is the value of a field; several are one list (RFC 9110, section 5.3).
func (h *head) field(name string) string { return strings.Join(h.fields[name], ", ") }

// readHead reads the head of the answer that counts.
func readHead(in *bufio.Reader) (*head, error) {
	for range maxInterim + 1 {
		line, err := readLine(in)
		if err != nil {
			return nil, err
		}
		h := &head{}
		version, rest, _ := strings.Cut(line, " ")
		code, reason, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseUint(code, 10, 16)
		if version != "HTTP/1.1" && version != "HTTP/1.0" || err != nil || len(code) != 3 || n < 100 {
			return nil, fmt.Errorf("%w: it begins with %.40q", ErrProtocol, line)
		}
		h.code, h.reason = int(n), printable(reason)
		if h.fields, err = readFields(in); err != nil {
			return nil, err
		}
		if h.code >= 200 {
			return h, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d answers that are none yet", ErrProtocol, maxInterim)
}

// printable is a server's text as a log may show it.
func printable(s string) string {
	const most = 60 // bytes
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s[:min(len(s), most)])
}

// readFields reads the fields of a head or trailer to the empty line that ends it.
func readFields(in *bufio.Reader) (map[string][]string, error) {
	fields := map[string][]string{}
	for range maxFields {
		line, err := readLine(in)
		if err != nil {
			return nil, err
		}
		if line == "" {
			return fields, nil
		}
		name, value, ok := strings.Cut(line, ":")
		// A line that goes on another (RFC 9112, section 5.2) and a blank before the colon (5.1) are obsolete, and what
		// tricks are made of.
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("%w: %.40q in its head", ErrProtocol, line)
		}
		name = strings.ToLower(name)
		fields[name] = append(fields[name], strings.Trim(value, " \t"))
	}
	return nil, fmt.Errorf("%w: its head has more than %d lines", ErrProtocol, maxFields)
}

// readLine reads a line without what ends it.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine)
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}
