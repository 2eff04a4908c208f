package virtualnet

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Observer sees a frame at the moment it enters the segment. fromGuest tells whether the guest sent it. It is called
// from many goroutines, must be quick, and must not keep frame.
type Observer func(at time.Time, frame []byte, fromGuest bool)

// Segment is one Ethernet broadcast domain: what one link of the guest is plugged into. It delivers by what it has
// learnt of who is where, and floods what it does not know, like any switch.
type Segment struct {
	Name string
	log  *slog.Logger

	mu        sync.Mutex
	ports     []*port
	where     map[[6]byte]*port
	observers []Observer
	undo      []func()
	closed    bool
	wait      sync.WaitGroup
}

// port is a place on the segment. deliver is called without the segment's lock.
type port struct {
	deliver func(frame []byte)
	guest   bool
	silent  bool // frames from here teach nothing
}

// maxStations bounds what a segment learns: a guest that makes up source addresses makes it flood, not grow.
const maxStations = 4096

// NewSegment returns a segment with nothing on it.
func NewSegment(name string, log *slog.Logger) *Segment {
	return &Segment{Name: name, log: log, where: map[[6]byte]*port{}}
}

// Observe adds an observer for every frame from now on.
func (s *Segment) Observe(o Observer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(s.observers, o)
}

func (s *Segment) attach(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = append(s.ports, p)
}

// detach takes a port off, whose stations are then wherever they are heard next.
func (s *Segment) detach(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = slices.DeleteFunc(s.ports, func(other *port) bool { return other == p })
	maps.DeleteFunc(s.where, func(_ [6]byte, at *port) bool { return at == p })
}

// send brings a frame from one port to where it belongs.
func (s *Segment) send(from *port, frame []byte) {
	if len(frame) < minFrame {
		return
	}
	dst, src := [6]byte(frame[0:6]), [6]byte(frame[6:12])
	const group = 1 // the first bit on the wire: multicast and broadcast
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	if src[0]&group == 0 && !from.silent && (s.where[src] != nil || len(s.where) < maxStations) {
		s.where[src] = from
	}
	var to []*port
	if known := s.where[dst]; known != nil && dst[0]&group == 0 {
		if known != from {
			to = []*port{known}
		}
	} else {
		for _, p := range s.ports {
			if p != from {
				to = append(to, p)
			}
		}
	}
	observers := s.observers
	s.mu.Unlock()
	now := time.Now()
	for _, o := range observers {
		o(now, frame, from.guest)
	}
	for _, p := range to {
		p.deliver(frame)
	}
}

// wireQueue is how many frames wait for a guest that does not read before frames are lost, as on any full NIC.
const wireQueue = 1024

// PlugGuest connects our end of a guest's wire. The segment owns conn from now on and closes it.
func (s *Segment) PlugGuest(conn net.Conn) {
	queue := make(chan []byte, wireQueue)
	done := make(chan struct{})
	p := &port{guest: true, deliver: func(frame []byte) {
		select {
		case queue <- AppendFrame(nil, frame):
		case <-done:
		default:
			s.log.Debug("the guest does not read; a frame is lost", "segment", s.Name)
		}
	}}
	s.attach(p)
	s.wait.Add(2)
	go func() {
		defer s.wait.Done()
		defer conn.Close()
		for {
			select {
			case b := <-queue:
				if _, err := conn.Write(b); err != nil {
					return
				}
			case <-done:
				return
			}
		}
	}()
	go func() {
		defer s.wait.Done()
		defer s.detach(p)
		defer close(done)
		buf := make([]byte, MaxFrame)
		for {
			frame, err := ReadFrame(conn, buf)
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
					s.log.Debug("a wire ended", "segment", s.Name, "why", err)
				}
				return
			}
			s.send(p, frame)
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onClose(func() { conn.Close() })
}

// onClose notes what Close undoes; the lock is held.
func (s *Segment) onClose(undo func()) {
	s.undo = append(s.undo, undo)
}

// Close ends the segment and everything on it.
func (s *Segment) Close() {
	s.mu.Lock()
	s.closed = true
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	for _, u := range undo {
		u()
	}
	s.wait.Wait()
}
