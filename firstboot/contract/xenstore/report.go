package xenstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Where a guest leaves what it has to say, below its own part of the tree, of which it may write "data" alone
// (xen.git, docs/misc/xenstore-paths.pandoc, "~/data").
const (
	Base       = "data/rempart"
	StatusPath = Base + "/status" // one word: contract.ReadyPrefix, contract.FailedPrefix or Starting
	ReportPath = Base + "/report" // "PIECES SHA256"; below it the report as JSON in pieces, by number from 0
	OrderPath  = Base + "/order"  // what the host asks for; the guest empties it when it has taken it
)

// Starting is the status of a guest that has not come to a verdict yet.
const Starting = "STARTING"

// DomainPath is the part of the tree that belongs to a domain, as the host sees it.
func DomainPath(id int) string { return "/local/domain/" + strconv.Itoa(id) }

// Pieces of a report. xenstored lets a guest have 1000 nodes of 2048 bytes each, what it needs itself included
// (xenstored(8), --quota entry-size); in the second half fits what counts toward that besides the value.
const (
	pieceSize = 1024
	maxPieces = 256
)

// MaxReport is the largest report that fits, in bytes.
const MaxReport = pieceSize * maxPieces

// Publish replaces a guest's status and report in one transaction. report holds one line of JSON.
func (c *Conn) Publish(ctx context.Context, status string, report []byte) error {
	if len(report) > MaxReport {
		return fmt.Errorf("a report of %d bytes; want %d at most", len(report), MaxReport)
	}
	sum := sha256.Sum256(report)
	return c.Transact(ctx, func(t Tx) error {
		if err := t.Remove(ctx, ReportPath); err != nil && !errors.Is(err, ErrAbsent) {
			return err
		}
		n := 0
		for rest := report; len(rest) > 0; n++ {
			piece := rest[:min(pieceSize, len(rest))]
			rest = rest[len(piece):]
			if err := t.Write(ctx, ReportPath+"/"+strconv.Itoa(n), piece); err != nil {
				return err
			}
		}
		if err := t.Write(ctx, ReportPath, []byte(strconv.Itoa(n)+" "+hex.EncodeToString(sum[:]))); err != nil {
			return err
		}
		return t.Write(ctx, StatusPath, []byte(status))
	})
}

// maxReads bounds how often a report is read anew because the guest wrote another meanwhile.
const maxReads = 32

// LoadReport reads what Publish left. read returns what nodes below the guest's part of the tree hold, one after the
// other; the closer together it reads them, the fewer tries it takes. It may be this package's Read, or a tool of
// Xen's. What a guest left is its claim, and bounded. ErrAbsent: it has left none yet.
func LoadReport(read func(paths ...string) ([]byte, error)) ([]byte, error) {
	for range maxReads {
		head, err := read(ReportPath)
		if err != nil {
			return nil, err
		}
		count, digest, _ := strings.Cut(strings.TrimSpace(string(head)), " ")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || n > maxPieces || len(digest) != hex.EncodedLen(sha256.Size) {
			return nil, fmt.Errorf("%w: %.80q stands for a report", ErrProtocol, head)
		}
		paths := make([]string, n)
		for i := range paths {
			paths[i] = ReportPath + "/" + strconv.Itoa(i)
		}
		report, err := read(paths...)
		if errors.Is(err, ErrAbsent) {
			continue // it is being replaced
		}
		if err != nil {
			return nil, err
		}
		if len(report) > n*MaxPayload {
			return nil, fmt.Errorf("%w: %d bytes in %d pieces", ErrProtocol, len(report), n)
		}
		if sum := sha256.Sum256(report); hex.EncodeToString(sum[:]) == digest {
			return report, nil
		}
	}
	return nil, fmt.Errorf("%w: the report changes faster than it can be read, or is none", ErrProtocol)
}
