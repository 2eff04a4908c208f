// Package storetest is a xenstore in memory for tests: with transactions and watches, and with the bounds that
// xenstored lays on a guest.
//
// What it deliberately does not do: permissions, and more than one domain, for which paths below Domain are relative.
package storetest

import (
	"encoding/binary"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Domain is the part of the tree that is the guest's, as its host sees it.
const Domain = "/local/domain/7"

// Bounds of xenstored(8) for a guest.
const (
	maxNodes = 1000
	maxEntry = 2048
)

// Store is the tree and its connections.
type Store struct {
	tb testing.TB

	mu      sync.Mutex
	nodes   map[string]string
	pending map[uint32]map[string]string // of transactions
	changes int                          // of nodes
	begun   map[uint32]int               // changes when a transaction began
	again   int                          // so many transactions are yet to be told that another was faster
	clients []*client
	next    uint32
}

// All reads several nodes with what reads one.
func All(read func(path string) ([]byte, error)) func(paths ...string) ([]byte, error) {
	return func(paths ...string) ([]byte, error) {
		var values []byte
		for _, path := range paths {
			value, err := read(path)
			if err != nil {
				return nil, err
			}
			values = append(values, value...)
		}
		return values, nil
	}
}

// client is one connection.
type client struct {
	conn    net.Conn
	write   sync.Mutex
	watches map[string]string // token by path, with the store's lock
}

// New returns a store and the connection of its domain, which ends with the test.
func New(tb testing.TB) (*Store, net.Conn) {
	s := &Store{tb: tb, nodes: map[string]string{}, pending: map[uint32]map[string]string{}, begun: map[uint32]int{}}
	return s, s.Connect()
}

// Connect returns one more connection.
func (s *Store) Connect() net.Conn {
	ours, theirs := net.Pipe()
	c := &client{conn: ours, watches: map[string]string{}}
	s.mu.Lock()
	s.clients = append(s.clients, c)
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(c)
	}()
	s.tb.Cleanup(func() {
		ours.Close()
		theirs.Close()
		<-done
	})
	return theirs
}

// Get is the value of a node; false: there is none.
func (s *Store) Get(path string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.nodes[path]
	return value, ok
}

// Set writes a node as somebody else, and tells who watches it.
func (s *Store) Set(path, value string) {
	s.mu.Lock()
	s.nodes[path] = value
	s.changes++
	s.mu.Unlock()
	s.tell(path)
}

// tell tells who watches a node, or one above it, that it changed.
func (s *Store) tell(path string) {
	s.mu.Lock()
	events := map[*client][]string{}
	for _, c := range s.clients {
		for watched, token := range c.watches {
			if path == watched || strings.HasPrefix(path, watched+"/") {
				events[c] = append(events[c], path+"\x00"+token+"\x00")
			}
		}
	}
	s.mu.Unlock()
	for c, all := range events {
		go func() { // one that does not read must not hold up the others
			for _, e := range all {
				c.send(15, 0, 0, e)
			}
		}()
	}
}

// Again has the next n transactions fail because another was faster.
func (s *Store) Again(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again = n
}

func (c *client) send(kind, request, transaction uint32, payload string) {
	var b []byte
	for _, word := range []uint32{kind, request, transaction, uint32(len(payload))} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	c.write.Lock()
	defer c.write.Unlock()
	_, _ = c.conn.Write(append(b, payload...)) // a client that has gone wants nothing
}

func (s *Store) serve(c *client) {
	for {
		var header [16]byte
		if _, err := io.ReadFull(c.conn, header[:]); err != nil {
			return
		}
		word := func(i int) uint32 { return binary.LittleEndian.Uint32(header[4*i:]) }
		payload := make([]byte, word(3))
		if _, err := io.ReadFull(c.conn, payload); err != nil {
			return
		}
		kind := word(0)
		answer, failed := s.answer(c, kind, word(2), string(payload))
		if failed != "" {
			kind, answer = 16, failed+"\x00"
		}
		c.send(kind, word(1), word(2), answer)
		path, token, _ := strings.Cut(strings.TrimPrefix(string(payload), Domain+"/"), "\x00")
		switch {
		case kind == 4: // a watch fires once at once
			c.send(15, 0, 0, path+"\x00"+token)
		case (kind == 11 || kind == 13) && word(2) == 0:
			s.tell(path)
		}
	}
}

// answer carries out one request; failed is the name of an error.
func (s *Store) answer(c *client, kind, transaction uint32, payload string) (answer, failed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nodes := s.nodes
	if transaction != 0 {
		if nodes = s.pending[transaction]; nodes == nil {
			return "", "ENOENT"
		}
	}
	path, rest, _ := strings.Cut(strings.TrimPrefix(payload, Domain+"/"), "\x00")
	switch kind {
	case 1:
		below := map[string]bool{}
		for node := range nodes {
			if name, ok := strings.CutPrefix(node, path+"/"); ok {
				name, _, _ = strings.Cut(name, "/")
				below[name] = true
			}
		}
		var list strings.Builder
		for name := range below {
			list.WriteString(name + "\x00")
		}
		return list.String(), ""
	case 2:
		value, ok := nodes[path]
		if !ok {
			return "", "ENOENT"
		}
		return value, ""
	case 4:
		c.watches[path] = strings.TrimSuffix(rest, "\x00")
	case 6:
		s.next++
		s.pending[s.next], s.begun[s.next] = maps.Clone(s.nodes), s.changes
		return strconv.Itoa(int(s.next)) + "\x00", ""
	case 7:
		delete(s.pending, transaction)
		if path == "T" && (s.again > 0 || s.begun[transaction] != s.changes) {
			s.again = max(0, s.again-1)
			return "", "EAGAIN"
		}
		if path == "T" {
			s.nodes = nodes
			s.changes++
		}
	case 11:
		if transaction == 0 {
			s.changes++
		}
		if nodes[path] = rest; len(rest) > maxEntry || len(nodes) > maxNodes {
			return "", "E2BIG"
		}
	case 13:
		if transaction == 0 {
			s.changes++
		}
		found := false
		for node := range nodes {
			if node == path || strings.HasPrefix(node, path+"/") {
				delete(nodes, node)
				found = true
			}
		}
		if !found {
			return "", "ENOENT"
		}
	default:
		return "", "ENOSYS"
	}
	return "OK\x00", ""
}
