package profiles

import "fmt"

// places knows where in the file each part of a Profile stands, and which parts could not be read, so that nobody
// complains of what follows from an error already told. Parts are named by their path in the Profile:
// "links[0].addresses[1]". The zero value knows nothing.
type places struct {
	at     map[string]Pos
	unread map[string]bool
}

func newPlaces() places { return places{at: map[string]Pos{}, unread: map[string]bool{}} }

// put notes where a part stands.
func (p places) put(at Pos, path string, args ...any) { p.at[fmt.Sprintf(path, args...)] = at }

// spoil notes that a part, or something in it, could not be read.
func (p places) spoil(path string, args ...any) { p.unread[fmt.Sprintf(path, args...)] = true }

// spoilt tells whether a part could not be read.
func (p places) spoilt(path string, args ...any) bool {
	return len(p.unread) > 0 && p.unread[fmt.Sprintf(path, args...)]
}

// find is where a part stands; enclosing is the answer for parts nobody noted.
func (p places) find(enclosing Pos, path string, args ...any) Pos {
	if len(p.at) == 0 {
		return enclosing
	}
	if at, ok := p.at[fmt.Sprintf(path, args...)]; ok {
		return at
	}
	return enclosing
}
