package frame

import "encoding/binary"

// TCPHeader is a TCP header and what follows it (RFC 9293, 3.1). Its methods need TCPLen bytes, which Parse has checked.
//
//	 0                16                             32
//	+----------------+------------------------------+
//	| source port    | destination port             |
//	| sequence number                               |
//	| acknowledgement number                        |
//	| off |   | flags| window                       |
//	| checksum       | urgent pointer               |
//	+-----------------------------------------------+
type TCPHeader []byte

func (h TCPHeader) Seq() uint32      { return binary.BigEndian.Uint32(h[4:]) }
func (h TCPHeader) Ack() uint32      { return binary.BigEndian.Uint32(h[8:]) }
func (h TCPHeader) HeaderLen() int   { return int(h[tcpOffset]>>4) * 4 } // options included
func (h TCPHeader) Flags() uint8     { return h[tcpFlags] }
func (h TCPHeader) Window() uint16   { return binary.BigEndian.Uint16(h[14:]) }
func (h TCPHeader) Checksum() uint16 { return binary.BigEndian.Uint16(h[tcpChecksum:]) }

// SetChecksum writes the checksum.
func (h TCPHeader) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(h[tcpChecksum:], sum) }

// AddFlags sets flags. It leaves the checksum alone.
func (h TCPHeader) AddFlags(flags uint8) { h[tcpFlags] |= flags }

// Options returns the options. It needs HeaderLen bytes.
func (h TCPHeader) Options() []byte { return h[TCPLen:h.HeaderLen()] }

const (
	tcpOffset   = 12
	tcpFlags    = 13
	tcpChecksum = 16
	udpLength   = 4
	udpChecksum = 6

	icmpChecksum = 2
)

// UDPHeader is a UDP header and what follows it (RFC 768). Its methods need UDPLen bytes, which Parse has checked.
type UDPHeader []byte

func (h UDPHeader) Length() uint16   { return binary.BigEndian.Uint16(h[udpLength:]) }   // header included
func (h UDPHeader) Checksum() uint16 { return binary.BigEndian.Uint16(h[udpChecksum:]) } // 0: none

// SetLength writes the length, header included.
func (h UDPHeader) SetLength(n uint16) { binary.BigEndian.PutUint16(h[udpLength:], n) }

// SetChecksum writes the checksum.
func (h UDPHeader) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(h[udpChecksum:], sum) }

// PortsHeader is the beginning of a TCP, UDP or SCTP header: two ports.
type PortsHeader []byte

func (h PortsHeader) SrcPort() uint16 { return binary.BigEndian.Uint16(h) }
func (h PortsHeader) DstPort() uint16 { return binary.BigEndian.Uint16(h[2:]) }

// SetPorts writes both ports. It leaves the checksum alone.
func (h PortsHeader) SetPorts(src, dst uint16) {
	binary.BigEndian.PutUint16(h, src)
	binary.BigEndian.PutUint16(h[2:], dst)
}

// ICMPHeader is an ICMP header and what follows it (RFC 792). Its methods need ICMPLen bytes, which Parse has checked.
type ICMPHeader []byte

func (h ICMPHeader) Type() uint8      { return h[0] }
func (h ICMPHeader) Code() uint8      { return h[1] }
func (h ICMPHeader) Checksum() uint16 { return binary.BigEndian.Uint16(h[2:]) }
func (h ICMPHeader) ID() uint16       { return binary.BigEndian.Uint16(h[4:]) } // of a query
func (h ICMPHeader) NextMTU() uint16  { return binary.BigEndian.Uint16(h[6:]) } // of "fragmentation needed" (RFC 1191, 4)

// MTU6 is the MTU of a "packet too big", in bytes (RFC 4443, 3.2); at most 65535.
func (h ICMPHeader) MTU6() uint16 { return uint16(min(binary.BigEndian.Uint32(h[4:]), 65535)) }

// SetType writes the type. It leaves the checksum alone.
func (h ICMPHeader) SetType(t uint8) { h[0] = t }

// SetID writes the identifier. It leaves the checksum alone.
func (h ICMPHeader) SetID(id uint16) { binary.BigEndian.PutUint16(h[4:], id) }

// SetNextMTU writes the MTU of a "fragmentation needed". It leaves the checksum alone.
func (h ICMPHeader) SetNextMTU(mtu uint16) { binary.BigEndian.PutUint16(h[6:], mtu) }

// SetChecksum writes the checksum.
func (h ICMPHeader) SetChecksum(sum uint16) { binary.BigEndian.PutUint16(h[2:], sum) }

// UpdateChecksum computes the checksum in full. RFC 1624's form has the wrong zero for a message of zeros. pseudo is the sum of the pseudo
// header: 0 for ICMP, IPv6.PseudoSum for ICMPv6 (RFC 4443, 2.3).
func (h ICMPHeader) UpdateChecksum(pseudo uint16) {
	h.SetChecksum(0)
	h.SetChecksum(^Sum(h, pseudo))
}

// ARPPacket is an ARP packet for IPv4 over Ethernet (RFC 826). Its methods need ARPLen bytes, which Parse has checked.
type ARPPacket []byte

// IsForEthernet reports whether the packet says that it is for IPv4 over Ethernet, by one of its hardware types: nobody answers another one (linux
// net/ipv4/arp.c, arp_process).
func (p ARPPacket) IsForEthernet() bool {
	const ethernet, ieee802 = 1, 6
	typ := binary.BigEndian.Uint16(p)
	return (typ == ethernet || typ == ieee802) && binary.BigEndian.Uint32(p[2:]) == TypeIPv4<<16|6<<8|4
}

func (p ARPPacket) Operation() uint16 { return binary.BigEndian.Uint16(p[6:]) }
func (p ARPPacket) SenderMAC() MAC    { return LoadMAC(p[8:]) }
func (p ARPPacket) SenderAddr() Addr  { return LoadAddr(p[14:]) }
func (p ARPPacket) TargetAddr() Addr  { return LoadAddr(p[24:]) }

// Operations of ARP.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// NextOption returns the kind of the first option of an IPv4 or TCP option list, and its length with kind and length bytes. The length
// is 0 at the end of the list, and negative when the list is malformed.
//
//uvswitch:hot
func NextOption(list []byte) (kind uint8, n int) {
	if len(list) == 0 || list[0] == OptEnd {
		return OptEnd, 0
	}
	if list[0] == OptNop {
		return OptNop, 1
	}
	if len(list) < 2 || list[1] < 2 || int(list[1]) > len(list) {
		return list[0], -1
	}
	return list[0], int(list[1])
}
