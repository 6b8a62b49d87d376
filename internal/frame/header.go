package frame

import (
	"cmp"
	"encoding/binary"
	"strconv"
	"strings"
)

// EtherTypes, IP protocols and header lengths in bytes.
const (
	EthernetLen = 14
	VLANLen     = 4
	IPv4Len     = 20 // without options
	IPv6Len     = 40
	ARPLen      = 28 // Ethernet and IPv4
	UDPLen      = 8
	TCPLen      = 20 // without options
	ICMPLen     = 8
	SCTPLen     = 12 // the common header
	DCCPLen     = 12 // the generic header with a short sequence number

	TypeIPv4 = 0x0800
	TypeARP  = 0x0806
	TypeVLAN = 0x8100
	TypeIPv6 = 0x86dd
	TypeQinQ = 0x88a8

	ICMP    = 1
	TCP     = 6
	UDP     = 17
	DCCP    = 33
	GRE     = 47
	ICMPv6  = 58
	ESP     = 50
	SCTP    = 132
	UDPLite = 136
)

// ICMP types (RFC 792, RFC 950).
const (
	ICMPEchoReply      = 0
	ICMPUnreachable    = 3
	ICMPSourceQuench   = 4
	ICMPRedirect       = 5
	ICMPEcho           = 8
	ICMPTimeExceeded   = 11
	ICMPParameter      = 12
	ICMPTimestamp      = 13
	ICMPTimestampReply = 14
	ICMPMask           = 17
	ICMPMaskReply      = 18
)

// MinPathMTU is the least that a "fragmentation needed" may ask for, in bytes: Linux's net.ipv4.route.min_pmtu. Less is an
// attack, as a rule.
const MinPathMTU = 552

// ICMP codes of type 3 (RFC 792, RFC 1812).
const (
	CodeNet           = 0
	CodeHost          = 1
	CodeProtocol      = 2
	CodePort          = 3
	CodeFragNeeded    = 4
	CodeAdminFiltered = 13
)

// CodePort6 is "port unreachable" of ICMPv6's type 1 (RFC 4443, 3.1).
const CodePort6 = 4

// TCP flags.
const (
	FlagFIN = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
	FlagURG
	FlagECE
	FlagCWR
)

// Kinds of options: the first two of IPv4 (RFC 791, 3.1), too; the others of TCP (RFC 9293, 3.1; RFC 7323).
const (
	OptEnd    = 0
	OptNop    = 1
	OptMSS    = 2
	OptWScale = 3

	OptTimestamp = 8
)

// IPv4 is an IPv4 header and what follows it. Its getters are valid once Parse has set IsIPv4.
//
//	 0       4       8               16                             32
//	+-------+-------+---------------+-------------------------------+
//	| ver   | ihl   | tos           | total length                  |
//	+-------+-------+---------------+-----+-------------------------+
//	| identification                | flg | fragment offset (8 B)   |
//	+---------------+---------------+-----+-------------------------+
//	| ttl           | protocol      | header checksum               |
//	+---------------+---------------+-------------------------------+
//	| source address                                                |
//	| destination address                                           |
//	+---------------------------------------------------------------+
type IPv4 []byte

func (h IPv4) HeaderLen() int   { return int(h[0]&0xf) * 4 }
func (h IPv4) TotalLen() int    { return int(binary.BigEndian.Uint16(h[2:])) }
func (h IPv4) ID() uint16       { return binary.BigEndian.Uint16(h[4:]) }
func (h IPv4) DontFrag() bool   { return h[6]&0x40 != 0 }
func (h IPv4) MoreFrags() bool  { return h[6]&0x20 != 0 }
func (h IPv4) FragOffset() int  { return int(binary.BigEndian.Uint16(h[6:])&0x1fff) * 8 }
func (h IPv4) TTL() uint8       { return h[8] }
func (h IPv4) Proto() uint8     { return h[9] }
func (h IPv4) Checksum() uint16 { return binary.BigEndian.Uint16(h[10:]) }
func (h IPv4) Src() Addr        { return LoadAddr(h[12:]) }
func (h IPv4) Dst() Addr        { return LoadAddr(h[16:]) }

// DecrementTTL lowers the time to live by one and mends the checksum. The TTL must not be 0.
//
//uvswitch:hot
func (h IPv4) DecrementTTL() {
	old := binary.BigEndian.Uint16(h[8:])
	h[8]--
	d := Delta16(old, binary.BigEndian.Uint16(h[8:]))
	binary.BigEndian.PutUint16(h[10:], d.Complete(h.Checksum()))
}

// SetWhole makes the header that of a packet of n bytes that is no fragment.
func (h IPv4) SetWhole(n int) {
	binary.BigEndian.PutUint16(h[2:], uint16(n))
	binary.BigEndian.PutUint16(h[6:], 0)
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^Sum(h[:h.HeaderLen()], 0))
}

// IncrementTTL undoes DecrementTTL.
//
//uvswitch:hot
func (h IPv4) IncrementTTL() {
	old := binary.BigEndian.Uint16(h[8:])
	h[8]++
	d := Delta16(old, binary.BigEndian.Uint16(h[8:]))
	binary.BigEndian.PutUint16(h[10:], d.Complete(h.Checksum()))
}

// SetAddrs rewrites both addresses; d is the delta of both together.
//
//uvswitch:hot
func (h IPv4) SetAddrs(src, dst Addr, d Delta) {
	binary.BigEndian.PutUint32(h[12:], uint32(src))
	binary.BigEndian.PutUint32(h[16:], uint32(dst))
	binary.BigEndian.PutUint16(h[10:], d.Complete(h.Checksum()))
}

// IPv6 is an IPv6 header and what follows it (RFC 8200, 3). Its getters are valid once Parse has set IsIPv6.
//
//	 0       4               12              16                             32
//	+-------+---------------+-----------------------------------------------+
//	| ver   | traffic class | flow label                                    |
//	+-------+---------------+---------------+---------------+---------------+
//	| payload length                        | next header   | hop limit     |
//	+---------------------------------------+---------------+---------------+
//	| source address (16 bytes)                                             |
//	| destination address (16 bytes)                                        |
//	+-----------------------------------------------------------------------+
type IPv6 []byte

func (h IPv6) TrafficClass() uint8 { return uint8(binary.BigEndian.Uint16(h) >> 4) }
func (h IPv6) PayloadLen() int     { return int(binary.BigEndian.Uint16(h[4:])) } // extension headers included
func (h IPv6) NextHeader() uint8   { return h[6] }
func (h IPv6) HopLimit() uint8     { return h[7] }
func (h IPv6) Src() Addr6          { return LoadAddr6(h[8:]) }
func (h IPv6) Dst() Addr6          { return LoadAddr6(h[24:]) }

// DecrementHopLimit lowers the hop limit by one. It must not be 0.
//
//uvswitch:hot
func (h IPv6) DecrementHopLimit() { h[7]-- }

// SetAddrs rewrites both addresses.
//
//uvswitch:hot
func (h IPv6) SetAddrs(src, dst Addr6) {
	src.Put(h[8:])
	dst.Put(h[24:])
}

// PseudoSum is the folded sum of the pseudo-header for an upper-layer packet of n bytes (RFC 8200, 8.1).
//
//uvswitch:hot
func (h IPv6) PseudoSum(proto uint8, n int) uint16 {
	return Sum(h[8:IPv6Len], Add(uint16(proto), fold(uint64(n))))
}

// ChecksumOffset is where the transport checksum stands in its header; 0xffff for a protocol without one there.
//
//uvswitch:hot
func ChecksumOffset(proto uint8) uint16 {
	switch proto {
	case TCP:
		return tcpChecksum
	case UDP, UDPLite, DCCP: // RFC 3828, 3.1; RFC 4340, 5.1
		return udpChecksum
	case ICMPv6:
		return icmpChecksum
	}
	return 0xffff
}

// TransportLen is the length of the shortest transport header, in bytes; 0 for a protocol that is not parsed.
//
//uvswitch:hot
func TransportLen(proto uint8) uint16 {
	switch proto {
	case TCP:
		return TCPLen
	case UDP, UDPLite:
		return UDPLen
	case DCCP:
		return DCCPLen
	case SCTP:
		return SCTPLen
	case ICMP, ICMPv6:
		return ICMPLen
	}
	return 0
}

// ProtoName is conntrack's name of an IP protocol; one without a name is "proto-N".
func ProtoName(p uint8) string { return cmp.Or(protoNames[p], "proto-"+strconv.Itoa(int(p))) }

// ProtoNumber is the reverse of ProtoName. It knows icmp6, as tcpdump writes, too.
func ProtoNumber(name string) (uint8, bool) {
	if name == "icmp6" {
		name = "icmpv6"
	}
	for p, n := range protoNames {
		if n == name {
			return p, true
		}
	}
	rest, ok := strings.CutPrefix(name, "proto-")
	n, err := strconv.ParseUint(rest, 10, 8)
	return uint8(n), ok && err == nil
}

var protoNames = map[uint8]string{ICMP: "icmp", TCP: "tcp", UDP: "udp", GRE: "gre", ESP: "esp", SCTP: "sctp", ICMPv6: "icmpv6", UDPLite: "udplite", DCCP: "dccp"}

// HasPorts tells whether a protocol's tuple has ports.
func HasPorts(proto uint8) bool {
	return proto == TCP || proto == UDP || proto == SCTP || proto == UDPLite || proto == DCCP
}

var flagLetters = []struct {
	flag   uint8
	letter string
}{{FlagFIN, "F"}, {FlagSYN, "S"}, {FlagRST, "R"}, {FlagPSH, "P"}, {FlagACK, "."}, {FlagURG, "U"}, {FlagECE, "E"}, {FlagCWR, "W"}}

// TCPFlags names flags by tcpdump's letters: S. is SYN and ACK.
func TCPFlags(flags uint8) (s string) {
	for _, f := range flagLetters {
		if flags&f.flag != 0 {
			s += f.letter
		}
	}
	return s
}

// ParseTCPFlags is the reverse.
func ParseTCPFlags(letters string) (flags uint8) {
	for _, f := range flagLetters {
		if strings.Contains(letters, f.letter) {
			flags |= f.flag
		}
	}
	return flags
}
