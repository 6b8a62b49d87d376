package relay

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// isAllowed reports whether a client may use the relay: it must be in one of the prefixes of --from, if there are any.
// The host itself is always allowed.
func isAllowed(from []netip.Prefix, peer netip.Addr) bool {
	if len(from) == 0 || peer.IsLoopback() || slices.ContainsFunc(from, func(p netip.Prefix) bool { return p.Contains(peer) }) {
		return true
	}
	return ownAddrs.has(peer, time.Now())
}

// ownAddrs are the host's addresses. They are read once in a second at most, since any client may make the relay ask.
var ownAddrs hostAddrs

type hostAddrs struct {
	mu    sync.Mutex // Lock 90
	addrs map[netip.Addr]bool
	at    time.Time // of the last reading
}

func (h *hostAddrs) has(a netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.addrs == nil || now.Sub(h.at) >= time.Second {
		h.addrs, h.at = map[netip.Addr]bool{}, now
		own, _ := net.InterfaceAddrs() // no address is the host's, then
		for _, x := range own {
			if p, err := netip.ParsePrefix(x.String()); err == nil {
				h.addrs[p.Addr()] = true
			}
		}
	}
	return h.addrs[a]
}
