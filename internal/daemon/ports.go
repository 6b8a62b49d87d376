package daemon

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

// A port is one port with its wire.
type port struct {
	model.Port
	net   *network    // nil for the uplink
	watch *time.Timer // ends Watched, unless there is a later one

	attached []string // policies, by `policy attach`
	wire
}

// netID is the id of the port's network in the data plane; NoNet for the uplink.
func (p *port) netID() frame.NetID {
	if p.net == nil {
		return frame.NoNet
	}
	return p.net.ID
}

// AddPort makes the port that a asks for. byFD is its TAP, when another program has made it, and belongs to the switch from now
// on. On an error nothing remains.
func (d *Daemon) AddPort(a api.PortAdd, byFD *tap.Device) (added model.Port, err error) {
	begun := false
	err = d.change("adding port "+a.Name, func() error {
		begun = true
		added, err = d.addPortLocked(a, byFD)
		return err
	})
	if !begun && byFD != nil {
		_ = byFD.Close()
	}
	return added, err
}

// SetPort changes settings of a port.
func (d *Daemon) SetPort(name string, set api.PortSet) error {
	return d.change("changing port "+name, func() error { return d.setPortLocked(name, set) })
}

// RenamePort gives a port another name. Everything that belongs to the port stays as it is.
func (d *Daemon) RenamePort(name string, to api.PortRename) error {
	return d.change("renaming port "+name, func() error { return d.renamePortLocked(name, to.Name) })
}

// DeletePort removes a port, its device, and what is published of it. Ports that are removed at the same time share the search for their flows:
// whoever gets the lock first removes all that have been stopped.
func (d *Daemon) DeletePort(name string) error {
	what := "removing port " + name
	var removed chan struct{}
	err := d.changePart(what, true, func() error {
		err := d.deletePortLocked(name)
		if err == nil {
			removed = d.stopped[len(d.stopped)-1].removed
		}
		return err
	})
	if err != nil {
		return err
	}
	go d.follow(what, func() {})
	<-removed
	return nil
}

func (d *Daemon) addPortLocked(a api.PortAdd, byFD *tap.Device) (model.Port, error) {
	if p := d.ports[a.Name]; p != nil && p.device() == gone {
		d.removeGoneLocked(p.ID)
	}
	d.removeStoppedLocked() // the new one may have the address and the device of an old one
	m, err := reattachLocked(d, d.formerly.Ports, "port", a.Name, &a.Policies, func() (model.Port, error) { return d.stateLocked().NewPort(a) })
	if err == nil && a.Handed != (byFD != nil) {
		err = api.Errorf(http.StatusBadRequest, "handed: true needs exactly one file descriptor with the request (SCM_RIGHTS), and a descriptor needs handed: true")
	}
	if err != nil {
		if byFD != nil {
			_ = byFD.Close()
		}
		return m, err
	}
	p := &port{Port: m, net: d.networks[m.Network], attached: d.formerly.Ports[m.Name]}
	if byFD != nil {
		p.wire = wire{conn: byFD} // its maker moves, names and addresses it
	} else if p.wire, err = d.openWire(&p.Port, p.net, a.NoRoute); err != nil {
		return m, withStatus(err)
	}
	if err := d.plugLocked(p); err != nil {
		return m, withStatus(err)
	}
	if p.ByFD {
		d.storePortLocked(p)
	}
	d.updateRulesLocked()
	delete(d.formerly.Ports, p.Name) // it has them
	d.savePoliciesLocked()
	return p.Port, nil
}

// plugLocked gives p an id and connects it to the data plane. On an error its wire is closed.
func (d *Daemon) plugLocked(p *port) error {
	for i := range frame.PortID(frame.MaxPorts - 1) {
		if id := 1 + (d.lastID+i)%(frame.MaxPorts-1); d.byID[id] == nil {
			p.ID, d.lastID = id, id
			break
		}
	}
	if p.ID == frame.NoPort {
		p.closeWire()
		return api.Errorf(http.StatusConflict, "the switch already has %d ports, which is the limit", frame.MaxPorts-1)
	}
	if dev, ok := p.conn.(*tap.Device); ok && d.usesBPF() {
		d.up.OneQueue(dev)
		d.up.CountOffered(p.ID, dev)
	}
	p.Fresh = p.ByFD && p.net != nil && p.net.Prefix6.IsValid()
	d.updatePoliciesLocked(p) // before its first frame
	if err := d.dp.AddPort(p.SwitchPort(p.netID()), p.conn); err != nil {
		d.updatePoliciesLocked(nil)
		p.closeWire()
		return err
	}
	if p.Rx.Bits != 0 || p.Tx.Bits != 0 {
		d.dp.SetRate(p.ID, p.Rx, p.Tx)
	}
	d.mu.Lock()
	d.byID[p.ID], d.ports[p.Name] = p, p
	if p.Addr.IsValid() {
		d.freed = slices.DeleteFunc(slices.Clone(d.freed), func(a netip.Addr) bool { return a == p.Addr.Addr() })
	}
	d.mu.Unlock()
	d.bindNeighborLocked(p)
	d.advertiseLocked(p.net)
	d.routeMTULocked(p)
	d.updateSiblingsLocked(p)
	d.updateTenantsLocked(p)
	if p.Fresh {
		d.followFreshLocked(p, time.Time{})
	}
	d.log.Info("port added", "port", p.Name, "kind", p.Kind, "device", p.Ifname, "netns", p.Netns, "address", p.Addr, "address6", p.Addr6)
	return nil
}

func (d *Daemon) setPortLocked(name string, set api.PortSet) error {
	p := d.ports[name]
	if p == nil {
		return model.NoPort(name)
	}
	s, err := p.Change(set)
	if err != nil {
		return err
	}
	changed := p.Port
	changed.Settings = s
	if err := d.State().CheckPoliced(&changed); err != nil {
		return err
	}
	newRates := s.Rx != p.Rx || s.Tx != p.Tx // else the token buckets stay
	d.mu.Lock()
	p.Settings = s
	d.mu.Unlock()
	d.dp.Switch.SetPort(p.SwitchPort(p.netID()))
	if newRates {
		d.dp.SetRate(p.ID, p.Rx, p.Tx)
	}
	return nil
}

func (d *Daemon) renamePortLocked(name, to string) error {
	p := d.ports[name]
	if p == nil {
		return model.NoPort(name)
	}
	if name == to {
		return nil
	}
	if err := d.stateLocked().CheckRename(&p.Port, to); err != nil {
		return err
	}
	standby := slices.Clone(d.standby)
	for i := range standby {
		if standby[i].Port == name {
			standby[i].Rename(to)
		}
	}
	d.setStandbyLocked(standby)
	d.mu.Lock()
	delete(d.ports, name)
	p.Name, p.Spec.Name = to, to
	d.ports[to] = p
	for _, x := range d.publishes {
		if x.port == p {
			x.Rename(to)
		}
	}
	d.mu.Unlock()
	if p.ByFD {
		d.storePortLocked(p)
		d.forgetStoredPortLocked(name)
	}
	d.attachAgainLocked(p)
	d.updatePoliciesLocked(nil) // rules may name a port
	d.savePoliciesLocked()
	d.log.Info("port renamed", "port", name, "to", to)
	return nil
}

func (d *Daemon) deletePortLocked(name string) error {
	p := d.ports[name]
	if p == nil {
		return model.NoPort(name)
	}
	if p.IsOwn() {
		return api.Errorf(http.StatusConflict, "port %q is the switch's own and cannot be removed; to start without it: `uvswitch run --host off` (port host) or `--uplink none` (port uplink)", name)
	}
	d.stopPortLocked(p)
	return nil
}

// maxFreed is how many addresses of removed ports are remembered.
const maxFreed = 4096

// stopPortLocked takes a port out of the configuration, with what is published of it. Its frames are dropped, and none is sent to it. It has its
// number, its flows, its stations and its device until removeStoppedLocked.
func (d *Daemon) stopPortLocked(p *port) {
	former := maps.Clone(d.former)
	if former == nil {
		former = map[frame.PortID]string{}
	}
	former[p.ID] = p.Name
	d.keepRefusalsLocked(p)
	gone := d.takePublishesLocked(func(x *publish) bool { return x.port == p })
	d.mu.Lock()
	delete(d.ports, p.Name)
	d.byID[p.ID] = nil
	d.former = former
	if p.Addr.IsValid() {
		d.freed = append(slices.Clone(d.freed[max(0, len(d.freed)-maxFreed+1):]), p.Addr.Addr())
	}
	d.mu.Unlock()
	for _, x := range gone {
		x.relays.Close()
	}
	if now, ok := d.dp.Switch.Port(p.ID); ok {
		now.Flags &^= vswitch.Forwarding
		d.dp.Switch.SetPort(now)
		d.dp.Settle(p.ID) // before its policies go
	}
	d.updateRulesLocked()
	d.forgetSocketsLocked(p)
	for _, to := range p.ownRoutes() {
		d.dp.Router.DeleteRoute(to)
	}
	d.stopped = append(d.stopped, stoppedPort{p, gone, make(chan struct{})})
}

// A stoppedPort is out of the configuration, and has been published as gone says.
type stoppedPort struct {
	*port
	gone    []*publish
	removed chan struct{} // closed at the end
}

// removeStoppedLocked removes the ports that were stopped, with all that is left of them. Their flows end first, by one walk over the flow table,
// and then their stations are forgotten: otherwise what still comes for them would be flooded to others.
func (d *Daemon) removeStoppedLocked() {
	if len(d.stopped) == 0 {
		return
	}
	ports := d.stopped
	d.stopped = nil
	var ids []frame.PortID
	for _, p := range ports {
		ids = append(ids, p.ID)
	}
	d.dp.NAT.FlushPorts(ids)
	for _, p := range ports {
		d.unbindNeighborLocked(p.port)
		d.dp.RemovePort(p.ID)
		d.advertiseLocked(p.net)
	}
	d.dp.NAT.FlushPorts(ids) // what a batch has begun meanwhile
	for _, p := range ports {
		p.closeWire()
		if p.ByFD {
			d.forgetStoredPortLocked(p.Name)
		}
		d.log.Info("port removed", "port", p.Name)
		d.standInLocked(p.gone, p.Name)
		d.updateSiblingsLocked(p.port)
		d.updateTenantsLocked(p.port)
	}
	d.savePoliciesLocked()
	for _, p := range ports {
		close(p.removed)
	}
}

// updateTenantsLocked tells the data plane which ports count as one, after p has come or gone.
func (d *Daemon) updateTenantsLocked(p *port) {
	if p.Spec.Tenant == "" {
		return
	}
	first, tenants := map[string]frame.PortID{}, map[frame.PortID]frame.PortID{}
	for id, p := range d.byID {
		if p == nil || p.Spec.Tenant == "" {
			continue
		}
		if _, ok := first[p.Spec.Tenant]; !ok {
			first[p.Spec.Tenant] = frame.PortID(id)
		}
		tenants[frame.PortID(id)] = first[p.Spec.Tenant]
	}
	d.dp.SetTenants(tenants)
}

// updateSiblingsLocked tells the guard of each sibling of p which addresses the others have.
func (d *Daemon) updateSiblingsLocked(p *port) {
	var family []*port
	for _, q := range d.ports {
		if q.Port.IsSibling(&p.Port) || q == p {
			family = append(family, q)
		}
	}
	for _, q := range family {
		var others []frame.Addr
		for _, r := range family {
			if r != q && r.Addr.IsValid() {
				others = append(others, frame.AddrFrom(r.Addr.Addr()))
			}
		}
		if slices.Equal(others, q.Siblings) {
			continue
		}
		d.mu.Lock()
		q.Siblings = others
		d.mu.Unlock()
		d.dp.Switch.SetPort(q.SwitchPort(q.netID()))
	}
}

// portGone is called by the data plane when a port's device has died with its namespace. The data plane goes on: unplugging needs its workers.
func (d *Daemon) portGone(id frame.PortID) {
	go d.follow("removing a port whose device has gone", func() { d.removeGoneLocked(id) })
}

// findGone removes the ports whose devices have gone without a sign to the data plane; see tap.Device.Gone.
func (d *Daemon) findGone() {
	wires := map[frame.PortID]wire{}
	d.mu.Lock()
	for _, p := range d.ports {
		if p.Kind != model.KindUplink {
			wires[p.ID] = p.wire
		}
	}
	d.mu.Unlock()
	maps.DeleteFunc(wires, func(_ frame.PortID, w wire) bool { return w.device() != gone })
	if len(wires) > 0 {
		d.follow("removing ports whose devices have gone", func() {
			for id := range wires {
				d.removeGoneLocked(id)
			}
		})
	}
}

func (d *Daemon) removeGoneLocked(id frame.PortID) {
	p := d.byID[id]
	if p == nil || p.Kind == model.KindUplink || p.device() == there { // the number may be another port's by now
		return
	}
	level := slog.LevelWarn
	if p.ByFD { // as when a command of `exec` has ended
		level = slog.LevelInfo
	}
	d.log.Log(context.Background(), level, "the port's device has gone; the port is removed", "port", p.Name, "device", p.Ifname, "netns", p.Netns)
	if i := slices.IndexFunc(d.config.Ports, func(a api.PortAdd) bool { return a.Name == p.Name && a.Netns != "" && a.Netns == p.Spec.Netns }); i >= 0 {
		d.setWaitingLocked(append(slices.Clone(d.waiting), model.WaitingPort{Spec: d.config.Ports[i], Why: "its namespace has gone"}))
	}
	d.stopPortLocked(p)
}

// freshTime is how long a container engine may take to set the routes of a device that is up. On a busy host the engine may take much longer to
// bring the device up.
const freshTime = 3 * time.Second

// followFreshLocked lets router advertisements through to a port when its device has been up for freshTime. up is since when the device is known
// to be up; zero if it was down.
func (d *Daemon) followFreshLocked(p *port, up time.Time) {
	if d.ports[p.Name] != p {
		return
	}
	switch state := p.linkState(&p.Port); {
	case state == Down || state == Gone:
		up = time.Time{}
	case up.IsZero():
		up = time.Now()
	case time.Since(up) >= freshTime:
		d.noLongerFreshLocked(p)
		return
	}
	time.AfterFunc(freshTime/6, func() { d.follow("advertising to port "+p.Name, func() { d.followFreshLocked(p, up) }) })
}

// noLongerFreshLocked lets router advertisements through to a port, and has the gateway send one.
func (d *Daemon) noLongerFreshLocked(p *port) {
	d.mu.Lock()
	p.Fresh = false
	d.mu.Unlock()
	d.dp.Switch.SetPort(p.SwitchPort(p.netID()))
	d.dp.Router.AdvertiseSoon(p.net.ID, d.dp.Now())
}

// bindNeighborLocked makes the router know the port's station without asking, and tells the network where it is now.
func (d *Daemon) bindNeighborLocked(p *port) {
	if p.net != nil && p.Addr.IsValid() && p.MAC != 0 {
		d.bindStationLocked(p, p.Addr.Addr(), p.MAC)
	}
	if p.net != nil && p.Addr6.IsValid() && p.MAC != 0 {
		d.dp.WithSlowPath(func(out router.Output) {
			d.dp.Router.SetNeighbor(p.net.ID, p.Addr6.Addr(), p.MAC, out)
			d.dp.Router.SetNeighbor(p.net.ID, p.MAC.LinkLocal().Netip(), p.MAC, out)
			d.dp.Router.Announce6(p.net.ID, frame.Addr6From(p.Addr6.Addr()), p.MAC, out)
		})
	}
	if p.net != nil && p.Made6.IsValid() {
		d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.SetNeighbor(p.net.ID, p.Made6, p.MAC, out) })
	}
}

// bindStationLocked makes the router know the station that has an IPv4 address behind a port, and tells the network where the station is.
func (d *Daemon) bindStationLocked(p *port, addr netip.Addr, station frame.MAC) {
	d.dp.WithSlowPath(func(out router.Output) {
		d.dp.Router.SetNeighbor(p.net.ID, addr, station, out)
		d.dp.Router.Announce(p.net.ID, frame.AddrFrom(addr), station, out)
	})
}

// routeMTULocked tells the router about a port with a smaller MTU than its network, so that senders outside are told by ICMP.
func (d *Daemon) routeMTULocked(p *port) {
	for _, to := range p.ownRoutes() {
		if err := d.dp.Router.AddRoute(router.Route{Prefix: to, Egress: p.net.ID, MTU: p.MTU}); err != nil {
			d.log.Error("cannot set the MTU of the way to a port", "port", p.Name, "error", err)
		}
	}
}

// ownRoutes are the destinations of a port that has routes of its own, because its MTU is smaller than its network's.
func (p *port) ownRoutes() (to []netip.Prefix) {
	if p.net == nil || p.MTU >= p.net.MTU {
		return nil
	}
	for _, a := range []netip.Prefix{p.Addr, p.Addr6} {
		if a.IsValid() {
			to = append(to, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
		}
	}
	return to
}

// forgetMadeLocked makes the router forget the address that the port's station makes itself.
func (d *Daemon) forgetMadeLocked(p *port) {
	if p.net != nil && p.Made6.IsValid() {
		d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(p.net.ID, p.Made6, out) })
	}
}

// unbindNeighborLocked makes the router forget the port's station.
func (d *Daemon) unbindNeighborLocked(p *port) {
	if p.net != nil && p.Addr.IsValid() && (p.MAC != 0 || p.Leased) {
		d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(p.net.ID, p.Addr.Addr(), out) })
	}
	if p.net != nil && p.Addr6.IsValid() && p.MAC != 0 {
		d.dp.WithSlowPath(func(out router.Output) {
			d.dp.Router.DeleteNeighbor(p.net.ID, p.Addr6.Addr(), out)
			d.dp.Router.DeleteNeighbor(p.net.ID, p.MAC.LinkLocal().Netip(), out)
		})
	}
	d.forgetMadeLocked(p)
}

// States of a port's device.
const (
	Forwarding = "forwarding"
	Disabled   = "disabled"
	Down       = "down"
	Gone       = "gone"
)

// PortStatus is what only the port's wire tells.
type PortStatus struct {
	State     string
	Ifname    string // the device's name now
	Segmented uint64 // frames segmented or summed in software
}

// PortStatuses asks the host about every port, by name. It takes no lock while it asks.
func (d *Daemon) PortStatuses(names ...string) map[string]PortStatus {
	d.mu.Lock()
	var list []port
	for _, p := range d.ports {
		if len(names) == 0 || slices.Contains(names, p.Name) {
			list = append(list, *p)
		}
	}
	d.mu.Unlock()
	out := map[string]PortStatus{}
	for i := range list {
		p := &list[i]
		s := PortStatus{State: p.linkState(&p.Port), Ifname: p.Ifname}
		if c, ok := p.conn.(*tap.Device); ok && p.ByFD { // its maker names it as it likes
			if name, err := c.Name(); err == nil {
				s.Ifname = name
			}
		}
		if c, ok := p.conn.(interface{ Segmented() uint64 }); ok {
			s.Segmented = c.Segmented()
		}
		out[p.Name] = s
	}
	return out
}
