package daemon

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

func (d *Daemon) openUplink() (err error) {
	c := d.config.Uplink
	d.up, err = uplink.Open(uplink.Options{Device: c.Device, Kind: uplink.Kind(c.Kind), TAP: d.opts.Name + "-up", Devices: c.Fence(), TAPPrefix6: d.config.TAPPrefix6()})
	if errors.Is(err, tap.ErrExists) {
		return fmt.Errorf("device %s-up exists already; it may belong to another switch: use another --name", d.opts.Name)
	}
	return err
}

// warnOfOtherSwitches says that another switch may give the same outside ports to its containers.
func (d *Daemon) warnOfOtherSwitches() {
	if others := uplink.OtherSwitches(d.opts.Name + "-up"); len(others) > 0 && d.config.Uplink.Ports == model.DefaultNATPorts {
		d.log.Warn("another switch is on this host; give each its own ports with --nat-ports: else two containers that use one port for one destination get each other's answers", "devices", others)
	}
}

// usesBPF reports whether the uplink shares the host's devices and addresses by BPF programs. An uplink of kind tap does not.
func (d *Daemon) usesBPF() bool {
	return d.up != nil && d.config.Uplink.Kind != model.KindTAP && d.config.Uplink.Kind != model.KindSockets
}

func (d *Daemon) closeUplink() {
	if d.up != nil {
		d.up.Close()
	}
	if d.engine != nil {
		_ = d.engine.Close()
	}
}

// Uplink returns what is known of the way out; ok is false without an uplink.
func (d *Daemon) Uplink() (s uplink.State, kind uplink.Kind, ok bool) {
	if d.up == nil {
		return s, "", false
	}
	s, kind = d.up.State()
	return s, kind, true
}

// Flooded is how many packets from outside were dropped before the switch: see uplink.GuardQueue.
func (d *Daemon) Flooded() uint64 {
	if d.up == nil {
		return 0
	}
	return d.up.Flooded()
}

// leavesByHost reports whether packets leave through the host's own stack.
func (d *Daemon) leavesByHost() bool { return d.up != nil && d.config.Uplink.Kind == model.ViaHost }

// routeThroughHostLocked makes the host's port the next hop of all packets that leave. A host that does not forward IPv6, or whose port is
// down, drops the packets silently. The switch then answers the packets itself.
func (d *Daemon) routeThroughHostLocked(s *uplink.State) {
	h := d.ports[model.HostPortName]
	rt := router.Route{Prefix: model.Everywhere, Kind: router.Unreachable} // never by the uplink: its packets do not pass the host's firewall
	if h != nil && s.Broken == "" {
		rt.Kind, rt.Egress, rt.NextHop = router.Local, h.net.ID, h.Addr.Addr()
	}
	err := d.dp.Router.AddRoute(rt)
	if d.config.ULA.IsValid() {
		rt := router.Route{Prefix: model.Everywhere6, Kind: router.Unreachable}
		if h != nil && s.Forwards && s.Broken6 == "" && h.Addr6.IsValid() {
			rt.Kind, rt.Egress, rt.NextHop = router.Local, h.net.ID, h.Addr6.Addr()
		}
		err = errors.Join(err, d.dp.Router.AddRoute(rt))
	}
	if err != nil {
		d.log.Error("cannot set the route through the host", "error", err)
	}
}

// Way returns the way of a container's packet outside, as the host's routing chooses it now; class is that of frame.Frame.TrafficClass. It
// fails without an uplink that asks it.
func (d *Daemon) Way(t frame.Tuple, class uint8) (uplink.Way, error) {
	if d.up == nil {
		return uplink.Way{}, api.Errorf(http.StatusConflict, "the switch has no uplink")
	}
	return d.up.Ask(t, class)
}

// InsideAt returns the inside address that the way header of an IPv6 packet names; 0 if it names none.
func (d *Daemon) InsideAt(place uint32) (a frame.Addr6) {
	if place == 0 || !d.usesBPF() {
		return a
	}
	return d.up.InsideAt(place)
}

// Way6 is Way for an IPv6 packet.
func (d *Daemon) Way6(t frame.Tuple6, class uint8) (uplink.Way, error) {
	if d.up == nil {
		return uplink.Way{}, api.Errorf(http.StatusConflict, "the switch has no uplink")
	}
	return d.up.Ask6(t, class)
}

// UplinkClaims reports whether a frame from outside would reach the switch, rather than the host.
func (d *Daemon) UplinkClaims(f *frame.Frame) bool { return !d.usesBPF() || d.up.Claims(f) }

// addUplinkPortLocked connects the uplink's TAP to the data plane. It is in no network.
func (d *Daemon) addUplinkPortLocked() error {
	flags := vswitch.Forwarding | vswitch.Uplink
	if d.usesBPF() {
		flags |= vswitch.Ways
	}
	w, ifname := wire{conn: d.engine}, ""
	if !d.bySockets() {
		w.conn, ifname = d.up.Device, d.opts.Name+"-up"
	}
	return d.plugLocked(&port{
		Port: model.Port{
			Name: model.UplinkPortName, Kind: model.KindUplink, Ifname: ifname, MAC: d.up.MAC, MTU: model.MaxMTU, Offload: true,
			Settings: model.Settings{Flags: flags},
		},
		wire: w,
	})
}

// addHostPortLocked makes the port by which the host itself is in the default network.
func (d *Daemon) addHostPortLocked() error {
	m, err := d.State().HostPort(d.config.Host.Address)
	if err != nil {
		return err
	}
	if link.OffByDefault() { // the host's administrator wants no IPv6 on new devices
		m.Addr6 = netip.Prefix{}
	}
	p := &port{Port: m, net: d.networks[m.Network]}
	if p.conn, err = d.openTAP(&p.Port, *hostPortConfig(p)); err != nil && p.Addr6.IsValid() {
		d.log.Error("the host's port has no IPv6, until the switch is restarted", "error", err)
		p.Addr6 = netip.Prefix{}
		p.conn, err = d.openTAP(&p.Port, *hostPortConfig(p))
	}
	if err != nil {
		return err
	}
	if err := d.plugLocked(p); err != nil {
		return err
	}
	if d.leavesByHost() {
		if err := link.ForwardThrough(p.Ifname); err != nil {
			return err
		}
	}
	d.dp.Switch.FDB(p.net.ID).Set(p.MAC, p.ID, false)
	d.dp.Router.SetHost(frame.AddrFrom(p.Addr.Addr()), frame.Addr6From(p.Addr6.Addr()), p.ID)
	d.keepHostPortLocked()
	return nil
}

func hostPortConfig(p *port) *link.Config {
	return &link.Config{MAC: p.MAC, MTU: p.MTU, Addr: p.Addr, Addr6: p.Addr6, NoIPv6: true, IgnoreRAs: true, Shy: true}
}

// keepHostPortLocked gives the device of the host's port a route to each network other than its own, and again what the host's commands have
// taken from it. While IPv6 is off there, senders hear that the host is unreachable.
func (d *Daemon) keepHostPortLocked() {
	h := d.ports[model.HostPortName]
	if h == nil {
		return
	}
	c := hostPortConfig(h)
	for _, n := range d.networks {
		if h.net == n || n.Internal {
			continue
		}
		c.Routes = append(c.Routes, link.Route{To: n.Prefix, Via: h.net.Gateway})
		if n.Prefix6.IsValid() && h.Addr6.IsValid() {
			c.Behind6, c.Via6 = append(c.Behind6, n.Prefix6), h.net.Gateway6
		}
	}
	why6, err := c.Restore(h.Ifname)
	if d.leavesByHost() { // a device that was down has lost the setting
		if err := link.SetForwarding6(h.Ifname, true); err != nil {
			d.log.Error("containers' IPv6 packets do not leave", "error", err)
		}
	}
	was := d.host6
	if d.host6 = h.Addr6.IsValid() && why6 == "" && err == nil; d.host6 != was && d.usesBPF() {
		d.routeToHostLocked(d.own, d.way6.own)
		for _, r := range d.dp.Router.Routes() { // the routes to the host's local prefixes are made again
			if r.Kept && r.Prefix.Addr().Is6() {
				d.dp.Router.DeleteRoute(r.Prefix)
			}
		}
		d.followLocalLocked()
	}
	if err != nil { // the next change of the host is the next attempt
		d.log.Error("the host may not reach all networks: cannot configure the device of the host's port", "error", err)
	}
}

// refreshUplink follows the host: when its devices, addresses, routes or rules have changed, the router and NAT are told.
func (d *Daemon) refreshUplink() {
	d.follow("following the uplink", d.refreshUplinkLocked)
}

func (d *Daemon) refreshUplinkLocked() {
	d.dp.Router.ForgetWays()
	d.keepHostPortLocked()
	if err := d.proxy.Keep(); err != nil {
		d.log.Error("neighbors outside may not find some containers", "error", err)
	}
	if d.up == nil {
		if d.guardHostLocked(uplink.HostAddrs(d.opts.Name + "-up")) {
			d.updateRulesLocked()
		}
		return
	}
	if _, err := d.up.Refresh(); err != nil {
		d.log.Error("cannot update the uplink; the switch tries again", "error", err)
		if d.retries.CompareAndSwap(false, true) {
			time.AfterFunc(time.Second, func() {
				d.retries.Store(false)
				d.refreshUplink()
			})
		}
	}
	p := d.ports[model.UplinkPortName]
	if p == nil {
		return
	}
	s, _ := d.up.State()
	i := router.Interface{
		Net: frame.NoNet, Addr: frame.AddrFrom(s.Addr), Prefix: model.Everywhere, MAC: uplink.RouterMAC, MTU: s.MTU,
		Port: p.ID, Up: len(s.Own) > 0 && (s.Broken == "" || d.leavesByHost()),
	}
	if d.config.ULA.IsValid() {
		i.Prefix6, i.Addr6, i.Up6, i.MTU6 = model.Everywhere6, frame.Addr6From(s.Addr6), s.Up6, s.MTU6
		if h := d.ports[model.HostPortName]; d.leavesByHost() && (!s.Forwards || h == nil || !h.Addr6.IsValid()) {
			i.Up6 = false
		}
	}
	if d.usesBPF() {
		i.MTU = model.MaxMTU // each way has its own
		d.dp.NAT.WaysChanged()
		d.dp.Router.SetIPsec(s.Policies)
		d.dp.Router.SetRouteMTUs(s.MTUs)
	} else {
		i.PeerMAC, i.Up = d.up.MAC, s.Up
	}
	if d.bySockets() {
		i.MTU, i.MTU6 = model.MaxMTU, model.MaxMTU // the host's kernel makes the packets
		i.Up = len(s.Own) > 0                      // connect(2) refuses what no route leads to
		d.engine.SetHost(addrsOf(&s), s.Local)
	}
	if old, ok := d.dp.Router.Interface(frame.NoNet); ok && d.broken == [2]string{s.Broken, s.Broken6} && reflect.DeepEqual(old, i) && d.external == s.Addr && slices.Equal(d.own, s.Own) && d.way6.equal(&s) && slices.Equal(d.local, d.localLocked()) && slices.Equal(d.tunnels, s.Tunnels) {
		return
	}
	d.dp.Router.SetInterface(i)
	switch {
	case d.leavesByHost():
		d.routeToHostLocked(s.Own, s.Own6)
		d.routeThroughHostLocked(&s)
	case d.bySockets():
	case d.usesBPF():
		d.guardHostLocked(s.Own, s.Own6)
		d.routeToHostLocked(s.Own, s.Own6)
	default:
		d.guardHostLocked(uplink.HostAddrs(d.opts.Name + "-up"))
	}
	d.mu.Lock()
	d.external, d.own, d.tunnels, d.way6, d.broken = s.Addr, s.Own, s.Tunnels, way6Of(&s), [2]string{s.Broken, s.Broken6}
	d.mu.Unlock()
	d.updateRulesLocked()
	d.log.Info("uplink changed", "device", s.Device, "address", s.Addr, "addresses", s.Own, "local", s.Local, "up", s.Up, "why", s.Why, "address6", s.Addr6, "addresses6", s.Own6, "up6", s.Up6, "why6", s.Why6)
}

// neighborTime is how long the kernel looks for a next hop until it gives up, and a second more.
const neighborTime = 4 * frame.TicksPerSecond

// deadHops tells the senders of packets that left by a next hop that does not answer. A container can make very many next hops fail. So the ways of the
// packets are asked for once for all that have failed in deadTime.
type deadHops struct {
	d     *Daemon
	mu    sync.Mutex                    // Lock 94
	since map[uplink.NextHop]frame.Tick // of those that have failed: packets that left by one since then are still to be told of
	told  map[uplink.NextHop]frame.Tick // when the senders were told last
}

const deadTime = 200 * time.Millisecond

func (h *deadHops) add(hop uplink.NextHop) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, there := h.since[hop]; there {
		return
	}
	if len(h.since) == 0 {
		h.since = map[uplink.NextHop]frame.Tick{}
		time.AfterFunc(deadTime, h.tell)
	}
	at, before := h.told[hop]
	if !before {
		at = h.d.dp.Now() - neighborTime
	}
	h.since[hop] = at
}

func (h *deadHops) tell() {
	now := h.d.dp.Now()
	h.mu.Lock()
	dead := h.since
	h.since = nil
	if h.told == nil {
		h.told = map[uplink.NextHop]frame.Tick{}
	}
	maps.DeleteFunc(h.told, func(_ uplink.NextHop, at frame.Tick) bool { return now-at > neighborTime })
	for hop := range dead {
		h.told[hop] = now
	}
	h.mu.Unlock()
	for _, p := range h.d.dp.NAT.AskedSince(now - neighborTime - frame.TicksPerSecond) {
		hop, ok := h.d.up.NextHopOf(p.Inside, p.Class())
		if since, isDead := dead[hop]; ok && isDead && int32(p.At-since) >= 0 {
			h.d.dp.WithSlowPath(func(out router.Output) { h.d.dp.Router.TellUnreachable(p.In, p.Net, p.Sender, p.Quote, now, out) })
		}
	}
}

// guardHostLocked makes the host's port take packets from and to the host's addresses only. It reports whether these have changed.
func (d *Daemon) guardHostLocked(own, own6 []netip.Addr) (changed bool) {
	h := d.ports[model.HostPortName]
	if h == nil {
		return false
	}
	now := []frame.Addr{}
	for _, a := range own {
		now = append(now, frame.AddrFrom(a))
	}
	var now6 []frame.Addr6
	for _, a := range own6 {
		now6 = append(now6, frame.Addr6From(a))
	}
	if h.Own != nil && slices.Equal(h.Own, now) && slices.Equal(h.Own6, now6) {
		return false
	}
	d.mu.Lock()
	h.Own, h.Own6 = now, now6
	d.mu.Unlock()
	d.dp.Switch.SetPort(h.SwitchPort(h.netID()))
	return true
}

// routeToHostLocked sends packets for the host's own addresses to the host port.
func (d *Daemon) routeToHostLocked(own, own6 []netip.Addr) {
	now := slices.Concat(own, own6)
	for _, a := range slices.Concat(d.own, d.way6.own) {
		if !slices.Contains(now, a) {
			d.dp.Router.DeleteRoute(netip.PrefixFrom(a, a.BitLen()))
		}
	}
	have := d.State()
	for _, a := range now {
		if p := netip.PrefixFrom(a, a.BitLen()); !have.Overlaps(p) { // else a clash; see doctor
			d.addRouteToHostLocked(p, false)
		}
	}
}

// A way6 is what is known of IPv6's way out.
type way6 struct {
	addr netip.Addr   // the host's address by which packets leave as a rule; invalid: none
	own  []netip.Addr // all addresses of the host
	up   bool

	sources map[int]netip.Addr // by device: the address by which packets leave there
	onLink  []uplink.OnLink

	forwards bool // the host's stack forwards
}

func way6Of(s *uplink.State) way6 {
	return way6{s.Addr6, s.Own6, s.Up6, s.Sources6, s.OnLink, s.Forwards}
}

func (w *way6) equal(s *uplink.State) bool {
	return w.addr == s.Addr6 && w.up == s.Up6 && slices.Equal(w.own, s.Own6) && maps.Equal(w.sources, s.Sources6) && slices.Equal(w.onLink, s.OnLink) && w.forwards == s.Forwards
}

// addrs are the addresses, the one by which packets leave first.
func (w *way6) addrs() (all []frame.Addr6) {
	if w.addr.IsValid() {
		all = append(all, frame.Addr6From(w.addr))
	}
	for _, a := range w.own {
		if a != w.addr {
			all = append(all, frame.Addr6From(a))
		}
	}
	return all
}

func (d *Daemon) addRouteToHostLocked(p netip.Prefix, kept bool) {
	rt := router.Route{Prefix: p, Kind: router.Unreachable, Kept: kept}
	if h := d.ports[model.HostPortName]; h != nil && (p.Addr().Is4() || d.host6) {
		rt.Kind, rt.Egress, rt.NextHop = router.Local, h.net.ID, h.Addr.Addr()
		if p.Addr().Is6() {
			rt.NextHop = h.Addr6.Addr()
		}
	}
	if err := d.dp.Router.AddRoute(rt); err != nil {
		d.log.Error("cannot set the route to the host", "destination", p, "error", err)
	}
}

// localLocked are the prefixes that the host's kernel takes for itself besides its addresses. Those that overlap a network are left out: the
// switch delivers there.
func (d *Daemon) localLocked() []netip.Prefix {
	if !d.usesBPF() {
		return nil
	}
	s, _ := d.up.State()
	if len(s.Local) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.Local), d.State().Overlaps)
}

// followLocalLocked sends packets for those prefixes to the host port. A static route to exactly such a prefix stays.
func (d *Daemon) followLocalLocked() {
	local := d.localLocked()
	if len(local) == 0 && len(d.local) == 0 { // as on most hosts
		return
	}
	known := map[netip.Prefix]bool{} // with a route
	for _, r := range d.dp.Router.Routes() {
		if known[r.Prefix] = true; r.Kept && !slices.Contains(local, r.Prefix) {
			d.dp.Router.DeleteRoute(r.Prefix)
		}
	}
	for _, p := range local {
		if !known[p] {
			d.addRouteToHostLocked(p, true)
		}
	}
	if !slices.Equal(local, d.local) {
		d.local = local
		d.setThroughLocked()
	}
}

// familiesOf are the prefixes of IPv4, and those of IPv6.
func familiesOf(all []netip.Prefix) (four, six []netip.Prefix) {
	for _, p := range all {
		if p.Addr().Is4() {
			four = append(four, p)
		} else {
			six = append(six, p)
		}
	}
	return four, six
}

func (d *Daemon) unrouteFromHostLocked(n *network) {
	if h := d.ports[model.HostPortName]; h != nil && h.net != n && !n.Internal {
		_ = netlink.RouteDel(&netlink.Route{Dst: ipNet(n.Prefix), Gw: h.net.Gateway.AsSlice()}) // it may have gone with its device
		if n.Prefix6.IsValid() && h.Addr6.IsValid() {
			_ = netlink.RouteDel(&netlink.Route{Dst: ipNet(n.Prefix6), Gw: h.net.Gateway6.AsSlice()})
		}
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
