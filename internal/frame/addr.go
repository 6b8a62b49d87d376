package frame

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// MAC is an EUI-48 in the low 48 bits, first octet highest: 02:00:00:00:00:01 is 0x020000000001.
type MAC uint64

// BroadcastMAC is ff:ff:ff:ff:ff:ff.
const BroadcastMAC MAC = 0xffffffffffff

// LoadMAC reads a MAC from the first 6 bytes of b.
//
//uvswitch:hot
func LoadMAC(b []byte) MAC {
	return MAC(binary.BigEndian.Uint32(b))<<16 | MAC(binary.BigEndian.Uint16(b[4:]))
}

// MACFrom converts a hardware address of 6 bytes; others give 0.
func MACFrom(hw net.HardwareAddr) MAC {
	if len(hw) != 6 {
		return 0
	}
	return LoadMAC(hw)
}

// ParseMAC reads the usual notation, 02:00:00:00:00:01.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return 0, fmt.Errorf("%q is not a MAC address, such as 02:00:00:00:00:01", s)
	}
	return LoadMAC(hw), nil
}

// MACFor derives a locally administered MAC from an address, so that an address that returns has the MAC that its
// neighbors remember.
func MACFor(a Addr) MAC { return 0x0275<<32 | MAC(a) }

// IsGroup tells whether m is a multicast or broadcast address (IEEE 802: the lowest bit of the first octet).
func (m MAC) IsGroup() bool { return m>>40&1 != 0 }

// IsLinkLocalGroup tells whether m is one of 01:80:c2:00:00:00 to 0f, which no bridge forwards (802.1Q, 8.6.3).
func (m MAC) IsLinkLocalGroup() bool { return m&^0xf == 0x0180c2000000 }

// HardwareAddr converts for package net.
func (m MAC) HardwareAddr() net.HardwareAddr {
	return net.HardwareAddr{byte(m >> 40), byte(m >> 32), byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
}

func (m MAC) String() string { return m.HardwareAddr().String() }

// Addr is an IPv4 address as a number: 10.0.0.1 is 0x0a000001.
type Addr uint32

// LoadAddr reads an address in network byte order from the first 4 bytes of b.
//
//uvswitch:hot
func LoadAddr(b []byte) Addr { return Addr(binary.BigEndian.Uint32(b)) }

// AddrFrom converts an IPv4 netip.Addr; others give 0.
func AddrFrom(a netip.Addr) Addr {
	if !a.Is4() && !a.Is4In6() {
		return 0
	}
	b := a.As4()
	return LoadAddr(b[:])
}

// Netip converts to package netip's form without allocating.
func (a Addr) Netip() netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

func (a Addr) String() string { return a.Netip().String() }

// An Address is an address of one family.
type Address interface{ Addr | Addr6 }

// A TupleOf identifies one direction of a flow, as conntrack's: what stands in the packet. Ports of ICMP queries are
// the identifier on the asking side and the request's type on the answering side, so that turning a tuple round
// works for them as for ports.
type TupleOf[A comparable] struct {
	Src, Dst         A
	SrcPort, DstPort uint16
	Proto            uint8
}

// The tuples of both families, and those that are shown to people.
type (
	Tuple     = TupleOf[Addr]
	Tuple6    = TupleOf[Addr6]
	Endpoints = TupleOf[netip.Addr]
)

// Reverse turns the tuple round: what the answer carries.
//
//uvswitch:hot
func (t *TupleOf[A]) Reverse() TupleOf[A] {
	return TupleOf[A]{Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort, Proto: t.Proto}
}

// Hash mixes the tuple with a seed.
//
//uvswitch:hot
func (t *TupleOf[A]) Hash(seed uint64) uint64 {
	switch t := any(t).(type) {
	case *Tuple:
		return hash4(t, seed)
	case *Tuple6:
		return hash6(t, seed)
	}
	return 0
}

// hash4 takes two multiplications of 64 by 64 bits (wyhash's mixing step).
//
//uvswitch:hot
func hash4(t *Tuple, seed uint64) uint64 {
	a := uint64(t.Src)<<32 | uint64(t.Dst)
	b := uint64(t.SrcPort)<<32 | uint64(t.DstPort)<<16 | uint64(t.Proto)
	return Mix(Mix(a^seed, 0x9e3779b97f4a7c15)^b, seed^0xbf58476d1ce4e5b9)
}

// hash6 lets each factor of a product depend on the seed: else an address could make a factor 0, and all hashes alike.
//
//uvswitch:hot
func hash6(t *Tuple6, seed uint64) uint64 {
	a := Mix(t.Src.Hi^seed, t.Src.Lo^seed*0x9e3779b97f4a7c15)
	b := Mix(t.Dst.Hi^seed*0xbf58476d1ce4e5b9, t.Dst.Lo^seed*0x94d049bb133111eb)
	ports := uint64(t.SrcPort)<<32 | uint64(t.DstPort)<<16 | uint64(t.Proto)
	return Mix(a^ports, b^seed*0xd6e8feb86659fd93)
}

// EndpointsOf converts a tuple of either family.
func EndpointsOf[A Address](t TupleOf[A]) Endpoints {
	return Endpoints{Src: Netip(t.Src), Dst: Netip(t.Dst), SrcPort: t.SrcPort, DstPort: t.DstPort, Proto: t.Proto}
}

// TupleFrom converts endpoints to a tuple of their family.
func TupleFrom[A Address](e Endpoints) TupleOf[A] {
	return TupleOf[A]{Src: Of[A](e.Src), Dst: Of[A](e.Dst), SrcPort: e.SrcPort, DstPort: e.DstPort, Proto: e.Proto}
}

func (t TupleOf[A]) String() string {
	src, dst := fmt.Sprint(t.Src), fmt.Sprint(t.Dst)
	switch {
	case t.Proto == ICMP || t.Proto == ICMPv6:
		return fmt.Sprintf("%s %s > %s id %d", ProtoName(t.Proto), src, dst, t.ICMPID())
	case !HasPorts(t.Proto):
		return fmt.Sprintf("%s %s > %s", ProtoName(t.Proto), src, dst)
	}
	port := func(n uint16) string { return strconv.Itoa(int(n)) }
	return fmt.Sprintf("%s %s > %s", ProtoName(t.Proto), net.JoinHostPort(src, port(t.SrcPort)), net.JoinHostPort(dst, port(t.DstPort)))
}

// ICMPID returns the identifier in a tuple of ICMP queries: it stands on the side that asks, and the type of the query on the other side.
func (t *TupleOf[A]) ICMPID() uint16 {
	switch t.DstPort {
	case ICMPEcho, ICMPTimestamp, ICMPMask, 15, ICMPv6Echo:
		return t.SrcPort
	}
	return t.DstPort
}
