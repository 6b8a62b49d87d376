package frame

import "encoding/binary"

// ParseBatch parses every frame of the batch.
//
//uvswitch:hot
func ParseBatch(b *Batch) {
	for i := range b.Frames[:b.N] {
		Parse(&b.Frames[i])
	}
}

// Parse finds the offsets, the facts and the tuple of one frame. What no bridge would carry gets verdict Drop;
// a packet that only a router would refuse is noted in Malformed and still crosses the switch.
//
// It reads no byte outside the frame, whatever the lengths in it say, and changes none, but the checksum of a super-frame of LRO.
//
//uvswitch:hot
func Parse(f *Frame) {
	if f.Verdict == Drop { // refused by the Poller
		return
	}
	if len(f.raw) < VnetLen+EthernetLen {
		f.DropFor(Runt)
		return
	}
	b := f.raw[VnetLen:]
	if f.raw[1] != GSONone && f.raw[0]&(VnetNeedsCsum|VnetDataValid) == VnetDataValid {
		completeGSO(VnetHdr(f.raw), b)
	}
	if f.raw[0]|f.raw[1] != 0 && !validVnet(VnetHdr(f.raw), b) {
		f.DropFor(BadVnetHeader)
		return
	}
	f.Dst, f.Src = LoadMAC(b), LoadMAC(b[6:])
	if f.Src.IsGroup() || f.Src == 0 {
		f.DropFor(BadSourceMAC)
		return
	}
	typ, at := binary.BigEndian.Uint16(b[12:]), EthernetLen
	for n := 0; (typ == TypeVLAN || typ == TypeQinQ) && n < 2; n++ {
		if len(b) < at+VLANLen {
			f.Malformed = MalformedPacket
			return
		}
		if n == 0 && binary.BigEndian.Uint16(b[at:])&0xfff == 0 {
			f.Flags |= HasPriority
		} else {
			f.Flags |= HasVLAN
		}
		typ, at = binary.BigEndian.Uint16(b[at+2:]), at+VLANLen
	}
	if f.EtherType, f.L3 = typ, uint16(at); typ == TypeVLAN || typ == TypeQinQ { // more tags than are looked at
		f.Flags, f.Malformed = f.Flags|HasVLAN, MalformedPacket
		return
	}
	parseL3(f, b, typ, at)
	if f.raw[0]&VnetNeedsCsum != 0 && !f.sumsTransport() {
		f.DropFor(BadVnetHeader)
	}
}

// sumsTransport tells whether a partial checksum will be written to where the transport header has it, or into what a tunnel carries. Anywhere
// else, the receiver's side would overwrite what was looked at here: ports, ICMP types, addresses of neighbors.
//
//uvswitch:hot
func (f *Frame) sumsTransport() bool {
	h := f.Vnet()
	start := h.CsumStart()
	if f.Flags&(IsIPv4|IsIPv6) == 0 || f.Malformed != None || f.Flags&Fragment != 0 {
		return false
	}
	switch t := h.GSOType(); {
	case t == GSOTCPv4 && f.Flags&IsIPv4 == 0, t == GSOTCPv6 && f.Flags&IsIPv6 == 0:
		return false
	case start == f.L4:
		return h.CsumOffset() == ChecksumOffset(f.Proto)
	case t != GSONone, f.Proto == ICMP, f.Proto == ICMPv6:
		return false
	}
	return start >= f.L4+max(TransportLen(f.Proto), tunnelLeast)
}

// tunnelLeast is the length of the shortest header between an IP header and the packet that a tunnel carries: GRE's (RFC 2784, 2.1).
const tunnelLeast = 4

//uvswitch:hot
func parseL3(f *Frame, b []byte, typ uint16, at int) {
	switch typ {
	case TypeIPv4:
		parseIPv4(f, b)
	case TypeARP:
		if len(b) < at+ARPLen {
			f.Malformed = MalformedPacket
			return
		}
		f.Flags |= IsARP
	case TypeIPv6:
		parseIPv6(f, b)
	}
}

// parseIPv4 checks what RFC 1812, 5.2.2 asks of a router but for the header checksum, which only a routed
// packet pays for.
//
//uvswitch:hot
func parseIPv4(f *Frame, b []byte) {
	at := int(f.L3)
	if len(b) < at+IPv4Len {
		f.Malformed = MalformedPacket
		return
	}
	ip := IPv4(b[at:])
	hl, total := ip.HeaderLen(), ip.TotalLen()
	if ip[0]>>4 != 4 || hl < IPv4Len || total < hl || total > len(ip) {
		f.Malformed = MalformedPacket
		return
	}
	f.Flags |= IsIPv4
	f.Proto = ip[9]
	f.L4, f.L3End = uint16(at+hl), uint32(at+total)
	f.Tuple = Tuple{Src: ip.Src(), Dst: ip.Dst(), Proto: f.Proto}
	if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 { // more fragments, or an offset
		f.Flags |= Fragment
		if ip.FragOffset() != 0 {
			return
		}
	}
	parseTransport(f, ip[hl:total])
}

// parseTransport checks the transport header in l4, which is not that of a later fragment, and completes the tuple.
//
//uvswitch:hot
func parseTransport(f *Frame, l4 []byte) {
	switch f.Proto {
	case TCP:
		if len(l4) < TCPLen || TCPHeader(l4).HeaderLen() < TCPLen || TCPHeader(l4).HeaderLen() > len(l4) {
			f.Malformed = MalformedPacket
			return
		}
	case UDP:
		if n := len(l4); n < UDPLen || int(UDPHeader(l4).Length()) > n && f.Flags&Fragment == 0 {
			f.Malformed = MalformedPacket
			return
		}
	case SCTP, UDPLite, DCCP:
		if len(l4) < int(TransportLen(f.Proto)) {
			f.Malformed = MalformedPacket
			return
		}
	case ICMP, ICMPv6:
		switch six := f.Flags&IsIPv6 != 0; {
		case len(l4) < ICMPLen:
			f.Malformed = MalformedPacket
		case f.Proto == ICMP && !six:
			f.icmpTuple(l4)
		case f.Proto == ICMPv6 && six:
			f.icmp6Tuple(l4)
		}
		return
	default:
		f.Flags |= HasTuple
		return
	}
	f.Tuple.SrcPort = binary.BigEndian.Uint16(l4)
	f.Tuple.DstPort = binary.BigEndian.Uint16(l4[2:])
	f.Flags |= HasTuple
}

//uvswitch:hot
func (f *Frame) icmpTuple(l4 []byte) {
	t := ICMPTuple(f.Tuple.Src, f.Tuple.Dst, l4)
	if t.Proto == 0 {
		f.Flags |= ICMPError
		return
	}
	f.Tuple = t
	f.Flags |= HasTuple
}

// ICMPTuple is the tuple of an ICMP query or answer in l4, at least ICMPLen bytes. Its identifier stands on the
// asking side, the request's type on the other. For anything else, errors first, Proto is 0.
//
//uvswitch:hot
func ICMPTuple(src, dst Addr, l4 []byte) Tuple {
	id := binary.BigEndian.Uint16(l4[4:])
	t := Tuple{Src: src, Dst: dst, Proto: ICMP}
	switch l4[0] {
	case ICMPEcho, ICMPTimestamp, ICMPMask:
		t.SrcPort, t.DstPort = id, uint16(l4[0])
	case ICMPEchoReply:
		t.SrcPort, t.DstPort = ICMPEcho, id
	case ICMPTimestampReply, ICMPMaskReply:
		t.SrcPort, t.DstPort = uint16(l4[0])-1, id
	default:
		t.Proto = 0
	}
	return t
}

// IsICMPAnswer tells whether an ICMP or ICMPv6 message of this type answers a query: its identifier is the asking side's.
//
//uvswitch:hot
func IsICMPAnswer(proto, t uint8) bool {
	if proto == ICMPv6 {
		return t == ICMPv6EchoReply
	}
	return t == ICMPEchoReply || t == ICMPTimestampReply || t == ICMPMaskReply
}

// IsICMPErrorType tells whether an ICMP message of this type quotes a packet (RFC 1122, 3.2.2).
func IsICMPErrorType(t uint8) bool {
	return t == ICMPUnreachable || t == ICMPSourceQuench || t == ICMPRedirect || t == ICMPTimeExceeded || t == ICMPParameter
}

// QuotedOf is Quoted or Quoted6.
//
//uvswitch:hot
func QuotedOf[A Address](l4 []byte) (t TupleOf[A], at int, ok bool) {
	switch p := any(&t).(type) {
	case *Tuple:
		*p, at, ok = Quoted(l4)
	case *Tuple6:
		*p, at, ok = Quoted6(l4)
	}
	return t, at, ok
}

// Quoted6 is Quoted for ICMPv6. What is quoted must have its transport header within the extension headers that Parse walks.
func Quoted6(l4 []byte) (t Tuple6, at int, ok bool) {
	if len(l4) < ICMPLen+IPv6Len || l4[0] >= 128 || l4[ICMPLen]>>4 != 6 {
		return t, 0, false
	}
	ip := IPv6(l4[ICMPLen:])
	q := Frame{raw: l4, Proto: ip.NextHeader(), L4: ICMPLen + IPv6Len}
	if !q.walkExtensions(l4) {
		return t, 0, false
	}
	at = int(q.L4)
	rest := l4[at:]
	if len(rest) < quotedLeast(q.Proto) {
		return t, 0, false
	}
	switch ok = true; q.Proto {
	case ICMPv6:
		q.icmp6Tuple(rest)
		ok = q.Flags&HasTuple != 0
	case TCP, UDP, SCTP, UDPLite, DCCP:
		q.Tuple.SrcPort, q.Tuple.DstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	}
	return Tuple6{Src: ip.Src(), Dst: ip.Dst(), SrcPort: q.Tuple.SrcPort, DstPort: q.Tuple.DstPort, Proto: q.Proto}, at, ok
}

// quotedLeast is how many bytes of a transport header an ICMP error must quote (RFC 792): none for a protocol without ports, whose whole packet may be
// shorter.
//
//uvswitch:hot
func quotedLeast(proto uint8) int {
	if HasPorts(proto) || proto == ICMP || proto == ICMPv6 {
		return 8
	}
	return 0
}

// Quoted reads the packet that an ICMP error quotes: l4 is the error from its type on. It returns the tuple as
// the quoted packet had it and the offsets, within l4, of the quoted transport header. ok is false when what is
// quoted is too short, not a first fragment, or itself an ICMP error (RFC 5508, REQ-3 to REQ-5).
//
//uvswitch:hot
func Quoted(l4 []byte) (t Tuple, at int, ok bool) {
	if len(l4) < ICMPLen+IPv4Len || !IsICMPErrorType(l4[0]) {
		return t, 0, false
	}
	ip := IPv4(l4[ICMPLen:])
	hl := ip.HeaderLen()
	if ip[0]>>4 != 4 || hl < IPv4Len || len(ip) < hl+quotedLeast(ip.Proto()) || ip.FragOffset() != 0 {
		return t, 0, false
	}
	q := ip[hl:]
	at = ICMPLen + hl
	switch ip.Proto() {
	case ICMP:
		t = ICMPTuple(ip.Src(), ip.Dst(), q)
		return t, at, t.Proto != 0
	case TCP, UDP, SCTP, UDPLite, DCCP:
		return Tuple{
			Src: ip.Src(), Dst: ip.Dst(), Proto: ip.Proto(),
			SrcPort: binary.BigEndian.Uint16(q), DstPort: binary.BigEndian.Uint16(q[2:]),
		}, at, true
	}
	return Tuple{Src: ip.Src(), Dst: ip.Dst(), Proto: ip.Proto()}, at, true
}
