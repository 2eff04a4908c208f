package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// oneLine is a name from a disk, printable and on one line, so that none passes for another line.
func oneLine(s string) string { return strings.NewReplacer("\n", "?", "\t", "?").Replace(printable(s)) }

// printFields prints a value as lines of "name: value" for people: the fields that it has as JSON, in their order, what
// is in another deeper in. What a guest wrote is printed so that no terminal obeys it.
func printFields(w io.Writer, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return printValue(w, d, "", "")
}

// printValue prints the value that comes next.
func printValue(w io.Writer, d *json.Decoder, name, indent string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	open, nested := token.(json.Delim)
	if !nested {
		_, err := fmt.Fprintf(w, "%s%s: %s\n", indent, name, oneLine(fmt.Sprint(token)))
		return err
	}
	if name != "" {
		fmt.Fprintf(w, "%s%s:\n", indent, name)
		indent += "  "
	}
	for n := 1; d.More(); n++ {
		key := fmt.Sprint(n)
		if open == '{' {
			token, err := d.Token()
			if err != nil {
				return err
			}
			key = oneLine(fmt.Sprint(token))
		}
		if err := printValue(w, d, key, indent); err != nil {
			return err
		}
	}
	_, err = d.Token() // the end
	return err
}
