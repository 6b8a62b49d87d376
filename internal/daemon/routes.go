package daemon

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
)

// AddRoute adds or replaces a static route.
func (d *Daemon) AddRoute(a api.RouteAdd) error {
	return d.change("adding a route to "+a.Dst, func() error { return d.addRouteLocked(a) })
}

// DeleteRoute removes the static route to exactly dst.
func (d *Daemon) DeleteRoute(dst string) error {
	return d.change("removing the route to "+dst, func() error { return d.deleteRouteLocked(dst) })
}

func (d *Daemon) addRouteLocked(a api.RouteAdd) error {
	r, err := d.State().NewRoute(a)
	if err != nil {
		return err
	}
	if !a.Replace && slices.ContainsFunc(d.dp.Router.Routes(), func(x router.Route) bool { return x.Prefix == r.Prefix && !x.Kept }) {
		return api.Errorf(http.StatusConflict, "a route to %s exists already; change it with `uvswitch route replace`, or remove it first: `uvswitch route del %s`", r.Prefix, r.Prefix)
	}
	rt := router.Route{Prefix: r.Prefix, Kind: r.Kind}
	switch r.Kind {
	case router.Unicast:
		rt.Egress, rt.NextHop = d.networks[r.Network].ID, r.Gateway
	case router.Local:
		h := d.ports[model.HostPortName]
		if err := link.ForwardThrough(h.Ifname); err != nil {
			return err
		}
		rt.Egress, rt.NextHop = h.net.ID, h.Addr.Addr()
		if r.Prefix.Addr().Is6() {
			if rt.NextHop = h.Addr6.Addr(); !rt.NextHop.IsValid() {
				return api.Errorf(http.StatusConflict, "the host's port has no IPv6 address, so that IPv6 has no way through the host; give network %q a subnet (--subnet6)", h.net.Name)
			}
		}
	}
	if err := d.dp.Router.AddRoute(rt); err != nil {
		return err
	}
	d.setThroughLocked()
	return nil
}

// setThroughLocked tells the guard of the host's port which addresses besides the host's lie behind it: those of routes through the host, and
// those that the host's kernel takes for itself.
func (d *Daemon) setThroughLocked() {
	h := d.ports[model.HostPortName]
	if h == nil {
		return
	}
	var through []netip.Prefix
	for _, r := range d.fullStateLocked().Routes {
		if r.Kind == router.Local {
			through = append(through, r.Prefix)
		}
	}
	forwards := len(through) > 0 || d.leavesByHost()
	if d.forwards && !forwards {
		if err := link.StopForwarding(h.Ifname); err != nil {
			d.log.Error("cannot switch forwarding off on the host port's device", "error", err)
		}
	}
	d.forwards = forwards
	if through = append(through, d.local...); slices.Equal(h.Through, through) {
		return
	}
	d.mu.Lock()
	h.Through = through
	d.mu.Unlock()
	d.dp.Switch.SetPort(h.SwitchPort(h.netID()))
}

func (d *Daemon) deleteRouteLocked(dst string) error {
	p, err := model.ParseDst(dst)
	if err != nil {
		return err
	}
	if err := d.State().CheckStaticRoute(p); err != nil {
		return err
	}
	if slices.ContainsFunc(d.dp.Router.Routes(), func(r router.Route) bool { return r.Prefix == p && r.Kept }) {
		return api.Errorf(http.StatusConflict, "the route to %s follows the host's table local: see `ip route show table local`", p)
	}
	if !d.dp.Router.DeleteRoute(p) {
		return api.Errorf(http.StatusNotFound, "no route to %s exists; `uvswitch route show` lists the routes", p)
	}
	d.setThroughLocked()
	d.followLocalLocked()
	return nil
}

// fullStateLocked is the state that a reload compares: with static routes, neighbors by hand, and what sizes came to.
func (d *Daemon) fullStateLocked() *model.State {
	s := d.stateLocked()
	s.FlowLimit, s.FlowLimit6 = d.dp.NAT.Limits()
	s.FlowQuotaLimit = d.dp.NAT.FlowsPerPort()
	for _, r := range d.dp.Router.Routes() {
		if r.Kept || s.CheckStaticRoute(r.Prefix) != nil {
			continue
		}
		x := model.Route{Prefix: r.Prefix, Kind: r.Kind}
		if r.Kind == router.Unicast {
			x.Gateway, x.Network = r.NextHop, s.NetworkName(r.Egress)
		}
		s.Routes = append(s.Routes, x)
	}
	for _, x := range d.dp.Router.Neighbors() {
		n := s.NetworkByID(x.Net)
		if n == nil || x.State != router.Permanent || x.Addr.IsLinkLocalUnicast() || s.Holder(n, x.Addr) != nil {
			continue
		}
		s.Neighbors = append(s.Neighbors, model.Neighbor{Network: n.Name, Addr: x.Addr, MAC: x.MAC})
	}
	return s
}

// AddNeighbor adds a permanent neighbor.
func (d *Daemon) AddNeighbor(a api.NeighborAdd) error {
	return d.change("adding neighbor "+a.Dst, func() error { return d.addNeighborLocked(a) })
}

func (d *Daemon) addNeighborLocked(a api.NeighborAdd) error {
	x, err := d.State().NewNeighbor(a)
	if err != nil {
		return err
	}
	net := d.networks[x.Network].ID
	d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.SetNeighbor(net, x.Addr, x.MAC, out) })
	return nil
}

// DeleteNeighbor removes a neighbor. That of a port goes with its port only.
func (d *Daemon) DeleteNeighbor(dst string) error {
	return d.change("removing neighbor "+dst, func() error {
		n, err := d.State().NeighborNetwork(dst)
		if err != nil {
			return err
		}
		found := false
		d.dp.WithSlowPath(func(out router.Output) {
			found = d.dp.Router.DeleteNeighbor(n.ID, netip.MustParseAddr(dst), out)
		})
		if !found {
			return api.Errorf(http.StatusNotFound, "neighbor %s does not exist; `uvswitch neigh show` lists the neighbors", dst)
		}
		return nil
	})
}

// FlushNeighbors forgets the neighbors that were learned.
func (d *Daemon) FlushNeighbors() error {
	return d.change("forgetting neighbors", func() error {
		d.forgetNeighbors(func(x router.Neighbor) bool { return true })
		return nil
	})
}

// forgetNeighbors forgets learned neighbors.
func (d *Daemon) forgetNeighbors(which func(router.Neighbor) bool) {
	for _, x := range d.dp.Router.Neighbors() {
		if x.State != router.Permanent && which(x) {
			d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(x.Net, x.Addr, out) })
		}
	}
}
