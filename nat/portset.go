package nat

import (
	"math/bits"

	"github.com/uvswitch/uvswitch/internal/atomic"
)

// PortSetBytes is the size of a PortSet in memory, in bytes: one bit for each port, bit p&7 of byte p>>3.
const PortSetBytes = 65536 / 8

// A PortSet is a set of ports that several workers may change at once. Claiming a port is one atomic operation, so a
// set is also an allocator. The memory may be shared, for example with a BPF program.
type PortSet [65536 / 64]atomic.Uint64

// NewPortSet returns an empty set.
func NewPortSet() *PortSet { return new(PortSet) }

// Claim adds p and reports whether it was absent.
func (s *PortSet) Claim(p uint16) bool {
	bit := uint64(1) << (p & 63)
	return s[p>>6].Or(bit)&bit == 0
}

// Release removes p and reports whether it was present.
func (s *PortSet) Release(p uint16) bool {
	bit := uint64(1) << (p & 63)
	return s[p>>6].And(^bit)&bit != 0
}

// Has reports whether p is in the set.
func (s *PortSet) Has(p uint16) bool { return s[p>>6].Load()>>(p&63)&1 != 0 }

// AddRange adds the ports lo to hi, inclusive.
func (s *PortSet) AddRange(lo, hi uint16) {
	for p := int(lo); p <= int(hi); p++ {
		s.Claim(uint16(p))
	}
}

// RemoveRange removes the ports lo to hi, inclusive.
func (s *PortSet) RemoveRange(lo, hi uint16) {
	for p := int(lo); p <= int(hi); p++ {
		s.Release(uint16(p))
	}
}

// Len returns the number of ports in the set.
func (s *PortSet) Len() (n int) {
	for i := range s {
		n += bits.OnesCount64(s[i].Load())
	}
	return n
}

func (s *PortSet) clone() *PortSet {
	c := NewPortSet()
	for w := range s {
		c[w].Store(s[w].Load())
	}
	return c
}

// split returns the ports of s that are in by, and those that are not.
func (s *PortSet) split(by *PortSet) (in, out *PortSet) {
	in, out = NewPortSet(), NewPortSet()
	for w := range s {
		bits, mask := s[w].Load(), by[w].Load()
		in[w].Store(bits & mask)
		out[w].Store(bits &^ mask)
	}
	return in, out
}

// wellKnown is the number of words for the ports 0 to 1023.
const wellKnown = 1024 / 64

// search calls try for ports that are in pool and not in s, until try returns true. It goes from port start on and
// tries ports with the parity of inside first (RFC 4787, REQ-4). Ports below 1024 are tried only if inside is below
// 1024, and then first (REQ-3).
func (s *PortSet) search(pool *PortSet, start, inside uint16, try func(uint16) bool) (uint16, bool) {
	parity := uint64(0x5555555555555555)
	if inside&1 != 0 {
		parity = ^parity
	}
	parts := [2][2]int{{0, wellKnown}, {wellKnown, len(s)}}
	from := 0
	if inside >= 1024 {
		from = 1
	}
	for _, part := range parts[from:] {
		n := part[1] - part[0]
		for _, mask := range [2]uint64{parity, ^uint64(0)} {
			for i := range n + 1 {
				w := part[0] + (int(start>>6)+i)%n
				avail := pool[w].Load() &^ s[w].Load() & mask
				if i == 0 {
					avail &= ^uint64(0) << (start & 63)
				}
				for ; avail != 0; avail &= avail - 1 {
					if p := uint16(w<<6 + bits.TrailingZeros64(avail)); try(p) {
						return p, true
					}
				}
			}
		}
	}
	return 0, false
}
