// Package storetest is a xenstore in memory for tests: one domain's connection, with transactions and watches, and with
// the bounds that xenstored lays on a guest.
//
// What it deliberately does not do: permissions, relative paths, several connections.
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

// Bounds of xenstored(8) for a guest.
const (
	maxNodes = 1000
	maxEntry = 2048
)

// Store is the tree and its one connection.
type Store struct {
	tb   testing.TB
	conn net.Conn

	mu      sync.Mutex
	nodes   map[string]string
	pending map[uint32]map[string]string // of transactions
	changes int                          // of nodes
	begun   map[uint32]int               // changes when a transaction began
	again   int                          // so many transactions are yet to be told that another was faster
	watches map[string]string            // token by path
	next    uint32
}

// New returns a store and the connection of its domain, which ends with the test.
func New(tb testing.TB) (*Store, net.Conn) {
	ours, theirs := net.Pipe()
	s := &Store{tb: tb, conn: ours, nodes: map[string]string{}, pending: map[uint32]map[string]string{},
		watches: map[string]string{}, begun: map[uint32]int{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	tb.Cleanup(func() {
		ours.Close()
		theirs.Close()
		<-done
	})
	return s, theirs
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
	token, watched := s.watches[path]
	s.mu.Unlock()
	if watched {
		s.send(15, 0, 0, path+"\x00"+token+"\x00")
	}
}

// Again has the next n transactions fail because another was faster.
func (s *Store) Again(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again = n
}

func (s *Store) send(kind, request, transaction uint32, payload string) {
	var b []byte
	for _, word := range []uint32{kind, request, transaction, uint32(len(payload))} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	_, _ = s.conn.Write(append(b, payload...)) // a client that has gone wants nothing
}

func (s *Store) serve() {
	for {
		var header [16]byte
		if _, err := io.ReadFull(s.conn, header[:]); err != nil {
			return
		}
		word := func(i int) uint32 { return binary.LittleEndian.Uint32(header[4*i:]) }
		payload := make([]byte, word(3))
		if _, err := io.ReadFull(s.conn, payload); err != nil {
			return
		}
		kind := word(0)
		answer, failed := s.answer(kind, word(2), string(payload))
		if failed != "" {
			kind, answer = 16, failed+"\x00"
		}
		s.send(kind, word(1), word(2), answer)
		if kind == 4 { // a watch fires once at once
			path, token, _ := strings.Cut(string(payload), "\x00")
			s.send(15, 0, 0, path+"\x00"+token)
		}
	}
}

// answer carries out one request; failed is the name of an error.
func (s *Store) answer(kind, transaction uint32, payload string) (answer, failed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	nodes := s.nodes
	if transaction != 0 {
		if nodes = s.pending[transaction]; nodes == nil {
			return "", "ENOENT"
		}
	}
	path, rest, _ := strings.Cut(payload, "\x00")
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
		s.watches[path] = strings.TrimSuffix(rest, "\x00")
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
