package keeper

import (
	"sync"
)

// Bounds of what a guest says: it may write without end, and nothing it writes may cost the host more than this.
const (
	maxScroll = 64 << 10 // bytes kept for those who come later
	maxBehind = 256      // pieces a viewer may be behind by before it is sent away
)

// Screen has the last of what a guest said, and those who watch. The zero value is an empty one.
type Screen struct {
	mu      sync.Mutex
	scroll  []byte
	viewers map[chan []byte]bool
	closed  bool
}

// Write takes what the guest says. It never fails, and waits for nobody.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scroll = append(s.scroll, p...)
	if extra := len(s.scroll) - maxScroll; extra > 0 {
		s.scroll = append(s.scroll[:0], s.scroll[extra:]...)
	}
	if len(s.viewers) == 0 {
		return len(p), nil
	}
	piece := append([]byte(nil), p...)
	for v := range s.viewers {
		select {
		case v <- piece:
		default:
			s.drop(v)
		}
	}
	return len(p), nil
}

// Watch returns what was said last, what is said from now on, and a function that ends watching. The channel is closed
// when the guest has ended and when the viewer falls behind.
func (s *Screen) Watch() (said <-chan []byte, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := make(chan []byte, maxBehind)
	if len(s.scroll) > 0 {
		v <- append([]byte(nil), s.scroll...)
	}
	if s.closed {
		close(v)
		return v, func() {}
	}
	if s.viewers == nil {
		s.viewers = map[chan []byte]bool{}
	}
	s.viewers[v] = true
	return v, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(v)
	}
}

// Close ends all watching.
func (s *Screen) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for v := range s.viewers {
		s.drop(v)
	}
}

func (s *Screen) drop(v chan []byte) {
	if s.viewers[v] {
		delete(s.viewers, v)
		close(v)
	}
}
