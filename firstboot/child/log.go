package child

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// handler writes one line a record, "message key=value", with the level in front when it is not Info. There is no
// time: the console of PID 1 says when.
type handler struct {
	mu    *sync.Mutex
	w     io.Writer
	attrs string
	group string
}

func newHandler(w io.Writer) slog.Handler { return &handler{mu: &sync.Mutex{}, w: w} }

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(strings.ReplaceAll(r.Message, "\n", "; "))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(h.format(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *handler) format(a slog.Attr) string {
	v := fmt.Sprint(a.Value.Resolve().Any())
	if strings.ContainsAny(v, " \t\n\"=") || v == "" {
		v = fmt.Sprintf("%q", v)
	}
	return " " + h.group + a.Key + "=" + v
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		n.attrs += h.format(a)
	}
	return &n
}

func (h *handler) WithGroup(name string) slog.Handler {
	n := *h
	n.group += name + "."
	return &n
}
