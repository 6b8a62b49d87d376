package vswitch

import (
	"encoding/binary"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// Next headers (IANA, Assigned Internet Protocol Numbers), types of ICMPv6 (RFC 4861, 4) and options of neighbor discovery (4.6).
const (
	ip6HopByHop, ip6Routing, ip6Fragment, ip6Auth, ip6DestOptions, ip6Mobility, ip6HIP, ip6Shim = 0, 43, 44, 51, 60, 135, 139, 140

	icmpv6 = 58

	routerSolicitation, routerAdvertisement, neighborSolicitation, neighborAdvertisement, redirect = 133, 134, 135, 136, 137

	optSourceMAC, optTargetMAC = 1, 2
)

// maxHeaders is how many extension headers the guard walks. What it cannot walk does not pass.
const maxHeaders = 8

// upperLayer walks the extension headers of an IPv6 packet (RFC 8200, 4.1). It returns the first other header, with its protocol, and
// whether the packet is a fragment. ok is false if the chain is too long or cut off; a later fragment has no upper layer.
func upperLayer(ip []byte) (proto uint8, l4 []byte, fragment, ok bool) {
	proto, l4 = ip[6], ip[frame.IPv6Len:]
	if n := int(binary.BigEndian.Uint16(ip[4:])); n < len(l4) {
		l4 = l4[:n]
	}
	for range maxHeaders + 1 {
		n := 0
		switch proto {
		case ip6HopByHop, ip6Routing, ip6DestOptions, ip6Mobility, ip6HIP, ip6Shim:
			if len(l4) >= 8 {
				n = 8 + 8*int(l4[1])
			}
		case ip6Auth:
			if len(l4) >= 8 {
				n = 8 + 4*int(l4[1])
			}
		case ip6Fragment:
			if len(l4) >= 8 {
				n = 8
				fragment = binary.BigEndian.Uint16(l4[2:])&^6 != 0 // an atomic fragment is a whole packet (RFC 6946)
				if binary.BigEndian.Uint16(l4[2:])>>3 != 0 {
					return proto, nil, true, true
				}
			}
		default:
			return proto, l4, fragment, true
		}
		if n == 0 || n > len(l4) {
			return proto, nil, fragment, false
		}
		proto, l4 = l4[0], l4[n:]
	}
	return proto, nil, fragment, false
}

// guardIPv6 checks an IPv6 frame of a guarded port. Stations may not act as a router (RFC 6105) or as a DHCP server (RFC 7610), and may
// speak of no neighbor but themselves. Neighbor discovery is never in fragments (RFC 6980, 5). A link-local address must be the one of the
// port's own MAC; other addresses are nobody's while IPv6 is not routed.
func guardIPv6(p *Port, f *frame.Frame) frame.Reason {
	ip := f.Bytes()[f.L3:]
	proto, l4, fragment, ok := upperLayer(ip)
	switch {
	case !ok:
		return frame.GuardNeighbor
	case !mayUse(p, ip[8:24]) && !isUnspecified(ip[8:24]):
		return frame.GuardSourceAddress
	case l4 == nil: // a later fragment
		return frame.None
	case proto == frame.UDP && len(l4) >= 4 && binary.BigEndian.Uint16(l4) == 547 && binary.BigEndian.Uint16(l4[2:]) == 546:
		return frame.GuardDHCP
	case proto != icmpv6:
		return frame.None
	case len(l4) < 8:
		return frame.GuardNeighbor
	}
	typ, options := l4[0], 0
	switch typ {
	case routerAdvertisement, redirect:
		return frame.GuardRouter
	case routerSolicitation:
		options = 8
	case neighborSolicitation, neighborAdvertisement:
		options = 24
	default:
		return frame.None
	}
	if fragment || len(l4) < options || typ == neighborAdvertisement && !mayUse(p, l4[8:24]) || !ownMACs(p, l4[options:]) {
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

// mayUse reports whether a station may have an IPv6 address: a link-local one is made from its MAC (RFC 4291, appendix A).
func mayUse(p *Port, a []byte) bool {
	if p.MAC == 0 || a[0] != 0xfe || a[1]&0xc0 != 0x80 {
		return true
	}
	m := p.MAC ^ 0x020000000000
	return binary.BigEndian.Uint64(a[8:]) == uint64(m>>24)<<40|0xfffe<<24|uint64(m&0xffffff)
}

func isUnspecified(a []byte) bool {
	return binary.BigEndian.Uint64(a) == 0 && binary.BigEndian.Uint64(a[8:]) == 0
}
