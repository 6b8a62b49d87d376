package vswitch

import (
	"slices"

	"github.com/uvswitch/uvswitch/internal/frame"
)

const (
	dhcpClient6                = 546  // RFC 8415, 7.2
	optSourceMAC, optTargetMAC = 1, 2 // options of neighbor discovery (RFC 4861, 4.6)
)

// guardIPv6 checks an IPv6 frame of a guarded port. Stations may not act as a router (RFC 6105) or as a DHCP server (RFC 7610), and may
// speak of no neighbor but themselves. Neighbor discovery is never in fragments (RFC 6980, 5).
//
//uvswitch:hot
func guardIPv6(p *Port, f *frame.Frame) frame.Reason {
	src := f.IPv6().Src()
	if !src.IsZero() && (src.IsGroup() || src.Hi == 0 || !p.mayUse6(src, f.Src)) { // ::/64 has no station: IPv4 addresses in IPv6 (RFC 4291, 2.5.5), ::1
		return frame.GuardSourceAddress
	}
	switch {
	case f.Proto == frame.ICMPv6 && f.FragOffset() == 0:
		return guardICMPv6(p, f, src)
	case f.Flags&frame.Fragment != 0 && f.FragOffset() == 0 && f.Malformed != frame.None: // it hides its ports (RFC 7112, 5)
		return f.Malformed
	case src.IsZero():
		return frame.GuardSourceAddress
	}
	return frame.None
}

// guardICMPv6 checks what a station says as a neighbor. The unspecified address may look for a duplicate, for routers, and join groups.
func guardICMPv6(p *Port, f *frame.Frame, src frame.Addr6) frame.Reason {
	if f.Malformed != frame.None {
		return frame.GuardNeighbor
	}
	l4 := f.Payload()
	options := 8
	switch l4[0] {
	case frame.ICMPv6RouterAdvertisement, frame.ICMPv6Redirect: // see serves
		if p.Flags&AnyServer == 0 {
			return frame.GuardRouter
		}
		return frame.None
	case frame.ICMPv6ListenerReport, frame.ICMPv6ListenerDone, frame.ICMPv6ListenerReport2:
		return frame.None
	case frame.ICMPv6RouterSolicitation:
	case frame.ICMPv6NeighborSolicitation, frame.ICMPv6NeighborAdvertisement:
		options = 24
	default:
		if src.IsZero() {
			return frame.GuardSourceAddress
		}
		if l4[0] < frame.ICMPv6Echo { // an error (RFC 4443, 2.1); see quotesOther
			if len(l4) < frame.ICMPLen+frame.IPv6Len {
				return frame.GuardICMPError
			}
			to := frame.IPv6(l4[frame.ICMPLen:]).Dst()
			if !to.IsGroup() && !p.mayUse6(to, f.Src) { // a group's members may say what is too long (RFC 4443, 2.4)
				return frame.GuardICMPError
			}
		}
		return frame.None
	}
	advertises := l4[0] == frame.ICMPv6NeighborAdvertisement
	switch {
	case src.IsZero() && (advertises || f.IPv6().Dst().Hi>>48 != 0xff02):
		return frame.GuardSourceAddress
	case f.Flags&frame.Fragment != 0, len(l4) < options, advertises && !p.mayUse6(frame.LoadAddr6(l4[8:]), f.Src), !ownMACs(p, l4[options:]):
		return frame.GuardNeighbor
	}
	return frame.None
}

// ownMACs reports whether the link-layer addresses in the options of neighbor discovery are the port's own.
func ownMACs(p *Port, options []byte) bool {
	for len(options) >= 8 {
		n := 8 * int(options[1])
		if n == 0 || n > len(options) {
			return false
		}
		if (options[0] == optSourceMAC || options[0] == optTargetMAC) && p.MAC != 0 && frame.LoadMAC(options[2:]) != p.MAC {
			return false
		}
		options = options[n:]
	}
	return len(options) == 0
}

// mayUse6 reports whether a station, which sends from a MAC, may have an IPv6 address. A link-local one is made from its MAC; see also
// AnyLinkLocal. If the port has no address, the others are those that nobody has: see steals.
//
//uvswitch:hot
func (p *Port) mayUse6(a frame.Addr6, from frame.MAC) bool {
	if a.IsLinkLocal() {
		return a == from.LinkLocal() || (p.MAC == 0 || p.Flags&AnyLinkLocal != 0) && a != frame.FirstLocal && !fromMAC(a)
	}
	return len(p.Addrs6) == 0 || slices.Contains(p.Addrs6, a)
}

// fromMAC reports whether the interface identifier of an address is made from a MAC.
//
//uvswitch:hot
func fromMAC(a frame.Addr6) bool { return a.Lo>>24&0xffff == 0xfffe }

// owns6 reports whether a is an address of the host behind port p.
//
//uvswitch:hot
func (p *Port) owns6(a frame.Addr6) bool {
	if a == p.MAC.LinkLocal() || a.IsZero() || slices.Contains(p.Addrs6, a) || slices.Contains(p.Own6, a) {
		return true
	}
	for i := range p.Through {
		if p.Through[i].Contains(a.Netip()) {
			return true
		}
	}
	return false
}

// steals6 reports whether an IPv6 frame says that its sender has an address of the gateway or of another port: as its source, in a neighbor
// advertisement, or by asking whether somebody has it.
//
//uvswitch:hot
func (n *Network) steals6(f *frame.Frame) bool {
	src := f.IPv6().Src()
	if n.owned6.otherThan(src, f.In) {
		return true
	}
	if !f.IsND() || len(f.Payload()) < 24 {
		return false
	}
	switch target := frame.LoadAddr6(f.Payload()[8:]); f.ICMP().Type() {
	case frame.ICMPv6NeighborAdvertisement:
		return n.owned6.otherThan(target, f.In)
	case frame.ICMPv6NeighborSolicitation: // duplicate address detection (RFC 4862, 5.4.3)
		return src.IsZero() && n.owned6.isOfPort(target, f.In)
	}
	return false
}

// hears reports whether the gateway listens to the group with a MAC.
//
//uvswitch:hot
func (n *Network) hears(f *frame.Frame) bool {
	return f.Flags&(frame.IsIPv6|frame.HasVLAN|frame.Injected) == frame.IsIPv6 && f.Proto == frame.ICMPv6 && f.Malformed == frame.None && slices.Contains(n.Groups, f.Dst)
}

// isAdvertisement reports whether f is a router advertisement.
func isAdvertisement(f *frame.Frame) bool {
	return f.IsND() && f.ICMP().Type() == frame.ICMPv6RouterAdvertisement
}
