package uplink

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/uvswitch/uvswitch/internal/frame"
)

// The kernel's bpf_fib_lookup does not see some rules of IPv6: with suppress_prefixlength and suppress_ifgroup, it takes the route all the same
// (linux net/ipv6/fib6_rules.c, fib6_rule_suppress: there is no rt6_info yet). Such rules are those of a VPN for all traffic, as wg-quick makes
// them, and packets would leave beside the VPN. While the host has one, the program "way out" does not ask. It looks into the map ways6, and
// sends back what it does not find. The slow path then asks by netlink, fills in the way, and the frame is sent again.

// toldWay is an entry of the map ways6.
type toldWay struct {
	Device uint32
	MTU    uint32 // in bytes
	Code   uint32 // a frame.WayCode; 0: packets leave
	_      uint32
	Hop    [16]byte
	Source [16]byte // the host's address by which packets leave
}

// areTold reports whether there are rules among the host's rules of IPv6 that the programs do not see.
func areTold(rules []netlink.Rule) bool {
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.SuppressPrefixlen >= 0 || r.SuppressIfgroup >= 0 })
}

// asksInSecond is how many ways are asked for in a second for one port of the switch: each takes some 100 us of the slow path.
const asksInSecond = 200

// An askCount counts the ways that were asked for in a second.
type askCount struct{ second, n int64 }

// mayAsk reports whether one more way may be asked for.
func (c *askCount) mayAsk(now time.Time) bool {
	if s := now.Unix(); s != c.second {
		c.second, c.n = s, 0
	}
	c.n++
	return c.n <= asksInSecond
}

// LearnWay tells the program the way of a frame that came back for frame.WayUnknown; raw is what was sent, with the virtio-net header. It
// reports whether it did: a port that sends to very many destinations must wait. Only the slow path calls it.
func (u *Uplink) LearnWay(raw []byte) bool {
	var f frame.Frame
	f.Reset(raw, frame.NoPort)
	if frame.Parse(&f); f.Flags&frame.IsIPv6 == 0 {
		return false
	}
	src, dst := f.IPv6().Src(), f.IPv6().Dst()
	_, place, _ := f.Way()
	if place != 0 {
		src = u.InsideAt(place)
	}
	if _, known := u.maps.toldWay(src, dst); known { // an earlier frame has asked
		return true
	}
	if !u.asked[portOfPlace(place)].mayAsk(time.Now()) {
		return false
	}
	forgotten := u.maps.forgotten.Load()
	way := u.askKernel(src.Netip(), dst.Netip())
	key := toldKey(src, dst)
	err := u.maps.ways6.Put(key, way)
	if u.maps.forgotten.Load() != forgotten { // the host's routing has changed meanwhile; the frame comes back once more
		_ = u.maps.ways6.Delete(key)
	}
	return err == nil
}

func toldKey(src, dst frame.Addr6) (key [32]byte) {
	src.Put(key[:])
	dst.Put(key[16:])
	return key
}

// toldWay returns the way that the program has been told.
func (s *shared) toldWay(src, dst frame.Addr6) (w toldWay, known bool) {
	known = s.ways6.Lookup(toldKey(src, dst), &w) == nil
	return w, known
}

// askKernel asks the host's routing by netlink for the way of a packet that comes by the uplink's TAP.
func (u *Uplink) askKernel(src, dst netip.Addr) (w toldWay) {
	routes, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Iif: u.opts.TAP, SrcAddr: src.AsSlice()})
	switch {
	case errors.Is(err, unix.EACCES):
		w.Code = uint32(frame.WayProhibited)
	case errors.Is(err, unix.EINVAL):
		w.Code = uint32(frame.WayBlackhole)
	case errors.Is(err, unix.EHOSTUNREACH):
		w.Code = uint32(frame.WayUnreachable)
	case err != nil || len(routes) == 0:
		w.Code = uint32(frame.WayNoRoute)
	}
	if w.Code != 0 {
		return w
	}
	r := &routes[0]
	if r.Encap != nil {
		w.Code = uint32(frame.WayEncap)
		return w
	}
	hop := dst
	if gw, ok := netip.AddrFromSlice(r.Gw); ok {
		hop = gw
	}
	link, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 { // it is for the host itself
		w.Code = uint32(frame.WayNoRoute)
		return w
	}
	w.Device, w.MTU, w.Hop = uint32(r.LinkIndex), uint32(min(link.Attrs().MTU, 65535)), hop.As16()
	if r.MTU > 0 {
		w.MTU = min(w.MTU, uint32(r.MTU))
	}
	source := u.known.Load().sourceOf(r.LinkIndex)
	if u.maps.sources6 != nil { // the program takes this one, too
		w.Source = source.As16()
		return w
	}
	if by, err := netlink.RouteGetWithOptions(dst.AsSlice(), &netlink.RouteGetOptions{Oif: link.Attrs().Name}); err == nil && len(by) == 1 { // as the kernel's masquerading chooses it
		if a, ok := netip.AddrFromSlice(by[0].Src); ok && !a.IsLinkLocalUnicast() {
			source = a
		}
	}
	if source.IsValid() {
		w.Source = source.As16()
	}
	return w
}

// wayTold is Ask6 on a host whose rules the programs do not see. It may wait for netlink.
func (u *Uplink) wayTold(t frame.Tuple6) (w Way) {
	told, known := u.maps.toldWay(t.Src, t.Dst)
	if !known {
		told = u.askKernel(t.Src.Netip(), t.Dst.Netip())
	}
	if w.Code = frame.WayCode(told.Code); w.Code != 0 {
		return w
	}
	var params [fibParams]byte
	binary.NativeEndian.PutUint32(params[fibIfindex:], told.Device)
	u.setDevice(&w, params[:])
	w.NextHop, w.Source, w.MTU = netip.AddrFrom16(told.Hop), netip.AddrFrom16(told.Source), int(told.MTU)
	return w
}
