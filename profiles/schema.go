//go:build !guest

package profiles

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// table is a kind of mapping in the language: its keys and what they mean. The reader, the suggestions and the JSON
// Schema all follow it, so that they cannot disagree. T is what a mapping of that kind is read into. Fields are read
// in the order of the table, whatever the order of the file: a field may rely on those above it.
//
// Tables are functions, not variables: a program that only calls Decode then links none of this.
type table[T any] []field[T]

// field is one key.
type field[T any] struct {
	name     string
	doc      string // one or two sentences for editors and for people
	kind     schema // what the value may look like
	required bool
	// later is set for a key that the language has a place for and this version does not carry out: what to do now.
	later  string
	decode func(r *reader, v value, into *T)
}

// schema is a JSON Schema, draft 2020-12.
type schema map[string]any

// Schema is the JSON Schema of a profile, for editors: draft 2020-12, indented, always the same bytes. It refuses
// less than Parse, which also compares parts of a profile with each other, and nothing that Parse takes.
func Schema() []byte {
	s := profileFields().schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Rempart profile, version 1"
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(s); err != nil {
		panic(fmt.Sprintf("profiles: a table of the language is not JSON: %v", err)) // a test calls Schema
	}
	return out.Bytes()
}

// schema of a mapping that follows the table.
func (t table[T]) schema() schema {
	properties := schema{}
	required := []string{}
	for _, f := range t {
		s := schema{}
		for k, v := range f.kind {
			s[k] = v
		}
		s["description"] = f.doc
		if f.later != "" {
			s = schema{"not": schema{}, "description": f.doc + " Not in this version: " + f.later + "."}
		}
		properties[f.name] = s
		if f.required {
			required = append(required, f.name)
		}
	}
	s := schema{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// names of the fields this version carries out.
func (t table[T]) names() []string {
	var all []string
	for _, f := range t {
		if f.later == "" {
			all = append(all, f.name)
		}
	}
	return all
}

// The shapes values are made of.

func textLike(pattern string) schema { return schema{"type": "string", "pattern": pattern} }
func oneWordOf(words ...string) schema {
	return schema{"enum": words}
}
func eitherOf(kinds ...schema) schema { return schema{"anyOf": kinds} }
func listOf(item schema) schema {
	return schema{"type": "array", "items": item}
}

// filled is a list or mapping that is not empty.
func filled(s schema) schema {
	s["minItems"], s["minProperties"] = 1, 1 // each counts for its own type only
	return s
}
func oneOrMore(item schema) schema { return eitherOf(item, filled(listOf(item))) }
func yesOrNo() schema              { return schema{"type": "boolean"} }
func numberIn(low, high int) schema {
	return schema{"type": "integer", "minimum": low, "maximum": high}
}

// named is a mapping whose keys are names the author chooses.
func named(pattern string, item schema) schema {
	return schema{"type": "object", "patternProperties": schema{pattern: item}, "additionalProperties": false}
}

// single is a mapping with exactly one key.
func single(pattern string, item schema) schema {
	s := named(pattern, item)
	s["minProperties"], s["maxProperties"] = 1, 1
	return s
}
