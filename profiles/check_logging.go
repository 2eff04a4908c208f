package profiles

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
)

// Bounds of the certificates a profile holds.
const (
	maxCerts    = 16
	maxCertText = 64 << 10 // bytes in PEM
)

// pemBegin begins a block of PEM (RFC 7468 section 2).
const pemBegin = "-----BEGIN "

// logging checks whose drops are logged and where the log goes.
func (v *validator) logging() {
	l := v.p.Logging
	for i, name := range l.Drops {
		at := v.places.find(l.At, "logging.drops[%d]", i)
		if v.zone(name) == nil {
			v.reject(at, suggest(name, v.zoneNames()), "logging.drops: unknown zone %s", quote(name))
		} else if slices.Contains(l.Drops[:i], name) {
			v.reject(at, "remove one", "logging.drops: zone %s comes twice", clip(name))
		}
	}
	if l.AllDrops && len(l.Drops) > 0 {
		v.reject(l.At, "", "logging.drops: both true and zones")
	}
	v.logDisk()
	to := l.To
	if to == nil || !to.Addr.IsValid() {
		return // what is wrong with the address has been told
	}
	at := v.places.find(l.At, "logging.to")
	if problem := checkUnicast(to.Addr); problem != "" {
		v.reject(at, "", "logging.to: %s", problem)
		return
	}
	if to.Port == 0 || to.Protocol != UDP && to.Protocol != TCP {
		v.reject(at, "", "logging.to: no port, or a protocol other than udp and tcp")
	}
	v.logTLS(at, to)
	v.reachable(at, "logging.to", to.Addr, "name the host that keeps logs")
}

// logTLS checks how a server shows who it is.
func (v *validator) logTLS(at Pos, to *LogServer) {
	t := to.TLS
	if t == nil {
		return
	}
	if to.Protocol != TCP {
		v.reject(at, "", "logging.to: TLS goes over TCP")
	}
	if t.CA == "" && t.Fingerprint == "" {
		v.reject(at, "add ca: FILE with who signed its certificate, or fingerprint: with that of the certificate itself",
			"logging.to: nothing tells this server from any other that answers in its place")
	}
	if t.Fingerprint != "" && !isFingerprint(t.Fingerprint) {
		v.reject(at, "", "logging.to: fingerprint is none: want 64 hex digits in lower case")
	}
	if problem := checkCerts(t.CA); t.CA != "" && problem != "" {
		v.reject(at, "name a file with certificates of authorities in PEM", "logging.to: ca: %s", problem)
	}
	if t.Name != "" && !isServerName(t.Name) {
		v.reject(at, "for example logs.example.net", "logging.to: %s is no name of a server", quote(t.Name))
	}
}

func isFingerprint(s string) bool {
	const size = 64 // hex digits of a SHA-256
	return len(s) == size && strings.Trim(s, "0123456789abcdef") == ""
}

// isServerName tells whether a text is a name that a certificate may be for: labels of RFC 1123 in lower case.
func isServerName(s string) bool {
	const most, mostLabel = 253, 63 // RFC 1035 section 2.3.4
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > mostLabel || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return len(s) <= most
}

// checkCerts says what is wrong with certificates in PEM. It never repeats what they are: the file may be another.
func checkCerts(text string) string {
	if len(text) > maxCertText {
		return "more than 64 KiB"
	}
	n := 0
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "it holds something else than certificates; a private key must never be in a profile"
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "one of the certificates cannot be read"
		}
		n++
	}
	switch {
	case n == 0:
		return "there is no certificate in it"
	case n > maxCerts:
		return "more than 16 certificates"
	}
	return ""
}
