package clock

import (
	"encoding/binary"
	"testing"
	"time"
)

func TestAnswer(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 500000000, time.UTC)
	good := Reference{Stratum: 3, ID: 7, RootDelay: 250 * time.Millisecond, RootDispersion: time.Millisecond, Set: at}
	question := func(first byte, size int) []byte {
		q := make([]byte, size)
		q[0] = first
		copy(q[40:], "originat")
		return q
	}
	old := good
	old.Age = 48 * time.Hour
	for _, c := range []struct {
		what    string
		q       []byte
		ref     Reference
		ok      bool
		first   byte
		stratum byte
	}{
		{"version 4", question(4<<3|3, 48), good, true, 4<<3 | 4, 3},
		{"version 3", question(3<<3|3, 48), good, true, 3<<3 | 4, 3},
		{"version 1 of old has no mode", question(1<<3, 48), good, true, 1<<3 | 4, 3},
		{"leap bits of a client that knows no time", question(3<<6|4<<3|3, 48), good, true, 4<<3 | 4, 3},
		{"with a MAC or extensions", question(4<<3|3, 400), good, true, 4<<3 | 4, 3},
		{"not synchronised", question(4<<3|3, 48), Reference{}, true, 3<<6 | 4<<3 | 4, 0},
		{"too long ago", question(4<<3|3, 48), old, true, 3<<6 | 4<<3 | 4, 0},
		{"version 0", question(3, 48), good, false, 0, 0},
		{"version 5", question(5<<3|3, 228), good, false, 0, 0},
		{"an answer", question(4<<3|4, 48), good, false, 0, 0},
		{"control", question(2<<3|6, 48), good, false, 0, 0},
		{"monlist", question(2<<3|7, 48), good, false, 0, 0},
		{"symmetric", question(4<<3|1, 48), good, false, 0, 0},
		{"short", question(4<<3|3, 48)[:47], good, false, 0, 0},
		{"nothing", nil, good, false, 0, 0},
	} {
		reply, ok := answer(c.q, c.ref, at, at.Add(time.Millisecond))
		if ok != c.ok || ok && (reply[0] != c.first || reply[1] != c.stratum || string(reply[24:32]) != "originat") {
			t.Errorf("%s: answer = %x, %v; want first %x, stratum %d, %v", c.what, reply, ok, c.first, c.stratum, c.ok)
		}
	}
	reply, _ := answer(question(4<<3|3, 48), good, at, at.Add(250*time.Millisecond))
	for _, c := range []struct {
		what string
		got  uint64
		want uint64
	}{
		{"root delay", uint64(binary.BigEndian.Uint32(reply[4:])), 1 << 14},
		{"received", binary.BigEndian.Uint64(reply[32:]), uint64(at.Unix()+2208988800)<<32 | 1<<31},
		{"sent", binary.BigEndian.Uint64(reply[40:]), uint64(at.Unix()+2208988800)<<32 | 3<<30},
	} {
		if c.got != c.want {
			t.Errorf("%s = %x; want %x", c.what, c.got, c.want)
		}
	}
	// 2^32 seconds after 1900 the era changes, and clients know.
	if got := timestamp(time.Unix(1<<32-ntpEpoch, 0)); got != 0 {
		t.Errorf("timestamp at the end of the era = %x; want 0", got)
	}
	if got := short(20 * time.Hour); got != 1<<32-1 {
		t.Errorf("short(20 h) = %x", got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(make([]byte, 48), uint8(3), int64(1))
	f.Add([]byte{4<<3 | 3}, uint8(0), int64(0))
	f.Fuzz(func(t *testing.T, question []byte, stratum uint8, age int64) {
		ref := Reference{Stratum: stratum, Age: time.Duration(age)}
		reply, ok := answer(question, ref, time.Unix(age>>20, 0), time.Unix(age>>20, 1))
		if ok && (len(question) < len(reply) || reply[0]&7 != modeServer) {
			t.Errorf("answer(%x) = %x", question, reply)
		}
	})
}
