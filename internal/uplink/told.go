package uplink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// toldBy says what of a packet its way depends on, as a set of flags; 0: no way is told.
type toldBy uint32

const (
	byAddrs toldBy = 1 << iota
	byProto
	bySrcPort
	byDstPort
	byClass
)

// selectors are attributes of a rule (linux include/uapi/linux/fib_rules.h), by what they look at.
var selectors = map[uint16]toldBy{
	22: byProto, 23: bySrcPort, 24: byDstPort, 25: byClass, // FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE, FRA_DSCP
}

// toldWays returns what the ways of packets depend on by the host's rules of IPv6, if there are rules that the programs do not see. It reads them
// by itself: package netlink does not know FRA_DSCP.
func toldWays() (by toldBy, err error) {
	rules, err := dump(func() ([][]byte, error) {
		q := nl.NewNetlinkRequest(unix.RTM_GETRULE, unix.NLM_F_DUMP)
		q.AddData(nl.NewIfInfomsg(unix.AF_INET6))
		return q.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWRULE)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) { // a kernel that has no rules
		return 0, nil
	}
	suppresses := false
	for _, r := range rules {
		if len(r) < unix.SizeofRtMsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(r[unix.SizeofRtMsg:])
		if err != nil {
			return 0, err
		}
		if r[3] != 0 { // the type of service, in struct fib_rule_hdr
			by |= byClass
		}
		for _, a := range attrs {
			by |= selectors[a.Attr.Type]
			isSuppressor := a.Attr.Type == nl.FRA_SUPPRESS_PREFIXLEN || a.Attr.Type == nl.FRA_SUPPRESS_IFGROUP
			suppresses = suppresses || isSuppressor && len(a.Value) == 4 && binary.NativeEndian.Uint32(a.Value) != ^uint32(0)
		}
	}
	if !suppresses {
		return 0, err
	}
	return by | byAddrs, err
}

// A toldKey is a key of the map ways6: the beginning of a struct bpf_fib_lookup without the length, and without what the way does not depend on.
type toldKey [fibDst + 16]byte

func (u *Uplink) toldKey(t frame.Tuple6, class uint8) (key toldKey) {
	params := fibQuestion(u.tapIdx, t, class)
	copy(key[:], params[:])
	by := u.known.Load().Told
	for _, part := range []struct {
		by       toldBy
		at, size int
	}{{byProto, fibProto, 1}, {bySrcPort, fibSrcPort, 2}, {byDstPort, fibDstPort, 2}, {byClass, fibTOS, 4}, {0, fibLength, 2}} {
		if by&part.by == 0 {
			clear(key[part.at:][:part.size])
		}
	}
	return key
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

// LearnWay tells the program the way of a frame that came back for frame.WayUnknown. in is the port that sent it, or the uplink if
// that is not known; raw is what was sent, with the virtio-net header. LearnWay reports whether it did: a port that sends to very many destinations
// must wait. Only the slow path calls it.
func (u *Uplink) LearnWay(in frame.PortID, raw []byte) bool {
	var f frame.Frame
	f.Reset(raw, frame.NoPort)
	if frame.Parse(&f); f.Flags&frame.IsIPv6 == 0 {
		return false
	}
	_, place, _ := f.Way()
	t, class := frame.Tuple6{Src: f.IPv6().Src(), Dst: f.IPv6().Dst(), Proto: uint8(f.Dst >> 32), SrcPort: uint16(f.Dst >> 16), DstPort: uint16(f.Dst)}, f.TrafficClass()
	if t.Proto == 0 {
		t.Proto = f.IPv6().NextHeader()
	}
	if place != 0 {
		t.Src = u.InsideAt(place)
	}
	key := u.toldKey(t, class)
	if _, known := u.maps.toldWay(key); known { // an earlier frame has asked
		return true
	}
	if place != 0 { // NAT does not know the port of a later fragment
		in = portOfPlace(place)
	}
	if !u.asked[in%frame.MaxPorts].mayAsk(time.Now()) {
		return false
	}
	forgotten := u.maps.forgotten.Load()
	way, err := u.askKernel(t, class)
	if err != nil { // not an answer: the next packet asks again
		return false
	}
	err = u.maps.ways6.Put(key, way)
	if u.maps.forgotten.Load() != forgotten { // the host's routing has changed meanwhile; the frame comes back once more
		_ = u.maps.ways6.Delete(key)
	}
	return err == nil
}

// toldWay returns the way that the program has been told.
func (s *shared) toldWay(key toldKey) (w toldWay, known bool) {
	known = s.ways6.Lookup(key, &w) == nil
	return w, known
}

// askKernel asks the host's routing by netlink for the way of a packet that comes by the uplink's TAP.
func (u *Uplink) askKernel(t frame.Tuple6, class uint8) (w toldWay, err error) {
	r, err := u.routeOf(t, class)
	switch {
	case errors.Is(err, unix.EACCES):
		w.Code = uint32(frame.WayProhibited)
	case errors.Is(err, unix.EINVAL):
		w.Code = uint32(frame.WayBlackhole)
	case errors.Is(err, unix.EHOSTUNREACH):
		w.Code = uint32(frame.WayUnreachable)
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EAGAIN): // no route; one of type throw, in the last table
		w.Code = uint32(frame.WayNoRoute)
	case err != nil:
		return w, err
	}
	if w.Code != 0 {
		return w, nil
	}
	if r.encap {
		w.Code = uint32(frame.WayEncap)
		return w, nil
	}
	link, err := netlink.LinkByIndex(r.device)
	if err != nil {
		return w, err
	}
	if link.Attrs().Flags&net.FlagLoopback != 0 { // it is for the host itself
		w.Code = uint32(frame.WayNoRoute)
		return w, nil
	}
	w.Device, w.MTU, w.Hop = uint32(r.device), uint32(min(link.Attrs().MTU, 65535, mtu6(link.Attrs().Name))), r.hop.As16()
	if r.mtu > 0 {
		w.MTU = min(w.MTU, r.mtu)
	}
	source := u.known.Load().sourceOf(r.device)
	if u.maps.sources6 != nil { // the program takes this one, too
		w.Source = source.As16()
		return w, nil
	}
	if r.source.IsValid() {
		w.Source = r.source.As16()
		return w, nil
	}
	if by, err := netlink.RouteGetWithOptions(t.Dst.Netip().AsSlice(), &netlink.RouteGetOptions{Oif: link.Attrs().Name}); err == nil && len(by) == 1 { // as the kernel's masquerading chooses it
		if a, ok := netip.AddrFromSlice(by[0].Src); ok && !a.IsLinkLocalUnicast() {
			source = a
		}
	}
	if source.IsValid() {
		w.Source = source.As16()
	}
	return w, nil
}

// mtu6 is the IPv6 MTU of a device, in bytes: a router advertisement may have made it smaller than the device's own.
func mtu6(device string) int {
	text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + device + "/mtu")
	mtu, nerr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || nerr != nil || mtu < frame.MinMTU6 {
		return 65535
	}
	return mtu
}

// wayTold is Ask6 on a host whose rules the programs do not see. It may wait for netlink.
func (u *Uplink) wayTold(t frame.Tuple6, class uint8) (w Way, err error) {
	told, known := u.maps.toldWay(u.toldKey(t, class))
	if !known {
		if told, err = u.askKernel(t, class); err != nil {
			return w, fmt.Errorf("uplink: asking the host's routing: %w", err)
		}
	}
	if w.Code = frame.WayCode(told.Code); w.Code != 0 {
		return w, nil
	}
	var params [fibParams]byte
	binary.NativeEndian.PutUint32(params[fibIfindex:], told.Device)
	u.setDevice(&w, params[:])
	w.NextHop, w.Source, w.MTU = netip.AddrFrom16(told.Hop), netip.AddrFrom16(told.Source), int(told.MTU)
	return w, nil
}

// A hostRoute is what the kernel answers.
type hostRoute struct {
	device int
	hop    netip.Addr
	source netip.Addr // that the route names; as a rule, it names none
	mtu    uint32     // in bytes; 0: that of the device
	encap  bool
}

// routeOf asks for the route of a packet that comes by the uplink's TAP, as `ip -6 route get` does, but with all that rules look at. The kernel
// takes questions about TCP, UDP and ICMPv6 only (linux net/ipv4/netlink.c, rtm_getroute_parse_ip_proto): about others, the packet has no protocol.
func (u *Uplink) routeOf(t frame.Tuple6, class uint8) (r hostRoute, err error) {
	q := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	q.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET6, Dst_len: 128, Src_len: 128, Tos: class}})
	add := func(attr int, value []byte) { q.AddData(nl.NewRtAttr(attr, value)) }
	add(unix.RTA_DST, t.Dst.Netip().AsSlice())
	add(unix.RTA_SRC, t.Src.Netip().AsSlice())
	add(unix.RTA_IIF, nl.Uint32Attr(uint32(u.tapIdx)))
	if t.Proto == frame.TCP || t.Proto == frame.UDP || t.Proto == frame.ICMPv6 {
		add(unix.RTA_IP_PROTO, []byte{t.Proto})
	}
	add(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, t.SrcPort))
	add(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, t.DstPort))
	answers, err := q.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return r, err
	}
	if len(answers) != 1 || len(answers[0]) < unix.SizeofRtMsg {
		return r, fmt.Errorf("uplink: %d answers about the route to %s", len(answers), t.Dst)
	}
	attrs, err := nl.ParseRouteAttrAsMap(answers[0][unix.SizeofRtMsg:])
	if err != nil {
		return r, err
	}
	_, r.encap = attrs[unix.RTA_ENCAP]
	if v := attrs[unix.RTA_OIF].Value; len(v) == 4 {
		r.device = int(binary.NativeEndian.Uint32(v))
	}
	if r.hop = t.Dst.Netip(); len(attrs[unix.RTA_GATEWAY].Value) == 16 {
		r.hop = netip.AddrFrom16([16]byte(attrs[unix.RTA_GATEWAY].Value))
	}
	if v := attrs[unix.RTA_PREFSRC].Value; len(v) == 16 {
		r.source = netip.AddrFrom16([16]byte(v))
	}
	metrics, err := nl.ParseRouteAttrAsMap(attrs[unix.RTA_METRICS].Value)
	if v := metrics[unix.RTAX_MTU].Value; len(v) == 4 {
		r.mtu = binary.NativeEndian.Uint32(v)
	}
	return r, err
}
