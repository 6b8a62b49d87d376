package frame

import (
	"cmp"
	"encoding/binary"
	"net/netip"
)

// Addr6 is an IPv6 address as two numbers: of fd00::1, Hi is 0xfd00000000000000 and Lo is 1.
type Addr6 struct{ Hi, Lo uint64 }

// Addresses that every host knows (RFC 4291, 2.5 and 2.7).
var (
	AllNodes   = Addr6{0xff02 << 48, 1}
	AllRouters = Addr6{0xff02 << 48, 2}
	FirstLocal = Addr6{0xfe80 << 48, 1} // fe80::1, the gateway's in every network
)

// LoadAddr6 reads an address from the first 16 bytes of b.
//
//uvswitch:hot
func LoadAddr6(b []byte) Addr6 {
	return Addr6{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// Put writes the address to the first 16 bytes of b.
//
//uvswitch:hot
func (a Addr6) Put(b []byte) {
	binary.BigEndian.PutUint64(b, a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
}

// Addr6From converts an IPv6 netip.Addr; others give ::.
func Addr6From(a netip.Addr) Addr6 {
	if !a.Is6() || a.Is4In6() {
		return Addr6{}
	}
	b := a.As16()
	return LoadAddr6(b[:])
}

// Netip converts to package netip's form without allocating.
func (a Addr6) Netip() netip.Addr {
	var b [16]byte
	a.Put(b[:])
	return netip.AddrFrom16(b)
}

func (a Addr6) String() string { return a.Netip().String() }

// IsZero reports whether a is ::, the unspecified address.
//
//uvswitch:hot
func (a Addr6) IsZero() bool { return a == Addr6{} }

// IsGroup reports whether a is a multicast address, ff00::/8.
//
//uvswitch:hot
func (a Addr6) IsGroup() bool { return a.Hi>>56 == 0xff }

// IsLinkLocal reports whether a is in fe80::/10.
//
//uvswitch:hot
func (a Addr6) IsLinkLocal() bool { return a.Hi>>54 == 0xfe80>>6 }

// GroupMAC is the MAC of a multicast address (RFC 2464, 7).
func (a Addr6) GroupMAC() MAC { return 0x3333<<32 | MAC(uint32(a.Lo)) }

// SolicitedNode is the group that a station with address a hears (RFC 4291, 2.7.1).
func (a Addr6) SolicitedNode() Addr6 { return Addr6{0xff02 << 48, 0x1ff<<24 | a.Lo&0xffffff} }

// EUI64 is the interface identifier that is made from a MAC (RFC 4291, appendix A).
//
//uvswitch:hot
func (m MAC) EUI64() uint64 {
	m ^= 0x020000000000
	return uint64(m>>24)<<40 | 0xfffe<<24 | uint64(m&0xffffff)
}

// LinkLocal is the link-local address that is made from a MAC.
//
//uvswitch:hot
func (m MAC) LinkLocal() Addr6 { return Addr6{0xfe80 << 48, m.EUI64()} }

// Netip converts an address of either family.
func Netip[A Address](a A) netip.Addr {
	switch a := any(a).(type) {
	case Addr:
		return a.Netip()
	case Addr6:
		return a.Netip()
	}
	return netip.Addr{}
}

// Of converts an address to family A. An address of the other family gives the zero address.
func Of[A Address](a netip.Addr) (out A) {
	switch p := any(&out).(type) {
	case *Addr:
		*p = AddrFrom(a)
	case *Addr6:
		*p = Addr6From(a)
	}
	return out
}

// AddrDelta is the delta of an address of either family.
func AddrDelta[A Address](from, to A) Delta {
	switch from := any(&from).(type) {
	case *Addr:
		return Delta32(uint32(*from), uint32(*any(&to).(*Addr)))
	case *Addr6:
		to := any(&to).(*Addr6)
		return Delta64(from.Hi, to.Hi).Plus(Delta64(from.Lo, to.Lo))
	}
	return 0
}

// Compare orders addresses by their numbers.
//
//uvswitch:hot
func Compare[A Address](a, b A) int {
	switch a := any(a).(type) {
	case Addr:
		return cmp.Compare(a, any(b).(Addr))
	case Addr6:
		b := any(b).(Addr6)
		return cmp.Or(cmp.Compare(a.Hi, b.Hi), cmp.Compare(a.Lo, b.Lo))
	}
	return 0
}

// Last returns the last address of a prefix.
func Last[A Address](p netip.Prefix) A {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return Of[A](a)
}
