//go:build !guest

package profiles

import (
	"net/netip"
	"strings"

	"gopkg.in/yaml.v3"
)

// portSyslog is where syslog servers listen (RFC 5426 section 3.3); for TCP no port was ever assigned, and the same
// number is usual (RFC 6587 section 3.2).
const portSyslog = 514

// portSyslogTLS is where syslog servers listen for TLS (RFC 5425 section 4.1).
const portSyslogTLS = 6514

// protocolTLS is the word for TLS, which is TCP and more.
const protocolTLS = "tls"

// What a fingerprint may look like: hex digits, with colons or without. And a name of a server, checked further on.
const (
	fingerprintPattern = `^([Ss][Hh][Aa]256:)?([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$`
	serverNamePattern  = `^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$`
)

// loggingFields are the keys of logging.
func loggingFields() table[Logging] {
	return table[Logging]{
		{name: "drops", doc: "Whose traffic is logged when no line accepts it: a zone, a list of zones, or true for" +
			" everybody's. 10 lines a minute for each pair of zones; all are counted.",
			kind: eitherOf(yesOrNo(), oneOrMore(textLike(zonePattern))), decode: readDrops},
		{name: "to", doc: "Syslog server the log is sent to, by UDP: an address or a host of this profile; or" +
			" {address: ADDRESS, protocol: tcp, port: NUMBER}, or {address: ADDRESS, protocol: tls, ca: FILE}.",
			kind: eitherOf(hostAddress(), textLike(hostPattern), logServerFields().schema()), decode: readLogServer},
		{name: "disk", doc: "Data disk that the guest's own log is kept on, up to 64 MiB of it, where it outlives the state" +
			" disk. Default: the state disk, up to 8 MiB.", kind: textLike(diskPattern), decode: readLogDisk},
	}
}

// logServerDraft is a server as written.
type logServerDraft struct {
	addr     netip.Addr
	port     int
	protocol Protocol
	tls      LogTLS
	secured  bool // protocol: tls
}

// logServerFields are the keys of a log server that is more than an address.
func logServerFields() table[logServerDraft] {
	return table[logServerDraft]{
		{name: "address", doc: "Address of the server, or a host of this profile.",
			kind: eitherOf(hostAddress(), textLike(hostPattern)), required: true,
			decode: func(r *reader, v value, into *logServerDraft) { into.addr = r.oneHost(v) }},
		{name: "protocol", doc: "udp, the default, which loses what the network loses; or tcp, with each message's length" +
			" before it; or tls, the same encrypted to a server that shows who it is (RFC 5425).",
			kind: oneWordOf(string(UDP), string(TCP), protocolTLS), decode: readLogProtocol},
		{name: "port", doc: "Port of the server. Default 514, by TLS 6514.", kind: numberIn(1, maxPort),
			decode: func(r *reader, v value, into *logServerDraft) { into.port, _ = r.integer(v, 1, maxPort, "") }},
		{name: "ca", doc: "With tls: file with the certificates of authorities, of which one signed the server's, or these" +
			" certificates themselves (PEM).", kind: schema{"type": "string"}, decode: readLogCA},
		{name: "fingerprint", doc: "With tls: SHA-256 of the server's own certificate, as openssl x509 -fingerprint -sha256" +
			" prints it. It will do without ca.", kind: textLike(fingerprintPattern), decode: readFingerprint},
		{name: "name", doc: "With tls: the name in the server's certificate. Default: its address.",
			kind: textLike(serverNamePattern), decode: readServerName},
		{name: "client-certificate", doc: "With tls: whether the guest must show a certificate of its own, which is on its" +
			" identity disk (rempart run --log-key). Default: it shows the one it has.", kind: yesOrNo(),
			decode: func(r *reader, v value, into *logServerDraft) { into.tls.Client, _ = r.boolean(v) }},
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
	d := logServerDraft{protocol: UDP}
	if v.node.Kind == yaml.MappingNode {
		logServerFields().read(r, v, &d)
	} else {
		d.addr = r.oneHost(v)
	}
	r.places.put(v.pos(), "logging.to")
	l.To = &LogServer{Addr: d.addr, Port: uint16(d.port), Protocol: d.protocol}
	switch {
	case d.port != 0:
	case d.secured:
		l.To.Port = portSyslogTLS
	default:
		l.To.Port = portSyslog
	}
	if d.secured {
		l.To.TLS = &d.tls
	} else if d.tls != (LogTLS{}) {
		const hint = "add protocol: tls"
		r.rejectAt(v.pos(), hint, "logging.to: ca, fingerprint, name and client-certificate are of TLS, by which "+
			"this server is not spoken to")
	}
}

func readLogProtocol(r *reader, v value, d *logServerDraft) {
	const what = "udp, tcp or tls"
	text, ok := r.word(v, what)
	switch {
	case !ok:
	case text == protocolTLS:
		d.protocol, d.secured = TCP, true
	case text != string(UDP) && text != string(TCP):
		r.expected(v, what, suggest(text, []string{string(UDP), string(TCP), protocolTLS}))
	default:
		d.protocol = Protocol(text)
	}
}

// readLogCA reads certificates, or the file they are in.
func readLogCA(r *reader, v value, d *logServerDraft) {
	const what = "a file with certificates, or certificates in PEM"
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	if !strings.Contains(text, pemBegin) {
		b, err := r.keyFile(text)
		if err != nil {
			r.rejectAt(v.pos(), "name a file with certificates in PEM", "%s: %v", v.name, err)
			return
		}
		text = string(b)
	}
	d.tls.CA = text
}

// readFingerprint takes a fingerprint as any tool prints it.
func readFingerprint(r *reader, v value, d *logServerDraft) {
	const what = "64 hex digits, with colons or without"
	text, ok := r.word(v, what)
	if !ok {
		return
	}
	plain := strings.ToLower(strings.ReplaceAll(text, ":", ""))
	plain = strings.TrimPrefix(plain, "sha256")
	if !isFingerprint(plain) {
		r.expected(v, what, "openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE prints it")
		return
	}
	d.tls.Fingerprint = plain
}

func readServerName(r *reader, v value, d *logServerDraft) {
	if text, ok := r.dotted(v, "a name"); ok {
		d.tls.Name = strings.ToLower(text)
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
