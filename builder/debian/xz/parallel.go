package xz

import (
	"errors"
	"io"
	"sync"
)

// parallel unpacks blocks ahead, as many at once as there are workers.
type parallel struct {
	results []chan result
	next    int
	now     []byte
	err     error
	tickets chan struct{} // one for each block that may be held
	stop    chan struct{}
	once    sync.Once
}

type result struct {
	content []byte
	err     error
}

func newParallel(f *file, workers int) *parallel {
	p := &parallel{stop: make(chan struct{}), tickets: make(chan struct{}, workers)}
	for range f.blocks {
		p.results = append(p.results, make(chan result, 1))
	}
	for range workers {
		p.tickets <- struct{}{}
	}
	go func() {
		for i, b := range f.blocks {
			select {
			case <-p.tickets:
			case <-p.stop:
				return
			}
			go func() {
				content, err := f.unpack(b, p.stop)
				p.results[i] <- result{content, err}
			}()
		}
	}()
	return p
}

// errStopped ends the unpacking of a block that nobody waits for any more.
var errStopped = errors.New("closed")

func (f *file) unpack(b block, stop chan struct{}) ([]byte, error) {
	r, err := f.open(b)
	if err != nil {
		return nil, err
	}
	content := make([]byte, b.uncompressed)
	for n := 0; ; {
		select {
		case <-stop:
			return nil, errStopped
		default:
		}
		// One byte more than is left is asked for, so that the end of the block and its check are seen.
		var piece []byte
		if n == len(content) {
			piece = make([]byte, 1)
		} else {
			piece = content[n:min(n+1<<20, len(content))]
		}
		m, err := r.Read(piece)
		n += m
		if err == io.EOF {
			return content, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parallel) Read(b []byte) (int, error) {
	for len(p.now) == 0 && p.err == nil {
		if p.next == len(p.results) {
			p.err = io.EOF
			break
		}
		if p.next > 0 {
			p.tickets <- struct{}{} // the block before is used up
		}
		r := <-p.results[p.next]
		p.next++
		p.now, p.err = r.content, r.err
	}
	if len(p.now) == 0 {
		return 0, p.err
	}
	n := copy(b, p.now)
	p.now = p.now[n:]
	return n, nil
}

func (p *parallel) Close() error {
	p.once.Do(func() { close(p.stop) })
	return nil
}
