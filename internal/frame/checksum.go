package frame

import (
	"encoding/binary"
	"math/bits"
)

// Mix multiplies to 128 bits and folds: a fast, well spread hash step.
//
//uvswitch:hot
func Mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// Sum adds the 16-bit big-endian words of b to the folded sum start, in one's complement (RFC 1071). A last odd
// byte counts as the high half of a word. The result is folded and not complemented.
//
//uvswitch:hot
func Sum(b []byte, start uint16) uint16 {
	sum := uint64(start)
	var carry uint64
	for len(b) >= 32 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), 0)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[8:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[16:]), carry)
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b[24:]), carry)
		sum += carry
		b = b[32:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.BigEndian.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	sum = sum>>32 + sum&0xffffffff
	for len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return fold(sum)
}

// fold brings a sum of words to 16 bits, adding the carries back in.
func fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// Add is the one's complement sum of two folded sums.
//
//uvswitch:hot
func Add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s + s>>16)
}

// A Delta is what a rewrite adds to a sum over the rewritten bytes: the sum of ~old + new over its words.
// The rewrite in the other direction adds the complement.
type Delta uint16

// Delta16 is the delta of one word.
//
//uvswitch:hot
func Delta16(old, new uint16) Delta { return Delta(Add(^old, new)) }

// Delta32 is the delta of two words, such as an address.
//
//uvswitch:hot
func Delta32(old, new uint32) Delta {
	return Delta(fold(uint64(^old>>16) + uint64(^old&0xffff) + uint64(new>>16) + uint64(new&0xffff)))
}

// Delta64 is the delta of four words.
//
//uvswitch:hot
func Delta64(old, new uint64) Delta {
	return Delta32(uint32(old>>32), uint32(new>>32)).Plus(Delta32(uint32(old), uint32(new)))
}

// Plus combines the deltas of two rewrites.
//
//uvswitch:hot
func (d Delta) Plus(e Delta) Delta { return Delta(Add(uint16(d), uint16(e))) }

// Complete updates a complete checksum, the complement of the sum, as it stands in a packet (RFC 1624, eqn 3).
//
//uvswitch:hot
func (d Delta) Complete(field uint16) uint16 { return ^Add(^field, uint16(d)) }

// Partial updates a checksum that the kernel has yet to complete (VIRTIO_NET_HDR_F_NEEDS_CSUM): the field holds
// the folded, un-complemented sum of the pseudo-header, to which the kernel adds the rest.
//
//uvswitch:hot
func (d Delta) Partial(field uint16) uint16 { return Add(field, uint16(d)) }

// PseudoSum is the folded sum of IPv4's pseudo-header for a transport segment of n bytes (RFC 9293, 3.1).
//
//uvswitch:hot
func PseudoSum(src, dst Addr, proto uint8, n int) uint16 {
	return fold(uint64(src>>16) + uint64(src&0xffff) + uint64(dst>>16) + uint64(dst&0xffff) + uint64(proto) + uint64(n))
}
