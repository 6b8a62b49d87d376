package vswitch

import "github.com/uvswitch/uvswitch/internal/frame"

// Learn records the ingress port of each source MAC. It drops frames whose source MAC may not send from that port.
// Step 3.
//
//uvswitch:hot
func (s *Switch) Learn(b *frame.Batch) {
	snap := s.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Switch || f.Flags&frame.Injected != 0 {
			continue
		}
		p, n := snap.port(f.In), snap.nets[f.Net]
		if p == nil || n == nil {
			f.DropFor(frame.PortGone)
			continue
		}
		if p.Flags&Locked != 0 && n.FDB.Lookup(f.Src) != f.In {
			f.DropFor(frame.PortLocked)
			continue
		}
		if p.Flags&Learning == 0 {
			continue
		}
		learned := Known
		if b.Dry {
			if learned = n.FDB.WouldLearn(f.Src, f.In, &n.bound); learned != Refused {
				b.Learned.MAC, b.Learned.Port = f.Src, f.In
			}
		} else {
			learned = n.FDB.Learn(f.Src, f.In, b.Tick, &n.bound)
		}
		if learned == Refused {
			f.DropFor(frame.StationBound)
		}
	}
}

// Forward decides by the destination MAC: to one port, flooded, to the gateway, or dropped. Step 4.
//
//uvswitch:hot
func (s *Switch) Forward(b *frame.Batch) {
	snap := s.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Switch {
			continue
		}
		n := snap.nets[f.Net]
		switch {
		case n == nil:
			f.DropFor(frame.PortGone)
		case f.Dst == n.Gateway && f.Flags&frame.Injected == 0:
			if f.Flags&frame.HasPriority != 0 {
				f.DropPriorityTag()
			}
			f.Verdict = frame.Local
			b.Locals++
		case f.Dst.IsLinkLocalGroup():
			f.DropFor(frame.LinkLocalGroup)
		case f.Dst.IsGroup():
			f.Verdict, f.Class, f.Egress = frame.Flood, frame.Multicast, f.Net
			if f.Dst == frame.BroadcastMAC {
				f.Class = frame.Broadcast
				if snap.isDHCP(f) {
					f.PuntFor(frame.GatewayService)
					continue
				}
				f.ToGateway = f.Flags&(frame.IsARP|frame.HasVLAN|frame.Injected) == frame.IsARP
			} else {
				f.ToGateway = len(n.Groups) > 0 && n.hears(f)
			}
			s.ask(snap, b, f, n)
			if snap.tracked && f.Verdict == frame.Flood && f.Flags&frame.Injected == 0 && snap.isTracked(f.In) {
				f.Verdict = frame.Policed
				b.Locals++
			}
		default:
			f.Egress = f.Net
			s.unicast(snap, b, f, n)
		}
	}
}

// isDHCP reports whether a broadcast is a DHCP question to the gateway.
//
//uvswitch:hot
func (s *snapshot) isDHCP(f *frame.Frame) bool {
	if f.Proto != frame.UDP || f.Tuple.DstPort != dhcpServer || f.Flags&(frame.IsIPv4|frame.HasTuple|frame.HasVLAN|frame.Injected) != frame.IsIPv4|frame.HasTuple {
		return false
	}
	p := s.port(f.In)
	return p != nil && p.Flags&AsksDHCP != 0
}

// ForwardRouted finds the port of frames that the router sends into a network. They come from the gateway, so they
// may leave by the port that they came in by. Isolation of ports still applies. Step 9.
//
//uvswitch:hot
func (s *Switch) ForwardRouted(b *frame.Batch) {
	snap := s.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Resolved {
			continue
		}
		if n := snap.nets[f.Egress]; n != nil {
			f.Flags |= frame.ViaRouter
			s.unicast(snap, b, f, n)
		} else {
			f.DropFor(frame.PortGone)
		}
	}
}

//uvswitch:hot
func (s *Switch) unicast(snap *snapshot, b *frame.Batch, f *frame.Frame, n *Network) {
	id := n.FDB.Lookup(f.Dst)
	if b.Dry && f.Dst == b.Learned.MAC && f.Egress == f.Net {
		id = b.Learned.Port // Learn would have recorded it
	}
	out := snap.port(id)
	if out == nil { // a bound station that is silent is not flooded for
		id = n.boundTo(f.Dst)
		out = snap.port(id)
	}
	if out == nil { // unknown, or behind a port that this snapshot does not have: it comes or goes at this moment
		f.Verdict, f.Class = frame.Flood, frame.UnknownUnicast
		if snap.tracked && snap.isTracked(f.In) {
			f.Verdict, f.Out = frame.Policed, frame.NoPort
			b.Locals++
		}
		return
	}
	if why := snap.checkEgress(f, out); why != frame.None {
		f.DropFor(why)
		return
	}
	f.Verdict, f.Out = frame.ToPort, id
	if out.Flags&AnySource != 0 && f.Flags&(frame.IsIPv4|frame.IsIPv6) != 0 && !b.Dry {
		s.left.note(f, b.Tick)
	}
	if f.Flags&frame.IsARP != 0 || f.Proto == frame.ICMPv6 {
		if a, ok := answersFor(f); ok && !b.Dry {
			s.questions.answer(id, a)
		}
	}
	if snap.tracked && (out.Flags&Tracked != 0 || snap.isTracked(f.In)) {
		f.Verdict = frame.Policed
		b.Locals++
	}
}

//uvswitch:hot
func (s *snapshot) isTracked(id frame.PortID) bool {
	p := s.port(id)
	return p != nil && p.Flags&Tracked != 0
}

// boundTo returns the port that a MAC is bound to, or NoPort.
func (n *Network) boundTo(m frame.MAC) frame.PortID { return n.bound.macs[m] }

// checkEgress returns the reason why port out may not get frame f, or None.
//
//uvswitch:hot
func (s *snapshot) checkEgress(f *frame.Frame, out *Port) frame.Reason {
	switch {
	case out.Flags&(Forwarding|Joining) != Forwarding:
		return frame.PortNotForwarding
	case out.ID == f.In && out.Flags&HairpinMode == 0 && f.Flags&frame.ViaRouter == 0:
		return frame.SamePort
	case f.Flags&frame.HasVLAN != 0 && out.Flags&Untagged != 0 && s.isGuarded(f.In):
		return frame.GuardVLAN
	case out.Own != nil:
		if why := checkHost(f, out); why != frame.None {
			return why
		}
	}
	if out.Flags&(NoRouter|Isolated) != 0 {
		if out.Flags&NoRouter != 0 && f.Flags&frame.IsIPv6 != 0 && isAdvertisement(f) {
			return frame.GuardDestination
		}
		if in := s.port(f.In); in != nil && in.Flags&out.Flags&Isolated != 0 {
			return frame.PortIsolated
		}
	}
	if f.Len() > out.MTU+frame.EthernetLen+frame.VLANLen && longestSegment(f) > out.MTU+frame.EthernetLen+frame.VLANLen {
		return frame.ExceedsMTU
	}
	return frame.None
}

// checkHost returns the reason why the host's port may not get frame f, or None: it gets what is for an address of the host.
//
//uvswitch:hot
func checkHost(f *frame.Frame, out *Port) frame.Reason {
	switch {
	case f.EtherType == frame.TypeVLAN || f.EtherType == frame.TypeQinQ: // what is inside was not looked at
		return frame.GuardVLAN
	case f.Flags&frame.IsIPv6 != 0 && (len(out.Addrs6) == 0 || !f.Dst.IsGroup() && !out.owns6(f.IPv6().Dst())):
		return frame.GuardDestination
	case f.Flags&frame.IsIPv4 != 0 && !f.Dst.IsGroup() && !out.owns(f.Tuple.Dst):
		return frame.GuardDestination
	}
	return frame.None
}

// longestSegment is the length of the longest frame that f becomes on a wire, in bytes. Parse has checked the virtio-net header.
//
//uvswitch:hot
func longestSegment(f *frame.Frame) int {
	h := f.Vnet()
	switch at := int(h.CsumStart()); h.GSOType() {
	case frame.GSONone:
		return f.Len()
	case frame.GSOUDPL4:
		return at + frame.UDPLen + int(h.GSOSize())
	default:
		return at + frame.TCPHeader(f.Bytes()[at:]).HeaderLen() + int(h.GSOSize())
	}
}

//uvswitch:hot
func (s *snapshot) isGuarded(id frame.PortID) bool {
	p := s.port(id)
	return p != nil && p.Flags&Guard != 0
}

var floodFlag = [...]PortFlags{
	frame.UnknownUnicast: FloodUcast,
	frame.Broadcast:      FloodBcast,
	frame.Multicast:      FloodMcast,
}

// FloodSet writes the ports that get flooded frame f to out and returns their number: all that take it, or f.Out only. out must have room for
// frame.MaxPorts ports.
//
//uvswitch:hot
func (s *Switch) FloodSet(f *frame.Frame, out []frame.PortID) int {
	snap := s.snap.Load()
	net := snap.nets[f.Egress]
	if net == nil {
		return 0
	}
	if f.Out != frame.NoPort { // see ask
		out[0] = f.Out
		return 1
	}
	from := frame.NoPort
	if f.In == frame.Gateway { // it announces a station: the station itself needs no word
		from = net.boundTo(f.Src)
	}
	want := floodFlag[f.Class]
	n := 0
	for _, p := range net.ports {
		if p.ID == from {
			continue
		}
		if p.Flags&Closed != 0 && f.Flags&frame.IsARP == 0 && !f.IsND() {
			continue
		}
		if p.Flags&want != 0 && snap.checkEgress(f, p) == frame.None {
			out[n] = p.ID
			n++
		}
	}
	return n
}
