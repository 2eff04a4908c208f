// Package cache keeps answers for as long as they are true, and longer for the day when nobody can be asked (RFC 8767),
// in a bounded number of bytes. When it is full, what was asked for once makes room for what is asked for again (the
// SIEVE algorithm, Zhang and others, NSDI 2024): a flood of names that nobody asks for twice does not drive the others
// out.
//
// What it deliberately does not do: know what a name is, fetch anything, or decide whether a stale answer is better
// than none.
package cache

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/miekg/dns"

	"rempart/firstboot/dns/wire"
)

// Times of answers.
const (
	// MaxStale is how long after its TTL an answer may still be given when nobody can be asked (RFC 8767 5: one to three
	// days).
	MaxStale = 24 * time.Hour
	// FailureTTL is how long it is remembered that nobody gave an answer (RFC 2308 7, RFC 9520 3.2: 1 s to 5 min).
	FailureTTL = 5 * time.Second
	// recheck is how long after a failure nobody is asked for what there is a stale answer to (RFC 8767 5: 30 s).
	recheck = 30 * time.Second
	// prefetchPart of its TTL before its end an answer that is asked for is fetched anew; not one below prefetchLeast.
	prefetchPart  = 10
	prefetchLeast = 20 // seconds
	// prefetchAgain is when another try may begin.
	prefetchAgain = 5 * time.Second
)

// shards is a power of two: two processors rarely want the same one.
const shards = 16

// overhead is what an entry takes beside its key and answer, in bytes: itself, and its place in a map.
const overhead = 160

// Cache is the cache; New makes one.
type Cache struct {
	seed   maphash.Seed
	begin  time.Time
	shards [shards]shard
}

type shard struct {
	mu      sync.Mutex
	entries map[string]*entry
	// The order of arrival: newest at next of the root, oldest at its prev; hand is where the search for what may go goes
	// on, towards the newest.
	root, hand   *entry
	bytes, limit int
	evicted      uint64
}

type entry struct {
	key        string
	answer     *wire.Answer
	stored     int64 // nanoseconds since Cache.begin
	generation uint64
	prev, next *entry
	visited    bool
	fetching   int64 // until then nobody else fetches it anew
	failed     int64 // until then nobody is asked
}

// New returns a cache that takes about so many bytes at most.
func New(bytes int64) *Cache {
	c := &Cache{seed: maphash.MakeSeed(), begin: time.Now()}
	for i := range c.shards {
		s := &c.shards[i]
		s.entries, s.limit = map[string]*entry{}, int(bytes/shards)
		s.root = &entry{}
		s.root.prev, s.root.next = s.root, s.root
		s.hand = s.root
	}
	return c
}

// Now is the time as the cache counts it, for Get and Put: nanoseconds that no setting of a clock moves.
func (c *Cache) Now() int64 { return int64(time.Since(c.begin)) }

// Found is what Get finds.
type Found struct {
	Answer *wire.Answer
	Age    uint32 // seconds
	// Stale: its TTL is over. It may be given only when nobody can be asked.
	Stale bool
	// Failed: lately nobody could be asked for it (RFC 8767 5, failure recheck timer): a stale answer is given at once.
	Failed bool
	// Old: it was stored under another generation.
	Old bool
	// Refresh: whoever got this is asked to fetch it anew, soon and once.
	Refresh bool
}

func (c *Cache) shard(key []byte) *shard { return &c.shards[maphash.Bytes(c.seed, key)%shards] }

// Get finds an answer; Found.Answer is nil when there is none. It does not allocate.
func (c *Cache) Get(key []byte, now int64, generation uint64) Found {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[string(key)]
	if e == nil {
		return Found{}
	}
	age := max(now-e.stored, 0)
	ttl := int64(e.answer.TTL) * int64(time.Second)
	stale := int64(MaxStale)
	if rcode := e.answer.Rcode(); rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		stale = 0 // that there was no answer was never true of the name
	}
	if age >= ttl+stale {
		s.remove(e)
		return Found{}
	}
	f := Found{Answer: e.answer, Age: uint32(age / int64(time.Second)), Stale: age >= ttl, Failed: now < e.failed,
		Old: e.generation != generation}
	if !f.Stale && e.visited && e.answer.TTL >= prefetchLeast && ttl-age < ttl/prefetchPart && now > e.fetching {
		e.fetching = now + int64(prefetchAgain)
		f.Refresh = true
	}
	e.visited = true
	return f
}

// Stamp gives an answer the generation under which it was found true.
func (c *Cache) Stamp(key []byte, answer *wire.Answer, generation uint64) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[string(key)]; e != nil && e.answer == answer {
		e.generation = generation
	}
}

// Fail notes that nobody could be asked for an answer that is kept; false: none is kept.
func (c *Cache) Fail(key []byte, now int64) bool {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[string(key)]
	if e != nil {
		e.failed = now + int64(recheck)
	}
	return e != nil
}

// Put keeps an answer. One without a lifetime is not kept, nor one that would take more than a quarter of a shard.
func (c *Cache) Put(key []byte, answer *wire.Answer, now int64, generation uint64) {
	size := len(key) + answer.Size() + overhead
	s := c.shard(key)
	if answer.TTL == 0 || size > s.limit/4 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	visited := false
	if old := s.entries[string(key)]; old != nil {
		visited = old.visited
		s.remove(old)
	}
	for s.bytes+size > s.limit {
		s.evict()
	}
	e := &entry{key: string(key), answer: answer, stored: now, generation: generation, visited: visited}
	s.entries[e.key] = e
	e.prev, e.next = s.root, s.root.next
	e.prev.next, e.next.prev = e, e
	s.bytes += size
}

// evict drops the first entry from the hand on that nobody asked for since the hand last passed.
func (s *shard) evict() {
	for {
		if s.hand == s.root {
			s.hand = s.root.prev // the oldest
			if s.hand == s.root {
				return // empty
			}
		}
		e := s.hand
		if !e.visited {
			s.evicted++
			s.remove(e) // moves the hand
			return
		}
		e.visited = false
		s.hand = e.prev
	}
}

func (s *shard) remove(e *entry) {
	if s.hand == e {
		s.hand = e.prev
	}
	e.prev.next, e.next.prev = e.next, e.prev
	delete(s.entries, e.key)
	s.bytes -= len(e.key) + e.answer.Size() + overhead
}

// Usage is what the cache holds.
type Usage struct {
	Entries int    `json:"entries"`
	Bytes   int64  `json:"bytes"`
	Limit   int64  `json:"limit"`
	Evicted uint64 `json:"evicted"` // to make room
}

// Usage counts.
func (c *Cache) Usage() (u Usage) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		u.Entries += len(s.entries)
		u.Bytes += int64(s.bytes)
		u.Limit += int64(s.limit)
		u.Evicted += s.evicted
		s.mu.Unlock()
	}
	return u
}

// Flush forgets everything.
func (c *Cache) Flush() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		clear(s.entries)
		s.root.prev, s.root.next, s.hand, s.bytes = s.root, s.root, s.root, 0
		s.mu.Unlock()
	}
}
