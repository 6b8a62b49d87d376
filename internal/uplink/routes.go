package uplink

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// noRouteMTU stands for a route without an MTU of its own.
const noRouteMTU = 65535

// routeMTUs are the MTUs of the routes that packets of containers may take, by prefix. Several tables of routes may be asked for the same
// packet: the smallest MTU counts. tables says which may be asked; nil: all.
func routeMTUs(routes []netlink.Route, tables map[int]bool) map[netip.Prefix]int {
	type best struct{ metric, mtu int }
	of := map[int]map[netip.Prefix]best{} // by table
	some := map[int]bool{}                // tables with a route that has an MTU
	for i := range routes {
		r := &routes[i]
		if r.Type != unix.RTN_UNICAST || r.Flags&unix.RTNH_F_DEAD != 0 || tables != nil && !tables[r.Table] {
			continue
		}
		dst := everywhere
		if r.Dst != nil {
			dst = prefixOf(r.Dst)
		}
		mtu := noRouteMTU
		if r.MTU > 0 {
			mtu = r.MTU
		}
		if of[r.Table] == nil {
			of[r.Table] = map[netip.Prefix]best{}
		}
		if was, ok := of[r.Table][dst]; !ok || r.Priority < was.metric {
			of[r.Table][dst] = best{r.Priority, mtu}
		}
		if r.MTU > 0 {
			some[r.Table] = true
		}
	}
	mtus := map[netip.Prefix]int{}
	for table := range some {
		for dst := range of[table] {
			mtus[dst] = noRouteMTU
		}
	}
	for dst := range mtus {
		for table := range some {
			for bits := dst.Bits(); bits >= 0; bits-- { // the route to dst, or the longest one that contains it
				if r, ok := of[table][netip.PrefixFrom(dst.Addr(), bits).Masked()]; ok {
					mtus[dst] = min(mtus[dst], r.mtu)
					break
				}
			}
		}
	}
	return mtus
}

var (
	everywhere  = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	everywhere6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// tablesFor are the tables of routes that the host's rules may ask for packets that come by the TAP; nil if the rules are not known.
func tablesFor(tap string) map[int]bool {
	rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_V4) })
	if err != nil {
		return nil
	}
	return tablesOf(rules, tap)
}

func tablesOf(rules []netlink.Rule, tap string) map[int]bool {
	tables := map[int]bool{}
	for _, r := range rules {
		if asks(&r, tap) {
			tables[r.Table] = true
		}
	}
	return tables
}

// asks reports whether a rule may hold for packets of containers.
func asks(r *netlink.Rule, tap string) bool {
	never := r.Mark != 0 || r.OifName != "" || r.IifName != "" && r.IifName != tap // packets of containers have no mark
	return !never || r.Invert
}

// nextHopDevices are the devices of the host's nexthop objects (`ip nexthop`): a route may name such an object in place of a device. None on
// a kernel before 5.3.
func nextHopDevices() (devices []int) {
	const msgLen, attrOIF = 8, 5 // struct nhmsg and NHA_OIF of linux/nexthop.h
	req := nl.NewNetlinkRequest(unix.RTM_GETNEXTHOP, unix.NLM_F_DUMP)
	req.AddRawData(make([]byte, msgLen))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEXTHOP)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if len(m) < msgLen {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[msgLen:])
		if err != nil {
			continue
		}
		for _, a := range attrs {
			if a.Attr.Type == attrOIF && len(a.Value) >= 4 {
				devices = append(devices, int(binary.NativeEndian.Uint32(a.Value)))
			}
		}
	}
	return devices
}

// deviceOf is the device that a route's packets leave by; 0 if the route does not say.
func deviceOf(r *netlink.Route) int {
	if len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	if r.LinkIndex == 0 && r.Type == unix.RTN_UNICAST { // it names a nexthop object: ask for an address of it; of a default route, one that has no route of its own
		to := net.IPv4(240, 0, 0, 1)
		switch {
		case r.Dst != nil && !r.Dst.IP.IsUnspecified():
			to = r.Dst.IP
		case r.Dst != nil && r.Dst.IP.To4() == nil:
			to = net.ParseIP("2001:db8::1")
		}
		if got, err := netlink.RouteGet(to); err == nil && len(got) == 1 {
			return got[0].LinkIndex
		}
	}
	return r.LinkIndex
}
