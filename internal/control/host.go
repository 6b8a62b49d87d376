package control

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

// Names of the ports that the switch makes for itself.
const (
	hostPort   = "host"
	uplinkPort = "uplink"
)

// addHostPort makes the port by which the host itself is in the default network.
func (d *Daemon) addHostPort() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.networks[DefaultNetwork]
	addr, err := hostAddr(n, d.opts.HostAddr)
	if err != nil {
		return err
	}
	p := &port{
		name: hostPort, kind: kindHost, net: n, ifname: d.opts.Name + "0", netns: tap.Own,
		mac: macFor(addr), addr: netip.PrefixFrom(addr, n.prefix.Bits()), mtu: n.mtu, offload: true,
		knobs: knobs{flags: vswitch.DefaultFlags},
	}
	if err := d.plugTAP(p, tap.Setup{MAC: p.mac, MTU: p.mtu, Addr: p.addr, NoIPv6: true}); err != nil {
		return err
	}
	d.dp.Switch.FDB(n.id).Set(p.mac, p.id, false)
	d.dp.Router.SetHost(frame.AddrFrom(addr), p.id)
	for _, other := range d.networkList() {
		if err := d.routeFromHost(other); err != nil {
			return err
		}
	}
	return nil
}

// hostAddr is the host port's address: the subnet's last, unless another is said.
func hostAddr(n *network, said string) (netip.Addr, error) {
	addr := last(n.prefix).Prev()
	if addr == n.gateway {
		addr = addr.Prev()
	}
	if said != "" {
		var err error
		if addr, err = netip.ParseAddr(said); err != nil || !usable(n.prefix, addr) || addr == n.gateway {
			return addr, fmt.Errorf("host: %q is not a usable address of %s; say auto, off, or one that is", said, n.prefix)
		}
	}
	return addr, nil
}

// routeFromHost lets the host reach a network other than the one it is in, by its gateway. The route is on the host
// port's device and goes with it.
func (d *Daemon) routeFromHost(n *network) error {
	h := d.ports[hostPort]
	if h == nil || h.net == n || n.internal {
		return nil
	}
	link, err := netlink.LinkByName(h.ifname)
	if err == nil {
		dst := net.IPNet{IP: n.prefix.Addr().AsSlice(), Mask: net.CIDRMask(n.prefix.Bits(), 32)}
		err = netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &dst, Gw: h.net.gateway.AsSlice()})
	}
	if err != nil {
		return fmt.Errorf("the host's route to network %q: %w", n.name, err)
	}
	return nil
}

func (d *Daemon) unrouteFromHost(n *network) {
	if h := d.ports[hostPort]; h != nil && h.net != n && !n.internal {
		dst := net.IPNet{IP: n.prefix.Addr().AsSlice(), Mask: net.CIDRMask(n.prefix.Bits(), 32)}
		_ = netlink.RouteDel(&netlink.Route{Dst: &dst, Gw: h.net.gateway.AsSlice()}) // gone with its device, perhaps
	}
}

// addUplinkPort puts the uplink's TAP on the dataplane. It is in no network.
func (d *Daemon) addUplinkPort() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &port{
		name: uplinkPort, kind: kindUplink, ifname: d.opts.Name + "-up", netns: tap.Own, mac: d.up.MAC,
		mtu: 65521, offload: true, knobs: knobs{flags: vswitch.Forwarding | vswitch.Uplink}, conn: d.up.Device,
	}
	return d.plug(p)
}

// isUplinkDevice tells whether the host's default route, or the uplink, is on this device.
func (d *Daemon) isUplinkDevice(name string) bool {
	if d.up != nil {
		s, _ := d.up.State()
		return s.Device == name
	}
	if d.dp == nil { // only a file is looked at
		return name == d.opts.Uplink
	}
	return uplink.DefaultDevice() == name
}

// neighborOf makes the router know a port's station without asking.
func (d *Daemon) neighborOf(p *port) {
	if p.net != nil && p.addr.IsValid() && p.mac != 0 {
		d.dp.SlowPath(func(out router.Output) {
			d.dp.Router.SetNeighbor(p.net.id, frame.AddrFrom(p.addr.Addr()), p.mac, out)
			d.dp.Router.Announce(p.net.id, frame.AddrFrom(p.addr.Addr()), p.mac, out)
		})
	}
}

func (d *Daemon) forgetNeighborOf(p *port) {
	if p.net != nil && p.addr.IsValid() && p.mac != 0 {
		d.dp.SlowPath(func(out router.Output) {
			d.dp.Router.DeleteNeighbor(p.net.id, frame.AddrFrom(p.addr.Addr()), out)
		})
	}
}
