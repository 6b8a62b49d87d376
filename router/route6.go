package router

import "github.com/uvswitch/uvswitch/internal/frame"

// handleIPv6 is Route for an IPv6 frame.
//
//uvswitch:hot
func (s *snapshot) handleIPv6(f *frame.Frame, to *frame.Way6, b *frame.Batch) {
	why := s.validateIPv6(f)
	if why != frame.None && why != frame.FragmentInvalid { // the gateway answers such a fragment to itself
		refuse(f, why)
		return
	}
	if f.NAT == frame.NATNone {
		to.Dst = f.IPv6().Dst()
	}
	rt, _ := s.fib.Lookup(to.Dst.Netip())
	if s.isGateway6(f.Net, to.Dst, rt) {
		f.PuntFor(frame.GatewayService)
		return
	}
	if why != frame.None {
		refuse(f, why)
		return
	}
	s.routeIPv6(f, to, rt, b)
}

// validateIPv6 checks the packet itself and its source, and returns the reason for a drop.
//
//uvswitch:hot
func (s *snapshot) validateIPv6(f *frame.Frame) frame.Reason {
	in := s.ifaces[f.Net]
	switch {
	case in == nil:
		return frame.NoRoute
	case f.Flags&frame.HasVLAN != 0:
		return frame.VLANNotRouted
	case f.Malformed != frame.None:
		return f.Malformed
	case !in.HasIPv6():
		return frame.NotIPv4
	}
	ip := f.IPv6()
	src := ip.Src()
	if src.IsLinkLocal() && f.Net != frame.NoNet {
		return frame.None // it may speak to the gateway; routeIPv6 refuses the rest
	}
	if src.IsZero() && f.IsND() {
		return frame.None // duplicate address detection (RFC 4862, 5.4)
	}
	if neverRouted(src) || src.IsGroup() || src == ip.Dst() || (f.Net == frame.NoNet || !in.onLink6(src)) && !s.leadsBack(f, src.Netip()) {
		return frame.MartianSource
	}
	return frame.None
}

// routeIPv6 is route for IPv6.
//
//uvswitch:hot
func (s *snapshot) routeIPv6(f *frame.Frame, to *frame.Way6, rt *entry, b *frame.Batch) {
	dst := to.Dst
	if f.Flags&frame.SourceRouted != 0 {
		refuse(f, frame.SourceRoute)
		return
	}
	if neverRouted(dst) || dst.IsGroup() || dst.IsLinkLocal() || f.IsND() || isListenerMessage(f) {
		f.DropFor(frame.MartianDestination)
		return
	}
	if f.IPv6().Src().IsLinkLocal() { // RFC 4291, 2.5.6
		f.PuntFor(frame.ScopeExceeded)
		return
	}
	if f.Flags&frame.LeavesByUplink != 0 && rt != nil && rt.Kind == Local && rt.Prefix.Bits() == 0 {
		rt = &byUplink
	}
	if why := s.refusal(f, rt, dst == s.host6 && !s.host6.IsZero()); why != frame.None {
		refuse(f, why)
		return
	}
	in, out := s.ifaces[f.Net], s.ifaces[rt.Egress]
	switch {
	case rt.Egress == frame.NoNet && !out.Up6:
		f.PuntFor(frame.UplinkDown)
	case rt.Egress == frame.NoNet && s.ipsec != nil && s.ipsec.Contains(dst.Netip()):
		f.PuntFor(frame.IPsecPolicy)
	case rt.hop6.IsZero() && rt.Egress != frame.NoNet && out.isAnycast(dst):
		f.DropFor(frame.MartianDestination) // the anycast address of another network's routers
	case f.IPv6().HopLimit() <= 1:
		f.PuntFor(frame.TTLExceeded)
	default:
		mtu := mtu6(out, rt)
		if rt.Egress == frame.NoNet {
			mtu = min(mtu, s.ways.mtu(hint(dst)))
		}
		if exceeds(f, mtu) {
			f.Egress, f.NextHop = rt.Egress, frame.Addr(mtu)
			f.PuntFor(frame.FragmentationNeeded)
			return
		}
		f.IPv6().DecrementHopLimit()
		if f.Proto == frame.TCP {
			back := mtu6(in, &byUplink)
			if f.Net == frame.NoNet {
				back = min(back, s.ways.mtu(hint(f.IPv6().Src())))
			}
			s.clampMSS6(f, dst, min(back, mtu))
		}
		if f.NAT == frame.NATRelated && !b.Dry {
			s.pmtu.update(f, hint(dst), b.Tick)
		}
		f.Verdict, f.Egress, to.Hop = frame.Routed, rt.Egress, dst
		if !rt.hop6.IsZero() {
			to.Hop = rt.hop6
		}
	}
}

// mtu6 is the longest packet that an interface and a route take, in bytes.
//
//uvswitch:hot
func mtu6(i *Interface, rt *entry) int {
	mtu := i.MTU
	if i.MTU6 != 0 {
		mtu = i.MTU6
	}
	if rt.MTU != 0 {
		mtu = min(mtu, rt.MTU)
	}
	return max(mtu, frame.MinMTU6)
}

// clampMSS6 is clampMSS for IPv6.
//
//uvswitch:hot
func (s *snapshot) clampMSS6(f *frame.Frame, far frame.Addr6, mtu int) {
	h, ok := syn(f)
	if !ok {
		return
	}
	near := f.IPv6().Src()
	if f.Net == frame.NoNet {
		near, far = far, near
	}
	limitMSS(f, h, uint16(max(min(mtu, s.pmtu.mtu(hintFor(hint(near), hint(far)))), frame.MinMTU6)-frame.IPv6Len-frame.TCPLen))
}

// isGateway6 reports whether a is one of the router's own addresses, seen from network n: the gateway's of any network, or a link-local or
// anycast one of this network. rt is the route to a.
//
//uvswitch:hot
func (s *snapshot) isGateway6(n frame.NetID, a frame.Addr6, rt *entry) bool {
	if n == frame.NoNet {
		return false
	}
	return s.ifaces[n].owns6(a) || rt != nil && rt.Egress != frame.NoNet && s.ifaces[rt.Egress] != nil && s.ifaces[rt.Egress].Addr6 == a
}

// owns6 reports whether a is an address of the gateway on this interface: its global one, fe80::1, the one made from its MAC, or the
// anycast address of the subnet's routers (RFC 4291, 2.6.1).
//
//uvswitch:hot
func (i *Interface) owns6(a frame.Addr6) bool {
	return a == i.Addr6 || a == frame.FirstLocal || a == i.MAC.LinkLocal() || i.isAnycast(a)
}

//uvswitch:hot
func (i *Interface) isAnycast(a frame.Addr6) bool {
	hi, lo := i.hostBits6()
	return i.onLink6(a) && a.Hi&hi == 0 && a.Lo&lo == 0
}

// onLink6 reports whether a is in the interface's subnet.
//
//uvswitch:hot
func (i *Interface) onLink6(a frame.Addr6) bool {
	hi, lo := i.hostBits6()
	return (a.Hi^i.Addr6.Hi)&^hi == 0 && (a.Lo^i.Addr6.Lo)&^lo == 0
}

// hostBits6 are the bits of an address after the subnet's prefix.
//
//uvswitch:hot
func (i *Interface) hostBits6() (hi, lo uint64) {
	bits := uint(i.Prefix6.Bits())
	if bits > 64 {
		return 0, ^uint64(0) >> (bits - 64)
	}
	return ^uint64(0) >> bits, ^uint64(0)
}

// neverRouted reports whether a is unspecified, loopback, or an IPv4 address in IPv6's clothes (RFC 4291, 2.5).
//
//uvswitch:hot
func neverRouted(a frame.Addr6) bool { return a.Hi == 0 && a.Lo>>32&^0xffff == 0 }

// isListenerMessage reports whether f speaks of listeners to a multicast group, which concerns one link only (RFC 3810, 5).
//
//uvswitch:hot
func isListenerMessage(f *frame.Frame) bool {
	if f.Proto != frame.ICMPv6 || f.FragOffset() != 0 {
		return false
	}
	t := f.ICMP().Type()
	return t >= frame.ICMPv6ListenerQuery && t <= frame.ICMPv6ListenerDone || t == frame.ICMPv6ListenerReport2
}
