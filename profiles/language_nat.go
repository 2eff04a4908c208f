//go:build !guest

package profiles

import "net/netip"

// familyWords are what may follow a direction to masquerade.
func familyWords() []string { return []string{"ipv4", string(OnlyIPv6), string(BothFamilies)} }

const helperDoc = "ftp, tftp or sip: the kernel reads these connections and lets in the further ones they announce." +
	" It believes what both ends write."

func helperWords() (all []string) {
	for _, h := range Helpers() {
		all = append(all, string(h))
	}
	return all
}

// natFields are the keys of nat.
func natFields() table[Profile] {
	rangeList := oneOrMore(textLike(rangePattern))
	return table[Profile]{
		{name: "source", doc: "Traffic that leaves under other addresses than the link's own: - FROM -> TO: ADDRESS, or a" +
			" range FIRST-LAST of them, or one of each family, or {as: ADDRESS, from: PREFIX}.",
			kind: listOf(single(arrowPattern, eitherOf(rangeList, sourceFields().schema()))), decode: readSources},
		{name: "map", doc: "Hosts, or whole prefixes, that a zone knows under other addresses, in both directions:" +
			" - {zone: ZONE, outside: ADDRESS, inside: ADDRESS}. The policy says what may pass.",
			kind: listOf(mappingFields().schema()), decode: readMappings},
	}
}

// sourceDraft is a line of nat.source as written.
type sourceDraft struct {
	as      []AddrRange
	asAt    []Pos
	clients []netip.Prefix
	places  []Pos
}

// sourceFields are the keys of a line of nat.source that is more than addresses.
func sourceFields() table[sourceDraft] {
	return table[sourceDraft]{
		{name: "as", doc: "The address they leave under, a range of them, or a list with one of each family. A client" +
			" keeps its address.", kind: oneOrMore(textLike(rangePattern)), required: true, decode: readAs},
		{name: "from", doc: "Only clients with these addresses, prefixes or host names.",
			kind:   oneOrMore(eitherOf(textLike(hostPattern), textLike(prefixPattern))),
			decode: readClients},
	}
}

// mappingDraft is an entry of nat.map as written.
type mappingDraft struct {
	zone            place
	outside, inside netip.Prefix
	outAt, inAt     Pos
}

// mappingFields are the keys of an entry of nat.map.
func mappingFields() table[mappingDraft] {
	return table[mappingDraft]{
		{name: "zone", doc: "The zone that knows them by the outside address.", kind: textLike(zonePattern), required: true,
			decode: readMappingZone},
		{name: "outside", doc: "The address, or the prefix, that the zone knows.", kind: textLike(prefixPattern),
			required: true, decode: readOutside},
		{name: "inside", doc: "The host behind it, or the prefix of the same length: the host part is kept.",
			kind:     eitherOf(textLike(hostPattern), textLike(prefixPattern)),
			required: true, decode: readInside},
	}
}
