package frame

import "encoding/binary"

// Segments turns one frame as a TAP hands it over, perhaps a super-frame with a partial checksum, into the plain
// frames that a device without offloads takes: what the kernel's GSO does in software. The frame itself is not
// changed, since other ports may be sending it as it is.
//
//	s := NewSegments(f)
//	for s.Next(buf) { write(s.Bytes()) }
type Segments struct {
	frame    []byte
	out      []byte
	start    int // csum_start: where the transport header begins
	field    int // offset of the checksum
	header   int // all headers' length; 0 when the frame is not segmented
	size     int // payload bytes per segment
	at       int // next payload byte
	n        int // segments made
	ip       int
	v6       bool
	tcp      bool
	partial  bool
	finished bool
}

// SegmentCount is how many frames a super-frame becomes on a wire; 1 for another frame.
//
//uvswitch:hot
func (f *Frame) SegmentCount() int {
	size := int(f.Vnet().GSOSize())
	if f.Vnet().GSOType() == GSONone || size == 0 {
		return 1
	}
	return (f.Len() + size - 1) / size
}

// NewSegments begins. f must have passed Parse.
func NewSegments(f *Frame) Segments {
	h, b := f.Vnet(), f.Bytes()
	s := Segments{frame: b, ip: int(f.L3), v6: f.Flags&IsIPv6 != 0}
	if !h.NeedsCsum() {
		return s
	}
	s.partial = true
	s.start = int(h.CsumStart())
	s.field = s.start + int(h.CsumOffset())
	switch h.GSOType() {
	case GSOTCPv4, GSOTCPv6:
		s.tcp = true
		s.header = s.start + max(int(b[s.start+12]>>4)*4, TCPLen)
	case GSOUDPL4:
		s.header = s.start + UDPLen
	default:
		return s
	}
	s.size, s.at = int(h.GSOSize()), s.header
	sound := f.Flags&IsIPv4 != 0 && f.Malformed == None && s.start == int(f.L4) ||
		f.Flags&IsIPv6 != 0 && s.start >= s.ip+IPv6Len
	s.finished = !sound || s.header > len(b) // a header that lies: nothing to send
	return s
}

// Next makes the next plain frame in buf, which must be as long as the whole frame, and tells whether there was
// one. A frame that needs no change is not copied.
func (s *Segments) Next(buf []byte) bool {
	if s.finished {
		return false
	}
	if s.header == 0 {
		s.finished = true
		s.out = s.frame
		if s.partial {
			s.out = buf[:copy(buf, s.frame)]
			s.complete(Sum(s.out[s.start:], 0))
		}
		return true
	}
	if s.at >= len(s.frame) && s.n > 0 {
		return false
	}
	end := min(s.at+s.size, len(s.frame))
	last := end == len(s.frame)
	n := copy(buf, s.frame[:s.header])
	n += copy(buf[n:], s.frame[s.at:end])
	s.out = buf[:n]
	s.fixHeaders(last)
	s.n, s.at = s.n+1, end
	s.finished = last
	return true
}

// Bytes returns the frame that Next made, valid until the following Next.
func (s *Segments) Bytes() []byte { return s.out }

func (s *Segments) fixHeaders(last bool) {
	b := s.out
	segment := len(b) - s.start
	pseudo := uint16(0)
	proto := uint8(UDP)
	if s.tcp {
		proto = TCP
		seq := binary.BigEndian.Uint32(b[s.start+4:])
		binary.BigEndian.PutUint32(b[s.start+4:], seq+uint32(s.at-s.header))
		if !last {
			b[s.start+13] &^= FlagFIN | FlagPSH
		}
		if s.n > 0 {
			b[s.start+13] &^= 0x80 // CWR stands in the first segment only (RFC 3168, 6.1.2)
		}
	} else {
		binary.BigEndian.PutUint16(b[s.start+4:], uint16(segment))
	}
	if s.v6 {
		binary.BigEndian.PutUint16(b[s.ip+4:], uint16(len(b)-s.ip-IPv6Len))
		pseudo = Add(Sum(b[s.ip+8:s.ip+40], 0), Add(uint16(segment), uint16(proto)))
	} else {
		ip := IPv4(b[s.ip:])
		binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-s.ip))
		binary.BigEndian.PutUint16(ip[4:], ip.ID()+uint16(s.n))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^Sum(ip[:ip.HeaderLen()], 0))
		pseudo = PseudoSum(ip.Src(), ip.Dst(), proto, segment)
	}
	binary.BigEndian.PutUint16(b[s.field:], 0)
	s.complete(Sum(b[s.start:], pseudo))
}

// complete stores the complement; UDP's 0 would mean "no checksum" (RFC 768).
func (s *Segments) complete(sum uint16) {
	c := ^sum
	if c == 0 && s.field-s.start == 6 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(s.out[s.field:], c)
}
