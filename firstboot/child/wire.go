package child

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxLine bounds one line between PID 1 and a child, in bytes with its newline: 64 links with their addresses fit.
const MaxLine = 64 << 10

// MaxKey bounds the key of a message, in bytes.
const MaxKey = 32

// maxDigest bounds the digest of a profile, in bytes: SHA-256 in hex.
const maxDigest = 64

// Message is one line from a child to PID 1, as JSON: readiness, or a value for the report.
type Message struct {
	Ready   bool            `json:"ready,omitempty"`
	Profile string          `json:"profile,omitempty"` // with Ready: the digest of the profile the job holds for
	Key     string          `json:"key,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
}

// ErrMessage is wrapped by every error of DecodeMessage.
var ErrMessage = errors.New("not a message of a child")

// Encode writes a message as one line. A value that cannot be written or is too long is an error.
func (m Message) Encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("telling %q: %w", m.Key, err)
	}
	if len(b)+1 > MaxLine {
		return nil, fmt.Errorf("telling %q: %d bytes, at most %d fit", m.Key, len(b)+1, MaxLine)
	}
	return append(b, '\n'), nil
}

// DecodeMessage reads one line, without its newline. The child that wrote it may be in a stranger's hands: unknown
// fields, both kinds at once and anything beyond the bounds are refused. What a value holds is checked by who uses
// it.
func DecodeMessage(line []byte) (Message, error) {
	var m Message
	if len(line) >= MaxLine {
		return m, fmt.Errorf("%w: %d bytes, at most %d", ErrMessage, len(line), MaxLine-1)
	}
	if err := Strict(line, &m); err != nil {
		return Message{}, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if m.Ready == (m.Key != "") || len(m.Key) > MaxKey || (m.Key != "") != (len(m.Value) > 0) ||
		len(m.Profile) > maxDigest || m.Profile != "" && !m.Ready {
		return Message{}, fmt.Errorf("%w: want either ready or a key of at most %d bytes with a value", ErrMessage, MaxKey)
	}
	return m, nil
}

// Strict decodes exactly one JSON value into v and refuses unknown fields.
func Strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows the value")
	}
	return nil
}
