//go:build !guest

package profiles

import (
	"net/netip"

	"gopkg.in/yaml.v3"
)

// portSyslog is where syslog servers listen (RFC 5426 section 3.3); for TCP no port was ever assigned, and the same
// number is usual (RFC 6587 section 3.2).
const portSyslog = 514

// loggingFields are the keys of logging.
func loggingFields() table[Logging] {
	return table[Logging]{
		{name: "drops", doc: "Whose traffic is logged when no line accepts it: a zone, a list of zones, or true for" +
			" everybody's. 10 lines a minute for each pair of zones; all are counted.",
			kind: eitherOf(yesOrNo(), oneOrMore(textLike(zonePattern))), decode: readDrops},
		{name: "to", doc: "Syslog server the log is sent to, by UDP: an address or a host of this profile; or" +
			" {address: ADDRESS, protocol: tcp, port: NUMBER}.",
			kind: eitherOf(hostAddress(), textLike(hostPattern), logServerFields().schema()), decode: readLogServer},
	}
}

// logServerDraft is a server as written.
type logServerDraft struct {
	addr     netip.Addr
	port     int
	protocol Protocol
}

// logServerFields are the keys of a log server that is more than an address.
func logServerFields() table[logServerDraft] {
	return table[logServerDraft]{
		{name: "address", doc: "Address of the server, or a host of this profile.",
			kind: eitherOf(hostAddress(), textLike(hostPattern)), required: true,
			decode: func(r *reader, v value, into *logServerDraft) { into.addr = r.oneHost(v) }},
		{name: "protocol", doc: "udp, the default, which loses what the network loses; or tcp, with each message's length" +
			" before it.", kind: oneWordOf(string(UDP), string(TCP)), decode: readLogProtocol},
		{name: "port", doc: "Port of the server. Default 514.", kind: numberIn(1, maxPort),
			decode: func(r *reader, v value, into *logServerDraft) { into.port, _ = r.integer(v, 1, maxPort, "") }},
		{name: "ca", doc: "File with the certificate authority of a server that is spoken to by TLS.",
			later: "remove it, and send the log to a relay on an inside network"},
	}
}

func readLogging(r *reader, v value, p *Profile) {
	p.Logging.At = v.keyPos()
	loggingFields().read(r, v, &p.Logging)
}

func readDrops(r *reader, v value, l *Logging) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!bool" {
		l.AllDrops, _ = r.boolean(v)
		return
	}
	const what = "a zone, a list of zones, true or false"
	for _, item := range r.items(v, what, maxZones) {
		if name, ok := r.word(item, what); ok {
			r.places.put(item.pos(), "logging.drops[%d]", len(l.Drops))
			l.Drops = append(l.Drops, name)
		}
	}
}

func readLogServer(r *reader, v value, l *Logging) {
	d := logServerDraft{port: portSyslog, protocol: UDP}
	if v.node.Kind == yaml.MappingNode {
		logServerFields().read(r, v, &d)
	} else {
		d.addr = r.oneHost(v)
	}
	r.places.put(v.pos(), "logging.to")
	l.To = &LogServer{d.addr, uint16(d.port), d.protocol}
}

func readLogProtocol(r *reader, v value, d *logServerDraft) {
	text, ok := r.word(v, "udp or tcp")
	switch {
	case !ok:
	case text == "tls":
		r.expected(v, "udp or tcp", "TLS is not in this version: send the log to a relay on an inside network")
	case text != string(UDP) && text != string(TCP):
		r.expected(v, "udp or tcp", "")
	default:
		d.protocol = Protocol(text)
	}
}

// oneHost reads an address, or the name of a host that has one.
func (r *reader) oneHost(v value) netip.Addr {
	text, ok := r.dotted(v, "an address, or a host of this profile")
	if !ok {
		return netip.Addr{}
	}
	if text != "" && text[0] != '.' && !looksNumeric(text) || r.hostNamed(text) != nil {
		all := r.hostAddresses(v, text)
		if len(all) > 1 {
			r.rejectAt(v.pos(), "write the address meant", "%s: host %s has several addresses", v.name, quote(text))
		}
		if len(all) != 1 {
			return netip.Addr{}
		}
		return all[0]
	}
	a, _ := r.address(v, text)
	return a
}
