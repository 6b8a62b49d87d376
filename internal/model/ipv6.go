package model

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/nat"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// Values of NetworkAdd.Subnet6 that are no subnet. An empty value is Off in the API, and Auto for network default.
const (
	SubnetAuto = "auto" // a /64 of the instance's own prefix
	SubnetOff  = "off"
)

// Everywhere6 is the destination of IPv6's default route.
var Everywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)

// ULA returns the /48 of unique local addresses of a switch: it is the same after each start (RFC 4193, 3.2.2). machineID is the host's
// /etc/machine-id.
func ULA(machineID, name string) netip.Prefix {
	h := hmac.New(sha256.New, []byte(machineID))
	h.Write([]byte("uvswitch/" + name))
	var b [16]byte
	b[0] = 0xfd
	copy(b[1:6], h.Sum(nil))
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// A Secret is what the outside cannot guess the addresses of stations without.
type Secret [sha256.Size]byte

// NewSecret returns the secret of a switch: it is the same after each start. machineID is the host's /etc/machine-id.
func NewSecret(machineID, name string) (s Secret) {
	h := hmac.New(sha256.New, []byte(machineID))
	h.Write([]byte("uvswitch/" + name + "/addresses"))
	h.Sum(s[:0])
	return s
}

// opaque returns an address of a station that tells nothing of the station, and that is the same after each start (RFC 7217, 5). Each try has
// another address.
func (s *State) opaque(n *Network, station string, try byte) netip.Addr {
	h := hmac.New(sha256.New, s.Config.Secret[:])
	h.Write([]byte(n.Name + "/" + station))
	h.Write([]byte{try})
	x := frame.Addr6From(n.Prefix6.Addr())
	x.Lo |= binary.BigEndian.Uint64(h.Sum(nil)) >> max(0, n.Prefix6.Bits()-64)
	return x.Netip()
}

// subnetOfTAP is the last subnet of the ULA, which no network gets.
const subnetOfTAP = 0xffff

// TAPPrefix6 returns the prefix of the link between the host and an uplink of kind tap: it is invalid without IPv6.
func (c *Config) TAPPrefix6() netip.Prefix {
	if !c.ULA.IsValid() {
		return netip.Prefix{}
	}
	b := c.ULA.Addr().As16()
	binary.BigEndian.PutUint16(b[6:], subnetOfTAP)
	return netip.PrefixFrom(netip.AddrFrom16(b), 126)
}

// subnetOfULA returns a /64 of the ULA: by the network's name, or the next one that no network has.
func (s *State) subnetOfULA(name string) (netip.Prefix, error) {
	sum := sha256.Sum256([]byte(name))
	b := s.Config.ULA.Addr().As16()
	id := binary.BigEndian.Uint16(sum[:])
	for range 1 << 16 {
		binary.BigEndian.PutUint16(b[6:], id%subnetOfTAP)
		p := netip.PrefixFrom(netip.AddrFrom16(b), 64)
		if !slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Name != name && (n.Prefix6.Overlaps(p) || n.Outside6.Overlaps(p)) }) {
			return p, nil
		}
		id++
	}
	return netip.Prefix{}, conflict("no /64 of %s is free: other networks have all of it; name a subnet, such as --subnet6 fd00:1::/64", s.Config.ULA)
}

// checkSubnet6 returns the IPv6 subnet of a network and its gateway; both are invalid without IPv6.
func (s *State) checkSubnet6(a api.NetworkAdd) (p netip.Prefix, gateway netip.Addr, err error) {
	switch {
	case a.Subnet6 == SubnetOff || a.Subnet6 == "":
		if a.Gateway6 != "" {
			return p, gateway, bad("gateway6 %s needs an IPv6 subnet (--subnet6)", a.Gateway6)
		}
		return p, gateway, nil
	case a.Subnet6 == SubnetAuto && (!s.Config.ULA.IsValid() || a.MTU != 0 && a.MTU < frame.MinMTU6): // the kernel has no IPv6, or packets are too short for it
		return p, gateway, nil
	case a.Subnet6 == SubnetAuto:
		if p, err = s.subnetOfULA(a.Name); err != nil {
			return p, gateway, err
		}
	default:
		if p, err = netip.ParsePrefix(a.Subnet6); err != nil || !p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() < 48 || p.Bits() > 124 {
			return p, gateway, bad("%q is not an IPv6 subnet of /48 to /124, such as fd00:1::/64; or write auto, or off", a.Subnet6)
		}
	}
	if p != p.Masked() {
		return p, gateway, bad("%s is an address inside a subnet; did you mean %s?", p, p.Masked())
	}
	for _, r := range reserved6 {
		if r.Overlaps(p) {
			return p, gateway, bad("%s is in %s, which is not for networks; use a unique local prefix, such as fd00:1::/64", p, r)
		}
	}
	if t := s.Config.TAPPrefix6(); s.Config.Uplink.Kind == KindTAP && t.IsValid() && t.Overlaps(p) {
		return p, gateway, bad("subnet %s overlaps %s, which the uplink of kind tap uses; choose another subnet", p, t)
	}
	gateway = p.Addr().Next()
	if a.Gateway6 != "" {
		if gateway, err = netip.ParseAddr(a.Gateway6); err != nil || !p.Contains(gateway) || gateway == p.Addr() {
			return p, gateway, bad("gateway6 %q is not a usable address of %s; choose an address of this subnet", a.Gateway6, p)
		}
	}
	if a.MTU != 0 && a.MTU < frame.MinMTU6 {
		return p, gateway, bad("MTU %d is too small for a network with IPv6, which needs %d bytes; use a larger MTU, or --subnet6 off", a.MTU, frame.MinMTU6)
	}
	return p, gateway, nil
}

// reserved6 are prefixes that have a meaning of their own (RFC 4291, 2.5 and 2.7; RFC 3056; RFC 6666).
var reserved6 = []netip.Prefix{
	netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::/8"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("100::/64"),
}

// usable6 reports whether a can be the address of a station: it is not the address of all routers (RFC 4291, 2.6.1), nor one of the last
// 128 of a /64 (RFC 2526).
func (n *Network) usable6(a netip.Addr) bool {
	if !n.Prefix6.IsValid() || !n.Prefix6.Contains(a) || a == n.Prefix6.Addr() {
		return false
	}
	if n.Outside6.IsValid() {
		if _, ok := nat.TranslatePrefix(a, n.Prefix6, n.Outside6); !ok {
			return false
		}
	}
	x := frame.Addr6From(a)
	return n.Prefix6.Bits() != 64 || x.Lo>>7 != 0xfdffffffffffffff>>7
}

// FreeAddr6 finds an address for a station: the one that it makes itself by SLAAC, in a network with SLAAC; else, if the outside knows the
// network's prefix, one that does not show the MAC, which has the IPv4 address in it; else the one with the MAC in the last 48 bits, if the
// subnet leaves room for that; else the first that is free.
func (s *State) FreeAddr6(n *Network, station string, m frame.MAC) (netip.Addr, bool) {
	free := func(a netip.Addr) bool { return n.usable6(a) && a != n.Gateway6 && s.Holder(n, a) == nil }
	var candidates []netip.Addr
	switch made := n.madeBy(m); {
	case made.IsValid():
		candidates = append(candidates, made)
	case n.Outside6.IsValid():
		for try := range byte(8) {
			candidates = append(candidates, s.opaque(n, station, try))
		}
	case n.Prefix6.Bits() <= 80 && m != 0:
		x := frame.Addr6From(n.Prefix6.Addr())
		x.Lo |= uint64(m)
		candidates = append(candidates, x.Netip())
	}
	for _, a := range candidates {
		if free(a) {
			return a, true
		}
	}
	for a := n.Prefix6.Addr().Next(); n.Prefix6.Contains(a); a = a.Next() {
		if free(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// madeBy returns the address that a station with MAC m makes itself by SLAAC (RFC 4862, 5.5.3). It is invalid in a network without SLAAC.
func (n *Network) madeBy(m frame.MAC) netip.Addr {
	if n.Spec.RA != RASlaac || m == 0 {
		return netip.Addr{}
	}
	return frame.Addr6{Hi: frame.Addr6From(n.Prefix6.Addr()).Hi, Lo: m.EUI64()}.Netip()
}

// MadeBy returns the address that the station behind port p makes itself by SLAAC, if it may have the address.
func (s *State) MadeBy(n *Network, p *Port) netip.Addr {
	made := n.madeBy(p.MAC)
	q := s.Holder(n, made)
	if p.Kind == KindHost || p.MTU != 0 && p.MTU < frame.MinMTU6 || made == n.Gateway6 || q != nil && q.Name != p.Name {
		return netip.Addr{}
	}
	return made
}

// checkAddress6 sets the port's IPv6 address, in a network that has such addresses. A station that configures itself has the address that
// is named, or one if its IPv4 address was assigned, too, and its MAC is known: else nobody would tell the station.
func (s *State) checkAddress6(p *Port, a api.PortAdd) error {
	n := s.Network(p.Network)
	p.Made6 = s.MadeBy(n, p)
	named := a.IP6 != "" && a.IP6 != api.AutoAddress
	switch {
	case !n.Prefix6.IsValid():
		if a.IP6 != "" {
			return bad("network %q has no IPv6 addresses; leave --ip6 out, or give the network a subnet (--subnet6)", n.Name)
		}
		return nil
	case p.MTU < frame.MinMTU6 && p.MTU != 0:
		if named {
			return bad("MTU %d is too small for IPv6, which needs %d bytes; use a larger MTU, or leave --ip6 out", p.MTU, frame.MinMTU6)
		}
		return nil
	case a.IP6 == "" && p.ConfiguresItself() && (!p.Addr.IsValid() || p.MAC == 0):
		return nil
	case !named:
		addr, ok := s.FreeAddr6(n, p.Name, p.MAC)
		if !ok {
			return conflict("no address of %s is free; remove a port, or use a larger subnet", n.Prefix6)
		}
		p.Addr6 = netip.PrefixFrom(addr, n.Prefix6.Bits())
	default:
		addr, err := netip.ParseAddr(a.IP6)
		if x, perr := netip.ParsePrefix(a.IP6); perr == nil && x.Bits() == n.Prefix6.Bits() {
			addr, err = x.Addr(), nil
		}
		if err != nil || !n.usable6(addr) {
			return bad("%q is not a usable address of network %q (%s); --ip6 takes an address of this subnet, without brackets, or auto", a.IP6, n.Name, n.Prefix6)
		}
		if err := s.checkFree(n, p, addr, "--ip6"); err != nil {
			return err
		}
		p.Addr6 = netip.PrefixFrom(addr, n.Prefix6.Bits())
	}
	p.Flags |= vswitch.Guard
	return nil
}

// hostAddr6 is the address of the host's port: the subnet's fffe, or the last but one of a small subnet.
func (n *Network) hostAddr6() netip.Prefix {
	if !n.Prefix6.IsValid() {
		return netip.Prefix{}
	}
	x := frame.Addr6From(n.Prefix6.Addr())
	if x.Lo |= 0xfffe; n.Prefix6.Bits() > 112 {
		x = frame.Last[frame.Addr6](n.Prefix6)
		x.Lo--
	}
	if x.Netip() == n.Gateway6 {
		x.Lo--
	}
	return netip.PrefixFrom(x.Netip(), n.Prefix6.Bits())
}
