package filter

import (
	"slices"

	"rempart/profiles"
)

// helper declares a connection tracking helper, once, and returns the expression that gives it to a connection; none
// for no helper. The rule that accepts the first packet of a connection gives it, so other connections have none, to
// whatever port they go.
func (c *compiler) helper(h profiles.Helper) []Expr {
	if h == "" {
		return nil
	}
	made := Helper{Name: "helper/" + string(h), Kind: string(h), Proto: ProtoTCP}
	if proto, _ := h.Protocol(); proto == profiles.UDP {
		made.Proto = ProtoUDP
	}
	if !slices.Contains(c.table.Helpers, made) {
		c.table.Helpers = append(c.table.Helpers, made)
	}
	return []Expr{SetHelper{made.Name}}
}
