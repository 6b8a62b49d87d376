package router

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// deliverLocal6 handles an IPv6 packet to the gateway itself: it answers echo requests, also those to all nodes (RFC 4443, 4.2).
func (r *Router) deliverLocal6(f *frame.Frame, p PuntedFrame, now frame.Tick, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	if iface == nil || !iface.HasIPv6() {
		out.Drop(p, frame.NoRoute)
		return
	}
	if b := problemOf(f); b != nil {
		if b.sent {
			r.icmp6Error(p, frame.ICMPv6Parameter, b.code, uint32(b.pointer), now, out)
		}
		out.Drop(p, b.why)
		return
	}
	if f.Flags&frame.Fragment != 0 {
		whole, why := r.assemble(p, now)
		switch {
		case why != frame.None:
			out.Drop(p, why)
		case whole == nil || whole.IsND(): // RFC 6980, 5
			out.Consume(p)
		default:
			p.f = whole
			r.deliverLocal6(whole, p, now, out)
		}
		return
	}
	switch {
	case f.IsND():
		r.nd(f, p, now, out)
		out.Consume(p)
		return
	case f.Proto == frame.TCP || f.Proto == frame.UDP:
		r.icmp6Error(p, frame.ICMPv6Unreachable, frame.CodePort6, 0, now, out)
		out.Drop(p, frame.GatewayService)
		return
	case f.Proto == frame.NoNextHeader: // RFC 8200, 4.7
		out.Drop(p, frame.GatewayService)
		return
	case f.Proto != frame.ICMPv6:
		r.icmp6Error(p, frame.ICMPv6Parameter, codeNextHeader, uint32(f.NextHeaderAt()), now, out)
		out.Drop(p, frame.GatewayService)
		return
	}
	icmp := f.ICMP()
	switch {
	case icmp.Type() != frame.ICMPv6Echo && f.Dst.IsGroup():
		out.Consume(p) // what others say to a group that the gateway hears
	case icmp.Type() != frame.ICMPv6Echo:
		out.Drop(p, frame.GatewayService)
	case !f.HasRightICMPSum():
		out.Drop(p, frame.BadICMPChecksum)
	default:
		r.sendCut(p.Net, iface.echoReply6(f), out)
		out.Consume(p)
	}
}

// A parameterProblem is why the gateway refuses a packet to itself. Its sender gets the ICMPv6 message "parameter problem", or nothing.
type parameterProblem struct {
	why     frame.Reason
	sent    bool
	code    uint8
	pointer int // bytes from the beginning of the IPv6 header
}

// problemOf reads the extension headers of a packet to the gateway: options (RFC 8200, 4.2), routing headers (4.4; RFC 5095, 3) and the length
// of a fragment (4.5). It returns nil if nothing is wrong. Headers behind the Fragment header are read in the first fragment, too: a packet
// that will be refused is not reassembled.
func problemOf(f *frame.Frame) *parameterProblem {
	if f.Malformed != frame.None {
		return &parameterProblem{why: f.Malformed}
	}
	group := f.IPv6().Dst().IsGroup() || f.Dst.IsGroup()
	for h := range f.ExtHeaders {
		switch h.Kind {
		case frame.ExtHopByHop, frame.ExtDestOptions:
			if b := badOption(h, group); b != nil {
				return b
			}
		case frame.ExtRouting:
			if segmentsLeft := h.Bytes[3]; segmentsLeft != 0 {
				return &parameterProblem{frame.SourceRoute, true, codeField, h.At + 2}
			}
		case frame.ExtFragment:
			n := f.FragLen()
			switch {
			case f.Flags&frame.Fragment == 0: // a whole packet (RFC 6946)
			case f.MoreFrags() && n%8 != 0:
				return &parameterProblem{frame.FragmentInvalid, true, codeField, 4} // Payload Length
			case f.FragOffset()+n > maxFragmentEnd(f):
				return &parameterProblem{frame.FragmentInvalid, true, codeField, h.At + 2} // Fragment Offset
			}
		default: // the gateway knows none of the others
			return &parameterProblem{frame.GatewayService, true, codeNextHeader, h.Named}
		}
	}
	return nil
}

// badOption finds the first option that the gateway does not know and that it must not skip. The two highest bits of an option's type say what
// to do; group says that the packet was sent to a group, in its IPv6 or its Ethernet header.
func badOption(h frame.ExtHeader, group bool) *parameterProblem {
	const pad1, padN, routerAlert = 0, 1, 5
	for i := 2; i < len(h.Bytes); {
		kind := h.Bytes[i]
		if kind == pad1 {
			i++
			continue
		}
		if i+2 > len(h.Bytes) || i+2+int(h.Bytes[i+1]) > len(h.Bytes) {
			return &parameterProblem{why: frame.MalformedPacket}
		}
		if kind != padN && kind != routerAlert {
			switch kind >> 6 {
			case 1:
				return &parameterProblem{why: frame.GatewayService}
			case 2:
				return &parameterProblem{frame.GatewayService, true, codeOption, h.At + i}
			case 3:
				return &parameterProblem{frame.GatewayService, !group, codeOption, h.At + i}
			}
		}
		i += 2 + int(h.Bytes[i+1])
	}
	return nil
}

// echoReply6 returns the reply to an echo request, as an Ethernet frame.
func (i *Interface) echoReply6(f *frame.Frame) []byte {
	src, dst := f.IPv6().Src(), f.IPv6().Dst()
	from := dst
	if dst.IsGroup() || i.isAnycast(dst) {
		from = i.sourceFor(src)
	}
	eth := append(append([]byte(nil), f.Src.HardwareAddr()...), i.MAC.HardwareAddr()...)
	eth = binary.BigEndian.AppendUint16(eth, frame.TypeIPv6)
	eth = append(eth, ipv6Packet(from, src, frame.ICMPv6, 64, f.Payload())...)
	class := f.IPv6()[:2]
	eth[frame.EthernetLen] |= class[0] & 0x0f
	eth[frame.EthernetLen+1] = class[1] & 0xf0
	reply := frame.ICMPHeader(eth[frame.EthernetLen+frame.IPv6Len:])
	reply.SetType(frame.ICMPv6EchoReply)
	reply.UpdateChecksum(frame.IPv6(eth[frame.EthernetLen:]).PseudoSum(frame.ICMPv6, len(reply)))
	return eth
}
