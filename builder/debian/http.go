package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
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

// newClient returns a client that also reads file: addresses. Proxies are taken from the environment, as net/http does.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // digests are of the bytes as stored
	transport.ResponseHeaderTimeout = headerTimeout
	transport.RegisterProtocol("file", http.NewFileTransport(http.Dir("/")))
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
				return fmt.Errorf("the mirror redirects to %s", r.URL.Redacted())
			}
			return nil
		},
	}
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
