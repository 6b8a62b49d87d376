package nat

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// translate rewrites a frame of flow f.Flow, counts it and moves the flow's state and time-out.
//
//uvswitch:hot
func (n *NAT) translate(f *frame.Frame, now frame.Tick) {
	s := &n.state[f.Flow]
	keys := &n.flows.keys[f.Flow]
	to := keys[1-f.Dir].Reverse()
	addrs, ports := s.addrs, s.l4ports
	if f.Dir == 1 {
		addrs, ports = ^addrs, ^ports
	}
	l4 := f.Payload()
	f.IPv4().SetAddrs(to.Src, to.Dst, addrs)
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
		setICMPID(l4, &to)
		binary.BigEndian.PutUint16(l4[2:], ports.Complete(binary.BigEndian.Uint16(l4[2:])))
	}
	f.Tuple = to

	s.count[f.Dir].packets.Add(1)
	s.count[f.Dir].bytes.Add(uint64(f.L3End - uint32(f.L3)))
	old := s.state.Load()
	state := advance(old, f.Dir, f.Proto, l4)
	if state != old {
		s.state.Store(state)
	}
	// What comes from outside keeps no UDP or ICMP mapping alive (RFC 4787, REQ-6).
	if f.Net != frame.NoNet || f.Proto == frame.TCP {
		if t := uint32(now + n.timers.timeout(&keys[0], state)); s.expires.Load() != t {
			s.expires.Store(t)
		}
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

// translateError rewrites an ICMP error about a packet of flow f.Flow, outside and in the quote, so that its
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
	case frame.TCP, frame.UDP:
		binary.BigEndian.PutUint16(l4, to.SrcPort)
		binary.BigEndian.PutUint16(l4[2:], to.DstPort)
		if field := int(frame.ChecksumOffset(q.Proto)); len(l4) >= field+2 {
			if old := binary.BigEndian.Uint16(l4[field:]); q.Proto == frame.TCP || old != 0 {
				binary.BigEndian.PutUint16(l4[field:], addrs.Plus(ports).Complete(old))
			}
		}
	}
	icmp[2], icmp[3] = 0, 0
	binary.BigEndian.PutUint16(icmp[2:], ^frame.Sum(icmp, 0))
	f.Tuple.Src, f.Tuple.Dst = src, outer.Dst
	return frame.None
}
