package router

import "github.com/uvswitch/uvswitch/internal/frame"

// Route decides where the frames addressed to the router go: to the housekeeper when they are for the gateway
// itself, out by a network or the uplink, or nowhere. It checks what RFC 1812, 5.2 and 5.3 ask for and lowers the
// TTL. nat.PreRouting has run: RouteDst is the destination after DNAT. Step 6.
//
//uvswitch:hot
func (r *Router) Route(b *frame.Batch) {
	s := r.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Local {
			continue
		}
		if why := s.validate(f); why != frame.None {
			f.DropFor(why)
			continue
		}
		if f.Flags&frame.IsARP != 0 || s.isGateway(f.Net, f.RouteDst) {
			f.PuntFor(frame.GatewayService)
			continue
		}
		s.route(f, b)
	}
}

// admit checks the packet itself.
//
//uvswitch:hot
func (s *snapshot) validate(f *frame.Frame) frame.Reason {
	in := s.ifaces[f.Net]
	switch {
	case in == nil:
		return frame.NoRoute
	case f.Flags&frame.HasVLAN != 0:
		return frame.VLANNotRouted
	case f.Malformed != frame.None:
		return f.Malformed
	case f.Flags&frame.IsARP != 0:
		return frame.None
	case f.Flags&frame.IsIPv4 == 0:
		return frame.NotIPv4
	}
	ip := f.IPv4()
	hl := ip.HeaderLen()
	if frame.Sum(ip[:hl], 0) != 0xffff {
		return frame.BadIPChecksum
	}
	if hl > frame.IPv4Len && hasSourceRoute(ip[frame.IPv4Len:hl]) {
		return frame.SourceRoute
	}
	if h := f.Vnet(); h.NeedsCsum() && (h.CsumStart() != f.L4 || h.CsumOffset() != frame.ChecksumOffset(f.Proto)) {
		return frame.MalformedPacket // a partial checksum that is not the transport's cannot be kept right
	}
	src := f.Tuple.Src
	if isMartian(src) || src == f.Tuple.Dst {
		return frame.MartianSource
	}
	if f.Net == frame.NoNet || !onLink(in, src) { // strict reverse path: the answer would go back where this came from
		if rt, ok := s.fib.Lookup(src.Netip()); ok && (rt.Egress != f.Net || rt.Kind == Local && f.In != s.hostPort) || !ok && f.Net != frame.NoNet {
			return frame.MartianSource
		}
	}
	return frame.None
}

// route finds the way out.
//
//uvswitch:hot
func (s *snapshot) route(f *frame.Frame, b *frame.Batch) {
	dst := f.RouteDst
	if isMartian(dst) {
		f.DropFor(frame.MartianDestination)
		return
	}
	rt, ok := s.fib.Lookup(dst.Netip())
	if !ok {
		f.PuntFor(frame.NoRoute)
		return
	}
	switch rt.Kind {
	case Blackhole:
		f.DropFor(frame.BlackholeRoute)
		return
	case Unreachable:
		f.PuntFor(frame.HostUnreachable)
		return
	case Prohibit:
		f.PuntFor(frame.ProhibitRoute)
		return
	}
	in, out := s.ifaces[f.Net], s.ifaces[rt.Egress]
	switch {
	case out == nil:
		f.PuntFor(frame.NoRoute)
	case rt.Egress != f.Net && (out.Internal || in.Internal):
		f.DropFor(frame.NetworkInternal)
	case rt.Egress != f.Net && rt.Egress != frame.NoNet && f.Net != frame.NoNet && (out.Isolated || in.Isolated) && !s.mayCrossIsolation(f, rt):
		f.DropFor(frame.NetworkIsolated)
	case rt.Egress == frame.NoNet && f.Net == frame.NoNet:
		f.DropFor(frame.NotForUs) // never from outside back to the outside
	case rt.Egress == frame.NoNet && !out.Up:
		f.PuntFor(frame.UplinkDown)
	case rt.NextHop == 0 && rt.Egress != frame.NoNet && isDirectedBroadcast(out, dst):
		f.DropFor(frame.MartianDestination)
	case f.IPv4().TTL() <= 1:
		f.PuntFor(frame.TTLExceeded)
	case exceeds(f, out.MTU):
		f.Egress = rt.Egress
		f.PuntFor(frame.FragmentationNeeded)
	default:
		f.IPv4().DecrementTTL()
		if f.Proto == frame.TCP {
			s.clampMSS(f, min(in.MTU, out.MTU))
		}
		if f.NAT == frame.NATRelated && !b.Dry {
			s.pmtu.update(f, b.Tick)
		}
		f.Verdict, f.Egress, f.NextHop = frame.Routed, rt.Egress, dst
		if rt.NextHop != 0 {
			f.NextHop = rt.NextHop
		}
	}
}

// crosses tells whether f may pass between isolated networks: from or to the host, by a published port, or as the answer
// to what did.
//
//uvswitch:hot
func (s *snapshot) mayCrossIsolation(f *frame.Frame, rt *Route) bool {
	return rt.Kind == Local || s.host != 0 && (f.In == s.hostPort || f.RouteDst == s.host) ||
		f.NAT == frame.NATEstablished || f.NAT == frame.NATRelated || f.NAT == frame.NATNew && f.Rule != 0
}

// Resolve rewrites the MACs of routed frames: to the next hop's, from the router's. A neighbor that is not known
// yet is the housekeeper's to find. Step 8.
//
//uvswitch:hot
func (r *Router) Resolve(b *frame.Batch) {
	s := r.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Routed {
			continue
		}
		out := s.ifaces[f.Egress]
		switch {
		case out == nil:
			f.DropFor(frame.NoRoute)
		case f.Egress == frame.NoNet:
			f.SetMACs(out.PeerMAC, out.MAC)
			f.Verdict, f.Out = frame.ToPort, out.Port
		default:
			if mac := s.neigh.lookup(f.Egress, f.NextHop, b.Dry); mac != 0 {
				f.SetMACs(mac, out.MAC)
				f.Verdict = frame.Resolved
			} else {
				f.PuntFor(frame.NeighborFailed)
			}
		}
	}
}

// isGateway tells whether a is one of the router's own addresses, seen from network n. From the uplink none is.
//
//uvswitch:hot
func (s *snapshot) isGateway(n frame.NetID, a frame.Addr) bool {
	if n == frame.NoNet {
		return false
	}
	if s.ifaces[n].Addr == a {
		return true
	}
	rt, ok := s.fib.Lookup(a.Netip())
	return ok && rt.Egress != frame.NoNet && s.ifaces[rt.Egress] != nil && s.ifaces[rt.Egress].Addr == a
}

// isMartian tells addresses that are never routed, as source or destination: 0/8, 127/8, multicast, reserved and
// the limited broadcast (RFC 1812, 5.3.7).
//
//uvswitch:hot
func isMartian(a frame.Addr) bool {
	return a>>24 == 0 || a>>24 == 127 || a >= 0xe0000000
}

//uvswitch:hot
func onLink(i *Interface, a frame.Addr) bool {
	shift := 32 - uint(i.Prefix.Bits())
	return uint64(a)>>shift == uint64(i.Addr)>>shift
}

// isDirectedBroadcast: the subnet's first and last address (RFC 1812, 5.3.5.2; RFC 2644: off).
//
//uvswitch:hot
func isDirectedBroadcast(i *Interface, a frame.Addr) bool {
	if i.Prefix.Bits() >= 31 || !onLink(i, a) {
		return false
	}
	host := frame.Addr(1)<<(32-uint(i.Prefix.Bits())) - 1
	return a&host == 0 || a&host == host
}

// exceeds tells whether the packet, or each segment of a super-frame, is longer than mtu.
//
//uvswitch:hot
func exceeds(f *frame.Frame, mtu int) bool {
	if n := int(f.L3End) - int(f.L3); n <= mtu {
		return false
	}
	h := f.Vnet()
	switch h.GSOType() {
	case frame.GSOTCPv4, frame.GSOTCPv6:
		tcp := int(h.CsumStart()) + 12
		return int(h.CsumStart()-f.L3)+int(f.Bytes()[tcp]>>4)*4+int(h.GSOSize()) > mtu
	case frame.GSOUDPL4:
		return int(h.CsumStart()-f.L3)+frame.UDPLen+int(h.GSOSize()) > mtu
	}
	return true
}

// hasSourceRoute looks for loose (131) and strict (137) source routes; a malformed option list counts as one.
//
//uvswitch:hot
func hasSourceRoute(opt []byte) bool {
	for len(opt) > 0 {
		switch opt[0] {
		case 0:
			return false
		case 1:
			opt = opt[1:]
			continue
		case 131, 137:
			return true
		}
		if len(opt) < 2 || opt[1] < 2 || int(opt[1]) > len(opt) {
			return true
		}
		opt = opt[opt[1]:]
	}
	return false
}
