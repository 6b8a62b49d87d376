package control

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

// addRoute adds or replaces a route by hand.
func (d *Daemon) addRoute(a api.RouteAdd) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rt, err := d.checkRoute(a)
	if err != nil {
		return err
	}
	p := rt.Prefix
	if slices.ContainsFunc(d.dp.Router.Routes(), func(r router.Route) bool { return r.Prefix == p }) && !a.Replace {
		return api.Errorf(http.StatusConflict, "there is a route to %s already; `uvswitch route replace`, or `uvswitch route del %s` first", p, p)
	}
	return d.dp.Router.AddRoute(rt)
}

// checkRoute reads a route, whose gateway must be in one of the networks. mu is held.
func (d *Daemon) checkRoute(a api.RouteAdd) (rt router.Route, err error) {
	p, err := parseDst(a.Dst)
	if err != nil {
		return rt, err
	}
	kind, ok := router.ParseRouteKind(a.Type)
	if !ok {
		return rt, api.Errorf(http.StatusBadRequest, "a route is unicast, blackhole, unreachable or prohibit, not %q", a.Type)
	}
	if err := d.ownRoute(p); err != nil {
		return rt, err
	}
	rt = router.Route{Prefix: p, Kind: kind}
	switch {
	case kind != router.Unicast && a.Gateway != "":
		return rt, api.Errorf(http.StatusBadRequest, "a %s route leads nowhere: it has no gateway", kind)
	case kind == router.Unicast:
		gw, err := netip.ParseAddr(a.Gateway)
		if err != nil || !gw.Is4() {
			return rt, api.Errorf(http.StatusBadRequest, "%q is no IPv4 address of a gateway; the form is route add DST via GATEWAY", a.Gateway)
		}
		n := d.networkOf(gw)
		if n == nil || gw == n.gateway || !usable(n.prefix, gw) {
			return rt, api.Errorf(http.StatusBadRequest, "gateway %s is no station's address in a network of the switch; `uvswitch network ls` lists them", gw)
		}
		rt.Egress, rt.NextHop = n.id, frame.AddrFrom(gw)
	}
	return rt, nil
}

func (d *Daemon) deleteRoute(dst string) error {
	p, err := parseDst(dst)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ownRoute(p); err != nil {
		return err
	}
	if !d.dp.Router.DeleteRoute(p) {
		return api.Errorf(http.StatusNotFound, "there is no route to %s; `uvswitch route show` lists them", p)
	}
	return nil
}

// ownRoute refuses the switch's own routes.
func (d *Daemon) ownRoute(p netip.Prefix) error {
	for _, n := range d.networks {
		if n.prefix == p {
			return api.Errorf(http.StatusConflict, "%s is network %q itself", p, n.name)
		}
	}
	if p == everywhere || d.external.IsValid() && p == netip.PrefixFrom(d.external, 32) {
		return api.Errorf(http.StatusConflict, "the route to %s is the uplink's", p)
	}
	return nil
}

// parseDst reads a prefix, or an address for itself alone.
func parseDst(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if a, aerr := netip.ParseAddr(s); aerr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if s == "default" {
		p, err = everywhere, nil
	}
	if err == nil && p.Addr().Is4() && p != p.Masked() {
		return p, api.Errorf(http.StatusBadRequest, "%s is an address inside a subnet; did you mean %s?", s, p.Masked())
	}
	if err != nil || !p.Addr().Is4() {
		return p, api.Errorf(http.StatusBadRequest, "%q is no IPv4 destination such as 10.9.0.0/24", s)
	}
	return p, nil
}

// networkOf is the network whose subnet has a.
func (d *Daemon) networkOf(a netip.Addr) *network {
	for _, n := range d.networks {
		if n.prefix.Contains(a) {
			return n
		}
	}
	return nil
}

// addNeighbor adds a permanent entry.
func (d *Daemon) addNeighbor(a api.NeighborAdd) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr, n, err := d.neighborArg(a.Dst)
	if err != nil {
		return err
	}
	mac, err := frame.ParseMAC(a.Lladdr)
	if err != nil || mac == 0 || mac.IsGroup() {
		return api.Errorf(http.StatusBadRequest, "%q is no station's MAC address", a.Lladdr)
	}
	if name, held := d.holder(n, addr.Netip()); held {
		return boundTo(a.Dst, name)
	}
	if addr.Netip() == n.gateway {
		return api.Errorf(http.StatusConflict, "%s is the gateway of network %q itself", a.Dst, n.name)
	}
	d.dp.SlowPath(func(out router.Output) { d.dp.Router.SetNeighbor(n.id, addr, mac, out) })
	return nil
}

// deleteNeighbor forgets an entry; a port's own binding comes back when the port does.
func (d *Daemon) deleteNeighbor(dst string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr, n, err := d.neighborArg(dst)
	if err != nil {
		return err
	}
	if name, held := d.holder(n, addr.Netip()); held {
		return boundTo(dst, name)
	}
	found := false
	d.dp.SlowPath(func(out router.Output) { found = d.dp.Router.DeleteNeighbor(n.id, addr, out) })
	if !found {
		return api.Errorf(http.StatusNotFound, "%s is no neighbor; `uvswitch neigh show` lists them", dst)
	}
	return nil
}

func boundTo(addr, port string) error {
	return api.Errorf(http.StatusConflict, "%s is bound to port %q, which was made with that address; `uvswitch port del %s` ends that", addr, port, port)
}

// flushNeighbors forgets what was learned, not what was set.
func (d *Daemon) flushNeighbors() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.dp.Router.Neighbors() {
		if n.State != router.Permanent {
			d.dp.SlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(n.Net, n.Addr, out) })
		}
	}
}

func (d *Daemon) neighborArg(s string) (frame.Addr, *network, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return 0, nil, api.Errorf(http.StatusBadRequest, "%q is not an IPv4 address", s)
	}
	n := d.networkOf(a)
	if n == nil || !usable(n.prefix, a) {
		return 0, nil, api.Errorf(http.StatusBadRequest, "%s is no station's address in a network of the switch; `uvswitch network ls` lists them", a)
	}
	return frame.AddrFrom(a), n, nil
}
