package xen

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"testing"
	"unicode/utf16"

	"github.com/ulikunitz/xz/lzma"
)

// debianOVMF is the firmware that Debian's libxl gives a guest with firmware = "ovmf" (libxenlight.so, LIBXL_FIRMWARE);
// package ovmf has it.
const debianOVMF = "/usr/share/ovmf/OVMF.fd"

// TestOVMF: what Validate says of UEFI is true of Debian's firmware. It has drivers for disks that Xen does not let be
// read-only, and none for those that may be. Should it get one, UEFI can be offered.
func TestOVMF(t *testing.T) {
	b, err := os.ReadFile(debianOVMF)
	if err != nil {
		t.Fatalf("%v; `make setup` installs it", err)
	}
	inside := unpackFirmware(t, b)
	for driver, want := range map[string]bool{
		"AtaAtapiPassThruDxe": true, "VirtioScsiDxe": true, // it is a firmware with drivers, and this is how they are found
		"XenPvBlkDxe": false, "LsiScsiDxe": false,
	} {
		if got := bytes.Contains(inside, wide(driver)); got != want {
			t.Errorf("%s has %s: %v; want %v", debianOVMF, driver, got, want)
		}
	}
}

// unpackFirmware is what is packed in a firmware's volumes: the sections that a GUID says are of LZMA
// (PI specification, volume 3, EFI_GUID_DEFINED_SECTION; MdeModulePkg/Include/Guid/LzmaDecompress.h).
func unpackFirmware(t *testing.T, b []byte) []byte {
	t.Helper()
	// EE4E5898-3914-4259-9D6E-DC7BD79403CF, behind the section's common header; behind it the offset of the data.
	guid := []byte("\x98\x58\x4e\xee\x14\x39\x59\x42\x9d\x6e\xdc\x7b\xd7\x94\x03\xcf")
	const header = 4
	var all []byte
	for rest := b; ; {
		i := bytes.Index(rest, guid)
		if i < header || i+len(guid)+2 > len(rest) {
			break
		}
		data := i - header + int(binary.LittleEndian.Uint16(rest[i+len(guid):]))
		rest = rest[i+len(guid):]
		if data -= i + len(guid); data < 0 || data > len(rest) {
			continue
		}
		r, err := lzma.NewReader(bytes.NewReader(rest[data:]))
		if err != nil {
			continue // the GUID is named elsewhere, too
		}
		unpacked, err := io.ReadAll(io.LimitReader(r, 64<<20))
		if err != nil {
			t.Fatalf("a section of the firmware: %v", err)
		}
		all = append(all, unpacked...)
	}
	return all
}

// wide is a name as a firmware's sections of user interface have it.
func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
