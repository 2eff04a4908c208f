package profiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

var compiledSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("rempart.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("rempart.json")
})

// againstSchema judges YAML by the schema as an editor does: the first document, aliases resolved. It is not readable
// where it is not YAML, or YAML that JSON cannot say.
func againstSchema(t testing.TB, src []byte) (err error, readable bool) {
	t.Helper()
	s, err := compiledSchema()
	if err != nil {
		t.Fatalf("Schema() does not compile: %v", err)
	}
	var value any
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	if err := decoder.Decode(&value); err != nil && !errors.Is(err, io.EOF) {
		return nil, false
	}
	raw, err := json.Marshal(textKeys(value))
	if err != nil {
		return nil, false
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(instance), true
}

// textKeys has keys that are numbers as text: editors take 19: 1 for "19": 1.
func textKeys(value any) any {
	switch v := value.(type) {
	case map[any]any:
		out := map[string]any{}
		for key, one := range v {
			if n, ok := key.(int); ok {
				key = strconv.Itoa(n)
			}
			text, ok := key.(string)
			if !ok {
				return value
			}
			out[text] = textKeys(one)
		}
		return out
	case map[string]any:
		for key, one := range v {
			v[key] = textKeys(one)
		}
	case []any:
		for i, one := range v {
			v[i] = textKeys(one)
		}
	}
	return value
}

func TestSchemaTakesBuiltins(t *testing.T) {
	for _, name := range Builtin() {
		src, err := BuiltinSource(name)
		if err != nil {
			t.Fatal(err)
		}
		if err, readable := againstSchema(t, src); err != nil || !readable {
			t.Errorf("schema against %s: error %v, readable %v; want taken", name, err, readable)
		}
	}
}

func TestSchemaIsTheSameEachTime(t *testing.T) {
	if a, b := Schema(), Schema(); !bytes.Equal(a, b) {
		t.Errorf("Schema() gave %d bytes, then %d others", len(a), len(b))
	}
}

// TestSchemaRefusesLaterKeys shows that what the reader rejects as not in this version no editor offers as good.
func TestSchemaRefusesLaterKeys(t *testing.T) {
	checked := 0
	for _, f := range profileFields() {
		if f.later == "" {
			continue
		}
		checked++
		src := "{rempart: 1, name: fw, links: {a: {address: 10.0.0.1/24}}, zones: {home: a}, admin: none, " + f.name + ": {}}"
		if err, _ := againstSchema(t, []byte(src)); err == nil {
			t.Errorf("schema against key %s: taken; want refused", f.name)
		}
	}
	if checked == 0 {
		t.Error("profileFields() has no later keys; want this test removed or the keys back")
	}
}

func TestTablesAreWhole(t *testing.T) {
	checkTable(t, "profile", profileFields())
	checkTable(t, "link", linkFields())
	checkTable(t, "gateway", gatewayFields())
	checkTable(t, "route", routeFields())
	checkTable(t, "route that leads nowhere", deadRouteFields())
	checkTable(t, "vlan", vlanFields())
	checkTable(t, "macvlan", macvlanFields())
	checkTable(t, "offloads", offloadFields())
	checkTable(t, "routing rule", routingRuleFields())
	checkTable(t, "zone", zoneFields())
	checkTable(t, "admin", adminFields())
	checkTable(t, "match", matchFields())
	checkTable(t, "forward", forwardFields())
}

func checkTable[T any](t *testing.T, name string, fields table[T]) {
	t.Helper()
	seen := map[string]bool{}
	for _, f := range fields {
		if f.doc == "" || seen[f.name] {
			t.Errorf("%s.%s: doc %q, twice %v; want a doc and one field", name, f.name, f.doc, seen[f.name])
		}
		seen[f.name] = true
		if implemented := f.later == ""; implemented != (f.decode != nil) || implemented != (f.kind != nil) {
			t.Errorf("%s.%s: later %q with decode %v and kind %v; want either later, or both decode and kind",
				name, f.name, f.later, f.decode != nil, f.kind != nil)
		}
	}
}
