package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/tapmaker"
	"github.com/uvswitch/uvswitch/internal/uplink"
	vswitch "github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
	"github.com/uvswitch/uvswitch/tap/vm"
)

// A wire is what a port has on the host.
type wire struct {
	conn frame.Conn
	drop *uplink.IngressDrop // of a plugged device: the host's stack does not receive its frames
}

// openWire makes what p needs on the host. On an error nothing remains. It sets the MTU of a plugged device.
func (d *Daemon) openWire(p *model.Port, n *network, noRoute bool) (w wire, err error) {
	switch p.Kind {
	case model.KindStream:
		w.conn, err = frame.AsConn(vm.OpenStream(p.Ifname))
	case model.KindDgram:
		w.conn, err = frame.AsConn(vm.OpenDgram(p.Ifname))
	case model.KindVDE:
		w.conn, err = frame.AsConn(vm.OpenVDE(p.Ifname))
	case model.KindDevice:
		return openDevice(p)
	default:
		c := link.Config{MAC: p.MAC, MTU: p.MTU, Addr: p.Addr, Addr6: p.Addr6}
		if !noRoute && p.Addr.IsValid() {
			c.Gateway = n.Gateway
			if p.Addr6.IsValid() {
				c.Via6, c.Behind6 = n.Gateway6, d.Routes6(&n.Network)
			}
		}
		w.conn, err = d.openTAP(p, c)
	}
	if p.IsVM() && errors.Is(err, os.ErrPermission) && strings.Contains(d.sandbox, "landlock (") {
		err = api.Errorf(http.StatusConflict, "%v; the switch makes sockets of virtual machines below %s, and below the folders of `uvswitch run --vm-folders`", err, rights.SocketFolders())
	}
	return w, err
}

// openTAP creates p's TAP in its namespace and configures it.
func (d *Daemon) openTAP(p *model.Port, c link.Config) (frame.Conn, error) {
	ns, err := netns.Path(p.Netns)
	if err != nil {
		return nil, err
	}
	return d.opts.TAPs.Make(tapmaker.Request{Netns: ns, Ifname: p.Ifname, Plain: p.Kind == model.KindPlain, Config: &c})
}

// openDevice plugs an existing device of the switch's own namespace, as `brctl addif` does, and brings it up.
func openDevice(p *model.Port) (w wire, err error) {
	c, err := tap.OpenAFPacket(netns.Original, p.Ifname)
	if err != nil {
		return w, err
	}
	w.conn = c
	info, err := link.Inspect(netns.Original, p.Ifname)
	if err == nil && !info.Ether {
		err = api.Errorf(http.StatusConflict, "%s is not an Ethernet device, and the switch carries Ethernet frames only", p.Ifname)
	}
	if err == nil {
		p.MTU = info.MTU
		w.drop, err = uplink.DropIngress(info.Index)
	}
	if err == nil {
		err = link.SetUp(netns.Original, p.Ifname)
	}
	if err != nil {
		w.close()
	}
	return w, err
}

func (w *wire) close() {
	if w.drop != nil {
		w.drop.Close()
	}
	if w.conn != nil {
		_ = w.conn.Close() // nothing to do about a descriptor that was dead
	}
}

// closeWire gives the device back. The data plane must have let go of it. The uplink's device belongs to the uplink.
func (p *port) closeWire() {
	if p.Kind != model.KindUplink {
		p.close()
	}
}

// presence says whether a device still exists.
type presence uint8

const (
	unknown presence = iota // a socket, or a device that may come back
	there
	gone
)

// device says whether the port's TAP still exists.
func (w *wire) device() presence {
	switch c, ok := w.conn.(interface{ Gone() bool }); {
	case !ok:
		return unknown
	case c.Gone():
		return gone
	}
	return there
}

// linkState is what the kernel says of the device, and the switch of the port.
func (w *wire) linkState(p *model.Port) string {
	up := false
	switch c := w.conn.(type) {
	case interface{ Connected() bool }: // a socket for a virtual machine
		up = c.Connected()
	case *tap.AFPacket:
		info, err := link.Inspect(netns.Original, p.Ifname)
		up = err == nil && c.Bound() && info.Up // else the device has gone, and may return
	case interface{ Up() (bool, error) }: // a TAP, wherever it has been moved
		var err error
		if up, err = c.Up(); err != nil {
			return Gone
		}
	}
	switch {
	case !up:
		return Down
	case p.Flags&vswitch.Forwarding == 0:
		return Disabled
	}
	return Forwarding
}

// refreshDevices follows plugged devices: the port of a device that has gone is down, and the next device of that name takes its
// place; a new name and a new MTU are adopted. What fails is tried again after a second.
func (d *Daemon) refreshDevices() {
	d.follow("following the ports' devices", func() {
		if err := d.followDevicesLocked(); err != nil {
			d.log.Error("cannot follow the ports' devices; trying again in a second", "error", err)
			if d.retryDevices != nil {
				d.retryDevices.Stop() // one retry, whatever the number of failures
			}
			d.retryDevices = time.AfterFunc(time.Second, d.refreshDevices)
		}
	})
}

func (d *Daemon) followDevicesLocked() error {
	plugged := map[int]*port{} // by index
	var away []*port
	for _, p := range d.byID {
		if p == nil {
			continue
		}
		switch c, ok := p.conn.(*tap.AFPacket); {
		case !ok:
		case c.Bound():
			plugged[c.Index()] = p
		default:
			away = append(away, p)
			d.dropIngressLocked(p, nil) // elsewhere the device is its new owner's
		}
	}
	if len(plugged)+len(away) == 0 {
		return nil
	}
	list, err := link.List(netns.Original)
	if err != nil {
		return err
	}
	named := map[string]link.Info{}
	for _, info := range list {
		named[info.Name] = info
		if p := plugged[info.Index]; p != nil {
			d.adoptLocked(p, info)
		}
	}
	reserved := d.stateLocked().UplinkDevice
	var errs error
	for _, p := range away {
		info, found := named[p.Ifname]
		if !found || !info.Ether || plugged[info.Index] != nil || p.Ifname == reserved { // absent, of another kind, or in use
			continue
		}
		if err := d.replugLocked(p, info); err != nil {
			errs = errors.Join(errs, fmt.Errorf("port %q, whose device %s has returned: %w", p.Name, p.Ifname, err))
			continue
		}
		plugged[info.Index] = p
		d.adoptLocked(p, info)
		d.log.Info("the port's device has returned", "port", p.Name, "device", p.Ifname)
	}
	return errs
}

// adoptLocked makes the device's name and MTU the port's.
func (d *Daemon) adoptLocked(p *port, info link.Info) {
	if p.Ifname == info.Name && p.MTU == info.MTU {
		return
	}
	d.log.Info("the port's device has changed", "port", p.Name, "device", info.Name, "before", p.Ifname, "mtu", info.MTU)
	d.mu.Lock()
	p.Ifname, p.MTU = info.Name, info.MTU
	d.mu.Unlock()
	d.dp.Switch.SetPort(p.SwitchPort(p.netID()))
}

// replugLocked connects p to the device that has come in the place of its own.
func (d *Daemon) replugLocked(p *port, info link.Info) error {
	if err := link.SetUp(netns.Original, p.Ifname); err != nil {
		return err
	}
	s, err := uplink.DropIngress(info.Index)
	if err != nil {
		return err
	}
	if err := netns.Do(netns.Original, func() error { return p.conn.(*tap.AFPacket).Rebind(info.Index) }); err != nil {
		s.Close()
		return err
	}
	d.dropIngressLocked(p, s)
	d.forgetBehindLocked(p)
	return nil
}

// dropIngressLocked replaces the port's program.
func (d *Daemon) dropIngressLocked(p *port, to *uplink.IngressDrop) {
	if p.drop != nil {
		p.drop.Close()
	}
	d.mu.Lock()
	p.drop = to
	d.mu.Unlock()
}
