package uplink

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	links, addrs, routes, err := readHost()
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
	all6, routes6, err := readFamily(netlink.FAMILY_V6)
	if err != nil {
		return s, err
	}
	s.Own6, _ = addrs6(all6, nil)
	s.Local = slices.Concat(localPrefixes(routes, addrs), localPrefixes(routes6, all6), prefixesOf(routes6, func(r *netlink.Route) bool { return r.Type == unix.RTN_ANYCAST }))
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
