package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
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

// WayOfSocket is where the host's kernel sends what a socket sends to dst. It may wait for netlink.
func WayOfSocket(dst netip.Addr) (Way, error) {
	w := Way{Socket: true, NextHop: dst}
	routes, err := netlink.RouteGet(dst.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EINVAL) {
		w.Code = frame.WayNoRoute
		return w, nil
	}
	if err != nil || len(routes) != 1 {
		return w, fmt.Errorf("uplink: asking the host's routing: %w", err)
	}
	r := &routes[0]
	if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		w.index, w.Device = link.Attrs().Index, link.Attrs().Name
	}
	if hop, ok := netip.AddrFromSlice(r.Gw); ok {
		w.NextHop = hop.Unmap()
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		w.Source = src.Unmap()
	}
	return w, nil
}
