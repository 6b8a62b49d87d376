package model

import (
	"net/netip"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/nat"
)

// Values of NetworkAdd.NAT6: how IPv6 packets leave. NPT is followed by a prefix.
const (
	Masquerade = "masquerade" // with an address of the host
	Routed     = "routed"     // with their own address
	NPT        = "npt="       // with another prefix (RFC 6296)
)

// Values of NetworkAdd.In6: what may begin outside.
const (
	Replies = "replies" // nothing but published ports and pings
	Any     = "any"
)

// Values of NetworkAdd.RA: what router advertisements say.
const (
	RAOn    = "on"    // whether the gateway leads out
	RASlaac = "slaac" // stations make an address of their own, too (RFC 4862)
	RAOff   = "off"
)

// NATTarget is what becomes of the source of packets of n that leave: MASQUERADE, ROUTED or NPT; and to what it is changed: to external, the
// host's address, or to a prefix.
func (n *Network) NATTarget(is6 bool, external netip.Addr) (target, to string) {
	switch {
	case !is6 || !n.Outside6.IsValid():
		return "MASQUERADE", AddrText(external)
	case n.Outside6 == n.Prefix6:
		return "ROUTED", n.Outside6.String()
	}
	return "NPT", n.Outside6.String()
}

// OutsideOf returns the address by which the outside knows a station of n; ok is false if there is none, so that the station leaves with the
// host's. n may be nil.
func (n *Network) OutsideOf(a netip.Addr) (outside netip.Addr, ok bool) {
	if n == nil || !n.Outside6.IsValid() || !n.Prefix6.Contains(a) {
		return outside, false
	}
	return nat.TranslatePrefix(a, n.Prefix6, n.Outside6)
}

// checkIPv6Settings reads how IPv6 leaves n and enters it, and fills in the defaults.
func (s *State) checkIPv6Settings(n *Network, a *api.NetworkAdd) (err error) {
	if !n.Prefix6.IsValid() {
		for _, f := range [][2]string{{"nat6", a.NAT6}, {"in6", a.In6}, {"ra", a.RA}} {
			if f[1] != "" {
				return bad("--%s %s needs an IPv6 subnet (--subnet6)", f[0], f[1])
			}
		}
		if a.NDProxy {
			return bad("--nd-proxy needs an IPv6 subnet (--subnet6)")
		}
		return nil
	}
	if a.Internal && (a.NAT6 != "" && a.NAT6 != Masquerade || a.In6 == Any || a.NDProxy) {
		return bad("network %q is internal: nothing leaves it or enters it; leave --nat6, --in6 and --nd-proxy out", a.Name)
	}
	kind := s.Config.Uplink.Kind
	if a.NAT6 == "" {
		if a.NAT6 = Routed; a.Internal || kind == KindTAP || n.Prefix6.Addr().IsPrivate() { // nobody outside knows a way to a unique local address (RFC 4193, 4.3)
			a.NAT6 = Masquerade
		}
	}
	prefix, isNPT := strings.CutPrefix(a.NAT6, NPT)
	switch {
	case kind == KindTAP && a.NAT6 != Masquerade:
		needs := "tcx, clsact or host"
		if isNPT {
			needs = "tcx or clsact"
		}
		return bad("--nat6 %s needs an uplink of kind %s; with kind tap, the host masquerades", a.NAT6, needs)
	case kind == ViaHost && isNPT:
		return bad("--nat6 %s needs an uplink of kind tcx or clsact; with kind host, the host translates (`ip6tables -t mangle`, targets SNPT and DNPT)", a.NAT6)
	case a.NAT6 == Masquerade:
	case a.NAT6 == Routed:
		n.Outside6 = n.Prefix6
	case isNPT:
		if n.Outside6, err = s.checkNPT(n, prefix); err != nil {
			return err
		}
		a.NAT6 = NPT + n.Outside6.String()
	default:
		return bad("--nat6 %q is not masquerade, routed, or npt=PREFIX, such as npt=2001:db8:1::/64", a.NAT6)
	}
	if up := s.Config.Uplink; a.NDProxy && (up.Kind == KindTAP || up.Device == UplinkNone) {
		return bad("--nd-proxy needs an uplink of kind tcx, clsact or host: with other kinds, packets from outside come to the host only")
	}
	if a.NDProxy && !n.Outside6.IsValid() {
		return bad("--nd-proxy needs --nat6 routed or npt=PREFIX: with masquerade, containers leave with the host's addresses, for which the host answers")
	}
	switch a.In6 {
	case "":
		a.In6 = Replies
	case Any:
		if n.Open6 = true; kind == KindTAP {
			return bad("--in6 any needs an uplink of kind tcx, clsact or host; with kind tap, the host masquerades, and nobody outside can name a container's address")
		} else if !n.Outside6.IsValid() {
			return bad("--in6 any needs --nat6 routed or npt=PREFIX: with masquerade, nobody outside can name a container's address")
		}
	case Replies:
	default:
		return bad("--in6 %q is not replies or any", a.In6)
	}
	switch a.RA {
	case "":
		a.RA = RAOn
	case RAOn, RAOff:
	case RASlaac:
		if n.Prefix6.Bits() != 64 {
			return bad("--ra slaac needs an IPv6 subnet of /64, and the subnet is %s (RFC 4862)", n.Prefix6)
		}
	default:
		return bad("--ra %q is not on, slaac or off", a.RA)
	}
	return nil
}

func (s *State) checkNPT(n *Network, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p != p.Masked():
		return p, bad("--nat6 npt=%s: this is not an IPv6 prefix, such as 2001:db8:1::/64", text)
	case p.Bits() != n.Prefix6.Bits():
		return p, bad("--nat6 npt=%s: the prefix must be as long as the subnet %s", text, n.Prefix6)
	case p.Bits() > 64:
		return p, bad("--nat6 npt needs a subnet of /64 or shorter, and %s is longer (RFC 6296)", n.Prefix6)
	case p.Overlaps(n.Prefix6):
		return p, bad("--nat6 npt=%s is the subnet itself; write --nat6 routed", text)
	}
	for _, r := range reserved6 {
		if r.Overlaps(p) {
			return p, bad("--nat6 npt=%s: this prefix is in %s, which is not for stations", text, r)
		}
	}
	for i := range s.Networks {
		if o := &s.Networks[i]; o.Name != n.Name && (p.Overlaps(o.Prefix6) || p.Overlaps(o.Outside6)) {
			return p, conflict("--nat6 npt=%s overlaps a prefix of network %q; choose another prefix", text, o.Name)
		}
	}
	return p, nil
}
