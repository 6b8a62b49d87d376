package router

import (
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Route decides where frames addressed to the router go: to the slow path if they are for the gateway itself, to a
// network, to the uplink, or nowhere. It makes the checks of RFC 1812, 5.2 and 5.3, and decrements the TTL.
// nat.PreRouting runs before it: RouteDst is the destination after DNAT. Step 6.
//
//uvswitch:hot
func (r *Router) Route(b *frame.Batch) {
	s := r.snap.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Local {
			continue
		}
		if f.Flags&frame.IsIPv6 != 0 {
			s.handleIPv6(f, &b.To[i], b)
			continue
		}
		if why := s.validate(f); why != frame.None {
			f.DropFor(why)
			continue
		}
		if f.Flags&frame.IsARP != 0 {
			f.PuntFor(frame.GatewayService)
			continue
		}
		rt, _ := s.fib.Lookup(f.RouteDst.Netip())
		if s.isGateway(f.Net, f.RouteDst, rt) {
			f.PuntFor(frame.GatewayService)
			continue
		}
		s.route(f, rt, b)
	}
}

// validate checks the packet itself and its source, and returns the reason for a drop.
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
	src := f.Tuple.Src
	if isMartian(src) || src == f.Tuple.Dst || (f.Net == frame.NoNet || !onLink(in, src)) && !s.leadsBack(f, src.Netip()) {
		return frame.MartianSource
	}
	return frame.None
}

// leadsBack is the strict check of the reverse path, for a source that is not on the link: the answer must go back where the packet came
// from. Siblings are excepted.
//
//uvswitch:hot
func (s *snapshot) leadsBack(f *frame.Frame, src netip.Addr) bool {
	if f.Flags&frame.FromSibling != 0 {
		return true
	}
	rt, ok := s.fib.Lookup(src)
	switch {
	case !ok:
		return f.Net == frame.NoNet
	case rt.Kind == Local && rt.Prefix.Bits() == 0 && (f.Net == frame.NoNet || f.In == s.hostPort):
		return true // the way out is through the host's stack, and both ways lead in
	}
	return rt.Egress == f.Net && (rt.Kind != Local || f.In == s.hostPort)
}

// route sends a frame by the route of its destination; rt is nil if there is none.
//
//uvswitch:hot
func (s *snapshot) route(f *frame.Frame, rt *entry, b *frame.Batch) {
	dst := f.RouteDst
	if isMartian(dst) {
		f.DropFor(frame.MartianDestination)
		return
	}
	if f.Flags&frame.LeavesByUplink != 0 && rt != nil && rt.Kind == Local && rt.Prefix.Bits() == 0 {
		rt = &byUplink
	}
	if why := s.refusal(f, rt, f.RouteDst == s.host && s.host != 0); why != frame.None {
		refuse(f, why)
		return
	}
	in, out := s.ifaces[f.Net], s.ifaces[rt.Egress]
	switch {
	case rt.Egress == frame.NoNet && !out.Up:
		f.PuntFor(frame.UplinkDown)
	case rt.Egress == frame.NoNet && s.ipsec != nil && s.ipsec.Contains(dst.Netip()):
		f.PuntFor(frame.IPsecPolicy)
	case rt.hop == 0 && rt.Egress != frame.NoNet && isDirectedBroadcast(out, dst):
		f.DropFor(frame.MartianDestination)
	case f.IPv4().TTL() <= 1:
		f.PuntFor(frame.TTLExceeded)
	default:
		if mtu := s.mtu(rt, dst, f); exceeds(f, mtu) {
			if rt.Egress != frame.NoNet || !canCut(f, mtu) {
				f.Egress, f.NextHop = rt.Egress, frame.Addr(mtu)
				f.PuntFor(frame.FragmentationNeeded)
				return
			}
			f.Flags |= frame.Cut
		}
		f.IPv4().DecrementTTL()
		if f.Proto == frame.TCP {
			s.clampMSS(f, min(in.MTU, out.MTU), f.Net == frame.NoNet || rt.Egress == frame.NoNet)
		}
		if f.NAT == frame.NATRelated && !b.Dry {
			s.pmtu.update(f, hint(dst), b.Tick)
		}
		f.Verdict, f.Egress, f.NextHop = frame.Routed, rt.Egress, dst
		if rt.hop != 0 {
			f.NextHop = rt.hop
		}
	}
}

// refusal returns the reason why a packet may not take a route, or None; rt is nil if there is none. It is the part of the decision that
// both families share.
//
//uvswitch:hot
func (s *snapshot) refusal(f *frame.Frame, rt *entry, toHost bool) frame.Reason {
	if rt == nil {
		return frame.NoRoute
	}
	switch rt.Kind {
	case Blackhole:
		return frame.BlackholeRoute
	case Unreachable:
		return frame.HostUnreachable
	case Prohibit:
		return frame.ProhibitRoute
	}
	in, out := s.ifaces[f.Net], s.ifaces[rt.Egress]
	switch {
	case out == nil:
		return frame.NoRoute
	case rt.Egress != f.Net && (out.Internal || in.Internal):
		return frame.NetworkInternal
	case rt.Egress != f.Net && rt.Egress != frame.NoNet && f.Net != frame.NoNet && (out.Isolated || in.Isolated) && !s.mayCrossIsolation(f, rt, toHost):
		return frame.NetworkIsolated
	case rt.Egress == frame.NoNet && f.Net == frame.NoNet:
		return frame.NotForUs // never forward from the uplink to the uplink
	}
	return frame.None
}

// refuse drops a packet for a reason, or punts it if its sender is told.
//
//uvswitch:hot
func refuse(f *frame.Frame, why frame.Reason) {
	if why.Punt() == frame.NoPunt {
		f.DropFor(why)
	} else {
		f.PuntFor(why)
	}
}

// byUplink is the way of answers to what came in by the uplink, when the way out is through the host's stack.
var byUplink = entry{Route: Route{Egress: frame.NoNet}}

// mtu is the longest packet that the way to dst takes, in bytes: the interface's, the route's, or what a way out has said.
//
//uvswitch:hot
func (s *snapshot) mtu(rt *entry, dst frame.Addr, f *frame.Frame) int {
	mtu := s.ifaces[rt.Egress].MTU
	if rt.MTU != 0 {
		mtu = min(mtu, rt.MTU)
	}
	if rt.Egress == frame.NoNet && f.L3End-uint32(f.L3) > minWayMTU {
		mtu = min(mtu, s.ways.mtu(hint(dst)), s.hostRouteMTU(dst))
	}
	return mtu
}

// hostRouteMTU is the MTU of the host's route to an address outside, in bytes; 65535 if it has none.
//
//uvswitch:hot
func (s *snapshot) hostRouteMTU(dst frame.Addr) int {
	if s.routeMTU != nil {
		if mtu, ok := s.routeMTU.Lookup(dst.Netip()); ok {
			return mtu
		}
	}
	return 65535
}

// minWayMTU is what every way takes, in bytes (RFC 791, 3.2).
const minWayMTU = 68

// canCut reports whether a worker can cut a packet into fragments of mtu bytes. The slow path cuts super-frames.
//
//uvswitch:hot
func canCut(f *frame.Frame, mtu int) bool {
	return !f.IPv4().DontFrag() && f.Vnet().GSOType() == frame.GSONone && mtu >= f.IPv4().HeaderLen()+8
}

// MTUFor returns the MTU of the way of a routed frame, in bytes.
func (r *Router) MTUFor(f *frame.Frame) int {
	s := r.snap.Load()
	if rt, ok := s.fib.Lookup(f.RouteDst.Netip()); ok && s.ifaces[rt.Egress] != nil {
		return s.mtu(rt, f.RouteDst, f)
	}
	return minWayMTU
}

// mayCrossIsolation reports whether f may pass between two networks when one of them is isolated: from or to the
// host, through a published port, or as part of a flow that exists.
//
//uvswitch:hot
func (s *snapshot) mayCrossIsolation(f *frame.Frame, rt *entry, toHost bool) bool {
	return rt.Kind == Local || toHost || s.host != 0 && f.In == s.hostPort ||
		f.NAT == frame.NATEstablished || f.NAT == frame.NATRelated || f.NAT == frame.NATNew && f.Rule != 0
}

// Resolve sets the MACs of routed frames: the next hop's as destination, the router's as source. A frame whose
// neighbor is not known yet goes to the slow path. Step 8.
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
			if out.PeerMAC != 0 { // else nat.PostRouting has written a way header
				f.SetMACs(out.PeerMAC, out.MAC)
			}
			f.Verdict, f.Out = frame.ToPort, out.Port
		default:
			mac := frame.MAC(0)
			if f.Flags&frame.IsIPv6 == 0 {
				mac = s.neigh.lookup(f.Egress, f.NextHop, b.Dry)
			} else {
				mac = s.neigh6.lookup(f.Egress, b.To[i].Hop, b.Dry)
			}
			if mac != 0 {
				f.SetMACs(mac, out.MAC)
				f.Verdict = frame.Resolved
			} else {
				f.PuntFor(frame.NeighborFailed)
			}
		}
	}
}

// isGateway reports whether a is one of the router's own addresses, seen from network n; rt is the route to it. It is false for every
// address when n is the uplink.
//
//uvswitch:hot
func (s *snapshot) isGateway(n frame.NetID, a frame.Addr, rt *entry) bool {
	if n == frame.NoNet {
		return false
	}
	return s.ifaces[n].Addr == a || rt != nil && rt.Egress != frame.NoNet && s.ifaces[rt.Egress] != nil && s.ifaces[rt.Egress].Addr == a
}

// isMartian reports whether a is never routed, as source or as destination: 0/8, 127/8, multicast, reserved and
// limited broadcast addresses (RFC 1812, 5.3.7).
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

// isDirectedBroadcast reports whether a is the first or the last address of the interface's subnet. Directed
// broadcasts are never forwarded (RFC 1812, 5.3.5.2; RFC 2644).
//
//uvswitch:hot
func isDirectedBroadcast(i *Interface, a frame.Addr) bool {
	if i.Prefix.Bits() >= 31 || !onLink(i, a) {
		return false
	}
	host := frame.Addr(1)<<(32-uint(i.Prefix.Bits())) - 1
	return a&host == 0 || a&host == host
}

// exceeds reports whether the packet, or each segment of a super-frame, is longer than mtu bytes.
//
//uvswitch:hot
func exceeds(f *frame.Frame, mtu int) bool {
	if n := int(f.L3End) - int(f.L3); n <= mtu {
		return false
	}
	h := f.Vnet()
	switch h.GSOType() {
	case frame.GSOTCPv4, frame.GSOTCPv6:
		return int(h.CsumStart()-f.L3)+frame.TCPHeader(f.Bytes()[h.CsumStart():]).HeaderLen()+int(h.GSOSize()) > mtu
	case frame.GSOUDPL4:
		return int(h.CsumStart()-f.L3)+frame.UDPLen+int(h.GSOSize()) > mtu
	}
	return true
}

// hasSourceRoute reports whether the options have a source route. A malformed list counts as one.
//
//uvswitch:hot
func hasSourceRoute(options []byte) bool {
	for {
		kind, n := frame.NextOption(options)
		switch {
		case n == 0:
			return false
		case n < 0 || kind == looseSourceRoute || kind == strictSourceRoute:
			return true
		}
		options = options[n:]
	}
}

// Kinds of IPv4 options (RFC 791, 3.1).
const (
	looseSourceRoute  = 131
	strictSourceRoute = 137
)
