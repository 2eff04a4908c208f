package master

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// SBOM returns the CycloneDX bill of materials (version 1.5, JSON) of a master: its Debian packages, and the Go
// modules of the guest programs, read from the programs themselves. It has no serial number and no time stamp.
func SBOM(m *Manifest, programs map[string][]byte) ([]byte, error) {
	var parts []cdx.Component
	for _, p := range m.Packages {
		purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", p.Name, escape(p.Version), p.Arch)
		parts = append(parts, cdx.Component{
			Type: cdx.ComponentTypeLibrary, BOMRef: purl, Name: p.Name, Version: p.Version, PackageURL: purl,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: p.SHA256}},
		})
	}
	modules := map[string]string{}
	for name, program := range programs {
		info, err := buildinfo.Read(bytes.NewReader(program))
		if err != nil {
			return nil, fmt.Errorf("bill of materials: Go modules of %s: %w", name, err)
		}
		modules["stdlib"] = strings.TrimPrefix(info.GoVersion, "go")
		for _, dep := range info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			modules[dep.Path] = dep.Version
		}
	}
	for path, version := range modules {
		purl := fmt.Sprintf("pkg:golang/%s@%s", path, escape(version))
		parts = append(parts, cdx.Component{
			Type: cdx.ComponentTypeLibrary, BOMRef: purl, Name: path, Version: version, PackageURL: purl,
		})
	}
	slices.SortFunc(parts, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Component: &cdx.Component{
			Type: cdx.ComponentTypeOS, BOMRef: "master", Name: m.Master.Name, Version: m.Disk.SHA256,
			Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: m.Disk.SHA256}},
		},
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{
			{Type: cdx.ComponentTypeApplication, Name: "rempart", Version: m.Master.Version},
		}},
	}
	bom.Components = &parts
	var out bytes.Buffer
	encoder := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true)
	if err := encoder.EncodeVersion(bom, cdx.SpecVersion1_5); err != nil {
		return nil, fmt.Errorf("bill of materials: %w", err)
	}
	return out.Bytes(), nil
}

// escape writes a version as a package URL wants it (purl-spec: percent-encoding of what is not unreserved).
func escape(version string) string {
	return strings.NewReplacer("%", "%25", "+", "%2B", "~", "%7E", ":", "%3A").Replace(version)
}
