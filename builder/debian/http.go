package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"rempart/builder/debian/aptconf"
)

// How patient downloads are. Three attempts with pauses of 0.5 and 1 s bridge a dropped connection; what is down for
// longer is better reported.
const (
	attempts      = 3
	firstBackoff  = 500 * time.Millisecond
	headerTimeout = 30 * time.Second
	stallTimeout  = 30 * time.Second // without a single byte
	maxRedirects  = 10
)

// transient marks an error that another attempt may not meet.
type transient struct{ error }

func (t transient) Unwrap() error { return t.error }

// newClient returns a client that also reads file: addresses.
func (s *Store) newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // digests are of the bytes as stored
	transport.ResponseHeaderTimeout = headerTimeout
	transport.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	transport.Proxy = s.proxy
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
				return fmt.Errorf("the mirror redirects to %s", r.URL.Redacted())
			}
			if first := via[0].URL; r.URL.Scheme != first.Scheme || r.URL.Host != first.Host {
				r.Header.Del(authorization) // never to another host, nor in the clear to the same
			}
			s.authorize(r)
			return nil
		},
	}
}

// authorization is the header that carries a user name and password (RFC 9110, section 11.6.2).
const authorization = "Authorization"

// proxy chooses as apt does: what its configuration says comes before the environment, no_proxy before both.
func (s *Store) proxy(r *http.Request) (*url.URL, error) {
	proxy, set, err := s.apt().Proxy(r.URL)
	if err != nil {
		return nil, err
	}
	fromEnvironment, err := http.ProxyFromEnvironment(r)
	switch {
	case !set:
		return fromEnvironment, err
	case proxy != nil && excepted(r.URL.Hostname()):
		return nil, nil
	}
	return proxy, nil
}

// excepted says whether no_proxy excepts a host from proxies: it names the host or a domain above it, or is "*".
func excepted(host string) bool {
	list := os.Getenv("no_proxy")
	if list == "" {
		list = os.Getenv("NO_PROXY")
	}
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(name)), ".")
		host := strings.ToLower(host)
		if name == "*" || name != "" && (host == name || strings.HasSuffix(host, "."+name)) {
			return true
		}
	}
	return false
}

// authorize adds the user name and password that apt's configuration has for an address without.
func (s *Store) authorize(r *http.Request) {
	if user := s.apt().Login(r.URL); user != nil && r.URL.User == nil {
		password, _ := user.Password()
		r.SetBasicAuth(user.Username(), password)
	}
}

// readApt reads what apt's configuration says about the way to mirrors. What it cannot read or understand is no reason
// not to try without.
func (s *Store) readApt() *aptconf.Config {
	c, problems, err := aptconf.Read(s.options.AptDir)
	if err != nil {
		c, problems = &aptconf.Config{}, []error{err}
	}
	for _, problem := range problems {
		s.log.Debug("apt's configuration is not understood", "error", problem)
	}
	if program := c.AutoDetect(); program != "" {
		s.log.Info("apt asks a program for its proxy, rempart does not: set http_proxy where one is needed",
			"program", program)
	}
	return c
}

// errStalled is the cause of a request that got no byte for stallTimeout.
var errStalled = errors.New("no data arrived")

// request asks for a file from an offset on. The body fails when nothing arrives for stallTimeout. done must be called.
func (s *Store) request(parent context.Context, u *url.URL, offset int64) (*http.Response, func(), error) {
	ctx, cancel := context.WithCancelCause(parent)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	request.Header.Set("User-Agent", "rempart")
	s.authorize(request)
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := s.client.Do(request)
	if err != nil {
		cancel(nil)
		if parent.Err() != nil {
			return nil, nil, stopped(parent)
		}
		return nil, nil, transient{fmt.Errorf("%w: %w", ErrOffline, err)}
	}
	watchdog := time.AfterFunc(s.stallTimeout, func() {
		cancel(fmt.Errorf("%w for %v", errStalled, s.stallTimeout))
	})
	response.Body = &watchedBody{ReadCloser: response.Body, ctx: ctx, watchdog: watchdog, timeout: s.stallTimeout}
	return response, func() {
		watchdog.Stop()
		response.Body.Close()
		cancel(nil)
	}, nil
}

// watchedBody postpones the watchdog with every byte and tells why a read was cut off.
type watchedBody struct {
	io.ReadCloser
	ctx      context.Context
	watchdog *time.Timer
	timeout  time.Duration
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watchdog.Reset(b.timeout)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// statusError is the error of an answer that holds no file.
func statusError(response *http.Response) error {
	switch code := response.StatusCode; {
	case code == http.StatusNotFound || code == http.StatusGone:
		return fmt.Errorf("%s: %w", response.Status, ErrGone)
	case code == http.StatusUnauthorized:
		return fmt.Errorf("the mirror answers %s; give a name and password in a file of /etc/apt/auth.conf.d that you may "+
			"read (apt_auth.conf(5))", response.Status)
	case code == http.StatusProxyAuthRequired:
		return fmt.Errorf("the proxy answers %s; give a name and password with its address, in http_proxy or apt's "+
			"setting Acquire::http::Proxy", response.Status)
	case code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500:
		return transient{fmt.Errorf("the mirror answers %s", response.Status)}
	default:
		return fmt.Errorf("the mirror answers %s", response.Status)
	}
}

// stopped is the error of work that was broken off because its context is done.
func stopped(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// retry calls fetch until it succeeds, fails for good, or was tried often enough.
func (s *Store) retry(ctx context.Context, u *url.URL, fetch func() error) error {
	pause := s.backoff
	for attempt := 1; ; attempt++ {
		err := fetch()
		var again transient
		if !errors.As(err, &again) {
			return err
		}
		if ctx.Err() != nil {
			return stopped(ctx)
		}
		if attempt == attempts {
			return again.error
		}
		s.log.Info("a download is tried again", "url", u.Redacted(), "after", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return stopped(ctx)
		}
		pause *= 2
	}
}
