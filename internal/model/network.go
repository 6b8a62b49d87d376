package model

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/nat"
)

// A Network is one broadcast domain with a subnet and a gateway.
type Network struct {
	ID        frame.NetID // the daemon's; 0 before
	Name      string
	Prefix    netip.Prefix
	Gateway   netip.Addr
	Prefix6   netip.Prefix // invalid without IPv6
	Gateway6  netip.Addr
	Outside6  netip.Prefix // by which the outside knows the stations' IPv6 addresses; invalid: by none, they leave with the host's
	Open6     bool         // anyone outside may begin a flow, with Outside6
	MAC       frame.MAC    // the gateway's
	MTU       int          // longest IP packet, bytes
	Internal  bool
	Isolated  bool
	Mapping   nat.Mapping
	Filtering nat.Filtering
	Protocols nat.Protocols
	Names     Names
	Policies  []string       // that count for all ports
	DHCP      DHCP           // how the gateway answers DHCP questions
	Spec      api.NetworkAdd // what was asked for, with every default filled in
}

// The MTUs that a network and a port may have, in bytes: what every IPv4 host accepts (RFC 791, 3.1), and what a TAP takes.
const (
	MinMTU     = 576
	MaxMTU     = link.MaxMTU
	DefaultMTU = 1500
)

func checkMTU(mtu int) error {
	if mtu < MinMTU || mtu > MaxMTU {
		return bad("MTU %d is out of range: %d to %d bytes", mtu, MinMTU, MaxMTU)
	}
	return nil
}

// MACFor returns the MAC that a station with address a has, unless its user names another.
func MACFor(a netip.Addr) frame.MAC { return frame.MACFor(frame.AddrFrom(a)) }

// NewNetwork validates what is asked for, fills in the defaults, and checks it against the other networks.
func (s *State) NewNetwork(a api.NetworkAdd) (Network, error) {
	n, err := s.networkOf(a)
	if err == nil {
		err = s.checkOverlap(&n)
	}
	return n, err
}

// ChangedNetwork returns an existing network with other settings. Subnet and gateway stay.
func (s *State) ChangedNetwork(a api.NetworkAdd) (Network, error) {
	now := s.Network(a.Name)
	if now == nil {
		return Network{}, NoNetwork(a.Name)
	}
	n, err := s.networkOf(a)
	n.ID = now.ID
	return n, err
}

func (s *State) networkOf(a api.NetworkAdd) (n Network, err error) {
	if err := checkName("network", a.Name); err != nil {
		return n, err
	}
	if n.Prefix, n.Gateway, err = checkSubnet(a); err != nil {
		return n, err
	}
	if n.Prefix6, n.Gateway6, err = s.checkSubnet6(a); err != nil {
		return n, err
	}
	a.Subnet6, a.Gateway6 = "", AddrText(n.Gateway6)
	if n.Prefix6.IsValid() {
		a.Subnet6 = n.Prefix6.String()
	}
	n.Name = a.Name
	if err := s.checkIPv6Settings(&n, &a); err != nil {
		return n, err
	}
	if n.Names, err = s.checkNames(&a); err != nil {
		return n, err
	}
	if n.Policies, err = s.checkPolicies(a.Policies); err != nil {
		return n, err
	}
	a.Policies = api.Words(strings.Join(n.Policies, ","))
	if n.DHCP, err = n.checkDHCP(&a); err != nil {
		return n, err
	}
	a.MTU = cmp.Or(a.MTU, DefaultMTU)
	if err := checkMTU(a.MTU); err != nil {
		return n, err
	}
	if n.Mapping, err = nat.ParseMapping(cmp.Or(a.Mapping, s.Config.NAT.Mapping)); err != nil {
		return n, bad("%v", err)
	}
	if n.Filtering, err = nat.ParseFiltering(cmp.Or(a.Filtering, s.Config.NAT.Filtering)); err != nil {
		return n, bad("%v", err)
	}
	if n.Protocols, err = nat.ParseProtocols(string(a.Protocols)); err != nil {
		return n, bad("%v", err)
	}
	if n.Mapping != nat.EndpointIndependentMapping && n.Filtering != nat.AddressAndPortDependentFiltering {
		return n, bad("mapping %s requires filtering %s: several containers may share one outside port, so the switch cannot tell to whom a packet from an unknown sender belongs", n.Mapping, nat.AddressAndPortDependentFiltering)
	}
	a.Subnet, a.Gateway, a.Mapping, a.Filtering = n.Prefix.String(), n.Gateway.String(), n.Mapping.String(), n.Filtering.String()
	a.Protocols = api.Words(n.Protocols.String())
	n.MAC, n.MTU, n.Internal, n.Isolated, n.Spec = MACFor(n.Gateway), a.MTU, a.Internal, a.Isolated, a
	return n, nil
}

func checkSubnet(a api.NetworkAdd) (p netip.Prefix, gateway netip.Addr, err error) {
	p, err = netip.ParsePrefix(a.Subnet)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 {
		return p, gateway, bad("%q is not an IPv4 subnet of /8 to /29, such as 172.30.0.0/16", a.Subnet)
	}
	if first := p.Masked().Addr().As4()[0]; first == 0 || first == 127 || first >= 224 {
		return p, gateway, bad("%s is loopback, multicast or reserved, and cannot be routed", p)
	}
	if p != p.Masked() {
		return p, gateway, bad("%s is an address inside a subnet; did you mean %s?", p, p.Masked())
	}
	gateway = p.Addr().Next()
	if a.Gateway != "" {
		if gateway, err = netip.ParseAddr(a.Gateway); err != nil || !usable(p, gateway) {
			return p, gateway, bad("gateway %q is not a usable address of %s; choose an address of this subnet", a.Gateway, p)
		}
	}
	return p, gateway, nil
}

// checkOverlap says why n cannot be beside the networks that exist.
func (s *State) checkOverlap(n *Network) error {
	for _, o := range s.Networks {
		if o.Name == n.Name {
			if n.Name == api.DefaultNetwork {
				return conflict("network %q always exists; choose another name", n.Name)
			}
			return conflict("network %q exists already; choose another name, or `uvswitch network del %s`", n.Name, n.Name)
		}
		for _, p := range []netip.Prefix{o.Prefix6, o.Outside6} {
			if p.Overlaps(n.Prefix6) {
				return conflict("subnet %s overlaps %s of network %q; choose another subnet", n.Prefix6, p, o.Name)
			}
		}
		if o.Prefix.Overlaps(n.Prefix) {
			return conflict("subnet %s overlaps %s of network %q; choose another subnet", n.Prefix, o.Prefix, o.Name)
		}
	}
	return nil
}

// SameSubnets reports whether two networks have the same addresses: else it is another network.
func (n *Network) SameSubnets(o *Network) bool {
	return n.Prefix == o.Prefix && n.Gateway == o.Gateway && n.Prefix6 == o.Prefix6 && n.Gateway6 == o.Gateway6
}

func (n *Network) subnetsText() string {
	text := fmt.Sprintf("%s, gateway %s", n.Prefix, n.Gateway)
	if n.Prefix6.IsValid() {
		text += fmt.Sprintf(", and %s, gateway %s", n.Prefix6, n.Gateway6)
	}
	return text
}

// Usable reports whether a can be the address of a station in the network.
func (n *Network) Usable(a netip.Addr) bool {
	if a.Is6() {
		return n.usable6(a)
	}
	return usable(n.Prefix, a)
}

func usable(p netip.Prefix, a netip.Addr) bool {
	return p.Contains(a) && a != p.Addr() && a != broadcast(p)
}

// Broadcast returns the subnet's broadcast address.
func (n *Network) Broadcast() netip.Addr { return broadcast(n.Prefix) }

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-p.Bits())-1)
	return frame.Addr(v).Netip()
}

// FreeAddr finds an unused address of n: from the first upwards, those last that a port had lately. In a network whose addresses another
// program assigns, from the last downwards: that program does not know which ones the switch has given.
func (s *State) FreeAddr(n *Network) (netip.Addr, bool) {
	taken := map[netip.Addr]bool{n.Gateway: true}
	for _, h := range s.Held {
		taken[h.Addr] = true
	}
	for i := range s.Ports {
		if p := &s.Ports[i]; p.Network == n.Name && p.Addr.IsValid() {
			taken[p.Addr.Addr()] = true
		}
	}
	free := func(a netip.Addr) bool { return n.Usable(a) && !taken[a] }
	if s.assignedElsewhere(n) {
		for a := n.Broadcast().Prev(); n.Usable(a); a = a.Prev() {
			if free(a) && !slices.Contains(s.Freed, a) {
				return a, true
			}
		}
	}
	for a := n.Prefix.Addr().Next(); n.Usable(a); a = a.Next() {
		if free(a) && !slices.Contains(s.Freed, a) {
			return a, true
		}
	}
	if i := slices.IndexFunc(s.Freed, free); i >= 0 {
		return s.Freed[i], true
	}
	return netip.Addr{}, false
}

// assignedElsewhere reports whether another program assigns addresses of n: Docker, CNI or netavark has passed a port with one.
func (s *State) assignedElsewhere(n *Network) bool {
	return find(s.Ports, func(p *Port) bool { return p.Network == n.Name && p.ByFD && p.Spec.IP != "" && p.Spec.IP != "auto" }) != nil
}

// Difference lists what differs between two specifications of a network.
func Difference(a, b api.NetworkAdd) string {
	var out []string
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if x.Field(i).Interface() != y.Field(i).Interface() {
			key, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			out = append(out, fmt.Sprintf("%s %v to %v", key, x.Field(i), y.Field(i)))
		}
	}
	return strings.Join(out, ", ")
}
