package relay

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isAllowed reports whether a client may use the relay: it must be in one of the prefixes of --from, if there are any. Programs of the host
// are always allowed. zone is the index of the client's device, of a link-local address.
//
// Over UDP, only loopback's addresses are the host's for sure: a neighbor can send datagrams with any address as their source.
func isAllowed(from []netip.Prefix, peer netip.Addr, zone uint32, udp bool) bool {
	if len(from) == 0 || peer.IsLoopback() || slices.ContainsFunc(from, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return true
	}
	return (peer.Is4() || !udp) && isHosts(peer, zone) // of IPv4, the kernel refuses such sources (linux net/ipv4/fib_frontend.c, fib_validate_source)
}

// isHosts reports whether the host's kernel takes packets to an address for itself.
func isHosts(a netip.Addr, zone uint32) bool {
	routes, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{OifIndex: int(zone)})
	return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
}
