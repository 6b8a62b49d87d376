package control

import (
	"net/http"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/router"
)

func (d *Daemon) addFDB(a api.FDBAdd) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := frame.ParseMAC(a.MAC)
	if err != nil || m.IsGroup() {
		return api.Errorf(http.StatusBadRequest, "%q is not the MAC address of a station", a.MAC)
	}
	if a.State != "static" && a.State != "sticky" {
		return api.Errorf(http.StatusBadRequest, "state %q: say static or sticky", a.State)
	}
	p := d.ports[a.Port]
	if p == nil || p.net == nil {
		return noPort(a.Port)
	}
	if m == p.net.mac {
		return api.Errorf(http.StatusConflict, "MAC %s is the gateway's", m)
	}
	if !d.dp.Switch.FDB(p.net.id).Set(m, p.id, a.State == "sticky") {
		return api.Errorf(http.StatusConflict, "no place for %s: its bucket is full of static entries", m)
	}
	return nil
}

func (d *Daemon) deleteFDB(mac string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, err := frame.ParseMAC(mac)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, "%v", err)
	}
	for _, n := range d.networkList() {
		if h := d.ports[hostPort]; h != nil && h.mac == m {
			return api.Errorf(http.StatusConflict, "%s is the host port's own", m)
		}
		if d.dp.Switch.FDB(n.id).Delete(m) {
			return nil
		}
	}
	return api.Errorf(http.StatusNotFound, "%s is not in any table; `uvswitch fdb show`", m)
}

// forgetBehind forgets the stations that were learned behind a port, as stations and as neighbors: others may be there now. mu is held.
func (d *Daemon) forgetBehind(p *port) {
	fdb := d.dp.Switch.FDB(p.net.id)
	behind := map[frame.MAC]bool{}
	for _, e := range fdb.Entries() {
		if e.Port == p.id && !e.Static && !e.Sticky {
			behind[e.MAC] = true
		}
	}
	fdb.Flush(p.id, false)
	for _, n := range d.dp.Router.Neighbors() {
		if n.Net == p.net.id && n.State != router.Permanent && (behind[n.MAC] || n.Addr == frame.AddrFrom(p.addr.Addr())) {
			d.dp.SlowPath(func(out router.Output) { d.dp.Router.DeleteNeighbor(n.Net, n.Addr, out) })
		}
	}
}

func (d *Daemon) flushFDB(port string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := frame.NoPort
	if port != "" {
		p := d.ports[port]
		if p == nil {
			return noPort(port)
		}
		id = p.id
	}
	for _, n := range d.networkList() {
		d.dp.Switch.FDB(n.id).Flush(id, false)
	}
	return nil
}
