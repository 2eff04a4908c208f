package ssh

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a command line.
const (
	maxCommand = 4096 // bytes
	maxWords   = 64
)

var errQuote = errors.New("a quote is opened and not closed")

// split parts a line into words at blanks. 'TEXT' and "TEXT" are taken as they stand, \C is the character C. There are
// no variables, patterns or pipes.
func split(line string) ([]string, error) {
	if len(line) > maxCommand {
		return nil, fmt.Errorf("a command of %d bytes; at most %d", len(line), maxCommand)
	}
	var words []string
	var word strings.Builder
	inWord, quote, escaped := false, byte(0), false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c < ' ' && c != '\t' || c == 0x7f:
			return nil, fmt.Errorf("a control character, 0x%02x", c)
		case escaped:
			word.WriteByte(c)
			escaped = false
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\\':
			inWord, escaped = true, true
		case c == '\'' || c == '"':
			inWord, quote = true, c
		case c == ' ' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if quote != 0 || escaped {
		return nil, errQuote
	}
	if inWord {
		words = append(words, word.String())
	}
	if len(words) > maxWords {
		return nil, fmt.Errorf("%d words; at most %d", len(words), maxWords)
	}
	return words, nil
}
