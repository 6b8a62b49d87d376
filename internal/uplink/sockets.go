package uplink

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// openSockets returns an uplink that only follows the host's devices, addresses and routes: packets leave by sockets of this process.
func openSockets(o Options) (*Uplink, error) {
	u := &Uplink{opts: o, MAC: tapMAC}
	u.known.Store(&known{kind: Sockets})
	_, err := u.Refresh()
	return u, err
}

// inspectSockets reads what of the host an uplink of kind sockets depends on.
func (u *Uplink) inspectSockets() (State, error) {
	s := State{Device: u.opts.Device}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return s, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return s, err
	}
	routes, err := routesOf(netlink.FAMILY_V4)
	if err != nil {
		return s, err
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && !ip.IsLoopback() {
			s.Own = append(s.Own, ip)
		}
	}
	slices.SortFunc(s.Own, netip.Addr.Compare)
	s.Own = slices.Compact(s.Own)
	s.Why = s.describe(0, links, addrs, routes)
	s.Up = s.Why == ""
	addrs6, routes6, err := u.host6()
	if err != nil {
		return s, err
	}
	for _, a := range addrs6 {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			s.Own6 = append(s.Own6, ip)
		}
	}
	slices.SortFunc(s.Own6, netip.Addr.Compare)
	s.Own6 = slices.Compact(s.Own6)
	s.MTU6 = s.MTU
	switch {
	case !slices.ContainsFunc(routes6, func(r netlink.Route) bool { return r.Dst == nil || prefixOf(r.Dst).Bits() == 0 }):
		s.Why6 = "the host has no IPv6 default route"
	case len(s.Own6) == 0:
		s.Why6 = "the host has no IPv6 address of global scope"
	default:
		s.Up6, s.Addr6 = true, s.Own6[0]
	}
	return s, nil
}

// host6 are the host's IPv6 addresses and routes; none if its kernel has no IPv6.
func (u *Uplink) host6() (addrs []netlink.Addr, routes []netlink.Route, err error) {
	if addrs, err = dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) }); err == nil {
		routes, err = routesOf(netlink.FAMILY_V6)
	}
	return addrs, routes, err
}
