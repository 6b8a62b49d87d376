package daemon

import (
	"net/http"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
)

// AddFDB adds an entry of the forwarding database that does not age.
func (d *Daemon) AddFDB(a api.FDBAdd) error {
	return d.change("adding FDB entry "+a.MAC, func() error {
		s := d.State()
		m, p, err := s.NewFDBEntry(a)
		if err != nil {
			return err
		}
		if !d.dp.Switch.FDB(s.Network(p.Network).ID).Set(m, p.ID, a.State == api.FDBSticky) {
			return api.Errorf(http.StatusConflict, "the forwarding database has no room for %s: static entries fill its part of the table; remove one with `uvswitch fdb del`", m)
		}
		return nil
	})
}

// DeleteFDB removes a MAC from the forwarding database of every network.
func (d *Daemon) DeleteFDB(mac string) error {
	return d.change("removing FDB entry "+mac, func() error {
		m, err := frame.ParseMAC(mac)
		if err != nil {
			return api.Errorf(http.StatusBadRequest, "%v", err)
		}
		if h := d.ports[model.HostPortName]; h != nil && h.MAC == m {
			return api.Errorf(http.StatusConflict, "%s is the MAC of the host port, and cannot be removed", m)
		}
		deleted := false
		for _, n := range d.networks {
			if n.MAC == m {
				return api.Errorf(http.StatusConflict, "%s is the MAC of the gateway of network %s, and cannot be removed", m, n.Name)
			}
			deleted = d.dp.Switch.FDB(n.ID).Delete(m) || deleted // a MAC may be in several networks
		}
		if deleted {
			return nil
		}
		return api.Errorf(http.StatusNotFound, "%s is not in the forwarding database; `uvswitch fdb show` lists it", m)
	})
}

// FlushFDB forgets the stations that were learned: behind one port, or behind all when the name is empty.
func (d *Daemon) FlushFDB(port string) error {
	return d.change("flushing the FDB", func() error {
		id := frame.NoPort
		if port != "" {
			p := d.ports[port]
			if p == nil {
				return model.NoPort(port)
			}
			id = p.ID
		}
		for _, n := range d.networks {
			d.dp.Switch.FDB(n.ID).Flush(id, false)
		}
		return nil
	})
}

// forgetBehindLocked forgets the stations behind a port, in the FDB and as neighbors: after the device changed, others may be there.
func (d *Daemon) forgetBehindLocked(p *port) {
	fdb := d.dp.Switch.FDB(p.net.ID)
	behind := map[frame.MAC]bool{}
	for _, e := range fdb.Entries() {
		if e.Port == p.ID && !e.Static && !e.Sticky {
			behind[e.MAC] = true
		}
	}
	fdb.Flush(p.ID, false)
	d.forgetNeighbors(func(x router.Neighbor) bool {
		return x.Net == p.net.ID && (behind[x.MAC] || x.Addr == p.Addr.Addr() || x.Addr == p.Addr6.Addr())
	})
}
