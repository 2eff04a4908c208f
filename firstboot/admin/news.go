package admin

import (
	"context"
	"sync"

	"rempart/firstboot/contract"
)

// news is the guest's newest report, and a way to wait for the next.
type news struct {
	mu     sync.Mutex
	report contract.Report
	next   chan struct{} // closed and replaced when another report comes
}

func newNews() *news { return &news{next: make(chan struct{})} }

// keep takes reports until ctx is done or they end.
func (n *news) keep(ctx context.Context, reports <-chan contract.Report) {
	for {
		select {
		case r, ok := <-reports:
			if !ok {
				return
			}
			n.mu.Lock()
			n.report = r
			close(n.next)
			n.next = make(chan struct{})
			n.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

func (n *news) newest() (contract.Report, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.report, n.next
}

// await returns the first report that is as wanted.
func (n *news) await(ctx context.Context, wanted func(contract.Report) bool) (contract.Report, error) {
	for {
		r, next := n.newest()
		if wanted(r) {
			return r, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return r, context.Cause(ctx)
		}
	}
}
