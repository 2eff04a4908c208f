package main

import (
	"context"
	"fmt"
	"io"

	"rempart/builder/bounded"
	"rempart/profiles"
	"rempart/profiles/blocklist"
)

// setsBeyond are the ranges that a profile stores and the running one does not.
func setsBeyond(running, next *profiles.Profile) [][]byte {
	there := map[string]bool{}
	for i := range running.Sets {
		for _, part := range running.Sets[i].Parts() {
			there[part.Digest] = true
		}
	}
	var out [][]byte
	for i := range next.Sets {
		for digest, b := range next.Sets[i].Files() {
			if !there[digest] {
				out = append(out, b)
			}
			there[digest] = true
		}
	}
	return out
}

// askStored asks a guest for what its profile stores beside its JSON.
func askStored(ctx context.Context, g admin, p *profiles.Profile) error {
	ask := func(digest string, most int64) ([]byte, error) {
		out := &bounded.Buffer{Most: int(most)}
		err := say(ctx, g, nil, out, io.Discard, "profile", "--stored", digest)
		return out.Bytes(), err
	}
	for _, s := range p.Absent() {
		if err := s.Restore(func(part profiles.StoredPart) ([]byte, error) {
			return ask(part.Digest, part.MostBytes())
		}); err != nil {
			return fmt.Errorf("the guest's %w", err)
		}
	}
	if p.DNS == nil || p.DNS.Block == nil {
		return nil
	}
	block := p.DNS.Block
	err := block.Restore(func() ([]byte, error) { return ask(block.Digest, blocklist.Size(block.Count)) })
	if err != nil {
		return fmt.Errorf("the guest's %w", err)
	}
	return nil
}
