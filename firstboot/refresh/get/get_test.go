package get

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// server answers as a web server of the standard library does.
func server(t *testing.T, handler http.HandlerFunc) (*httptest.Server, *Client) {
	t.Helper()
	s := httptest.NewTLSServer(handler)
	t.Cleanup(s.Close)
	trust := x509.NewCertPool()
	trust.AddCert(s.Certificate())
	return s, &Client{Dial: (&net.Dialer{}).DialContext, TLS: &tls.Config{RootCAs: trust}, Agent: "test/1"}
}

func TestFetch(t *testing.T) {
	body := strings.Repeat("192.0.2.1\n", 10_000)
	s, c := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = io.WriteString(w, body)
		case "/chunks":
			for rest := body; rest != ""; rest = rest[1000:] {
				_, _ = io.WriteString(w, rest[:1000])
				w.(http.Flusher).Flush()
			}
		case "/hints":
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, body)
		case "/asked":
			fmt.Fprint(w, r.Method, " ", r.URL.RequestURI(), " ", r.UserAgent(), " ", r.Header.Get("Accept-Encoding"))
		case "/moved":
			http.Redirect(w, r, "length?x=1", http.StatusFound)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusMovedPermanently)
		case "/down":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		case "/tag":
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
			http.ServeContent(w, r, "", time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC), strings.NewReader(body))
		case "/zipped":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, body)
			z.Close()
		default:
			http.Error(w, "no", http.StatusTeapot)
		}
	})
	for _, step := range []struct {
		path string
		most int64
		want string // what is written, or part of the error
		is   error
	}{
		{"/length", 1 << 20, body, nil},
		{"/chunks", 1 << 20, body, nil},
		{"/hints", 1 << 20, body, nil},
		{"/asked?a=b%20c", 1 << 20, "GET /asked?a=b%20c test/1 identity", nil},
		{"/moved", 1 << 20, body, nil},
		{"/length", 99, "", ErrTooLarge},
		{"/chunks", 99_999, "", ErrTooLarge},
		{"/chunks", 100_000, body, nil},
		{"/round", 1 << 20, "more than 5 redirections", ErrProtocol},
		{"/down", 1 << 20, "it is http", ErrProtocol},
		{"/zipped", 1 << 20, "coded as gzip", ErrProtocol},
		{"/nothing", 1 << 20, "418 I'm a teapot", StatusError{418, "I'm a teapot"}},
	} {
		var out bytes.Buffer
		_, err := c.Fetch(t.Context(), s.URL+step.path, Validators{}, step.most, &out)
		switch {
		case step.is == nil && (err != nil || out.String() != step.want):
			t.Errorf("Fetch(%s) = %d bytes %.40q, %v; want %d bytes %.40q", step.path, out.Len(), out.String(), err,
				len(step.want), step.want)
		case step.is != nil && (!errors.Is(err, step.is) || !strings.Contains(err.Error(), step.want)):
			t.Errorf("Fetch(%s) = %v; want %v with %q", step.path, err, step.is, step.want)
		}
	}
	have, err := c.Fetch(t.Context(), s.URL+"/tag", Validators{}, 1<<20, io.Discard)
	if want := (Validators{`"v1"`, "Wed, 21 Oct 2015 07:28:00 GMT"}); err != nil || have != want {
		t.Fatalf("Fetch(/tag) = %v, %v; want %v", have, err, want)
	}
	for _, have := range []Validators{have, {ETag: have.ETag}, {Modified: have.Modified}} {
		got, err := c.Fetch(t.Context(), s.URL+"/tag", have, 1<<20, io.Discard)
		if !errors.Is(err, ErrUnchanged) || got != have {
			t.Errorf("Fetch(/tag) with %v = %v, %v; want ErrUnchanged", have, got, err)
		}
	}
	if _, err := c.Fetch(t.Context(), s.URL+"/tag", Validators{ETag: `"v0"`}, 1<<20, io.Discard); err != nil {
		t.Errorf("Fetch(/tag) with an old tag = %v; want it anew", err)
	}
	stranger := &Client{Dial: c.Dial, TLS: &tls.Config{}}
	var unknown x509.UnknownAuthorityError
	if _, err := stranger.Fetch(t.Context(), s.URL+"/length", Validators{}, 1<<20, io.Discard); !errors.As(err, &unknown) {
		t.Errorf("Fetch from a server nobody vouches for = %v; want UnknownAuthorityError", err)
	}
}

// says is a client of a server that answers whatever is asked with these words, and closes.
func says(answer string) *Client {
	return &Client{Insecure: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			in := make([]byte, 4096)
			for asked := ""; !strings.Contains(asked, "\r\n\r\n"); {
				n, err := theirs.Read(in)
				if err != nil {
					return
				}
				asked += string(in[:n])
			}
			_, _ = io.WriteString(theirs, answer)
		}()
		return ours, nil
	}}
}

func TestHostileAnswers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for answer, want := range map[string]string{
		"":                                                  "unexpected EOF",
		"SSH-2.0-OpenSSH_9.2\r\n":                           "it begins with",
		"HTTP/2 200\r\n\r\n":                                "it begins with",
		"HTTP/1.1 0200 OK\r\n\r\n":                          "it begins with",
		"HTTP/1.1 99\r\n\r\n":                               "it begins with",
		ok + "Content-Length: 5\r\n\r\nfou":                 "unexpected EOF",
		ok + "Content-Length: -1\r\n\r\n":                   "its length is -1",
		ok + "Content-Length: 5, 5\r\n\r\nfives":            "its length is 5, 5",
		ok + "Content-Length: 99999\r\n\r\n":                "larger than allowed",
		ok + "Content-Length: 99999999999999999999\r\n\r\n": "its length is",
		ok + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "it has a length and is in chunks",
		ok + "Transfer-Encoding: gzip, chunked\r\n\r\n":                         "it is coded as",
		ok + "Transfer-Encoding: chunked\r\n\r\n-1\r\n":                         "a chunk of",
		ok + "Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n":           "larger than allowed",
		ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n":                   "longer than it says",
		ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n":                   "unexpected EOF",
		ok + "\r\n" + strings.Repeat("x", 1001):                                 "larger than allowed",
		ok + "X: " + strings.Repeat("x", 9000) + "\r\n\r\n":                     "a line of more than",
		ok + strings.Repeat("X: y\r\n", 200) + "\r\n":                           "more than 100 lines",
		ok + " folded: x\r\n\r\n":                                               "in its head",
		ok + "X : y\r\n\r\n":                                                    "in its head",
		ok + "no colon\r\n\r\n":                                                 "in its head",
		strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 9):                      "none yet",
		"HTTP/1.1 304 Not Modified\r\n\r\n":                                     "without a question",
		"HTTP/1.1 302 Found\r\n\r\n":                                            "to nowhere",
		"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n":                      "neither https nor http",
		"HTTP/1.1 500 \x1b[31mred\r\n\r\n":                                      "answers 500 ?[31mred",
	} {
		_, err := says(answer).Fetch(t.Context(), "http://x.example/", Validators{}, 1000, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("answer %.60q: %v; want an error with %q", answer, err, want)
		}
	}
	// What comes back from a server and is sent to it again cannot carry a line of its own.
	have, err := says(ok+"ETag: a\x01b\r\nLast-Modified: "+strings.Repeat("x", 300)+"\r\n\r\n").Fetch(t.Context(),
		"http://x.example/", Validators{}, 1000, io.Discard)
	if err != nil || have != (Validators{}) {
		t.Errorf("validators that are none: %v, %v; want none", have, err)
	}
}

// A server that says nothing more is left when the time is over.
func TestSilentServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := &Client{Insecure: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		go func() {
			_, _ = theirs.Read(make([]byte, 4096))
			_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
			cancel()
		}()
		return ours, nil
	}}
	if _, err := c.Fetch(ctx, "http://x.example/", Validators{}, 1000, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch from a silent server = %v; want Canceled", err)
	}
}

// FuzzFetch: whatever a server says, no more is written than asked for and nothing panics.
func FuzzFetch(f *testing.F) {
	for _, seed := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 103 x\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: x\r\n\r\n",
		"HTTP/1.1 301 x\r\nLocation: /y\r\nETag: \"z\"\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nabc"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		const most = 100
		var out bytes.Buffer
		got, err := says(answer).Fetch(t.Context(), "http://x.example/", Validators{ETag: `"v"`}, most, &out)
		if out.Len() > most {
			t.Errorf("%d bytes written, at most %d were asked for", out.Len(), most)
		}
		for _, s := range []string{got.ETag, got.Modified} {
			if strings.ContainsAny(s, "\r\n") || len(s) > maxValidator {
				t.Errorf("validators %q", got)
			}
		}
		if err == nil && !strings.HasPrefix(answer, "HTTP/1.") {
			t.Errorf("answer %q is taken", answer)
		}
	})
}
