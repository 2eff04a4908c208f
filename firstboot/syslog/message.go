package syslog

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"rempart/firstboot/logging/segment"
)

// Facilities of RFC 5424, table 1.
const (
	facilityKernel = 0
	facilityDaemon = 3
	facilityAuth   = 10
)

// maxSequence is where the sequence id starts again from 1 (RFC 5424 section 7.3.1).
const maxSequence = 1<<31 - 1

// byteOrderMark goes before a message that is UTF-8 and not only ASCII (RFC 5424 section 6.4).
const byteOrderMark = "\ufeff"

// format is an entry as RFC 5424 section 6 has it:
//
//	<PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID [meta sequenceId="..." sysUpTime="..."] MSG
//
// The host is a checked name of a guest. The sequence id is the entry's number, by which a server sees what it lost.
func format(host string, e segment.Entry) string {
	facility := facilityDaemon
	switch e.From {
	case "kernel":
		facility = facilityKernel
	case "ssh":
		facility = facilityAuth
	}
	const severities = 8
	text := e.Text
	if strings.ContainsFunc(text, func(r rune) bool { return r >= 0x80 }) {
		text = byteOrderMark + text
	}
	return fmt.Sprintf(`<%d>1 %s %s %s - - [meta sequenceId="%d" sysUpTime="%d"] %s`,
		facility*severities+int(e.Severity), e.Time.UTC().Format("2006-01-02T15:04:05.000000Z07:00"), host, e.From,
		(e.Number-1)%maxSequence+1, e.Uptime/(10*time.Millisecond), text)
}

// frame is a message with its length before it, for a stream (RFC 6587 section 3.4.1, octet counting).
func frame(message string) string { return strconv.Itoa(len(message)) + " " + message }
