package nat

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// translate rewrites a frame of flow f.Flow, counts it, and updates the flow's state and time-out.
//
//uvswitch:hot
func (n *tracker[A]) translate(f packet[A], b *frame.Batch) frame.Reason {
	s := &n.state[f.Flow]
	keys := &n.flows.keys[f.Flow]
	to := n.translated(f.Flow, f.Dir)
	addrs, ports := s.addrs, s.l4ports
	if f.Dir == 1 {
		addrs, ports = ^addrs, ^ports
	}
	l4, first := f.Payload(), true
	if f.Flags&frame.Fragment != 0 {
		if f.Proto == frame.SCTP && (to.SrcPort != f.tuple.SrcPort || to.DstPort != f.tuple.DstPort) {
			return frame.FragmentNotTranslated // its checksum covers the whole packet
		}
		first = f.FragOffset() == 0
		if why := n.recordFragment(f, b.Dry); why != frame.None {
			return why
		}
	}
	flags := uint8(0)
	if f.Proto == frame.TCP && first {
		if flags = f.TCP().Flags(); n.windows != nil && !n.windows.accept(f.Frame, s, b.Dry) {
			return frame.TCPOutOfWindow
		}
	}
	f.setAddrs(to.Src, to.Dst, addrs)
	if first {
		rewriteTransport(f, l4, &to, addrs, ports)
	}
	f.setTuple(to)
	if !b.Dry {
		if flags&frame.FlagFIN != 0 && f.Dir == 0 && s.rule|s.inboundMapping == 0 {
			n.noteFIN(f, b.Tick)
		}
		n.account(f, s, &keys[0], flags, first, b.Tick)
	}
	return frame.None
}

// rewriteTransport writes the ports or the ICMP identifier and updates the checksum.
//
//uvswitch:hot
func rewriteTransport[A frame.Address](f packet[A], l4 []byte, to *frame.TupleOf[A], addrs, ports frame.Delta) {
	switch f.Proto {
	case frame.TCP:
		h := frame.TCPHeader(l4)
		frame.PortsHeader(l4).SetPorts(to.SrcPort, to.DstPort)
		h.SetChecksum(fixedChecksum(f.Frame, h.Checksum(), addrs, ports))
	case frame.UDP:
		h := frame.UDPHeader(l4)
		frame.PortsHeader(l4).SetPorts(to.SrcPort, to.DstPort)
		partial := f.PartialSum()
		if old := h.Checksum(); partial || old != 0 { // over IPv6, too, there may be none (RFC 6935)
			sum := fixedChecksum(f.Frame, old, addrs, ports)
			if sum == 0 && !partial {
				sum = 0xffff // a computed 0 is sent as all ones (RFC 768)
			}
			h.SetChecksum(sum)
		}
	case frame.UDPLite, frame.DCCP:
		frame.PortsHeader(l4).SetPorts(to.SrcPort, to.DstPort)
		sum := addrs.Plus(ports).Complete(frame.UDPHeader(l4).Checksum()) // where UDP has it, too
		if sum == 0 && f.Proto == frame.UDPLite {
			sum = 0xffff // RFC 3828, 3.1
		}
		frame.UDPHeader(l4).SetChecksum(sum)
	case frame.ICMP:
		setICMPID(l4, to)
		h := frame.ICMPHeader(l4)
		h.SetChecksum(ports.Complete(h.Checksum()))
	case frame.ICMPv6: // its checksum covers the addresses, too (RFC 4443, 2.3)
		setICMPID(l4, to)
		h := frame.ICMPHeader(l4)
		h.SetChecksum(fixedChecksum(f.Frame, h.Checksum(), addrs, ports))
	case frame.SCTP:
		if to.SrcPort != f.tuple.SrcPort || to.DstPort != f.tuple.DstPort {
			setSCTPPorts(l4, to)
		}
	}
}

// setSCTPPorts writes the ports and updates the CRC32c, which covers the ports but not the addresses (RFC 9260, 6.8).
// A CRC is linear: the difference is added to the old checksum, so a wrong checksum stays wrong.
func setSCTPPorts[A frame.Address](l4 []byte, to *frame.TupleOf[A]) {
	sum := binary.LittleEndian.Uint32(l4[8:])
	binary.LittleEndian.PutUint32(l4[8:], 0)
	sum ^= crc32.Checksum(l4, castagnoli)
	frame.PortsHeader(l4).SetPorts(to.SrcPort, to.DstPort)
	binary.LittleEndian.PutUint32(l4[8:], sum^crc32.Checksum(l4, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// account counts a frame of a flow and updates its state and its expiry.
//
//uvswitch:hot
func (n *tracker[A]) account(f packet[A], s *flow, orig *frame.TupleOf[A], flags uint8, first bool, now frame.Tick) {
	s.count[f.Dir].packets.Add(1)
	s.count[f.Dir].bytes.Add(f.bytes())
	old := s.state.Load()
	state := old
	if first {
		state = advance(old, f.Dir, f.Proto, flags, now)
	}
	for state != old && !s.state.CompareAndSwap(old, state) { // another worker has a packet of the other direction
		old = s.state.Load()
		state = advance(old, f.Dir, f.Proto, flags, now)
	}
	if state != old {
		if evictable(state, f.Proto) && !evictable(old, f.Proto) {
			n.noteLoose(f.Flow)
		}
	}
	// Packets from outside do not refresh UDP and ICMP flows (RFC 4787, REQ-6); a reset connection is never extended
	// (RFC 7857).
	if f.Net != frame.NoNet || f.Proto == frame.TCP {
		n.extend(f, s, now+timeout(n.timers.Load(), orig, state), state)
	}
	if state != old && n.watch.Load() != nil {
		n.emit(FlowUpdate, f.Flow, "")
	}
}

// extend sets the expiry of a flow to t; a reset TCP connection may only expire earlier. It also keeps the mapping of
// the flow open until t.
//
//uvswitch:hot
func (n *tracker[A]) extend(f packet[A], s *flow, t frame.Tick, state uint32) {
	if f.Proto == frame.TCP && tcpState(state&stateMask) == tcpClose {
		if e := frame.Tick(s.expires.Load()); int32(e-t) < 0 {
			t = e
		}
	}
	if s.expires.Load() != uint32(t) {
		s.expires.Store(uint32(t))
	}
	if state&opensFilter != 0 && f.Net != frame.NoNet && s.mapping != 0 {
		n.keepOpen(s.mapping, t)
	}
}

// keepOpen makes a mapping admit packets from other endpoints until t.
//
//uvswitch:hot
func (n *tracker[A]) keepOpen(m uint32, t frame.Tick) {
	if p := n.mappings[m].parent; p != 0 {
		m = p
	}
	e := &n.mappings[m].expires
	if old := e.Load(); int32(t-frame.Tick(old)) > 0 {
		e.Store(uint32(t))
	}
}

// fixedChecksum is a transport checksum after a translation. A partial one covers the addresses only.
//
//uvswitch:hot
func fixedChecksum(f *frame.Frame, old uint16, addrs, ports frame.Delta) uint16 {
	if f.PartialSum() {
		return addrs.Partial(old)
	}
	return addrs.Plus(ports).Complete(old)
}

// setICMPID writes the identifier, which is the source port of t for a query and the destination port for an answer.
//
//uvswitch:hot
func setICMPID[A frame.Address](l4 []byte, t *frame.TupleOf[A]) {
	id := t.SrcPort
	h := frame.ICMPHeader(l4)
	if frame.IsICMPAnswer(t.Proto, h.Type()) {
		id = t.DstPort
	}
	h.SetID(id)
}

// translateError rewrites an ICMP error about a packet of flow f.Flow, both its own header and the quoted packet, so
// that the receiver recognises the packet that it sent (RFC 5508, REQ-4 and REQ-5). The flow does not change: an
// error neither ends nor refreshes it (RFC 5508, REQ-6; RFC 5382, REQ-10).
func (n *tracker[A]) translateError(f packet[A]) frame.Reason {
	icmp := f.ICMP()
	q, at, ok := frame.QuotedOf[A](icmp)
	if !ok {
		return frame.ICMPErrorUnmatched
	}
	k := &n.flows.keys[f.Flow]
	to := k[1-f.Dir]      // the packet that the receiver of the error sent
	outer := to.Reverse() // the tuple of an answer to it
	src := f.tuple.Src
	if src == k[f.Dir].Src || f.Egress == frame.NoNet {
		src = outer.Src // from the other end itself, or from a router inside, whose address must not leave
	}
	d := frame.AddrDelta(f.tuple.Src, src).Plus(frame.AddrDelta(f.tuple.Dst, outer.Dst))
	f.setAddrs(src, outer.Dst, d)

	addrs := frame.AddrDelta(q.Src, to.Src).Plus(frame.AddrDelta(q.Dst, to.Dst))
	ports := frame.Delta16(q.SrcPort, to.SrcPort).Plus(frame.Delta16(q.DstPort, to.DstPort))
	setAddrs(icmp[frame.ICMPLen:], to.Src, to.Dst, addrs)
	l4 := icmp[at:]
	switch q.Proto {
	case frame.ICMP:
		setICMPID(l4, &to)
		h := frame.ICMPHeader(l4)
		h.SetChecksum(ports.Complete(h.Checksum()))
	case frame.ICMPv6:
		setICMPID(l4, &to)
		h := frame.ICMPHeader(l4)
		h.SetChecksum(addrs.Plus(ports).Complete(h.Checksum()))
	case frame.TCP, frame.UDP, frame.SCTP, frame.UDPLite, frame.DCCP:
		frame.PortsHeader(l4).SetPorts(to.SrcPort, to.DstPort)
		if field := int(frame.ChecksumOffset(q.Proto)); len(l4) >= field+2 {
			if old := binary.BigEndian.Uint16(l4[field:]); q.Proto == frame.TCP || old != 0 {
				binary.BigEndian.PutUint16(l4[field:], addrs.Plus(ports).Complete(old))
			}
		}
	}
	if f.Proto == frame.ICMP && icmp.Type() == frame.ICMPUnreachable && icmp.Code() == frame.CodeFragNeeded {
		if mtu := icmp.NextMTU(); mtu != 0 && mtu < frame.MinPathMTU {
			icmp.SetNextMTU(frame.MinPathMTU)
		}
	}
	icmp.UpdateChecksum(f.ICMPPseudoSum())
	f.tuple.Src, f.tuple.Dst = src, outer.Dst
	return frame.None
}

// setAddrs rewrites both addresses in an IP header; d is the delta of both together, for IPv4's checksum.
//
//uvswitch:hot
func setAddrs[A frame.Address](ip []byte, src, dst A, d frame.Delta) {
	switch src := any(src).(type) {
	case frame.Addr:
		frame.IPv4(ip).SetAddrs(src, any(dst).(frame.Addr), d)
	case frame.Addr6:
		frame.IPv6(ip).SetAddrs(src, any(dst).(frame.Addr6))
	}
}
