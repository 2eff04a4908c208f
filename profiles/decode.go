package profiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxJSON is how large the JSON of a profile may be, in bytes: every list at its bound, with places.
const maxJSON = 16 << 20

// ErrNotCanonical is wrapped by the error of Decode for JSON that means a profile but is not what encoding/json makes
// of one: somebody else wrote it, with keys twice, in other cases, or left out.
var ErrNotCanonical = errors.New("not the JSON rempart writes")

// Decode reads a profile from what json.Marshal made of one; white space may differ. It takes nothing else: no unknown,
// missing or repeated key, nothing after the value, and nothing that breaks a rule of the language, for which the error
// is Invalid with the places in the YAML the profile came from. Warnings are left out.
//
// A program that calls Decode and not Parse or Load carries none of the YAML reading; built with the tag "guest", for
// which Parse, Load and Schema are not there, it carries nothing of the YAML library either, whose initialisation alone
// is 288 KB in firstboot, with the regular expressions it needs.
func Decode(src []byte) (*Profile, error) {
	if len(src) > maxJSON {
		return nil, fmt.Errorf("profile JSON: more than %d bytes", maxJSON)
	}
	p := &Profile{}
	decoder := json.NewDecoder(bytes.NewReader(src))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(p); err != nil {
		return nil, fmt.Errorf("profile JSON: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("profile JSON: something follows the profile")
	}
	again, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("profile JSON: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, src); err != nil {
		return nil, fmt.Errorf("profile JSON: %w", err)
	}
	if !bytes.Equal(compact.Bytes(), again) {
		return nil, fmt.Errorf("profile JSON: %w (%s)", ErrNotCanonical, firstDifference(compact.Bytes(), again))
	}
	if err := p.Validate("profile.json"); err != nil {
		return nil, err
	}
	return p, nil
}

// Validate tells whether a profile made by other means than Parse keeps all rules: nil, or Invalid. Findings stand at
// the nearest At, under the given name of a file.
func (p *Profile) Validate(file string) error {
	v := &validator{file: file, p: p}
	v.profile()
	if len(v.findings) > 0 {
		return inOrder(file, v.findings)
	}
	return nil
}

// firstDifference shows where two texts part.
func firstDifference(got, want []byte) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	const around = 24
	from := max(0, i-around)
	return fmt.Sprintf("at byte %d: %q, expected %q", i,
		got[from:min(len(got), i+around)], want[from:min(len(want), i+around)])
}
