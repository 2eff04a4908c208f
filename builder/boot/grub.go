package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ulikunitz/xz/lzma"

	"rempart/firstboot/contract"
)

// Where things are in GRUB's i386-pc images: include/grub/offsets.h, include/grub/kernel.h and
// include/grub/i386/pc/boot.h of GRUB 2.06.
const (
	sector = 512

	bootKernelSector = 0x5c // boot.img: u64, LBA of the core image
	bootDriveCheck   = 0x66 // boot.img: two bytes of jump that floppies need; grub-install writes nops
	bootTable        = 0x1b8
	blocklist        = sector - 12 // diskboot.img: u64 LBA, u16 sectors, u16 segment of the rest of the core image

	decompressorCompressedSize   = 0x08
	decompressorUncompressedSize = 0x0c

	kernelLink    = 0x9000  // where kernel.img is linked to run
	coreLimit     = 0x78000 // memory the core image may reach
	moduleMagic   = 0x676d696d
	objectELF     = 0
	objectConfig  = 2
	objectPrefix  = 3
	lzmaDictSize  = 1 << 16 // what util/mkimage.c compresses with; the decompressor has lc, lp and pb built in
	lzmaHeaderLen = 13
	maxGrubFile   = 1 << 20 // no file of i386-pc that we use comes near
)

// grubModules are what the early configuration and our grub.cfg use: finding the boot partition on a GPT disk by its
// label, reading FAT, starting Linux, and talking to the serial port as well as the screen.
var grubModules = []string{
	"biosdisk", "part_gpt", "fat", "normal", "linux", "configfile",
	"search", "search_label", "serial", "terminal", "echo", "test",
}

// earlyConfig is embedded in the core image. The serial port is set up here and not in grub.cfg, which pygrub reads.
const earlyConfig = `if serial --unit=0 --speed=115200; then
  terminal_input console serial
  terminal_output console serial
fi
search --no-floppy --label ` + contract.BootLabel + ` --set root
configfile ($root)/` + GrubConfigPath + `
`

// GrubFiles gives the content of a file of Debian's grub-pc-bin by its name in /usr/lib/grub/i386-pc.
type GrubFiles func(name string) ([]byte, error)

// GrubDir is where grub-pc-bin keeps those files.
const GrubDir = "usr/lib/grub/i386-pc"

// Grub is a linked GRUB for BIOS, without the places on disk it will have.
type Grub struct {
	boot []byte // 512 bytes
	core []byte // diskboot.img and all behind it
}

// LinkGrub makes GRUB's core image as grub-mkimage would: decompressor, then the LZMA-compressed kernel with its
// modules and the early configuration behind it.
func LinkGrub(files GrubFiles) (*Grub, error) {
	g, err := linkGrub(files)
	if err != nil {
		return nil, fmt.Errorf("linking GRUB's core image from %s: %w", GrubDir, err)
	}
	return g, nil
}

func linkGrub(files GrubFiles) (*Grub, error) {
	payload, err := grubPayload(files, grubModules, earlyConfig, "/boot/grub")
	if err != nil {
		return nil, err
	}
	packed, err := compressRaw(payload)
	if err != nil {
		return nil, err
	}
	stub, err := grubFile(files, "lzma_decompress.img", decompressorUncompressedSize+4)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(stub[decompressorCompressedSize:], uint32(len(packed)))
	binary.LittleEndian.PutUint32(stub[decompressorUncompressedSize:], uint32(len(payload)))
	first, err := grubFile(files, "diskboot.img", sector)
	if err != nil {
		return nil, err
	}
	bootImage, err := grubFile(files, "boot.img", sector)
	if err != nil {
		return nil, err
	}
	if len(first) != sector || len(bootImage) != sector {
		return nil, fmt.Errorf("boot.img has %d bytes and diskboot.img %d; want %d each", len(bootImage), len(first), sector)
	}
	rest := append(stub, packed...)
	if kernelLink+len(rest) > coreLimit {
		return nil, fmt.Errorf("the core image of %d bytes is larger than BIOS memory allows (%d)",
			len(rest), coreLimit-kernelLink)
	}
	core := append(first, rest...)
	if tail := len(core) % sector; tail != 0 {
		core = append(core, make([]byte, sector-tail)...)
	}
	return &Grub{boot: bootImage, core: core}, nil
}

// CoreSize is the size of the BIOS-boot partition's content, in bytes, a multiple of 512.
func (g *Grub) CoreSize() int64 { return int64(len(g.core)) }

// Place returns the boot code of LBA 0 (440 bytes; what follows belongs to the partition table) and the content of
// the BIOS-boot partition that starts at LBA lba.
func (g *Grub) Place(lba uint64) (bootCode, core []byte) {
	bootCode = append([]byte(nil), g.boot[:bootTable]...)
	binary.LittleEndian.PutUint64(bootCode[bootKernelSector:], lba)
	bootCode[bootDriveCheck], bootCode[bootDriveCheck+1] = 0x90, 0x90
	core = append([]byte(nil), g.core...)
	binary.LittleEndian.PutUint64(core[blocklist:], lba+1)
	binary.LittleEndian.PutUint16(core[blocklist+8:], uint16(len(core)/sector-1))
	return bootCode, core
}

// grubPayload is the uncompressed core: kernel.img up to the end of its data, a grub_module_info32, then one object
// after another (ELF modules with the needed before the needing, the configuration, the prefix).
func grubPayload(files GrubFiles, modules []string, config, prefix string) ([]byte, error) {
	kernel, err := grubKernel(files)
	if err != nil {
		return nil, err
	}
	names, err := moduleClosure(files, modules)
	if err != nil {
		return nil, err
	}
	var objects []byte
	add := func(kind uint32, content []byte) {
		content = append(content, make([]byte, -len(content)&3)...)
		objects = binary.LittleEndian.AppendUint32(objects, kind)
		objects = binary.LittleEndian.AppendUint32(objects, uint32(len(content)+8))
		objects = append(objects, content...)
	}
	for _, name := range names {
		module, err := grubFile(files, name+".mod", 4)
		if err != nil {
			return nil, err
		}
		add(objectELF, module)
	}
	add(objectConfig, append([]byte(config), 0))
	add(objectPrefix, append([]byte(prefix), 0))

	const infoSize = 12
	out := kernel
	out = binary.LittleEndian.AppendUint32(out, moduleMagic)
	out = binary.LittleEndian.AppendUint32(out, infoSize)
	out = binary.LittleEndian.AppendUint32(out, uint32(infoSize+len(objects)))
	return append(out, objects...), nil
}

// grubKernel returns kernel.img's sections as they lie in memory from its link address to the end of its data.
func grubKernel(files GrubFiles) ([]byte, error) {
	raw, err := grubFile(files, "kernel.img", sector)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("kernel.img: %w", err)
	}
	if f.Class != elf.ELFCLASS32 || f.Machine != elf.EM_386 || f.Entry != kernelLink {
		return nil, fmt.Errorf("kernel.img: %v for %v starting at %#x; want a 32-bit 386 program at %#x",
			f.Class, f.Machine, f.Entry, kernelLink)
	}
	var out []byte
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		if s.Addr < kernelLink || s.Addr+s.Size > coreLimit || s.Size > maxGrubFile {
			return nil, fmt.Errorf("kernel.img: section %s at %#x is outside the core's memory", s.Name, s.Addr)
		}
		if s.Type == elf.SHT_NOBITS {
			continue // GRUB clears it itself; the modules follow the last byte of data, unaligned
		}
		data, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("kernel.img: section %s: %w", s.Name, err)
		}
		if end := int(s.Addr-kernelLink) + len(data); end > len(out) {
			out = append(out, make([]byte, end-len(out))...)
		}
		copy(out[s.Addr-kernelLink:], data)
	}
	if len(out) == 0 {
		return nil, errors.New("kernel.img: nothing to load")
	}
	return out, nil
}

// moduleClosure returns the modules with all they need, each after what it needs, by moddep.lst ("name: needed ...").
func moduleClosure(files GrubFiles, wanted []string) ([]string, error) {
	list, err := grubFile(files, "moddep.lst", 1)
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{}
	for line := range strings.Lines(string(list)) {
		if name, rest, ok := strings.Cut(line, ":"); ok {
			needs[strings.TrimSpace(name)] = strings.Fields(rest)
		}
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var order []string
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case done:
			return nil
		case visiting:
			return fmt.Errorf("moddep.lst: module %s needs itself", name)
		}
		deps, ok := needs[name]
		if !ok {
			return fmt.Errorf("moddep.lst: there is no module %s", name)
		}
		state[name] = visiting
		for _, dep := range slices.Backward(deps) { // as grub-mkimage orders them, so that results can be compared
			if err := visit(dep); err != nil {
				return err
			}
		}
		state[name] = done
		order = append(order, name)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// compressRaw compresses as GRUB's decompressor expects: one LZMA stream without header or end marker.
func compressRaw(payload []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := lzma.WriterConfig{
		Properties: &lzma.Properties{LC: 3, LP: 0, PB: 2}, DictCap: lzmaDictSize,
		Size: int64(len(payload)), SizeInHeader: true, EOSMarker: false,
	}.NewWriter(&out)
	if err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	if _, err := io.Copy(w, bytes.NewReader(payload)); err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	return out.Bytes()[lzmaHeaderLen:], nil
}

func grubFile(files GrubFiles, name string, least int) ([]byte, error) {
	b, err := files(name)
	if err != nil {
		return nil, err
	}
	if len(b) < least || len(b) > maxGrubFile {
		return nil, fmt.Errorf("%s has %d bytes; want %d to %d", name, len(b), least, maxGrubFile)
	}
	return append([]byte(nil), b...), nil
}
