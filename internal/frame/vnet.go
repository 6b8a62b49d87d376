package frame

import "encoding/binary"

// VnetLen is the length of struct virtio_net_hdr without num_buffers: the TAP default.
const VnetLen = 10

// MinMTU6 is the longest packet that every link of IPv6 takes, in bytes: a link with a lower MTU has no IPv6 (RFC 8200, 5).
const MinMTU6 = 1280

// MaxFrame is the longest frame that is read: 64 KiB of IP, the Ethernet header and a VLAN tag.
const MaxFrame = 65535 + 18

// Flags and segmentation kinds of linux/virtio_net.h.
const (
	VnetNeedsCsum = 1
	VnetDataValid = 2 // the kernel or the device has checked the transport checksum

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDPL4 = 5 // USO
	GSOECN   = 0x80
)

// VnetHdr is a virtio-net header, little-endian on the machines we run on (legacy TAPs use the host's order).
//
//	 0      1         2        4         6           8            10
//	+------+---------+--------+---------+-----------+------------+
//	| flags| gso_type| hdr_len| gso_size| csum_start| csum_offset|
//	+------+---------+--------+---------+-----------+------------+
//
// csum_start counts from the destination MAC, csum_offset from csum_start.
type VnetHdr []byte

func (h VnetHdr) Flags() uint8       { return h[0] }
func (h VnetHdr) GSOType() uint8     { return h[1] &^ GSOECN }
func (h VnetHdr) HdrLen() uint16     { return binary.NativeEndian.Uint16(h[2:]) }
func (h VnetHdr) GSOSize() uint16    { return binary.NativeEndian.Uint16(h[4:]) }
func (h VnetHdr) CsumStart() uint16  { return binary.NativeEndian.Uint16(h[6:]) }
func (h VnetHdr) CsumOffset() uint16 { return binary.NativeEndian.Uint16(h[8:]) }

// NeedsCsum tells whether the transport checksum is partial: see Delta.Partial.
func (h VnetHdr) NeedsCsum() bool { return h[0]&VnetNeedsCsum != 0 }

// Set writes the whole header.
func (h VnetHdr) Set(flags, gsoType uint8, hdrLen, gsoSize, csumStart, csumOffset uint16) {
	h[0], h[1] = flags, gsoType
	binary.NativeEndian.PutUint16(h[2:], hdrLen)
	binary.NativeEndian.PutUint16(h[4:], gsoSize)
	binary.NativeEndian.PutUint16(h[6:], csumStart)
	binary.NativeEndian.PutUint16(h[8:], csumOffset)
}

const (
	minSegment   = 48   // bytes of a TCP segment: the smallest that Linux sends (include/net/tcp.h, TCP_MIN_SND_MSS)
	maxSegments  = 1024 // in one TCP super-frame: 64 KiB in segments of 64 bytes
	maxDatagrams = 128  // in one UDP super-frame: more is refused by Linux (include/linux/udp.h, UDP_MAX_SEGMENTS)

	joinedDatagrams = 64 // that the switch joins: some kernels from 6.2 to 6.8 take no more
)

// validVnet checks what a guest claims about frame b: offsets inside the frame, a segment size with
// segmentation, the checksum where TCP has it. A kernel that is handed a lie answers EINVAL at best.
//
//uvswitch:hot
func validVnet(h VnetHdr, b []byte) bool {
	if h[0]&VnetNeedsCsum != 0 {
		if int(h.CsumStart())+int(h.CsumOffset())+2 > len(b) || h.CsumStart() < EthernetLen {
			return false
		}
	}
	switch h.GSOType() {
	case GSONone:
		return h[1] == GSONone
	case GSOTCPv4, GSOTCPv6:
		return h.GSOSize() >= minSegment && h[0]&VnetNeedsCsum != 0 && h.CsumOffset() == 16 &&
			int(h.CsumStart())+20 <= len(b) && len(b)-int(h.CsumStart())-20 <= maxSegments*int(h.GSOSize())
	case GSOUDPL4:
		return h.GSOSize() > 0 && len(b)-int(h.CsumStart())-UDPLen <= maxDatagrams*int(h.GSOSize()) && h[0]&VnetNeedsCsum != 0 && h.CsumOffset() == 6 &&
			int(h.CsumStart())+8 <= len(b)
	}
	return false
}

// completeGSO turns a super-frame whose checksums were checked, but which has none of its own, into one with a partial checksum: a NIC
// that joins segments (LRO) leaves the checksum of the first one (linux include/linux/virtio_net.h, virtio_net_hdr_from_skb). What is not
// TCP, UDP or alike right behind the IP header stays as it is, and is refused.
func completeGSO(h VnetHdr, b []byte) {
	at := EthernetLen
	for ; len(b) >= at && (etherTypeAt(b, at) == TypeVLAN || etherTypeAt(b, at) == TypeQinQ); at += VLANLen {
	}
	if len(b) < at {
		return
	}
	var l4, offset int
	var sum uint16
	switch typ := etherTypeAt(b, at); {
	case typ == TypeIPv4 && len(b) >= at+IPv4Len && h.GSOType() != GSOTCPv6:
		ip := IPv4(b[at:])
		if l4 = at + ip.HeaderLen(); ip.HeaderLen() < IPv4Len || ip.TotalLen() < ip.HeaderLen() {
			return
		}
		sum = PseudoSum(ip.Src(), ip.Dst(), ip.Proto(), ip.TotalLen()-ip.HeaderLen())
		offset = int(ChecksumOffset(ip.Proto()))
	case typ == TypeIPv6 && len(b) >= at+IPv6Len && h.GSOType() != GSOTCPv4:
		l4 = at + IPv6Len
		proto, n := b[at+6], binary.BigEndian.Uint16(b[at+4:])
		sum = Add(Sum(b[at+8:l4], 0), Add(uint16(proto), n))
		offset = int(ChecksumOffset(proto))
	default:
		return
	}
	if offset == 0xffff || len(b) < l4+TCPLen {
		return
	}
	binary.BigEndian.PutUint16(b[l4+offset:], sum)
	hdrLen := l4 + UDPLen
	if h.GSOType() != GSOUDPL4 {
		hdrLen = l4 + TCPHeader(b[l4:]).HeaderLen()
	}
	h.Set(VnetNeedsCsum, h[1], uint16(hdrLen), h.GSOSize(), uint16(l4), uint16(offset))
}

// etherTypeAt reads the EtherType that ends at offset at.
func etherTypeAt(b []byte, at int) uint16 { return binary.BigEndian.Uint16(b[at-2:]) }
