package uplink

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inspect reads the host's devices, addresses and routes.
func (u *Uplink) inspect() (State, error) {
	s := State{Device: u.opts.Device}
	links, addrs, routes, err := readHost()
	if err != nil {
		return s, err
	}
	if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == u.tapIdx }) {
		s.Why = u.opts.TAP + " has been removed; restart the switch"
		return s, nil
	}
	if u.opts.Kind == TAP {
		s.Own = []netip.Addr{tapOurs}
	} else {
		s.Own, s.Watched = ownAndWatched(u.opts.TAP, links, addrs, routes, nextHopDevices())
		s.Local = localPrefixes(routes, addrs)
	}
	s.MTUs, s.Policies, s.Tunnels = routeMTUs(routes, tablesFor(u.opts.TAP)), outPolicies(), tunnels(links)
	s.Broken, s.Broken6 = u.brokenBy(links)
	s.Why = cmp.Or(s.Broken, s.describe(u.tapIdx, links, addrs, routes))
	if u.opts.Kind == TAP {
		s.Addr = tapOurs
	}
	s.Up = s.Why == ""
	return s, u.inspect6(&s, links)
}

// readHost reads the host's devices, and its IPv4 addresses and routes.
func readHost() (links []netlink.Link, addrs []netlink.Addr, routes []netlink.Route, err error) {
	if links, err = dump(netlink.LinkList); err != nil {
		return nil, nil, nil, err
	}
	if addrs, routes, err = readFamily(netlink.FAMILY_V4); err != nil {
		return nil, nil, nil, err
	}
	return links, addrs, routes, nil
}

// readFamily reads the host's addresses and routes of one family.
func readFamily(family int) (addrs []netlink.Addr, routes []netlink.Route, err error) {
	if addrs, err = dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, family) }); err == nil {
		routes, err = routesOf(family)
	}
	return addrs, routes, err
}

// sourceTo is the host's address for packets by a device to a next hop; invalid if there is none.
func sourceTo(device int, hop netip.Addr) netip.Addr {
	if link, err := netlink.LinkByIndex(device); err == nil && hop.Is4() {
		routes, err := netlink.RouteGetWithOptions(hop.AsSlice(), &netlink.RouteGetOptions{Oif: link.Attrs().Name})
		if err == nil && len(routes) == 1 {
			if a, ok := netip.AddrFromSlice(routes[0].Src.To4()); ok {
				return a
			}
		}
	}
	addrs, _ := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	for _, a := range addrs { // the gateway has an IPv6 address
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && a.LinkIndex == device {
			return ip
		}
	}
	return netip.Addr{}
}

// tunnels are the IP protocols of the host's tunnel devices that are up, and of its IPsec states.
func tunnels(links []netlink.Link) (protocols []uint8) {
	const ipip, ipv6, gre, ah = 4, 41, 47, 51
	of := map[string][]uint8{
		"ipip": {ipip}, "sit": {ipv6, ipip}, "gre": {gre}, "gretap": {gre}, "erspan": {gre}, "vti": {unix.IPPROTO_ESP, ah},
		"ip6tnl": {ipip, ipv6}, "ip6gre": {gre}, "ip6gretap": {gre}, "ip6erspan": {gre}, "vti6": {unix.IPPROTO_ESP, ah},
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp != 0 {
			protocols = append(protocols, of[l.Type()]...)
		}
	}
	states, _ := netlink.XfrmStateList(netlink.FAMILY_ALL) // fails on a kernel without IPsec
	for _, s := range states {
		if s.Encap == nil { // in UDP it is UDP
			protocols = append(protocols, uint8(s.Proto))
		}
	}
	slices.Sort(protocols)
	return slices.Compact(protocols)
}

// outPolicies are the destinations of the host's IPsec policies for packets that go out.
func outPolicies() (to []netip.Prefix) {
	list, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
	if err != nil { // a kernel without IPsec
		return nil
	}
	for _, p := range list {
		if p.Dir != netlink.XFRM_DIR_OUT || p.Action != netlink.XFRM_POLICY_BLOCK && len(p.Tmpls) == 0 {
			continue // such a policy lets packets pass as they are
		}
		if p.Dst != nil {
			to = append(to, prefixOf(p.Dst))
		} else {
			to = append(to, everywhere, everywhere6)
		}
	}
	slices.SortFunc(to, netip.Prefix.Compare)
	return slices.Compact(to)
}

// dump repeats a dump that a change has interrupted.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 8 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// HostAddrs returns the host's addresses but IPv6's link-local ones, for a switch whose uplink does not know them.
func HostAddrs(tap string) (own, own6 []netip.Addr) {
	links, lerr := dump(netlink.LinkList)
	addrs, aerr := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	all6, err6 := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) })
	if lerr == nil && aerr == nil {
		own, _ = ownAndWatched(tap, links, addrs, nil, nil)
	}
	if lerr == nil && err6 == nil {
		own6, _ = addrs6(all6, ownDevices(tap, links))
	}
	return own, own6
}

// LocalPrefixes are the destinations that the host's kernel may take for itself, by any of its tables: its addresses, broadcast addresses,
// and prefixes, but for loopback's and for the route to everything of a transparent proxy.
func LocalPrefixes() (all []netip.Prefix) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, _ := routesOf(family) // a host without IPv6 has none
		all = append(all, prefixesOf(routes, func(r *netlink.Route) bool {
			bits, _ := r.Dst.Mask.Size()
			return bits > 0 && (r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_ANYCAST)
		})...)
	}
	return all
}

// routesOf are the routes of all tables.
func routesOf(family int) ([]netlink.Route, error) {
	return dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
}

// localPrefixes are what the host's kernel takes for itself by its table local: prefixes, but for loopback's and the addresses. Prefixes with
// a more specific route inside are left out. For IPv4, the route may be in the table main: the kernel may look up the two tables as one.
func localPrefixes(routes []netlink.Route, addrs []netlink.Addr) []netip.Prefix {
	own := map[string]bool{}
	for _, a := range addrs {
		own[a.IP.String()] = true
	}
	all := prefixesOf(routes, func(r *netlink.Route) bool {
		bits, most := r.Dst.Mask.Size()
		return r.Table == unix.RT_TABLE_LOCAL && r.Type == unix.RTN_LOCAL && r.Tos == 0 && (bits < most || !own[r.Dst.IP.String()])
	})
	for i := range routes {
		r := &routes[i]
		if len(all) == 0 || r.Dst == nil || r.Table != unix.RT_TABLE_LOCAL && r.Table != unix.RT_TABLE_MAIN ||
			r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_ANYCAST {
			continue
		}
		inside := prefixOf(r.Dst)
		if inside.Addr().Is6() && r.Table != unix.RT_TABLE_LOCAL {
			continue
		}
		all = slices.DeleteFunc(all, func(p netip.Prefix) bool { return p.Bits() < inside.Bits() && p.Contains(inside.Addr()) })
	}
	return all[:min(len(all), MaxLocal)]
}

// MaxLocal is how many prefixes of the table local count, of each family.
const MaxLocal = 256

// prefixesOf are the destinations, sorted, of some routes.
func prefixesOf(routes []netlink.Route, which func(*netlink.Route) bool) (to []netip.Prefix) {
	for i := range routes {
		if r := &routes[i]; r.Dst != nil && !r.Dst.IP.IsLoopback() && which(r) {
			to = append(to, prefixOf(r.Dst))
		}
	}
	slices.SortFunc(to, netip.Prefix.Compare)
	return slices.Compact(to)
}

// ownAndWatched are the host's addresses, without those of loopback's network and of the switch's devices, and the devices that have an
// address or that a route leads to.
func ownAndWatched(tap string, links []netlink.Link, addrs []netlink.Addr, routes []netlink.Route, nextHops []int) (own []netip.Addr, watched []Watched) {
	used := map[int]bool{}
	ours := ownDevices(tap, links)
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || ip.IsLoopback() || ours[a.LinkIndex] {
			continue
		}
		used[a.LinkIndex] = true
		own = append(own, ip)
	}
	for _, r := range routes {
		used[r.LinkIndex] = true
		for _, hop := range r.MultiPath {
			used[hop.LinkIndex] = true
		}
	}
	for _, device := range nextHops {
		used[device] = true
	}
	for _, l := range links {
		a := l.Attrs()
		if !used[a.Index] || ours[a.Index] || a.Flags&net.FlagLoopback != 0 || isBridgePort(a, links) {
			continue
		}
		watched = append(watched, Watched{Name: a.Name, Index: a.Index, Plain: a.EncapType != "ether"})
	}
	slices.SortFunc(own, netip.Addr.Compare)
	slices.SortFunc(watched, byName)
	return slices.Compact(own), watched
}

// isBridgePort reports whether a device's frames are its master's: a bridge's, a bond's or a team's. A VRF's devices keep theirs.
func isBridgePort(a *netlink.LinkAttrs, links []netlink.Link) bool {
	return slices.ContainsFunc(links, func(l netlink.Link) bool {
		return a.MasterIndex != 0 && l.Attrs().Index == a.MasterIndex && l.Type() != "vrf"
	})
}

// describe sets the device that is shown, its address and its MTU, and returns why the uplink is down; empty when it is up.
func (s *State) describe(own int, links []netlink.Link, addrs []netlink.Addr, routes []netlink.Route) (why string) {
	index := 0
	if s.Device == "auto" {
		s.Device = ""
		if index = defaultIndex(own, routes); index == 0 {
			return "the host has no default route; packets leave by its other routes only"
		}
	}
	at := slices.IndexFunc(links, func(l netlink.Link) bool {
		return l.Attrs().Index == index || index == 0 && l.Attrs().Name == s.Device
	})
	if at < 0 {
		return "the device no longer exists"
	}
	a := links[at].Attrs()
	s.Device, s.MTU = a.Name, a.MTU
	for _, ad := range addrs {
		if ip, ok := netip.AddrFromSlice(ad.IP.To4()); ok && ad.LinkIndex == a.Index && ad.Scope == int(netlink.SCOPE_UNIVERSE) {
			s.Addr = ip
			break
		}
	}
	switch {
	case a.Flags&net.FlagUp == 0:
		return "the device is down"
	case !s.Addr.IsValid() && len(s.Own) == 0:
		return "the device has no IPv4 address"
	case !s.Addr.IsValid(): // a device without an address uses another one of the host
		s.Addr = s.Own[0]
	}
	return ""
}

// defaultIndex is the device of the host's default route: the one with the lowest metric in the main table, or that of two half-default
// routes, other than our own device; 0 without one.
func defaultIndex(own int, routes []netlink.Route) (index int) {
	best, bestBits := -1, 2
	for _, r := range routes {
		bits := 0
		if r.Dst != nil {
			bits, _ = r.Dst.Mask.Size()
		}
		if r.Table != unix.RT_TABLE_MAIN || bits > 1 || r.Type != unix.RTN_UNICAST {
			continue
		}
		dev := deviceOf(&r)
		if dev == 0 || dev == own {
			continue
		}
		if bits < bestBits || bits == bestBits && r.Priority < best {
			best, bestBits, index = r.Priority, bits, dev
		}
	}
	return index
}

// DefaultDevice names the device of the host's default route; empty without one.
func DefaultDevice() string {
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return ""
	}
	if l, err := netlink.LinkByIndex(max(defaultIndex(0, routes), 1)); err == nil && l.Attrs().Name != "lo" {
		return l.Attrs().Name
	}
	return ""
}
