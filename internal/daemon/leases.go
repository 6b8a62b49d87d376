package daemon

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/gateway"
	"github.com/uvswitch/uvswitch/internal/statefile"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// Leases lists the leases that stations have.
func (d *Daemon) Leases() []gateway.Grant { return d.gateways.Grants() }

// DeleteLease ends the lease of an address before its time. The station does not hear of it: until it asks again, it still uses the address.
func (d *Daemon) DeleteLease(address string) error {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, "%q is not an address", address)
	}
	return d.gateways.RevokeLease(a)
}

// applyLeases gives ports the addresses that the leases say. From then on a port is as one with --ip: the guard knows the address, and the router
// knows the station.
func (d *Daemon) applyLeases() {
	if !d.gateways.LeasesDiffer() {
		return
	}
	d.follow("changing leased addresses", func() {
		for _, c := range d.gateways.LeaseChanges() { // asked here: what is published now keeps its address
			if err := d.setLeaseLocked(c); err != nil {
				d.gateways.LeaseFailed(c, err)
			}
		}
		d.updateRulesLocked()
	})
}

// setLeaseLocked changes the leased address of a port, unless the port has another one by now.
func (d *Daemon) setLeaseLocked(c gateway.LeaseChange) error {
	p := d.byID[c.ID]
	if p == nil || p.Name != c.Port || p.Leased != c.From.IsValid() || p.Addr.IsValid() != p.Leased || p.Leased && p.Addr.Addr() != c.From {
		return nil // what the leases say now comes next
	}
	station, err := frame.ParseMAC(c.MAC)
	switch {
	case !c.To.IsValid():
	case err != nil:
		return err
	case c.To != c.From && d.State().Holder(&p.net.Network, c.To) != nil:
		return api.Errorf(http.StatusConflict, "another port has address %s", c.To)
	}
	if c.From == c.To {
		d.bindStationLocked(p, c.To, station)
		return nil
	}
	if c.From.IsValid() {
		for _, to := range p.ownRoutes() {
			d.dp.Router.DeleteRoute(to)
		}
	}
	d.mu.Lock()
	p.Addr, p.Leased = netip.Prefix{}, c.To.IsValid()
	switch guard := p.Spec.Set["guard"]; {
	case p.Leased:
		if p.Addr = netip.PrefixFrom(c.To, p.net.Prefix.Bits()); guard != api.Off {
			p.Flags |= vswitch.Guard
		}
	case guard != api.On && !p.NeedsLease():
		p.Flags &^= vswitch.Guard
	}
	d.mu.Unlock()
	d.dp.Switch.SetPort(p.SwitchPort(p.netID()))
	d.routeMTULocked(p)
	d.updateSiblingsLocked(p)
	if c.From.IsValid() {
		d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(p.net.ID, c.From, out) })
		d.dp.NAT.FlushPorts([]frame.PortID{p.ID})
	}
	if p.Leased {
		d.bindStationLocked(p, c.To, station)
	}
	d.log.Info("leased address changed", "port", p.Name, "from", c.From, "to", c.To, "station", c.MAC)
	return nil
}

// leasesEvery is how often leases are ended and saved.
const leasesEvery = time.Second

// keepLeases ends leases in time, gives ports their addresses, and saves leases when they have changed, until ctx is done.
func (d *Daemon) keepLeases(ctx context.Context) {
	defer close(d.leasesKept)
	tick := time.NewTicker(leasesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.gateways.LeasesChanged():
		case <-tick.C:
			d.gateways.ExpireLeases()
			d.saveLeases()
		}
		d.applyLeases()
	}
}

func (d *Daemon) saveLeases() {
	if d.opts.LeaseFile == "" {
		return
	}
	leases, changed := d.gateways.SaveLeases()
	if !changed {
		return
	}
	err := statefile.Save(d.opts.LeaseFile, leases)
	again := d.leaseError
	d.leaseError = err != nil
	if err != nil {
		d.gateways.LeasesUnsaved()
	}
	if err != nil && !again { // it is tried each second
		d.log.Error("leases cannot be saved; after a restart, stations may get other addresses", "error", err)
	}
}

// loadLeases takes over the leases of the last process.
func (d *Daemon) loadLeases() {
	if d.opts.LeaseFile == "" {
		return
	}
	var leases []gateway.SavedLease
	if err := statefile.Load(d.opts.LeaseFile, &leases); err != nil {
		d.log.Error("the saved leases cannot be read; stations may get other addresses", "file", d.opts.LeaseFile, "error", err)
		return
	}
	d.gateways.RestoreLeases(leases)
}
