package power

import (
	"encoding/binary"
	"os"
	"testing"
)

// event is a struct input_event.
func event(kind, code uint16, value uint32) []byte {
	b := make([]byte, eventSize)
	binary.NativeEndian.PutUint16(b[16:], kind)
	binary.NativeEndian.PutUint16(b[18:], code)
	binary.NativeEndian.PutUint32(b[20:], value)
	return b
}

func TestPressed(t *testing.T) {
	syn := event(0, 0, 0)
	for name, c := range map[string]struct {
		events []byte
		want   bool
	}{
		"press":             {event(eventKey, keyPower, 1), true},
		"press after sync":  {append(append([]byte(nil), syn...), event(eventKey, keyPower, 1)...), true},
		"release":           {event(eventKey, keyPower, 0), false},
		"another key":       {event(eventKey, 30, 1), false},
		"not a key":         {event(2, keyPower, 1), false},
		"half an event":     {event(eventKey, keyPower, 1)[:20], false},
		"sync and no press": {syn, false},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if pressed, err := Pressed([]*os.File{r}, 1); pressed || err != nil {
			t.Errorf("Pressed of a quiet button = %v, %v; want false after the timeout", pressed, err)
		}
		if _, err := w.Write(c.events); err != nil {
			t.Fatal(err)
		}
		if got, err := Pressed([]*os.File{r}, 1000); got != c.want || err != nil {
			t.Errorf("%s: Pressed = %v, %v; want %v", name, got, err, c.want)
		}
		w.Close()
		if _, err := Pressed([]*os.File{r}, 1000); err == nil {
			t.Errorf("%s: Pressed of a button that is gone = nil; want an error", name)
		}
		r.Close()
	}
}
