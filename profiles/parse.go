//go:build !guest

package profiles

// Parse reads a profile in YAML. The name of the file is used in findings only. The error, if any, is Invalid.
func Parse(file string, src []byte) (*Profile, error) {
	root, findings := readDocument(file, src)
	if root == nil {
		return nil, inOrder(file, findings)
	}
	r := &reader{file: file, p: &Profile{}, places: newPlaces(), findings: findings}
	if !r.profile(root) {
		return nil, inOrder(file, r.findings)
	}
	v := &validator{file: file, p: r.p, places: r.places, findings: r.findings, warnings: r.warnings}
	v.profile()
	if len(v.findings) > 0 {
		return nil, inOrder(file, v.findings)
	}
	r.p.Warnings = inOrder(file, v.warnings)
	return r.p, nil
}
