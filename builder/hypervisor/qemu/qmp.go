package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxMessage bounds one QMP line. query-qmp-schema, which we never ask for, is the largest real one with 0.2 MB.
const maxMessage = 1 << 20

// Event is something QEMU tells without being asked.
type Event struct {
	Name string
	Data json.RawMessage
}

// message is any line QEMU sends; see docs/interop/qmp-spec.txt of QEMU, section 2.
type message struct {
	Greeting *json.RawMessage `json:"QMP"`
	Event    string           `json:"event"`
	Data     json.RawMessage  `json:"data"`
	ID       *uint64          `json:"id"`
	Return   json.RawMessage  `json:"return"`
	Error    *CommandError    `json:"error"`
}

// CommandError is QEMU's refusal of a command.
type CommandError struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func (e *CommandError) Error() string { return e.Class + ": " + e.Description }

// parseMessage reads one line of QMP.
func parseMessage(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("QMP: %.80q is no message: %w", line, err)
	}
	kinds := 0
	for _, is := range []bool{m.Greeting != nil, m.Event != "", m.Return != nil, m.Error != nil} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return m, fmt.Errorf("QMP: %.80q is not one of greeting, event, return and error", line)
	}
	return m, nil
}

// ErrMonitorClosed is returned when QEMU has gone or its monitor said something that is no QMP.
var ErrMonitorClosed = errors.New("QEMU's monitor is closed")

// Monitor is a QMP client.
type Monitor struct {
	conn   net.Conn
	events func(Event)

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan message
	closed  error // why; nil while open
	done    chan struct{}
}

// handshakeTime bounds the greeting and the capabilities exchange: QEMU answers once its machine is built, which
// takes a second or two on a loaded host.
const handshakeTime = 20 * time.Second

// NewMonitor does the handshake on conn and then reads until conn ends. Events are handed to events in order, from
// one goroutine; it must not call the monitor.
func NewMonitor(ctx context.Context, conn net.Conn, events func(Event)) (*Monitor, error) {
	m := &Monitor{conn: conn, events: events, waiting: map[uint64]chan message{}, done: make(chan struct{})}
	greeted := make(chan struct{})
	go m.read(greeted)
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	select {
	case <-greeted:
	case <-m.done:
		return nil, fmt.Errorf("QMP handshake: %w", m.why())
	case <-ctx.Done():
		conn.Close()
		return nil, fmt.Errorf("QMP handshake: no greeting: %w", ctx.Err())
	}
	if err := m.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("QMP handshake: %w", err)
	}
	return m, nil
}

// read hands out what QEMU sends until the connection ends.
func (m *Monitor) read(greeted chan<- struct{}) {
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(make([]byte, 4096), maxMessage)
	var failed error
	for failed == nil && lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		msg, err := parseMessage(lines.Bytes())
		switch {
		case err != nil:
			failed = err
		case msg.Greeting != nil:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case msg.Event != "":
			if m.events != nil {
				m.events(Event{Name: msg.Event, Data: msg.Data})
			}
		case msg.ID != nil:
			m.mu.Lock()
			answer := m.waiting[*msg.ID]
			delete(m.waiting, *msg.ID)
			m.mu.Unlock()
			if answer != nil {
				answer <- msg
			}
		}
	}
	if failed == nil {
		failed = lines.Err()
	}
	if failed == nil || errors.Is(failed, net.ErrClosed) {
		failed = io.EOF
	}
	m.conn.Close()
	m.mu.Lock()
	m.closed = fmt.Errorf("%w: %w", ErrMonitorClosed, failed)
	m.mu.Unlock()
	close(m.done)
}

func (m *Monitor) why() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// Execute runs one command and decodes what it returns into result unless that is nil. It returns a *CommandError
// when QEMU refuses, and ErrMonitorClosed when QEMU has gone before it answered.
func (m *Monitor) Execute(ctx context.Context, command string, arguments, result any) error {
	m.mu.Lock()
	if m.closed != nil {
		defer m.mu.Unlock()
		return fmt.Errorf("QMP %s: %w", command, m.closed)
	}
	m.next++
	id := m.next
	answer := make(chan message, 1)
	m.waiting[id] = answer
	request := map[string]any{"execute": command, "id": id}
	if arguments != nil {
		request["arguments"] = arguments
	}
	line, err := json.Marshal(request)
	if err == nil {
		_, err = m.conn.Write(append(line, '\n'))
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case msg := <-answer:
		return decodeAnswer(command, msg, result)
	case <-m.done:
		select { // the answer may have come right before the end
		case msg := <-answer:
			return decodeAnswer(command, msg, result)
		default:
			return fmt.Errorf("QMP %s: %w", command, m.why())
		}
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.waiting, id)
		m.mu.Unlock()
		return fmt.Errorf("QMP %s: %w", command, ctx.Err())
	}
}

func decodeAnswer(command string, msg message, result any) error {
	if msg.Error != nil {
		return fmt.Errorf("QMP %s: %w", command, msg.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(msg.Return, result); err != nil {
		return fmt.Errorf("QMP %s: unexpected answer: %w", command, err)
	}
	return nil
}

// Done is closed when the monitor has ended.
func (m *Monitor) Done() <-chan struct{} { return m.done }
