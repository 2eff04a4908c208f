package get

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// body writes the content of an answer to w: RFC 9112, section 6.3.
func (h *head) body(in *bufio.Reader, most int64, w io.Writer) error {
	if coding := h.field("content-encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return fmt.Errorf("%w: it is coded as %s, which was not asked for", ErrProtocol, printable(coding))
	}
	transfer, length := h.field("transfer-encoding"), h.field("content-length")
	switch {
	case transfer != "" && length != "":
		return fmt.Errorf("%w: it has a length and is in chunks", ErrProtocol)
	case strings.EqualFold(transfer, "chunked"):
		return chunks(in, most, w)
	case transfer != "":
		return fmt.Errorf("%w: it is coded as %s", ErrProtocol, printable(transfer))
	case length != "":
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil {
			return fmt.Errorf("%w: its length is %s", ErrProtocol, printable(length))
		}
		if int64(n) > most {
			return fmt.Errorf("%d bytes: %w: %d", n, ErrTooLarge, most)
		}
		return exactly(in, int64(n), w)
	}
	// Up to the end of the connection; whether it was cut the caller looks.
	n, err := io.Copy(w, io.LimitReader(in, most))
	if err != nil {
		return err
	}
	if _, err := in.ReadByte(); err == nil {
		return fmt.Errorf("more than %d bytes: %w", n, ErrTooLarge)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// exactly copies n bytes.
func exactly(in io.Reader, n int64, w io.Writer) error {
	_, err := io.CopyN(w, in, n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// chunks copies content in chunks: RFC 9112, section 7.1.
func chunks(in *bufio.Reader, most int64, w io.Writer) error {
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		digits, _, _ := strings.Cut(line, ";") // extensions mean nothing to us
		n, err := strconv.ParseUint(strings.TrimRight(digits, " \t"), 16, 63)
		if err != nil {
			return fmt.Errorf("%w: a chunk of %.20q bytes", ErrProtocol, digits)
		}
		if n == 0 {
			_, err := readFields(in)
			return err
		}
		if most -= int64(n); most < 0 {
			return ErrTooLarge
		}
		if err := exactly(in, int64(n), w); err != nil {
			return err
		}
		if line, err = readLine(in); err != nil {
			return err
		}
		if line != "" {
			return fmt.Errorf("%w: a chunk is longer than it says", ErrProtocol)
		}
	}
}
