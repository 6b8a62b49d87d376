package frame

import "encoding/binary"

// answerHops is the TTL or hop limit of what a frame is turned into.
const answerHops = 64

// Room is how many bytes may be written behind the IP packet of a frame. Padding counts.
func (f *Frame) Room() int { return cap(f.raw) - VnetLen - int(f.L3End) }

// Answer makes a frame with a UDP datagram the one that goes back, whose payload of n bytes has been written over the old one. The headers must
// have no options.
func (f *Frame) Answer(n int) {
	n += UDPLen
	f.L3End = uint32(f.L4) + uint32(n)
	f.raw = f.raw[:VnetLen+int(f.L3End)]
	f.Vnet().Set(0, GSONone, 0, 0, 0, 0)
	f.SetMACs(f.Src, f.Dst)
	h := f.UDP()
	PortsHeader(h).SetPorts(f.Tuple.DstPort, f.Tuple.SrcPort)
	h.SetLength(uint16(n))
	h.SetChecksum(0)
	var pseudo uint16
	if f.Flags&IsIPv6 != 0 {
		ip := f.IPv6()
		binary.BigEndian.PutUint32(ip, 6<<28|binary.BigEndian.Uint32(ip)&0xfffff) // no traffic class
		binary.BigEndian.PutUint16(ip[4:], uint16(n))
		ip[7] = answerHops
		ip.SetAddrs(ip.Dst(), ip.Src())
		pseudo = ip.PseudoSum(UDP, n)
	} else {
		ip := f.IPv4()
		ip[1], ip[8] = 0, answerHops
		ip.SetAddrs(ip.Dst(), ip.Src(), 0)
		ip.SetWhole(IPv4Len + n)
		pseudo = PseudoSum(ip.Src(), ip.Dst(), UDP, n)
	}
	sum := ^Sum(h, pseudo)
	if sum == 0 { // no checksum at all would be 0 (RFC 768)
		sum = 0xffff
	}
	h.SetChecksum(sum)
	f.Tuple = f.Tuple.Reverse()
}
