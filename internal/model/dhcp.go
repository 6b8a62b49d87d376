package model

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// DHCP says how the gateway of a network answers DHCP questions.
type DHCP struct {
	On          bool
	First, Last netip.Addr // for stations whose port has no address of its own
	Time        time.Duration
	Routes      []DHCPRoute // besides the default route
}

// A DHCPRoute is a route that stations are told of.
type DHCPRoute struct {
	To  netip.Prefix
	Via netip.Addr // on the network
}

// A HeldAddr is an address that a station has by DHCP or is offered, that is set aside, or that a port of the configuration waits with.
type HeldAddr struct {
	Addr  netip.Addr
	Port  string
	MAC   string // of the station
	Waits bool   // the port waits
}

// Bounds of lease times: half of the shorter one is enough for a station to renew, and the longer one is a month.
const (
	minLease     = 2 * time.Minute
	maxLease     = 720 * time.Hour
	DefaultLease = time.Hour

	maxDHCPRoutes = 25 // an option has 255 bytes
)

// checkDHCP reads the settings of network n for DHCP, whose subnet is known, and fills in the defaults.
func (n *Network) checkDHCP(a *api.NetworkAdd) (d DHCP, err error) {
	switch a.DHCP = cmp.Or(a.DHCP, "on"); a.DHCP {
	case "on", "off":
		d.On = a.DHCP == "on"
	default:
		return d, bad("--dhcp %q is not on or off", a.DHCP)
	}
	if !d.On {
		if a.DHCPRange+a.DHCPLease+string(a.DHCPRoutes) != "" {
			return d, bad("--dhcp off: leave --dhcp-range, --dhcp-lease and --dhcp-routes out")
		}
		return d, nil
	}
	d.First, d.Last = upperHalf(n.Prefix), broadcast(n.Prefix).Prev()
	if a.DHCPRange != "" {
		first, last, two := strings.Cut(a.DHCPRange, "-")
		var errs [2]error
		d.First, errs[0] = netip.ParseAddr(strings.TrimSpace(first))
		d.Last, errs[1] = netip.ParseAddr(strings.TrimSpace(last))
		switch {
		case !two || errs != [2]error{}:
			return d, bad("--dhcp-range %q is not FIRST-LAST, such as %s-%s", a.DHCPRange, upperHalf(n.Prefix), broadcast(n.Prefix).Prev())
		case !usable(n.Prefix, d.First) || !usable(n.Prefix, d.Last):
			return d, bad("--dhcp-range %q: stations of %s may have %s to %s", a.DHCPRange, n.Prefix, n.Prefix.Addr().Next(), broadcast(n.Prefix).Prev())
		case d.Last.Less(d.First):
			return d, bad("--dhcp-range %q: the first address comes after the last one", a.DHCPRange)
		}
		a.DHCPRange = d.First.String() + "-" + d.Last.String()
	}
	d.Time = DefaultLease
	if a.DHCPLease != "" {
		if d.Time, err = time.ParseDuration(a.DHCPLease); err != nil || d.Time < minLease || d.Time > maxLease {
			return d, bad("--dhcp-lease %q is not a time from 2m to 720h (m: minutes, h: hours), such as 12h", a.DHCPLease)
		}
	}
	words := a.DHCPRoutes.List()
	if len(words) > maxDHCPRoutes {
		return d, bad("--dhcp-routes: %d routes; at most %d fit into an answer", len(words), maxDHCPRoutes)
	}
	for _, word := range words {
		to, via, _ := strings.Cut(word, "=")
		r := DHCPRoute{}
		var errs [2]error
		r.To, errs[0] = netip.ParsePrefix(to)
		r.Via, errs[1] = netip.ParseAddr(via)
		if errs == [2]error{} && r.To != r.To.Masked() {
			return d, bad("--dhcp-routes: %s is an address inside a prefix; did you mean %s?", r.To, r.To.Masked())
		}
		if errs != [2]error{} || !r.To.Addr().Is4() || r.To.Bits() == 0 || !usable(n.Prefix, r.Via) {
			return d, bad("--dhcp-routes: %q is not PREFIX=GATEWAY, such as 10.8.0.0/16=%s, with a gateway in %s", word, n.Prefix.Addr().Next().Next(), n.Prefix)
		}
		d.Routes = append(d.Routes, r)
	}
	return d, nil
}

// upperHalf is the first address of the upper half of a subnet, or the second one if the first looks like that of a network. Addresses that the
// switch assigns itself are in the lower half first.
func upperHalf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	first := frame.Addr(binary.BigEndian.Uint32(a[:]) | 1<<(31-p.Bits()))
	if first&0xff == 0 {
		first++
	}
	return first.Netip()
}

// macForName is a locally administered MAC for a station that has no address yet: the same one for the same names.
func macForName(network, port string) frame.MAC {
	h := fnv.New32a()
	_, _ = h.Write([]byte(network + "/" + port)) // cannot fail
	return 0x027600000000 | frame.MAC(h.Sum32())
}
