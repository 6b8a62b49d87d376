package uplink

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
)

// inspect6 reads the host's IPv6 addresses and routes. A host without IPv6 has none.
func (u *Uplink) inspect6(s *State, links []netlink.Link) error {
	addrs, routes, err := readFamily(netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_V6) })
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) { // a kernel that has no rules
		return err
	}
	slices.SortStableFunc(rules, func(a, b netlink.Rule) int { return a.Priority - b.Priority })
	from := u.opts.TAP // where packets of containers come from, for the rules
	if u.opts.Kind == Host {
		from = hostPortOf(u.opts.TAP)
	}
	ours := ownDevices(u.opts.TAP, links)
	own, sources := addrs6(addrs, ours)
	tables := defaultTables(rules, from, own)
	s.Forwards = link.Forwards6()
	if u.opts.Kind == TAP {
		if _, s.Addr6 = u.ends6(); s.Addr6.IsValid() {
			s.Own6, s.MTU6 = []netip.Addr{s.Addr6}, s.MTU
			s.Up6, s.Why6 = leadsOut6(defaultIndex6(routes, ours, tables), s)
			s.Up6 = s.Up6 && s.Forwards
		}
		return nil
	}
	s.Own6, s.Sources6 = own, sources
	s.Local = append(s.Local, localPrefixes(routes, addrs)...)
	if s.Told, err = toldWays(); err != nil {
		return err
	}
	s.watch6(links, routes, ours)
	s.OnLink = onLink(s.Watched, links, addrs, routes)
	device := defaultIndex6(routes, ours, tables)
	if s.Addr6 = s.Sources6[device]; !s.Addr6.IsValid() && len(s.Sources6) > 0 { // the device has none: the host's routing takes another device's
		devices := make([]int, 0, len(s.Sources6))
		for d := range s.Sources6 {
			devices = append(devices, d)
		}
		s.Addr6 = s.Sources6[slices.Min(devices)]
	}
	for _, l := range links {
		if a := l.Attrs(); a.Index == device {
			s.MTU6 = a.MTU
		}
	}
	s.Up6, s.Why6 = leadsOut6(device, s)
	return nil
}

// leadsOut6 reports whether IPv6 leads out by the device of the default route, if only for packets that keep their source, and why not, or not
// for all.
func leadsOut6(device int, s *State) (leads bool, why string) {
	switch {
	case s.Broken6 != "":
		return false, s.Broken6
	case device == 0:
		return false, "the host has no IPv6 default route"
	case s.MTU6 < frame.MinMTU6:
		return false, fmt.Sprintf("the MTU of the way out is %d, and IPv6 needs %d", s.MTU6, frame.MinMTU6)
	case !s.Addr6.IsValid():
		return true, "the host has no IPv6 address of global scope; only networks with --nat6 routed or npt=PREFIX lead out"
	}
	return true, ""
}

// ends6 are the two ends of an uplink of kind tap, the host's and ours; invalid without IPv6.
func (u *Uplink) ends6() (host netip.Prefix, ours netip.Addr) {
	p := u.opts.TAPPrefix6
	if u.opts.Kind != TAP || !p.IsValid() {
		return host, ours
	}
	first := p.Addr().Next()
	return netip.PrefixFrom(first, p.Bits()), first.Next()
}

// knowOurEnd6 tells the kernel the MAC of our end, so that it need not ask.
func (u *Uplink) knowOurEnd6() error {
	_, ours := u.ends6()
	known, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(u.tapIdx, netlink.FAMILY_V6) })
	if err != nil || slices.ContainsFunc(known, func(n netlink.Neigh) bool { // a neighbor that is set is news to all who listen
		return n.State == netlink.NUD_PERMANENT && n.IP.Equal(ours.AsSlice())
	}) {
		return err
	}
	err = netlink.NeighSet(&netlink.Neigh{LinkIndex: u.tapIdx, Family: netlink.FAMILY_V6, IP: ours.AsSlice(), HardwareAddr: RouterMAC.HardwareAddr(), State: netlink.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("uplink: setting the neighbor %s on %s: %w", ours, u.opts.TAP, err)
	}
	return nil
}

// hostPortOf is the device of the host's port of the switch that has a TAP of that name.
func hostPortOf(tap string) string { return strings.TrimSuffix(tap, "-up") + "0" }

// brokenBy is why no packet leaves by the device of the switch that the containers' packets leave by: IPv4 packets, and IPv6 packets.
func (u *Uplink) brokenBy(links []netlink.Link) (why, why6 string) {
	name := u.opts.TAP
	if u.opts.Kind == Host {
		name = hostPortOf(name)
	}
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == name })
	if i < 0 {
		why = name + " has been removed; restart the switch"
		return why, why
	}
	if links[i].Attrs().Flags&net.FlagUp == 0 {
		why = name + " is down (`ip link set " + name + " up` on the host)"
		return why, why
	}
	if off, why6 := link.WithoutIPv6(links[i]); off && (u.opts.Kind == Host || u.opts.Kind == TAP || links[i].Attrs().MTU < frame.MinMTU6) {
		return "", why6 // with programs, packets need no address of the device, but its settings for IPv6, which go with a low MTU
	}
	if u.opts.Kind != Host && u.opts.Kind != TAP && link.ForwardsNoIPv6(name) {
		return "", "IPv6 is not forwarded from " + name + " (`sysctl -w net.ipv6.conf." + name + ".forwarding=1` on the host)"
	}
	return "", ""
}

// ownDevices are the indices of the switch's devices.
func ownDevices(tap string, links []netlink.Link) map[int]bool {
	ours := map[int]bool{}
	host := hostPortOf(tap)
	for _, l := range links {
		if a := l.Attrs(); a.Name == host || a.Name == tap {
			ours[a.Index] = true
		}
	}
	return ours
}

// sourceOf is the address by which containers leave by a device, as far as that follows from the device alone.
func (s *State) sourceOf(device int) netip.Addr {
	if a := s.Sources6[device]; a.IsValid() {
		return a
	}
	return s.Addr6
}

// addrs6 are the host's IPv6 addresses that packets may be sent to, and for each device the one by which containers leave: global before
// unique local, and neither temporary nor deprecated (RFC 6724, 5), since a flow ends with its address.
func addrs6(addrs []netlink.Addr, ours map[int]bool) (own []netip.Addr, sources map[int]netip.Addr) {
	sources = map[int]netip.Addr{}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || ip.Is4In6() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ours[a.LinkIndex] || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0 {
			continue
		}
		own = append(own, ip)
		if a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0 {
			continue
		}
		if is, ok := sources[a.LinkIndex]; !ok || is.IsPrivate() && !ip.IsPrivate() || is.IsPrivate() == ip.IsPrivate() && ip.Less(is) {
			sources[a.LinkIndex] = ip
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return slices.Compact(own), sources
}

// watch6 adds the devices that only IPv6 uses to those that the way in is attached to.
func (s *State) watch6(links []netlink.Link, routes []netlink.Route, ours map[int]bool) {
	used := map[int]bool{}
	for d := range s.Sources6 {
		used[d] = true
	}
	for i := range routes {
		if d := deviceOf(&routes[i]); d != 0 && routes[i].Table == unix.RT_TABLE_MAIN {
			used[d] = true
		}
	}
	for _, l := range links {
		a := l.Attrs()
		known := slices.ContainsFunc(s.Watched, func(w Watched) bool { return w.Index == a.Index })
		if used[a.Index] && !known && !ours[a.Index] && a.Flags&net.FlagLoopback == 0 && !isBridgePort(a, links) {
			s.Watched = append(s.Watched, Watched{Name: a.Name, Index: a.Index, Plain: a.EncapType != "ether"})
		}
	}
	slices.SortFunc(s.Watched, byName)
}

// onLink lists where routers and stations may look for neighbors: see OnLink.
func onLink(watched []Watched, links []netlink.Link, addrs []netlink.Addr, routes []netlink.Route) (all []OnLink) {
	for _, w := range watched {
		l := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == w.Index })
		a := slices.IndexFunc(addrs, func(a netlink.Addr) bool {
			return a.LinkIndex == w.Index && a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
		})
		if l < 0 || a < 0 || w.Plain {
			continue
		}
		local, _ := netip.AddrFromSlice(addrs[a].IP)
		for i := range routes {
			r := &routes[i]
			p := everywhere6
			if r.Dst != nil {
				p = prefixOf(r.Dst)
			}
			isNeighbors := r.Gw == nil && r.Via == nil && len(r.MultiPath) == 0 && !p.Addr().IsLinkLocalUnicast()
			if r.Table != unix.RT_TABLE_LOCAL && r.Type == unix.RTN_UNICAST && deviceOf(r) == w.Index && (p.Bits() == 0 || isNeighbors) {
				all = append(all, OnLink{p, w.Index, w.Name, frame.MACFrom(links[l].Attrs().HardwareAddr), local})
			}
		}
	}
	slices.SortFunc(all, func(a, b OnLink) int { return cmp.Or(a.Prefix.Compare(b.Prefix), a.Device-b.Device) })
	return slices.Compact(all)
}

// defaultIndex6 is the device of IPv6's default route: in the first of the tables that has one, the one with the lowest metric, or that of two
// half-default routes; 0 without one.
func defaultIndex6(routes []netlink.Route, ours map[int]bool, tables []int) (index int) {
	for _, table := range tables {
		best := -1
		for i := range routes {
			r := &routes[i]
			bits := 0
			if r.Dst != nil {
				bits, _ = r.Dst.Mask.Size()
			}
			if bits > 1 || r.Type != unix.RTN_UNICAST || r.Table != table {
				continue
			}
			if device := deviceOf(r); device != 0 && !ours[device] && (best < 0 || r.Priority < best) {
				best, index = r.Priority, device
			}
		}
		if best >= 0 {
			return index
		}
	}
	return 0
}

// defaultTables are the tables in which packets of containers may find a default route, in the order of the rules.
func defaultTables(rules []netlink.Rule, from string, own []netip.Addr) (tables []int) {
	if len(rules) == 0 {
		return []int{unix.RT_TABLE_MAIN}
	}
	for _, r := range rules {
		fromHost := r.Src != nil && !r.Invert && prefixOf(r.Src).IsSingleIP() && slices.Contains(own, prefixOf(r.Src).Addr()) // rules see the container's address
		if r.SuppressPrefixlen < 0 && asks(&r, from) && !fromHost && r.Table != unix.RT_TABLE_LOCAL {
			tables = append(tables, r.Table)
		}
	}
	return tables
}
