// Package cache keeps what readers of disk images would otherwise read, or unpack, again and again.
//
// What it deliberately does not do: know what it keeps, or count bytes.
package cache

import "sync"

// Cache keeps the last few values put; the oldest goes first. The zero value keeps nothing. It may be used from many
// goroutines.
type Cache struct {
	Limit  int // values; set it before the first use
	mu     sync.Mutex
	values map[uint64][]byte
	order  []uint64
}

// Get returns a value that is kept; nil: it is not. Nobody may change it.
func (c *Cache) Get(key uint64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values[key]
}

// Put keeps a value.
func (c *Cache) Put(key uint64, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil {
		c.values = map[uint64][]byte{}
	}
	if _, ok := c.values[key]; ok || c.Limit == 0 {
		return
	}
	if len(c.order) == c.Limit {
		delete(c.values, c.order[0])
		c.order = c.order[1:]
	}
	c.values[key] = value
	c.order = append(c.order, key)
}
