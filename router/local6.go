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
	if f.Malformed != frame.None {
		out.Drop(p, frame.GatewayService)
		return
	}
	if b := problemOf(f); b != nil {
		r.tell(p, b, now, out)
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

// A problem is why a node does not take a packet to itself because of its extension headers, and where, in bytes from the beginning of the
// packet. It is told to the sender as a "parameter problem", or not at all.
type problem struct {
	why  frame.Reason
	told bool
	code uint8
	at   int
}

func (r *Router) tell(p PuntedFrame, b *problem, now frame.Tick, out Output) {
	if b.told {
		r.icmp6Error(p, frame.ICMPv6Parameter, b.code, uint32(b.at), now, out)
	}
}

// tellProblem tells the sender of a fragment that NAT has refused what is wrong with it, if it is to the gateway: others keep silent.
func (r *Router) tellProblem(p PuntedFrame, now frame.Tick, out Output) {
	iface := r.snap.Load().ifaces[p.Net]
	if iface == nil || p.f.Flags&frame.IsIPv6 == 0 || !iface.HasIPv6() || !iface.owns6(p.f.IPv6().Dst()) {
		return
	}
	if b := problemOf(p.f); b != nil {
		r.tell(p, b, now, out)
	}
}

// problemOf reads the extension headers of a packet to the gateway: options (RFC 8200, 4.2), routing headers (4.4; RFC 5095, 3) and the length
// of a fragment (4.5). It returns nil if there is nothing wrong.
func problemOf(f *frame.Frame) *problem {
	ip, end := f.IPv6(), int(f.L4-f.L3)
	group := ip.Dst().IsGroup()
	next, named := ip.NextHeader(), 6
	for at := frame.IPv6Len; at < end; {
		h := ip[at:end]
		size := frame.ExtensionLen(next, h)
		switch next {
		case frame.ExtHopByHop, frame.ExtDestOptions:
			if b := badOption(h[:size], at, group); b != nil {
				return b
			}
		case frame.ExtRouting:
			if segmentsLeft := h[3]; segmentsLeft != 0 {
				return &problem{frame.SourceRoute, true, codeHeader, at + 2}
			}
		case frame.ExtFragment:
			_, data := f.Fragmented()
			switch {
			case f.Flags&frame.Fragment == 0: // a whole packet (RFC 6946)
			case f.MoreFrags() && len(data)%8 != 0:
				return &problem{frame.FragmentInvalid, true, codeHeader, 4} // Payload Length
			case f.FragOffset()+len(data) > maxFragmentEnd(f):
				return &problem{frame.FragmentInvalid, true, codeHeader, at + 2} // Fragment Offset
			}
		default: // the gateway knows none of the others
			return &problem{frame.GatewayService, true, codeNextHeader, named}
		}
		next, named, at = h[0], at, at+size
	}
	return nil
}

// badOption finds the first option that the gateway does not know and that is not to be skipped. h is a header of options at a byte of the
// packet. The two highest bits of an option's type say what is done.
func badOption(h []byte, at int, group bool) *problem {
	const pad1, padN, routerAlert = 0, 1, 5
	for i := 2; i < len(h); {
		kind := h[i]
		if kind == pad1 {
			i++
			continue
		}
		if i+2 > len(h) || i+2+int(h[i+1]) > len(h) {
			return &problem{why: frame.MalformedPacket}
		}
		if kind != padN && kind != routerAlert {
			switch kind >> 6 {
			case 1:
				return &problem{why: frame.GatewayService}
			case 2:
				return &problem{frame.GatewayService, true, codeOption, at + i}
			case 3:
				return &problem{frame.GatewayService, !group, codeOption, at + i}
			}
		}
		i += 2 + int(h[i+1])
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
	eth[frame.EthernetLen+1] = f.IPv6()[1] & 0xf0 // of the traffic class, the part that says ECN
	reply := frame.ICMPHeader(eth[frame.EthernetLen+frame.IPv6Len:])
	reply.SetType(frame.ICMPv6EchoReply)
	reply.UpdateChecksum(frame.IPv6(eth[frame.EthernetLen:]).PseudoSum(frame.ICMPv6, len(reply)))
	return eth
}
