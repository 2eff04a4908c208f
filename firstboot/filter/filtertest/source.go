package filtertest

import "rempart/firstboot/filter"

// known tells whether what rules remember of a packet's source, destination or connection is as one of them asks.
func (x *walk) known(e filter.Expr) bool {
	listed := x.p.Listed.IsValid()
	switch e := e.(type) {
	case filter.FromSource:
		return listed && x.p.Src.Is6() == e.IPv6 && x.p.Src == x.p.Listed
	case filter.ToSource:
		return listed && x.p.Dst.Is6() == e.IPv6 && x.p.Dst == x.p.Listed
	case filter.OverSource:
		return x.p.Src.Is6() == e.IPv6 && x.p.Over
	case filter.Uncounted:
		return !x.p.Reply && x.p.Mark&filter.MarkCounted == 0
	}
	return false
}
