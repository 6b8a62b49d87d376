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
	vswitch "github.com/uvswitch/uvswitch/switch"

	"github.com/uvswitch/uvswitch/router"
)

// Leases lists the leases that stations have.
func (d *Daemon) Leases() []gateway.Grant { return d.gateways.Grants() }

// BindLease gives a port the address that its station has leased. From then on the port is as one with this address: the guard knows the address,
// and the router knows the station.
func (d *Daemon) BindLease(id frame.PortID, addr netip.Addr, mac string) error {
	return d.changeAs("giving a port its leased address", false, func() error {
		p := d.byID[id]
		station, err := frame.ParseMAC(mac)
		switch {
		case err != nil:
			return err
		case p == nil || p.Addr.IsValid() || !p.AsksDHCP():
			return api.Errorf(http.StatusConflict, "the port has changed meanwhile")
		case d.State().Holder(&p.net.Network, addr) != nil:
			return api.Errorf(http.StatusConflict, "another port has address %s", addr)
		}
		d.mu.Lock()
		p.Addr, p.Leased = netip.PrefixFrom(addr, p.net.Prefix.Bits()), true
		if p.Spec.Set["guard"] != api.Off {
			p.Flags |= vswitch.Guard
		}
		d.mu.Unlock()
		d.addressChangedLocked(p)
		d.dp.WithSlowPath(func(out router.Output) {
			d.dp.Router.SetNeighbor(p.net.ID, addr, station, out)
			d.dp.Router.Announce(p.net.ID, frame.AddrFrom(addr), station, out)
		})
		d.log.Info("lease begins", "port", p.Name, "address", addr, "station", mac)
		return nil
	})
}

// UnbindLease takes its leased address from a port. A port that has published ports or policies keeps the address, as one that was named.
func (d *Daemon) UnbindLease(id frame.PortID) {
	d.follow("taking a leased address from its port", func() {
		p := d.byID[id]
		if p == nil || !p.Leased {
			return
		}
		published := len(d.State().PoliciesOf(&p.Port)) > 0
		for _, x := range d.publishes {
			published = published || x.port == p
		}
		addr := p.Addr.Addr()
		routes := p.ownRoutes()
		d.mu.Lock()
		if p.Leased = false; !published {
			p.Addr = netip.Prefix{}
			if p.Spec.Set["guard"] != api.On {
				p.Flags &^= vswitch.Guard
			}
		}
		d.mu.Unlock()
		if published {
			d.log.Info("lease ends; the port keeps the address, since ports are published or policies attached", "port", p.Name, "address", addr)
			return
		}
		for _, to := range routes {
			d.dp.Router.DeleteRoute(to)
		}
		d.addressChangedLocked(p)
		d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(p.net.ID, addr, out) })
		d.dp.NAT.FlushPort(p.ID)
		d.log.Info("lease ends", "port", p.Name, "address", addr)
	})
}

// addressChangedLocked tells the data plane that a port has another address.
func (d *Daemon) addressChangedLocked(p *port) {
	d.dp.Switch.SetPort(p.SwitchPort(p.netID()))
	d.routeMTULocked(p)
	d.updateSiblingsLocked(p)
	d.updateRulesLocked()
}

// leasesEvery is how often leases are ended and saved.
const leasesEvery = time.Second

// keepLeases ends leases in time, and saves them when they have changed, until ctx is done.
func (d *Daemon) keepLeases(ctx context.Context) {
	tick := time.NewTicker(leasesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.gateways.ExpireLeases()
			d.saveLeases()
		}
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
	if err := statefile.Save(d.opts.LeaseFile, leases); err != nil {
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
