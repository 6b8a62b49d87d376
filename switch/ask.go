package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// ask looks at a frame for a group. If it asks for the MAC of an address that belongs to the gateway or to a guarded port, only the owner gets it:
// the verdict is Flood, with one receiver, f.Out. All get a question for the sender's own address, which is an announcement, and for a port that
// takes no floods, or is Closed.
//
//uvswitch:hot
func (s *Switch) ask(snap *snapshot, b *frame.Batch, f *frame.Frame, n *Network) {
	a, ok := asksFor(f)
	if !ok {
		return
	}
	var owner frame.PortID
	if f.Flags&frame.IsARP != 0 {
		owner = n.owned.owner(frame.Addr(a.Lo))
	} else {
		owner = n.owned6.owner(a)
	}
	if owner == f.In {
		return
	}
	if owner == frame.Gateway {
		f.PuntFor(frame.GatewayService)
		return
	}
	if !b.Dry && mustBeAnswered(f) {
		s.questions.note(f.In, a, b.Tick)
	}
	if owner == frame.NoPort {
		return
	}
	out := snap.port(owner)
	if out == nil || out.Flags&floodFlag[f.Class] == 0 || out.Flags&Closed != 0 {
		return
	}
	if why := snap.checkEgress(f, out); why != frame.None {
		f.DropFor(why)
		return
	}
	f.Out, f.ToGateway = owner, false
}

// asksFor returns the address for whose MAC a frame asks: an ARP request (RFC 826) or a neighbor solicitation (RFC 4861, 4.3). An IPv4 address is
// in the low word. It returns false for other frames, and for an ARP request for the sender's own address, which is an announcement.
//
//uvswitch:hot
func asksFor(f *frame.Frame) (a frame.Addr6, ok bool) {
	switch {
	case f.Flags&(frame.HasVLAN|frame.Injected) != 0:
	case f.Flags&frame.IsARP != 0:
		p := f.ARP()
		return frame.Addr6{Lo: uint64(p.TargetAddr())}, p.Operation() == frame.ARPRequest && p.SenderAddr() != p.TargetAddr()
	case f.IsND() && f.Flags&frame.Fragment == 0:
		if m := f.Payload(); f.ICMP().Type() == frame.ICMPv6NeighborSolicitation && len(m) >= 24 {
			return frame.LoadAddr6(m[8:]), true
		}
	}
	return a, false
}

// mustBeAnswered reports whether a question is one that a station answers (RFC 826; RFC 4861, 7.1.1), and comes from a station that has an address. A
// station without an address asks whether its next address is free.
//
//uvswitch:hot
func mustBeAnswered(f *frame.Frame) bool {
	if f.Flags&frame.IsARP != 0 {
		return f.ARP().IsForEthernet() && f.ARP().SenderAddr() != 0
	}
	return f.IPv6().HopLimit() == 255 && !f.IPv6().Src().IsZero()
}

// answersFor returns the address whose owner a frame names to its receiver: an ARP reply or a neighbor advertisement.
//
//uvswitch:hot
func answersFor(f *frame.Frame) (a frame.Addr6, ok bool) {
	switch {
	case f.Flags&frame.HasVLAN != 0:
	case f.Flags&frame.IsARP != 0:
		return frame.Addr6{Lo: uint64(f.ARP().SenderAddr())}, f.ARP().Operation() == frame.ARPReply
	case f.IsND() && f.Flags&frame.Fragment == 0:
		if m := f.Payload(); f.ICMP().Type() == frame.ICMPv6NeighborAdvertisement && len(m) >= 24 {
			return frame.LoadAddr6(m[8:]), true
		}
	}
	return a, false
}
