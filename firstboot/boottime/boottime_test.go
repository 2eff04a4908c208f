package boottime

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNow compares it with what the kernel says of the same in text, in hundredths of a second (proc_uptime(5)).
func TestNow(t *testing.T) {
	const step = 10 * time.Millisecond
	before := uptime(t)
	now := Now()
	after := uptime(t)
	if now < before-step || now > after+step {
		t.Errorf("Now() = %v; want %v to %v", now, before, after)
	}
}

func uptime(t *testing.T) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	seconds, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}
