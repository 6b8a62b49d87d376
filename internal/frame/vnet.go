package frame

import "encoding/binary"

// VnetLen is the length of struct virtio_net_hdr without num_buffers: the TAP default.
const VnetLen = 10

// MaxFrame is the longest frame that is read: 64 KiB of IP, the Ethernet header and a VLAN tag.
const MaxFrame = 65535 + 18

// Flags and segmentation kinds of linux/virtio_net.h.
const (
	VnetNeedsCsum = 1

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
		return h.GSOSize() > 0 && h[0]&VnetNeedsCsum != 0 && h.CsumOffset() == 16 &&
			int(h.CsumStart())+20 <= len(b)
	case GSOUDPL4:
		return h.GSOSize() > 0 && h[0]&VnetNeedsCsum != 0 && h.CsumOffset() == 6 &&
			int(h.CsumStart())+8 <= len(b)
	}
	return false
}
