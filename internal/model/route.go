package model

import (
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

// A Route is a static route.
type Route struct {
	Prefix  netip.Prefix
	Kind    router.RouteKind // Local: through the host's own stack
	Gateway netip.Addr       // of a unicast route
	Network string           // that the gateway is in
}

// Spec asks for the route; it replaces an existing one.
func (r Route) Spec() api.RouteAdd {
	a := api.RouteAdd{Dst: r.Prefix.String(), Type: r.Kind.String(), Replace: true}
	switch r.Kind {
	case router.Unicast:
		a.Gateway = r.Gateway.String()
	case router.Local:
		a.Type, a.Gateway = "", ViaHost
	}
	return a
}

func (r Route) String() string {
	if r.Kind == router.Local {
		return "route " + r.Prefix.String() + " via " + ViaHost
	}
	if r.Gateway.IsValid() {
		return "route " + r.Prefix.String() + " via " + r.Gateway.String()
	}
	return "route " + r.Kind.String() + " " + r.Prefix.String()
}

// NewRoute validates what is asked for. The gateway must be in one of the networks.
func (s *State) NewRoute(a api.RouteAdd) (r Route, err error) {
	if via, verr := netip.ParseAddr(a.Gateway); a.Dst == "default" && verr == nil && via.Is6() {
		a.Dst = Everywhere6.String()
	}
	if r.Prefix, err = ParseDst(a.Dst); err != nil {
		return r, err
	}
	var ok bool
	if r.Kind, ok = router.ParseRouteKind(a.Type); !ok {
		return r, bad("type %q: a route is unicast, blackhole, unreachable or prohibit", a.Type)
	}
	if err := s.CheckStaticRoute(r.Prefix); err != nil {
		return r, err
	}
	if r.Kind != router.Unicast {
		if a.Gateway != "" {
			return r, bad("a %s route takes no gateway; leave it out", r.Kind)
		}
		return r, nil
	}
	if a.Gateway == ViaHost {
		for _, n := range s.Networks {
			if n.Prefix.Overlaps(r.Prefix) && n.Prefix.Bits() <= r.Prefix.Bits() || n.Prefix6.Overlaps(r.Prefix) && n.Prefix6.Bits() <= r.Prefix.Bits() {
				return r, conflict("%s is a part of network %q: the switch itself delivers there", r.Prefix, n.Name)
			}
		}
		if r.Kind = router.Local; !s.Config.Host.On {
			return r, conflict("the switch has no host port (--host off): no route can lead through the host")
		}
		return r, nil
	}
	if r.Gateway, err = netip.ParseAddr(a.Gateway); err != nil || r.Gateway.Is4() != r.Prefix.Addr().Is4() {
		return r, bad("%q is not the address of a gateway of the same family; the form is route add DST via GATEWAY, or via host: through the host's own stack", a.Gateway)
	}
	n := s.NetworkOf(r.Gateway)
	if n == nil || r.Gateway == n.Gateway || r.Gateway == n.Gateway6 || !n.Usable(r.Gateway) {
		return r, bad("gateway %s is not an address that a container in a network of the switch can have; `uvswitch network ls` lists the networks", r.Gateway)
	}
	r.Network = n.Name
	return r, nil
}

// CheckStaticRoute refuses the destinations of the switch's own routes.
func (s *State) CheckStaticRoute(p netip.Prefix) error {
	for _, n := range s.Networks {
		if n.Prefix == p || n.Prefix6 == p {
			return conflict("%s is the subnet of network %q, whose route the switch itself keeps", p, n.Name)
		}
	}
	for i := range s.Ports {
		if x := &s.Ports[i]; x.Addr.IsValid() && p == netip.PrefixFrom(x.Addr.Addr(), 32) || x.Addr6.IsValid() && p == netip.PrefixFrom(x.Addr6.Addr(), 128) {
			return conflict("%s is the address of port %q, whose route the switch itself keeps", p.Addr(), x.Name)
		}
	}
	if p == Everywhere || p == Everywhere6 || p.IsSingleIP() && slices.Contains(s.Own, p.Addr()) {
		return conflict("the route to %s belongs to the uplink and cannot be changed: set the host's own route", p)
	}
	return nil
}

// ParseDst reads a destination: default, a prefix, or one address.
func ParseDst(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, aerr := netip.ParseAddr(s); aerr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if s == "default" {
		p, err = Everywhere, nil
	}
	if err == nil && p != p.Masked() {
		return p, bad("%s is an address inside a subnet; did you mean %s?", s, p.Masked())
	}
	if err != nil || p.Addr().Is4In6() {
		return p, bad("%q is not a destination, such as 10.9.0.0/24 or fd00:9::/64", s)
	}
	return p, nil
}

// NewNeighbor validates a permanent neighbor.
func (s *State) NewNeighbor(a api.NeighborAdd) (x Neighbor, err error) {
	n, err := s.NeighborNetwork(a.Dst)
	if err != nil {
		return x, err
	}
	x = Neighbor{Network: n.Name, Addr: netip.MustParseAddr(a.Dst)}
	if x.MAC, err = ParseStationMAC(a.Lladdr); err != nil {
		return x, err
	}
	if x.Addr == n.Gateway || x.Addr == n.Gateway6 {
		return x, conflict("%s is the gateway of network %q, which is the switch itself; a neighbor is another machine", a.Dst, n.Name)
	}
	return x, nil
}

// NeighborNetwork returns the network of a neighbor that may be added or deleted by hand.
func (s *State) NeighborNetwork(dst string) (*Network, error) {
	a, err := netip.ParseAddr(dst)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return nil, bad("%q is not an IP address", dst)
	}
	n := s.NetworkOf(a)
	if n == nil || !n.Usable(a) {
		return nil, bad("%s is not an address that a container in a network of the switch can have; `uvswitch network ls` lists the networks", a)
	}
	if p := s.Holder(n, a); p != nil {
		return nil, conflict("%s belongs to port %q, which was added with this address; `uvswitch port del %s` removes the port and this neighbor", dst, p.Name, p.Name)
	}
	return n, nil
}

// NewFDBEntry validates a static entry of the forwarding database, and returns its MAC and its port.
func (s *State) NewFDBEntry(a api.FDBAdd) (frame.MAC, *Port, error) {
	m, err := ParseStationMAC(a.MAC)
	if err != nil {
		return m, nil, err
	}
	if a.State != api.FDBStatic && a.State != api.FDBSticky {
		return m, nil, bad("state %q: must be static or sticky", a.State)
	}
	p := s.Port(a.Port)
	if p == nil || p.Network == "" {
		return m, nil, NoPort(a.Port)
	}
	if m == s.Network(p.Network).MAC {
		return m, nil, conflict("MAC %s belongs to the gateway; choose another MAC", m)
	}
	return m, p, nil
}
