package nat

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// translate rewrites a frame of flow f.Flow, counts it and moves the flow's state and time-out.
//
//uvswitch:hot
func (n *NAT) translate(f *frame.Frame, b *frame.Batch) frame.Reason {
	s := &n.state[f.Flow]
	keys := &n.flows.keys[f.Flow]
	to := n.translated(f.Flow, f.Dir)
	addrs, ports := s.addrs, s.l4ports
	if f.Dir == 1 {
		addrs, ports = ^addrs, ^ports
	}
	l4, first := f.Payload(), true
	if f.Flags&frame.Fragment != 0 {
		if f.Proto == frame.SCTP && (to.SrcPort != f.Tuple.SrcPort || to.DstPort != f.Tuple.DstPort) {
			return frame.FragmentNotTranslated // its checksum is over the whole
		}
		first = f.IPv4().FragOffset() == 0
		if why := n.recordFragment(f, b.Dry); why != frame.None {
			return why
		}
	}
	flags := uint8(0)
	if f.Proto == frame.TCP && first {
		if flags = l4[13]; n.windows != nil && !n.windows.accept(f, s, b.Dry) {
			return frame.TCPOutOfWindow
		}
	}
	f.IPv4().SetAddrs(to.Src, to.Dst, addrs)
	if first {
		rewriteTransport(f, l4, &to, addrs, ports)
	}
	f.Tuple = to
	if !b.Dry {
		n.account(f, s, &keys[0], flags, first, b.Tick)
	}
	return frame.None
}

// rewriteTransport writes the ports, or the identifier, and mends the checksum.
//
//uvswitch:hot
func rewriteTransport(f *frame.Frame, l4 []byte, to *frame.Tuple, addrs, ports frame.Delta) {
	switch f.Proto {
	case frame.TCP:
		binary.BigEndian.PutUint16(l4, to.SrcPort)
		binary.BigEndian.PutUint16(l4[2:], to.DstPort)
		fixChecksum(f, l4[16:], addrs, ports)
	case frame.UDP:
		binary.BigEndian.PutUint16(l4, to.SrcPort)
		binary.BigEndian.PutUint16(l4[2:], to.DstPort)
		if f.Vnet().NeedsCsum() || l4[6]|l4[7] != 0 {
			fixChecksum(f, l4[6:], addrs, ports)
			if l4[6]|l4[7] == 0 && !f.Vnet().NeedsCsum() {
				l4[6], l4[7] = 0xff, 0xff // a computed 0 is sent as all ones (RFC 768)
			}
		}
	case frame.ICMP:
		setICMPID(l4, to)
		binary.BigEndian.PutUint16(l4[2:], ports.Complete(binary.BigEndian.Uint16(l4[2:])))
	case frame.SCTP:
		if to.SrcPort != f.Tuple.SrcPort || to.DstPort != f.Tuple.DstPort {
			setSCTPPorts(l4, to)
		}
	}
}

// setSCTPPorts writes the ports, which the CRC32c covers, and not the addresses (RFC 9260, 6.8). A sum that was wrong
// stays wrong: a CRC is linear, so what the change does to it is added to what stood there.
func setSCTPPorts(l4 []byte, to *frame.Tuple) {
	sum := binary.LittleEndian.Uint32(l4[8:])
	binary.LittleEndian.PutUint32(l4[8:], 0)
	sum ^= crc32.Checksum(l4, castagnoli)
	binary.BigEndian.PutUint16(l4, to.SrcPort)
	binary.BigEndian.PutUint16(l4[2:], to.DstPort)
	binary.LittleEndian.PutUint32(l4[8:], sum^crc32.Checksum(l4, castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// account counts a frame of a flow, and moves its state and the time when it is over.
//
//uvswitch:hot
func (n *NAT) account(f *frame.Frame, s *flow, orig *frame.Tuple, flags uint8, first bool, now frame.Tick) {
	s.count[f.Dir].packets.Add(1)
	s.count[f.Dir].bytes.Add(uint64(f.L3End - uint32(f.L3)))
	old := s.state.Load()
	state := old
	if first {
		state = advance(old, f.Dir, f.Proto, flags)
	}
	if state != old {
		s.state.Store(state)
	}
	// What comes from outside keeps no UDP or ICMP mapping alive (RFC 4787, REQ-6); a reset keeps nothing alive (RFC 7857).
	if f.Net != frame.NoNet || f.Proto == frame.TCP {
		n.extend(f, s, now+n.timers.Load().timeout(orig, state), state)
	}
	if state != old && n.watch.Load() != nil {
		n.emit(FlowUpdate, f.Flow, "")
	}
}

// extend moves the time when a flow is over to t.
//
//uvswitch:hot
func (n *NAT) extend(f *frame.Frame, s *flow, t frame.Tick, state uint32) {
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

// keepOpen lets others in by a mapping until t.
//
//uvswitch:hot
func (n *NAT) keepOpen(m uint32, t frame.Tick) {
	if p := n.mappings[m].parent; p != 0 {
		m = p
	}
	e := &n.mappings[m].expires
	if old := e.Load(); int32(t-frame.Tick(old)) > 0 {
		e.Store(uint32(t))
	}
}

// fixChecksum mends a transport checksum, complete or partial: a partial one covers the addresses only.
//
//uvswitch:hot
func fixChecksum(f *frame.Frame, field []byte, addrs, ports frame.Delta) {
	old := binary.BigEndian.Uint16(field)
	if f.Vnet().NeedsCsum() {
		binary.BigEndian.PutUint16(field, addrs.Partial(old))
		return
	}
	binary.BigEndian.PutUint16(field, addrs.Plus(ports).Complete(old))
}

// setICMPID writes the identifier, which stands on the asking side of the tuple.
//
//uvswitch:hot
func setICMPID(l4 []byte, t *frame.Tuple) {
	id := t.SrcPort
	if frame.IsICMPAnswer(l4[0]) {
		id = t.DstPort
	}
	binary.BigEndian.PutUint16(l4[4:], id)
}

// translateError rewrites an ICMP error about a packet of flow f.Flow, in its own header and in the quote, so that its
// receiver recognises what it sent (RFC 5508, REQ-4 and REQ-5). It changes nothing of the flow: an error neither
// ends nor refreshes it (RFC 5508, REQ-6; RFC 5382, REQ-10).
func (n *NAT) translateError(f *frame.Frame) frame.Reason {
	icmp := f.Payload()
	q, at, ok := frame.Quoted(icmp)
	if !ok {
		return frame.ICMPErrorUnmatched
	}
	k := &n.flows.keys[f.Flow]
	to := k[1-f.Dir]      // what the receiver sent
	outer := to.Reverse() // what an answer to it looks like
	src := f.Tuple.Src
	if src == k[f.Dir].Src || f.Egress == frame.NoNet {
		src = outer.Src // the other end itself, or a router of the inside, which the outside must not see
	}
	d := frame.Delta32(uint32(f.Tuple.Src), uint32(src)).Plus(frame.Delta32(uint32(f.Tuple.Dst), uint32(outer.Dst)))
	f.IPv4().SetAddrs(src, outer.Dst, d)

	addrs := frame.Delta32(uint32(q.Src), uint32(to.Src)).Plus(frame.Delta32(uint32(q.Dst), uint32(to.Dst)))
	ports := frame.Delta16(q.SrcPort, to.SrcPort).Plus(frame.Delta16(q.DstPort, to.DstPort))
	frame.IPv4(icmp[frame.ICMPLen:]).SetAddrs(to.Src, to.Dst, addrs)
	l4 := icmp[at:]
	switch q.Proto {
	case frame.ICMP:
		setICMPID(l4, &to)
		binary.BigEndian.PutUint16(l4[2:], ports.Complete(binary.BigEndian.Uint16(l4[2:])))
	case frame.TCP, frame.UDP, frame.SCTP:
		binary.BigEndian.PutUint16(l4, to.SrcPort)
		binary.BigEndian.PutUint16(l4[2:], to.DstPort)
		if field := int(frame.ChecksumOffset(q.Proto)); len(l4) >= field+2 {
			if old := binary.BigEndian.Uint16(l4[field:]); q.Proto == frame.TCP || old != 0 {
				binary.BigEndian.PutUint16(l4[field:], addrs.Plus(ports).Complete(old))
			}
		}
	}
	if icmp[0] == frame.ICMPUnreachable && icmp[1] == frame.CodeFragNeeded {
		if mtu := binary.BigEndian.Uint16(icmp[6:]); mtu != 0 && mtu < frame.MinPathMTU {
			binary.BigEndian.PutUint16(icmp[6:], frame.MinPathMTU)
		}
	}
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], ^frame.Sum(icmp, 0))
	f.Tuple.Src, f.Tuple.Dst = src, outer.Dst
	return frame.None
}
