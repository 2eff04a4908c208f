// Package order is what a test and the dom0 of its Xen host say to each other: lines of JSON over a virtio-serial port,
// orders one way and answers the other. Orders run side by side; an answer names the order it belongs to.
//
// What it deliberately does not do: trust is no question here, so nothing is bounded but what could fill memory by
// mistake.
package order

// Port is the name of the virtio-serial port.
const Port = "rempart.dom0.0"

// Order asks for one thing. Exactly one of Run, Put and Cancel is set.
type Order struct {
	ID     int      `json:"id"`
	Run    []string `json:"run,omitempty"`    // program and arguments, in dom0's root
	Stdin  []byte   `json:"stdin,omitempty"`  // of Run
	Put    string   `json:"put,omitempty"`    // a file of dom0 to write
	Mode   uint32   `json:"mode,omitempty"`   // of Put
	Data   []byte   `json:"data,omitempty"`   // of Put
	Cancel int      `json:"cancel,omitempty"` // an order whose program is to be ended; it answers itself
}

// Answer is what became of an order. The first answer, before any order, has the ID 0: dom0 is there.
type Answer struct {
	ID     int    `json:"id"`
	Status int    `json:"status"` // exit status of Run; -1: a signal ended it
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	Error  string `json:"error,omitempty"` // why it could not be carried out
}

// MaxOutput bounds each of Stdout and Stderr, in bytes; what is beyond is left out.
const MaxOutput = 4 << 20

// MaxLine bounds a line: an answer with both outputs in base64.
const MaxLine = 3 * MaxOutput
