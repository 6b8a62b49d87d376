// Package frametest builds frames for tests and checks frames that come out. It computes all checksums in full, by the
// definitions of the RFCs, so that incremental updates are verified by independent code.
package frametest

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Packet describes an IP packet in an Ethernet frame. Zero means a default for Proto, TTL, the MACs and as noted.
type Packet struct {
	DstMAC, SrcMAC   frame.MAC
	Src, Dst         frame.Addr
	Src6, Dst6       frame.Addr6 // if one is set, the packet is IPv6
	Next             uint8       // IPv6: the protocol of what Ext begins with; Proto if there is no Ext
	Ext              []byte      // IPv6: extension headers
	Proto            uint8       // UDP when 0
	SrcPort, DstPort uint16
	Flags            uint8  // TCP flags
	TCPSeq, TCPAck   uint32 // TCPSeq is 1000 when 0
	Window           uint16 // of TCP; 1000 when 0
	Type, Code       uint8  // ICMP
	ID, Seq          uint16
	TTL              uint8  // or hop limit
	Options          []byte // IP options, a multiple of 4
	Frag             uint16 // IPv4's 16-bit field of flags and fragment offset
	IPID             uint16 // identification; 0x1234 when 0
	MSS              uint16 // TCP option, when not 0
	Payload          []byte
	NoChecksum       bool   // leave the transport checksum 0
	Partial          bool   // leave the transport checksum to the kernel
	GSO              uint16 // segment size of a super-frame; implies Partial
}

// Addr6 parses an IPv6 address. It panics if s is none.
func Addr6(s string) frame.Addr6 { return frame.Addr6From(netip.MustParseAddr(s)) }

// Addr parses a dotted IPv4 address. It panics if s is none.
func Addr(s string) frame.Addr {
	var a, b, c, d uint32
	if n, err := fmt.Sscanf(s, "%d.%d.%d.%d", &a, &b, &c, &d); n != 4 || err != nil {
		panic("frametest: not an address: " + s)
	}
	return frame.Addr(a<<24 | b<<16 | c<<8 | d)
}

// Raw returns the packet as a virtio-net header followed by the frame.
func (p Packet) Raw() []byte {
	if p.Proto == 0 {
		p.Proto = frame.UDP
	}
	if p.TTL == 0 {
		p.TTL = 64
	}
	if p.SrcMAC == 0 {
		p.SrcMAC = 0x020000000001
	}
	if p.DstMAC == 0 {
		p.DstMAC = 0x020000000002
	}
	l4 := p.transport()
	if p.Src6 != (frame.Addr6{}) || p.Dst6 != (frame.Addr6{}) {
		return p.raw6(l4)
	}
	raw := make([]byte, frame.VnetLen+frame.EthernetLen+frame.IPv4Len+len(p.Options)+len(l4))
	eth := raw[frame.VnetLen:]
	PutMACs(eth, p.DstMAC, p.SrcMAC)
	binary.BigEndian.PutUint16(eth[12:], frame.TypeIPv4)
	ip := frame.IPv4(eth[frame.EthernetLen:])
	hl := frame.IPv4Len + len(p.Options)
	ip[0] = 0x40 | uint8(hl/4)
	binary.BigEndian.PutUint16(ip[2:], uint16(hl+len(l4)))
	binary.BigEndian.PutUint16(ip[4:], cmp.Or(p.IPID, 0x1234))
	binary.BigEndian.PutUint16(ip[6:], p.Frag)
	ip[8], ip[9] = p.TTL, p.Proto
	binary.BigEndian.PutUint32(ip[12:], uint32(p.Src))
	binary.BigEndian.PutUint32(ip[16:], uint32(p.Dst))
	copy(ip[frame.IPv4Len:], p.Options)
	binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip[:hl]))
	copy(ip[hl:], l4)
	p.checksum(raw, ip[hl:], pseudoHeader(ip, len(l4)))
	return raw
}

func (p Packet) raw6(l4 []byte) []byte {
	raw := make([]byte, frame.VnetLen+frame.EthernetLen+frame.IPv6Len, frame.VnetLen+frame.EthernetLen+frame.IPv6Len+len(p.Ext)+len(l4))
	eth := raw[frame.VnetLen:]
	PutMACs(eth, p.DstMAC, p.SrcMAC)
	binary.BigEndian.PutUint16(eth[12:], frame.TypeIPv6)
	ip := frame.IPv6(eth[frame.EthernetLen:])
	ip[0], ip[6], ip[7] = 0x60, p.Proto, p.TTL
	if len(p.Ext) > 0 {
		ip[6] = p.Next
	}
	binary.BigEndian.PutUint16(ip[4:], uint16(len(p.Ext)+len(l4)))
	ip.SetAddrs(p.Src6, p.Dst6)
	raw = append(append(raw, p.Ext...), l4...)
	ip = frame.IPv6(raw[frame.VnetLen+frame.EthernetLen:])
	p.checksum(raw, raw[len(raw)-len(l4):], pseudoHeader6(ip, p.Proto, len(l4)))
	return raw
}

func pseudoHeader6(ip frame.IPv6, proto uint8, n int) []byte {
	b := append([]byte(nil), ip[8:40]...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, 0, 0, 0, proto)
}

// PutMACs writes the destination and source MAC of an Ethernet header.
func PutMACs(eth []byte, dst, src frame.MAC) {
	copy(eth, dst.HardwareAddr())
	copy(eth[6:], src.HardwareAddr())
}

func (p Packet) transport() []byte {
	switch p.Proto {
	case frame.TCP:
		var opt []byte
		if p.MSS != 0 { // after two NOPs and a window scale, so that it is not the first option
			opt = []byte{1, 1, 3, 3, 7, 2, 4, byte(p.MSS >> 8), byte(p.MSS), 0, 0, 0}
		}
		header := frame.TCPLen + len(opt)
		b := make([]byte, header+len(p.Payload))
		copy(b[frame.TCPLen:], opt)
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		binary.BigEndian.PutUint32(b[4:], cmp.Or(p.TCPSeq, 1000))
		binary.BigEndian.PutUint32(b[8:], p.TCPAck)
		binary.BigEndian.PutUint16(b[14:], cmp.Or(p.Window, 1000))
		b[12], b[13] = byte(header/4)<<4, p.Flags
		copy(b[header:], p.Payload)
		return b
	case frame.UDP:
		b := make([]byte, frame.UDPLen+len(p.Payload))
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		copy(b[frame.UDPLen:], p.Payload)
		return b
	case frame.ICMP, frame.ICMPv6:
		b := make([]byte, frame.ICMPLen+len(p.Payload))
		b[0], b[1] = p.Type, p.Code
		binary.BigEndian.PutUint16(b[4:], p.ID)
		binary.BigEndian.PutUint16(b[6:], p.Seq)
		copy(b[frame.ICMPLen:], p.Payload)
		return b
	}
	return append([]byte(nil), p.Payload...)
}

// field returns the offset of the checksum in the transport header, in bytes; -1 if proto has none.
func field(proto uint8) int {
	switch proto {
	case frame.TCP:
		return 16
	case frame.UDP:
		return 6
	case frame.ICMP, frame.ICMPv6:
		return 2
	}
	return -1
}

// checksum writes the checksum of l4, the transport header and what follows it in raw.
func (p Packet) checksum(raw, l4, pseudo []byte) {
	at := field(p.Proto)
	if at < 0 || p.Frag&0x1fff != 0 || p.NoChecksum {
		return
	}
	if p.Proto == frame.ICMP {
		binary.BigEndian.PutUint16(l4[at:], ^slowSum(l4))
		return
	}
	if p.Partial || p.GSO > 0 {
		binary.BigEndian.PutUint16(l4[at:], slowSum(pseudo))
		kind := uint8(frame.GSONone)
		if p.GSO > 0 && p.Proto == frame.TCP {
			if kind = frame.GSOTCPv4; len(pseudo) > 12 {
				kind = frame.GSOTCPv6
			}
		} else if p.GSO > 0 {
			kind = frame.GSOUDPL4
		}
		start := uint16(len(raw) - len(l4) - frame.VnetLen)
		frame.VnetHdr(raw).Set(frame.VnetNeedsCsum, kind, start+20, p.GSO, start, uint16(at))
		return
	}
	c := ^slowSum(append(pseudo, l4...))
	if c == 0 && p.Proto == frame.UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
}

func pseudoHeader(ip frame.IPv4, n int) []byte {
	b := make([]byte, 12)
	copy(b, ip[12:20])
	b[9] = ip.Proto()
	binary.BigEndian.PutUint16(b[10:], uint16(n))
	return b
}

// slowSum returns the ones' complement sum of RFC 1071, computed word by word and not inverted.
func slowSum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// Check verifies every checksum of an IP frame with its virtio-net header, complete or partial, and the IPv4 header
// checksum of a packet that an ICMP error quotes; of an IPv6 frame also its lengths, headers and hop limit. Other frames pass. An IPv4 packet
// must be well-formed (see frame.Parse).
func Check(raw []byte) error {
	eth := raw[frame.VnetLen:]
	if len(eth) >= frame.EthernetLen+frame.IPv6Len && binary.BigEndian.Uint16(eth[12:]) == frame.TypeIPv6 {
		return check6(raw)
	}
	if len(eth) < frame.EthernetLen+frame.IPv4Len || binary.BigEndian.Uint16(eth[12:]) != frame.TypeIPv4 {
		return nil
	}
	ip := frame.IPv4(eth[frame.EthernetLen:])
	hl := ip.HeaderLen()
	if slowSum(ip[:hl]) != 0xffff {
		return fmt.Errorf("IPv4 header checksum is wrong: %x", ip[:hl])
	}
	l4 := ip[hl:ip.TotalLen()]
	if ip.FragOffset() != 0 || ip.MoreFrags() {
		return nil
	}
	if ip.Proto() == frame.ICMP && len(l4) >= frame.ICMPLen {
		if slowSum(l4) != 0xffff {
			return fmt.Errorf("ICMP checksum is wrong: %x", l4[:8])
		}
		return checkQuote(l4)
	}
	return checkTransport(raw, ip.Proto(), l4, pseudoHeader(ip, len(l4)))
}

// check6 judges an IPv6 frame by RFC 8200, 4443 and 4861, with its own walk along the headers.
func check6(raw []byte) error {
	ip := raw[frame.VnetLen+frame.EthernetLen:]
	length := 40 + int(binary.BigEndian.Uint16(ip[4:]))
	switch {
	case ip[0]>>4 != 6:
		return fmt.Errorf("the IP version is %d", ip[0]>>4)
	case length > len(ip):
		return fmt.Errorf("the payload length is %d, and %d bytes follow", length-40, len(ip)-40)
	case ip[7] == 0:
		return errors.New("the hop limit is 0")
	}
	proto, at := ip[6], 40
	for proto == 0 || proto == 43 || proto == 44 || proto == 60 || proto == 135 || proto == 139 || proto == 140 {
		if at+8 > length {
			return fmt.Errorf("header %d lies beyond the packet's end", proto)
		}
		if proto == 44 && binary.BigEndian.Uint16(ip[at+2:])&0xfff9 != 0 { // a part of a packet
			return nil
		}
		size := 8
		if proto != 44 {
			size += 8 * int(ip[at+1])
		}
		proto, at = ip[at], at+size
	}
	if at > length {
		return errors.New("the headers lie beyond the packet's end")
	}
	l4 := ip[at:length]
	if proto == 58 && len(l4) >= 8 {
		switch typ := l4[0]; {
		case typ >= 133 && typ <= 137 && ip[7] != 255:
			return fmt.Errorf("neighbor discovery with hop limit %d", ip[7])
		case typ >= 1 && typ <= 4 && length > 1280:
			return fmt.Errorf("an error of %d bytes", length)
		case typ >= 1 && typ <= 4 && len(l4) > 8 && l4[8]>>4 != 6:
			return fmt.Errorf("an error that quotes % x", l4[8:min(len(l4), 16)])
		}
	}
	return checkTransport(raw, proto, l4, pseudoHeader6(frame.IPv6(ip), proto, len(l4)))
}

// checkTransport verifies the checksum of l4.
func checkTransport(raw []byte, proto uint8, l4, pseudo []byte) error {
	h, at := frame.VnetHdr(raw), field(proto)
	if at < 0 || len(l4) < at+2 {
		return nil
	}
	sum := binary.BigEndian.Uint16(l4[at:])
	switch {
	case h.NeedsCsum():
		// Ones' complement has two representations of zero.
		if want := slowSum(pseudo); sum%0xffff != want%0xffff {
			return fmt.Errorf("partial checksum is %#04x, want %#04x", sum, want)
		}
	case proto == frame.UDP && sum == 0 && len(pseudo) == 12:
	default:
		if slowSum(append(pseudo, l4...)) != 0xffff {
			return fmt.Errorf("transport checksum %#04x is wrong", sum)
		}
	}
	return nil
}

func checkQuote(l4 []byte) error {
	if !frame.IsICMPErrorType(l4[0]) || len(l4) < frame.ICMPLen+frame.IPv4Len {
		return nil
	}
	q := frame.IPv4(l4[frame.ICMPLen:])
	if hl := q.HeaderLen(); len(q) >= hl && slowSum(q[:hl]) != 0xffff {
		return fmt.Errorf("the quoted IPv4 header's checksum is wrong: %x", q[:hl])
	}
	return nil
}

// ARP returns an ARP packet in a frame, with its virtio-net header. op is 1 for a request, 2 for a reply.
func ARP(dst, src frame.MAC, op uint16, sender frame.Addr, target frame.Addr) []byte {
	raw := make([]byte, frame.VnetLen+frame.EthernetLen+frame.ARPLen)
	eth := raw[frame.VnetLen:]
	PutMACs(eth, dst, src)
	binary.BigEndian.PutUint16(eth[12:], frame.TypeARP)
	a := eth[frame.EthernetLen:]
	binary.BigEndian.PutUint16(a, 1)
	binary.BigEndian.PutUint16(a[2:], frame.TypeIPv4)
	a[4], a[5] = 6, 4
	binary.BigEndian.PutUint16(a[6:], op)
	copy(a[8:], src.HardwareAddr())
	binary.BigEndian.PutUint32(a[14:], uint32(sender))
	if dst != frame.BroadcastMAC {
		copy(a[18:], dst.HardwareAddr())
	}
	binary.BigEndian.PutUint32(a[24:], uint32(target))
	return raw
}

// Fragments splits a frame into fragments with at most size bytes of IP payload each. size must be a multiple of 8.
func Fragments(raw []byte, size int) (out [][]byte) {
	head := frame.VnetLen + frame.EthernetLen
	ip := frame.IPv4(raw[head:])
	hl := ip.HeaderLen()
	payload := ip[hl:ip.TotalLen()]
	for at := 0; at < len(payload); at += size {
		end := min(at+size, len(payload))
		b := append(append([]byte(nil), raw[:head+hl]...), payload[at:end]...)
		h := frame.IPv4(b[head:])
		word := uint16(at / 8)
		if end < len(payload) {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(h[2:], uint16(hl+end-at))
		binary.BigEndian.PutUint16(h[6:], word)
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], ^slowSum(h[:hl]))
		out = append(out, b)
	}
	return out
}

// Reassemble is the reverse of Fragments. It takes all fragments of one packet, in any order.
func Reassemble(pieces [][]byte) ([]byte, error) {
	head := frame.VnetLen + frame.EthernetLen
	var first []byte
	total, sum := 0, 0
	for _, p := range pieces {
		ip := frame.IPv4(p[head:])
		n := ip.TotalLen() - ip.HeaderLen()
		sum += n
		if ip.FragOffset() == 0 {
			first = p
		}
		if !ip.MoreFrags() {
			total = ip.FragOffset() + n
		}
	}
	if first == nil || total != sum {
		return nil, fmt.Errorf("%d fragments do not make a packet: %d of %d bytes", len(pieces), sum, total)
	}
	hl := frame.IPv4(first[head:]).HeaderLen()
	out := append(append([]byte(nil), first[:head+hl]...), make([]byte, total)...)
	for _, p := range pieces {
		ip := frame.IPv4(p[head:])
		copy(out[head+hl+ip.FragOffset():], ip[ip.HeaderLen():ip.TotalLen()])
	}
	h := frame.IPv4(out[head:])
	binary.BigEndian.PutUint16(h[2:], uint16(hl+total))
	h[6], h[7], h[10], h[11] = 0, 0, 0, 0
	binary.BigEndian.PutUint16(h[10:], ^slowSum(h[:hl]))
	return out, nil
}

// Quote returns what an ICMP error about raw quotes: the IPv4 header and up to n bytes after it.
func Quote(raw []byte, n int) []byte {
	ip := frame.IPv4(raw[frame.VnetLen+frame.EthernetLen:])
	return append([]byte(nil), ip[:min(ip.HeaderLen()+n, len(ip))]...)
}

// Batch returns a batch of frames that were all read from port in, and parses them.
func Batch(in frame.PortID, now frame.Tick, raws ...[]byte) *frame.Batch {
	b := &frame.Batch{Tick: now}
	Fill(b, in, raws...)
	return b
}

// Fill replaces the frames of b and parses them. With it, a benchmark can reuse a batch.
func Fill(b *frame.Batch, in frame.PortID, raws ...[]byte) {
	b.N, b.Locals = len(raws), 0
	for i, raw := range raws {
		b.Frames[i].Reset(raw, in)
	}
	frame.ParseBatch(b)
}

// Sound reports whether raw, which may be any bytes, is a well-formed IPv4 frame without a VLAN tag and with correct
// checksums.
func Sound(raw []byte) bool {
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	if f.Verdict == frame.Drop || f.Malformed != frame.None || f.Flags&frame.IsIPv4 == 0 || f.Flags&frame.HasVLAN != 0 {
		return false
	}
	if h := f.Vnet(); h.NeedsCsum() && h.CsumStart() != f.L4 {
		return false
	}
	return Check(raw) == nil
}

// IsIPv4 reports whether the EtherType of raw is IPv4.
func IsIPv4(raw []byte) bool {
	return len(raw) >= frame.VnetLen+frame.EthernetLen && binary.BigEndian.Uint16(raw[frame.VnetLen+12:]) == frame.TypeIPv4
}
