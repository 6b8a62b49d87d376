package frame

import "encoding/binary"

// Extension headers of IPv6 (IANA, IPv6 Extension Header Types), which stand between the IPv6 header and the transport header.
const (
	ExtHopByHop    = 0
	ExtRouting     = 43
	ExtFragment    = 44
	ExtAuth        = 51
	ExtDestOptions = 60
	ExtMobility    = 135
	ExtHIP         = 139
	ExtShim        = 140
)

// NoNextHeader in place of a protocol says that nothing follows (RFC 8200, 4.7).
const NoNextHeader = 59

const fragmentLen = 8

// MaxExtensions is how many extension headers are walked. No port may send a longer chain, but the host's while the host routes.
const MaxExtensions = 8

// parseIPv6 walks the chain of extension headers to the transport header (RFC 8200, 4). A chain that is too long, leaves the packet, or
// does not reach the transport header in the first fragment (RFC 7112, 5) is noted in Malformed.
//
//uvswitch:hot
func parseIPv6(f *Frame, b []byte) {
	at := int(f.L3)
	if len(b) < at+IPv6Len || b[at]>>4 != 6 {
		f.Malformed = MalformedPacket
		return
	}
	f.Flags |= IsIPv6
	ip := IPv6(b[at:])
	proto, l4, end := ip[6], at+IPv6Len, at+IPv6Len+ip.PayloadLen()
	if end > len(b) {
		f.Malformed, f.L4, f.L3End = MalformedPacket, uint16(l4), uint32(len(b))
		return
	}
	f.Proto, f.L4, f.L3End = proto, uint16(l4), uint32(end)
	switch proto {
	case TCP, UDP, ICMPv6:
	case ExtHopByHop, ExtRouting, ExtFragment, ExtAuth, ExtDestOptions, ExtMobility, ExtHIP, ExtShim:
		if !f.walkExtensions(b[:end]) {
			return
		}
	}
	f.Tuple.Proto = f.Proto
	parseTransport(f, b[f.L4:end])
}

// walkExtensions moves Proto and L4 to the transport header. ok is false if there is none: in a later fragment, or because the chain is
// malformed.
func (f *Frame) walkExtensions(b []byte) (ok bool) {
	for n := 0; ; n++ {
		rest := b[f.L4:]
		size := extensionLen(f.Proto, rest)
		if size == 0 {
			return true
		}
		if n == MaxExtensions || size > len(rest) || f.Proto == ExtHopByHop && n > 0 {
			f.Malformed = ExtHeaders
			return false
		}
		switch {
		case f.Proto == ExtRouting && rest[2] == 0 && rest[3] != 0: // type 0 with segments left (RFC 5095)
			f.Flags |= SourceRouted
		case f.Proto == ExtFragment:
			f.FragAt = f.L4
			if word := binary.BigEndian.Uint16(rest[2:]); word&^6 != 0 { // else an atomic fragment: a whole packet (RFC 6946)
				f.Flags |= Fragment
				if word>>3 != 0 {
					f.Proto, f.L4 = rest[0], f.L4+fragmentLen
					f.Tuple.Proto = f.Proto
					return false
				}
			}
		}
		f.Proto, f.L4 = rest[0], f.L4+uint16(size)
	}
}

// extensionLen is the length of the extension header in b, in bytes, by its own word; 0 if proto is no extension header. Each has 8 bytes at
// least (RFC 8200, 4; RFC 4302, 2.2).
func extensionLen(proto uint8, b []byte) int {
	words := 0
	if len(b) >= 8 {
		words = int(b[1])
	}
	switch proto {
	case ExtHopByHop, ExtRouting, ExtDestOptions, ExtMobility, ExtHIP, ExtShim:
		return 8 + 8*words
	case ExtAuth:
		return 8 + 4*words
	case ExtFragment:
		return fragmentLen
	}
	return 0
}

// ICMPv6 types (RFC 4443; RFC 4861, 4).
const (
	ICMPv6Unreachable           = 1
	ICMPv6TooBig                = 2
	ICMPv6TimeExceeded          = 3
	ICMPv6Parameter             = 4
	ICMPv6Echo                  = 128
	ICMPv6EchoReply             = 129
	ICMPv6ListenerQuery         = 130
	ICMPv6ListenerReport        = 131
	ICMPv6ListenerDone          = 132
	ICMPv6RouterSolicitation    = 133
	ICMPv6RouterAdvertisement   = 134
	ICMPv6NeighborSolicitation  = 135
	ICMPv6NeighborAdvertisement = 136
	ICMPv6Redirect              = 137
	ICMPv6ListenerReport2       = 143
)

// icmp6Tuple sets the tuple of an echo; types below 128 are errors (RFC 4443, 2.1).
//
//uvswitch:hot
func (f *Frame) icmp6Tuple(l4 []byte) {
	switch id := binary.BigEndian.Uint16(l4[4:]); {
	case l4[0] == ICMPv6Echo:
		f.Tuple.SrcPort, f.Tuple.DstPort = id, ICMPv6Echo
		f.Flags |= HasTuple
	case l4[0] == ICMPv6EchoReply:
		f.Tuple.SrcPort, f.Tuple.DstPort = ICMPv6Echo, id
		f.Flags |= HasTuple
	case l4[0] == ICMPv6TooBig && binary.BigEndian.Uint32(l4[4:]) < MinMTU6:
		f.Malformed = MalformedPacket // RFC 8201, 4
	case l4[0] < 128:
		f.Flags |= ICMPError
	}
}

// An ExtHeader is an extension header of a packet.
type ExtHeader struct {
	Kind  uint8
	At    int    // bytes from the beginning of the IPv6 header
	Named int    // likewise: where the header before says Kind
	Bytes []byte // the header
}

// ExtHeaders goes through the extension headers before the transport header, as Parse has found them.
func (f *Frame) ExtHeaders(yield func(h ExtHeader) bool) {
	ip, end := f.IPv6(), int(f.L4)-int(f.L3)
	h := ExtHeader{Kind: ip[6], At: IPv6Len, Named: 6}
	for h.At < end {
		size := extensionLen(h.Kind, ip[h.At:])
		if size == 0 {
			return
		}
		if h.Bytes = ip[h.At : h.At+size]; !yield(h) {
			return
		}
		h = ExtHeader{Kind: h.Bytes[0], At: h.At + size, Named: h.At}
	}
}

// NextHeaderAt returns where the packet says what Proto is, in bytes from the beginning of the IPv6 header.
func (f *Frame) NextHeaderAt() (at int) {
	at = 6
	for h := range f.ExtHeaders {
		at = h.At
	}
	return at
}

// IsND reports whether a packet is neighbor discovery, a router's message or a redirect: no router forwards these (RFC 4861, 4).
//
//uvswitch:hot
func (f *Frame) IsND() bool {
	if f.Flags&IsIPv6 == 0 || f.Proto != ICMPv6 || f.Malformed != None || f.FragOffset() != 0 {
		return false
	}
	t := f.ICMP().Type()
	return t >= ICMPv6RouterSolicitation && t <= ICMPv6Redirect
}

// Tuple6 is the tuple of an IPv6 frame. Its addresses are read from the packet.
//
//uvswitch:hot
func (f *Frame) Tuple6() Tuple6 {
	ip := f.IPv6()
	return Tuple6{Src: ip.Src(), Dst: ip.Dst(), SrcPort: f.Tuple.SrcPort, DstPort: f.Tuple.DstPort, Proto: f.Tuple.Proto}
}

// IPv6 returns the IPv6 header and what follows. It may be called only with IsIPv6.
func (f *Frame) IPv6() IPv6 { return IPv6(f.raw[VnetLen+int(f.L3):]) }

// TrafficClass is the type of service of IPv4, or the traffic class of IPv6; 0 of another frame.
func (f *Frame) TrafficClass() uint8 {
	switch {
	case f.Flags&IsIPv4 != 0:
		return f.IPv4()[1]
	case f.Flags&IsIPv6 != 0:
		return f.IPv6().TrafficClass()
	}
	return 0
}

// FragOffset returns the offset of a fragment in its packet, in bytes; 0 for what is no fragment.
//
//uvswitch:hot
func (f *Frame) FragOffset() int {
	switch {
	case f.Flags&Fragment == 0:
		return 0
	case f.Flags&IsIPv6 != 0:
		return int(binary.BigEndian.Uint16(f.fragment()[2:]) &^ 7)
	}
	return f.IPv4().FragOffset()
}

// MoreFrags reports whether other fragments of the packet follow.
func (f *Frame) MoreFrags() bool {
	if f.Flags&IsIPv6 != 0 {
		return f.Flags&Fragment != 0 && f.fragment()[3]&1 != 0
	}
	return f.IPv4().MoreFrags()
}

// FragID returns the identification of a fragment.
func (f *Frame) FragID() uint32 {
	if f.Flags&IsIPv6 != 0 {
		return binary.BigEndian.Uint32(f.fragment()[4:])
	}
	return uint32(f.IPv4().ID())
}

// SplitFragment returns the parts of a fragment: the IP header, as the whole packet has it but for the length, and what the fragment carries.
// Of IPv6, the extension headers before the Fragment header are in the header (RFC 8200, 4.5). The header is a copy.
func (f *Frame) SplitFragment() (header, data []byte) {
	if f.Flags&IsIPv6 == 0 {
		return append([]byte(nil), f.IPv4()[:f.IPv4().HeaderLen()]...), f.Payload()
	}
	b := f.Bytes()
	header = append([]byte(nil), b[f.L3:f.FragAt]...)
	for h := range f.ExtHeaders {
		if h.At == int(f.FragAt)-int(f.L3) {
			header[h.Named] = h.Bytes[0]
		}
	}
	return header, b[int(f.FragAt)+fragmentLen : f.L3End]
}

// FragLen returns how many bytes of its packet a fragment carries.
func (f *Frame) FragLen() int {
	if f.Flags&IsIPv6 != 0 {
		return int(f.L3End) - int(f.FragAt) - fragmentLen
	}
	return len(f.Payload())
}

func (f *Frame) fragment() []byte { return f.raw[VnetLen+int(f.FragAt):] }

// TTL returns the time to live, or the hop limit.
//
//uvswitch:hot
func (f *Frame) TTL() uint8 {
	if f.Flags&IsIPv6 != 0 {
		return f.IPv6().HopLimit()
	}
	return f.IPv4().TTL()
}

// IncrementTTL undoes what the router has done to the time to live, or to the hop limit.
func (f *Frame) IncrementTTL() {
	if f.Flags&IsIPv6 != 0 {
		f.IPv6()[7]++
	} else {
		f.IPv4().IncrementTTL()
	}
}
