package simnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/frame/frametest"
	"github.com/uvswitch/uvswitch/nat"
)

// A scenario that speaks of IPv4 can be played over IPv6, too: the same events must have the same outcome. Every frame that a host sends is
// translated to IPv6 before the switch gets it, and every frame that the switch sends is translated back, as RFC 7915 does it: headers,
// ICMP errors with what they quote, fragments. ARP becomes neighbor discovery. An MTU becomes 20 bytes longer, since the header is.

// RunOverIPv6 is Run over IPv6.
func RunOverIPv6(script string) (*Net, error) { return run(script, true) }

const longerHeader = frame.IPv6Len - frame.IPv4Len

// IPv6Of returns the IPv6 address that stands for an IPv4 address: 2001:db8:6:: and its 32 bits.
func IPv6Of(a frame.Addr) frame.Addr6 { return six(a) }

func six(a frame.Addr) frame.Addr6 {
	switch {
	case a>>24 == 0:
		return frame.Addr6{}
	case a>>24 == 127:
		return frame.Addr6{Lo: 1}
	case a >= 0xe0000000:
		return frame.Addr6{Hi: 0xff0e << 48, Lo: uint64(a)}
	}
	return frame.Addr6{Hi: 0x2001_0db8_0006_0000, Lo: uint64(a)}
}

// four reverses six.
func four(a frame.Addr6) frame.Addr {
	if a == frame.FirstLocal || a.IsLinkLocal() {
		return 0xa9fe0001
	}
	return frame.Addr(uint32(a.Lo))
}

func sixPrefix(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(six(frame.AddrFrom(p.Addr())).Netip(), 96+p.Bits())
}

// outside6 is what the Net is to NAT for IPv6.
type outside6 struct{ *Net }

func (n outside6) UseAddr(frame.Addr6, int) {}
func (n outside6) Peer(own, a frame.Addr6, proto uint8, on bool) (ok bool) {
	return n.Net.Peer(four(own), four(a), proto, on)
}
func (n outside6) Inside(_ frame.PortID, a frame.Addr6) uint32 { return uint32(four(a)) }
func (n outside6) SourceFor(frame.Addr6) (a frame.Addr6)       { return a }
func (n outside6) AskSource(frame.Tuple6, uint8) (a frame.Addr6) {
	if n.source != 0 {
		a = six(n.source)
	}
	return a
}

// icmpTypes are the types and codes of ICMP, and those of ICMPv6 that say the same.
var icmpTypes = []struct{ four, six [2]uint8 }{
	{[2]uint8{8, 0}, [2]uint8{128, 0}}, {[2]uint8{0, 0}, [2]uint8{129, 0}},
	{[2]uint8{3, 0}, [2]uint8{1, 0}}, {[2]uint8{3, 13}, [2]uint8{1, 1}}, {[2]uint8{3, 1}, [2]uint8{1, 3}}, {[2]uint8{3, 3}, [2]uint8{1, 4}},
	{[2]uint8{3, 2}, [2]uint8{4, 1}}, {[2]uint8{3, 4}, [2]uint8{2, 0}}, {[2]uint8{11, 0}, [2]uint8{3, 0}}, {[2]uint8{12, 0}, [2]uint8{4, 0}},
}

func icmp6Type(typ, code uint8) ([2]uint8, bool) {
	for _, t := range icmpTypes {
		if t.four == [2]uint8{typ, code} {
			return t.six, true
		}
	}
	return [2]uint8{}, false
}

func icmp4Type(typ, code uint8) ([2]uint8, bool) {
	for _, t := range icmpTypes {
		if t.six == [2]uint8{typ, code} {
			return t.four, true
		}
	}
	return [2]uint8{}, false
}

// untranslatable is a frame that has no counterpart in the other family.
type untranslatable string

func (u untranslatable) Error() string { return "over IPv6: " + string(u) }

// ToIPv6 translates a frame, of which IPv4 packets, ARP and IPv6 packets are known. It fails for what has no counterpart in IPv6.
func ToIPv6(raw []byte) ([]byte, error) {
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	head := raw[:frame.VnetLen+12]
	switch {
	case f.Flags&frame.IsARP != 0:
		return toND(&f), nil
	case f.Flags&frame.HasVLAN != 0 || f.EtherType != frame.TypeIPv4:
		return raw, nil
	case f.Flags&frame.IsIPv4 == 0 || f.Malformed != frame.None:
		return nil, untranslatable("a malformed packet")
	case f.L4 != f.L3+frame.IPv4Len:
		return nil, untranslatable("options of IPv4")
	}
	ip, err := packet6(f.IPv4()[:f.IPv4().TotalLen()], f.Payload(), f.Vnet().NeedsCsum(), false)
	if err != nil {
		return nil, err
	}
	out := append(append(append([]byte(nil), head...), 0x86, 0xdd), ip...)
	if h := frame.VnetHdr(out); h.NeedsCsum() {
		kind := h[1]
		if kind == frame.GSOTCPv4 {
			kind = frame.GSOTCPv6
		}
		h.Set(h[0], kind, h.HdrLen()+longerHeader, h.GSOSize(), h.CsumStart()+longerHeader, h.CsumOffset())
	}
	if f.Dst.IsGroup() && f.Dst != frame.BroadcastMAC {
		frametest.PutMACs(out[frame.VnetLen:], six(f.Tuple.Dst).GroupMAC(), f.Src)
	}
	return out, nil
}

// packet6 translates an IPv4 packet, or with quoted the beginning of one.
func packet6(ip frame.IPv4, l4 []byte, partial, quoted bool) ([]byte, error) {
	out := make([]byte, frame.IPv6Len)
	out[0], out[6], out[7] = 6<<4|ip[1]>>4, ip.Proto(), ip.TTL()
	out[1] = ip[1] << 4
	frame.IPv6(out).SetAddrs(six(ip.Src()), six(ip.Dst()))
	if ip.Proto() == frame.ICMP {
		out[6] = frame.ICMPv6
	}
	fragment := ip.FragOffset() != 0 || ip.MoreFrags()
	if fragment {
		more := uint16(0)
		if ip.MoreFrags() {
			more = 1
		}
		ext := []byte{out[6], 0}
		ext = binary.BigEndian.AppendUint16(ext, uint16(ip.FragOffset())|more)
		out = append(out, binary.BigEndian.AppendUint32(ext, uint32(ip.ID()))...)
		out[6] = 44
	}
	l4 = append([]byte(nil), l4...)
	binary.BigEndian.PutUint16(out[4:], uint16(ip.TotalLen()-ip.HeaderLen()+len(out)-frame.IPv6Len))
	if ip.Proto() == frame.ICMP && ip.FragOffset() == 0 && len(l4) >= frame.ICMPLen {
		if fragment {
			return nil, untranslatable("an ICMP message in fragments: its checksum covers its length")
		}
		was := frame.Sum(l4, 0)
		t, ok := icmp6Type(l4[0], l4[1])
		if !ok {
			return nil, untranslatable(fmt.Sprintf("ICMP %d/%d", l4[0], l4[1]))
		}
		mtu := binary.BigEndian.Uint16(l4[6:])
		isError := frame.IsICMPErrorType(l4[0])
		if l4[0], l4[1] = t[0], t[1]; isError {
			binary.BigEndian.PutUint32(l4[4:], 0)
			if t[0] == frame.ICMPv6TooBig && mtu != 0 {
				binary.BigEndian.PutUint32(l4[4:], uint32(mtu)+longerHeader)
			}
			q := frame.IPv4(l4[frame.ICMPLen:])
			sound := frame.Sum(q[:q.HeaderLen()], 0) == 0xffff
			quote, err := packet6(q, q[q.HeaderLen():], false, true)
			if err != nil {
				return nil, err
			}
			if !sound {
				return nil, untranslatable("IPv6 has no header checksum")
			}
			l4 = append(l4[:frame.ICMPLen], quote...)
			binary.BigEndian.PutUint16(out[4:], uint16(len(l4)))
		}
		if !quoted {
			l4[2], l4[3] = 0, 0
			sum := ^frame.Sum(l4, frame.IPv6(out).PseudoSum(frame.ICMPv6, len(l4)))
			if was != 0xffff {
				sum ^= 0x5555
			}
			binary.BigEndian.PutUint16(l4[2:], sum)
		}
	} else if at := frame.ChecksumOffset(ip.Proto()); at != 0xffff && ip.FragOffset() == 0 && len(l4) >= int(at)+2 {
		// The sum over the transport packet stays; the pseudo-header changes.
		field := l4[at:]
		d := frame.Delta(frame.Add(^frame.PseudoSum(ip.Src(), ip.Dst(), 0, 0), frame.IPv6(out).PseudoSum(0, 0)))
		switch sum := binary.BigEndian.Uint16(field); {
		case partial:
			binary.BigEndian.PutUint16(field, d.Partial(sum))
		case sum == 0 && ip.Proto() == frame.UDP && !fragment && !quoted: // IPv6 does not go without (RFC 8200, 8.1)
			binary.BigEndian.PutUint16(field, max(1, ^frame.Sum(l4, frame.IPv6(out).PseudoSum(frame.UDP, len(l4)))))
		default:
			binary.BigEndian.PutUint16(field, d.Complete(sum))
		}
	}
	return append(out, l4...), nil
}

// ToIPv4 translates a frame that ToIPv6 has translated, or an answer to such a frame.
func ToIPv4(raw []byte) ([]byte, error) { return toFour(raw, false) }

// toFour is ToIPv4; onlyND: nothing but neighbor discovery.
func toFour(raw []byte, onlyND bool) ([]byte, error) {
	var f frame.Frame
	f.Reset(raw, 1)
	frame.Parse(&f)
	if f.Flags&frame.IsIPv6 == 0 || f.Malformed != frame.None {
		return raw, nil
	}
	if f.IsND() {
		if t := f.ICMP().Type(); t != frame.ICMPv6NeighborSolicitation && t != frame.ICMPv6NeighborAdvertisement || len(f.Payload()) < 24 {
			return nil, untranslatable("a message of routers")
		}
		return toARP(&f), nil
	}
	if onlyND {
		return nil, untranslatable("not neighbor discovery")
	}
	ip, err := packet4(f.Bytes()[f.L3:f.L3End], int(f.L4-f.L3), &f, f.Vnet().NeedsCsum(), false)
	if err != nil {
		return nil, err
	}
	out := append(append(append([]byte(nil), raw[:frame.VnetLen+12]...), 8, 0), ip...)
	if h := frame.VnetHdr(out); h.NeedsCsum() {
		kind := h[1]
		if kind == frame.GSOTCPv6 {
			kind = frame.GSOTCPv4
		}
		h.Set(h[0], kind, h.HdrLen()-longerHeader, h.GSOSize(), h.CsumStart()-longerHeader, h.CsumOffset())
	}
	return out, nil
}

// packet4 translates an IPv6 packet, or with quoted the beginning of one; at is where its transport header begins.
func packet4(ip6 frame.IPv6, at int, f *frame.Frame, partial, quoted bool) ([]byte, error) {
	out := make([]byte, frame.IPv4Len)
	ip := frame.IPv4(out)
	proto := f.Proto
	ip[0], ip[1], ip[8] = 0x45, ip6.TrafficClass(), ip6.HopLimit()
	if ip[9] = proto; proto == frame.ICMPv6 {
		ip[9] = frame.ICMP
	}
	ext := at - frame.IPv6Len
	if f.Flags&frame.Fragment != 0 {
		word := uint16(f.FragOffset() / 8)
		if f.MoreFrags() {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(f.FragID()))
		binary.BigEndian.PutUint16(ip[6:], word)
	}
	l4 := append([]byte(nil), ip6[at:]...)
	total := frame.IPv4Len + ip6.PayloadLen() - ext
	src, dst := four(ip6.Src()), four(ip6.Dst())
	binary.BigEndian.PutUint32(ip[12:], uint32(src))
	binary.BigEndian.PutUint32(ip[16:], uint32(dst))
	fragment := f.Flags&frame.Fragment != 0
	if proto == frame.ICMPv6 && f.FragOffset() == 0 && len(l4) >= frame.ICMPLen {
		was := frame.Sum(l4, ip6.PseudoSum(frame.ICMPv6, len(l4)))
		t, ok := icmp4Type(l4[0], l4[1])
		if !ok {
			return nil, untranslatable(fmt.Sprintf("ICMPv6 %d/%d", l4[0], l4[1]))
		}
		isError, mtu := l4[0] < 128, binary.BigEndian.Uint32(l4[4:])
		if l4[0], l4[1] = t[0], t[1]; isError {
			binary.BigEndian.PutUint32(l4[4:], 0)
			if mtu != 0 && t == [2]uint8{3, 4} {
				binary.BigEndian.PutUint16(l4[6:], uint16(mtu-longerHeader))
			}
			quote := append(make([]byte, frame.VnetLen+frame.EthernetLen), l4[frame.ICMPLen:]...)
			quote[frame.VnetLen+6], quote[frame.VnetLen+12], quote[frame.VnetLen+13] = 2, 0x86, 0xdd
			q := frame.IPv6(l4[frame.ICMPLen:])
			whole := q.PayloadLen()
			binary.BigEndian.PutUint16(quote[frame.VnetLen+frame.EthernetLen+4:], uint16(len(q)-frame.IPv6Len)) // as if that were all
			var g frame.Frame
			g.Reset(quote, 1)
			frame.Parse(&g)
			binary.BigEndian.PutUint16(q[4:], uint16(whole))
			b, err := packet4(q, int(g.L4-g.L3), &g, false, true)
			if err != nil {
				return nil, err
			}
			l4 = append(l4[:frame.ICMPLen], b...)
			total = frame.IPv4Len + len(l4)
		}
		if !quoted && !fragment {
			l4[2], l4[3] = 0, 0
			sum := ^frame.Sum(l4, 0)
			if was != 0xffff {
				sum ^= 0x5555
			}
			binary.BigEndian.PutUint16(l4[2:], sum)
		}
	} else if at := frame.ChecksumOffset(proto); at != 0xffff && f.FragOffset() == 0 && len(l4) >= int(at)+2 {
		field := l4[at:]
		d := frame.Delta(frame.Add(^ip6.PseudoSum(0, 0), frame.PseudoSum(src, dst, 0, 0)))
		if sum := binary.BigEndian.Uint16(field); partial {
			binary.BigEndian.PutUint16(field, d.Partial(sum))
		} else {
			binary.BigEndian.PutUint16(field, d.Complete(sum))
		}
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(total))
	binary.BigEndian.PutUint16(ip[10:], ^frame.Sum(ip, 0))
	return append(out, l4...), nil
}

// toND translates an ARP packet: a request becomes a solicitation, a reply or an announcement an advertisement.
func toND(f *frame.Frame) []byte {
	a := f.ARP()
	sender, target := six(a.SenderAddr()), six(a.TargetAddr())
	p := frametest.Packet{SrcMAC: f.Src, DstMAC: f.Dst, Src6: sender, Proto: frame.ICMPv6, TTL: 255, Type: frame.ICMPv6NeighborSolicitation}
	about, option, flags := target, byte(1), byte(0)
	switch {
	case sender == target, a.Operation() == frame.ARPReply:
		p.Type, about, option, flags = frame.ICMPv6NeighborAdvertisement, sender, 2, 0x20
		if p.Dst6 = target; sender == target || f.Dst.IsGroup() {
			p.Dst6, p.DstMAC = frame.AllNodes, frame.AllNodes.GroupMAC()
		} else {
			flags |= 0x40
		}
	default:
		if p.Dst6 = target; f.Dst.IsGroup() {
			p.Dst6 = target.SolicitedNode()
			p.DstMAC = p.Dst6.GroupMAC()
		}
	}
	body := make([]byte, 16, 24)
	about.Put(body)
	if !sender.IsZero() {
		body = append(append(body, option, 1), a.SenderMAC().HardwareAddr()...)
	}
	p.Payload = body
	p.ID = uint16(flags) << 8
	return p.Raw()
}

// toARP is the reverse of toND.
func toARP(f *frame.Frame) []byte {
	l4 := f.Payload()
	src, dst, target := four(f.IPv6().Src()), four(f.IPv6().Dst()), four(frame.LoadAddr6(l4[8:]))
	if l4[0] == frame.ICMPv6NeighborSolicitation {
		mac := f.Dst
		if mac.IsGroup() {
			mac = frame.BroadcastMAC
		}
		return frametest.ARP(mac, f.Src, frame.ARPRequest, src, target)
	}
	if f.IPv6().Dst().IsGroup() {
		return frametest.ARP(frame.BroadcastMAC, f.Src, frame.ARPRequest, target, target)
	}
	return frametest.ARP(f.Dst, f.Src, frame.ARPReply, target, dst)
}

// sixRules are the rules of IPv4 for IPv6.
func (n *Net) sixRules() (r nat.RulesOf[frame.Addr6]) {
	for _, a := range n.rules.Own {
		r.Own = append(r.Own, six(a))
	}
	for _, p := range n.rules.Publish {
		x := &nat.Publish6{ID: p.ID, Proto: p.Proto, Lo: p.Lo, Hi: p.Hi, Target: six(p.Target), Port: p.Port, Inside: p.Inside, Net: p.Net, RuleCount: p.RuleCount}
		if p.HostAddr != 0 {
			x.HostAddr = six(p.HostAddr)
		}
		for _, from := range p.From {
			x.From = append(x.From, sixPrefix(from))
		}
		r.Publish = append(r.Publish, x)
	}
	r.Stations = map[frame.Addr6]frame.PortID{}
	for a, id := range n.rules.Stations {
		r.Stations[six(a)] = id
	}
	for _, a := range n.rules.Reserved {
		r.Reserved = append(r.Reserved, six(a))
	}
	for _, m := range n.rules.Masquerade {
		if m.Outside.IsValid() {
			x := *m
			x.Inside, x.Outside = sixPrefix(m.Inside), sixPrefix(m.Outside)
			m = &x
		}
		r.Masquerade = append(r.Masquerade, m)
	}
	return r
}
