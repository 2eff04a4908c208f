package filter

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"rempart/profiles"
)

// ShareSeed starts the hash by which clients are given to targets. It is fixed, so that a client keeps its target when
// the policy is loaded again and when the guest starts again; who can choose his address can choose his target anyhow.
const ShareSeed = 0x52454d50

// ShareOf is the number the kernel's jhash (include/linux/jhash.h) gives to an address, as nft_hash scales it.
func ShareOf(a netip.Addr, of uint32) uint32 {
	const initial = 0xdeadbeef // JHASH_INITVAL
	key := a.AsSlice()
	x := uint32(initial) + uint32(len(key)) + ShareSeed
	y, z := x, x
	const block = 12 // bytes
	for ; len(key) > block; key = key[block:] {
		x += binary.LittleEndian.Uint32(key)
		y += binary.LittleEndian.Uint32(key[4:])
		z += binary.LittleEndian.Uint32(key[8:])
		x, y, z = mix(x, y, z)
	}
	x += binary.LittleEndian.Uint32(key) // the rest of both kinds of address
	return uint32(uint64(final(x, y, z)) * uint64(of) >> 32)
}

// mix is __jhash_mix of the kernel.
func mix(a, b, c uint32) (uint32, uint32, uint32) {
	a -= c
	a ^= bits.RotateLeft32(c, 4)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 6)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 8)
	b += a
	a -= c
	a ^= bits.RotateLeft32(c, 16)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 19)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 4)
	b += a
	return a, b, c
}

// final is __jhash_final of the kernel.
func final(a, b, c uint32) uint32 {
	c ^= b
	c -= bits.RotateLeft32(b, 14)
	a ^= c
	a -= bits.RotateLeft32(c, 11)
	b ^= a
	b -= bits.RotateLeft32(a, 25)
	c ^= b
	c -= bits.RotateLeft32(b, 16)
	a ^= c
	a -= bits.RotateLeft32(c, 4)
	b ^= a
	b -= bits.RotateLeft32(a, 14)
	c ^= b
	c -= bits.RotateLeft32(b, 24)
	return c
}

// targetFor is a forward as one client meets it: with the target that is its own.
func targetFor(f *profiles.Forward, client netip.Addr) *profiles.Forward {
	all := f.Single()
	if len(all) == 1 {
		return f
	}
	return &all[ShareOf(client, uint32(len(all)))]
}

// sharers are clients of a zone for each target of the forwards that share them.
func (b *prober) sharers(zone string) []netip.Prefix {
	var list []netip.Prefix
	for i := range b.p.Forwards {
		f := &b.p.Forwards[i]
		if f.From != zone || len(f.Others) == 0 {
			continue
		}
		n := uint32(len(f.Others) + 1)
		seen := map[uint32]bool{}
		for _, sh := range b.space.zones[zone] {
			ranges := sh.ranges[family(isV6(f.To))]
			a := b.pick(sh.link, ranges)
			const tries = 1024 // far more than it takes to hit each of the few targets
			for k := 0; k < tries && len(seen) < int(n) && ranges.contains(a); k++ {
				if part := ShareOf(a, n); !seen[part] && !b.taken(a) {
					seen[part] = true
					list = append(list, netip.PrefixFrom(a, a.BitLen()))
				}
				a = a.Next()
			}
		}
	}
	return list
}
