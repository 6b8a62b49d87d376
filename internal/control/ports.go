package control

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

// Kinds of ports.
const (
	kindTAP    = "tap"    // a TAP with offloads, made in a namespace
	kindPlain  = "plain"  // one without
	kindDevice = "device" // an existing device
	kindStream = "qemu-stream"
	kindDgram  = "qemu-dgram"
	kindVDE    = "vde"
	kindHost   = "host"
	kindUplink = "uplink"
)

// port is one port as its user named it.
type port struct {
	id      frame.PortID
	name    string
	kind    string
	net     *network // nil for the uplink
	ifname  string
	netns   string // as the user said it
	mac     frame.MAC
	addr    netip.Prefix // invalid when not known
	mtu     int
	offload bool
	knobs
	handed    bool // a TAP that somebody else has made
	conn      frame.Conn
	swallower *uplink.IngressDrop
	asked     api.PortAdd
}

// isVM tells whether the port is a socket for a virtual machine: it has no device, and p.ifname is its path.
func (p *port) isVM() bool { return p.kind == kindStream || p.kind == kindDgram || p.kind == kindVDE }

// bringsItsOwn tells whether the station behind the port is set up by others: the switch gives it no address unless one is said.
func (p *port) bringsItsOwn() bool { return p.kind == kindDevice || p.handed || p.isVM() }

// close gives the device back. The dataplane must have let go of it.
func (p *port) close() {
	if p.swallower != nil {
		p.swallower.Close()
	}
	if p.conn != nil && p.kind != kindUplink { // that one is the uplink's to close
		_ = p.conn.Close() // nothing to do about a descriptor that was dead
	}
}

// addPort makes the port that a asks for; handed is its TAP, when somebody else has made that. On an error nothing remains.
func (d *Daemon) addPort(a api.PortAdd, handed *tap.Device) (_ api.Port, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() {
		if err != nil && handed != nil {
			_ = handed.Close()
		}
	}()
	p, err := d.checkPort(a)
	if err != nil {
		return api.Port{}, err
	}
	if a.Handed != (handed != nil) {
		return api.Port{}, api.Errorf(http.StatusBadRequest, "a TAP is handed over by its descriptor, with the request (SCM_RIGHTS), and by handed: true in it: one of them is missing")
	}
	if p.netns != "" && !p.isVM() && !a.Handed {
		if _, err := tap.NamespacePath(p.netns); err != nil {
			return api.Port{}, api.Errorf(http.StatusNotFound, "%v", err)
		}
	}
	switch {
	case p.isVM():
		err = d.plugVM(p)
	case p.kind == kindDevice:
		err = d.plugDevice(p)
	case a.Handed:
		p.conn, handed = handed, nil // its maker moves, names and addresses it
		err = d.plug(p)
	default:
		setup := tap.Setup{MAC: p.mac, MTU: p.mtu, Addr: p.addr}
		if !a.NoRoute {
			setup.Gateway = p.net.gateway
		}
		err = d.plugTAP(p, setup)
	}
	if err != nil {
		return api.Port{}, explain(err)
	}
	if p.handed {
		d.keepPort(p)
	}
	d.updateRules()
	return d.portView(p), nil
}

// checkPort validates everything that can be before anything is made.
func (d *Daemon) checkPort(a api.PortAdd) (*port, error) {
	if err := checkName("port", a.Name); err != nil {
		return nil, err
	}
	if _, ok := d.ports[a.Name]; ok || slices.Contains([]string{"any", "gateway", hostPort, uplinkPort}, a.Name) {
		return nil, api.Errorf(http.StatusConflict, "there is a port %q already; choose another name, or `uvswitch port del %s`", a.Name, a.Name)
	}
	n := d.networks[cmp.Or(a.Network, DefaultNetwork)]
	if n == nil {
		return nil, d.noNetwork(a.Network)
	}
	p := &port{
		name: a.Name, kind: kindTAP, net: n, netns: a.Netns, ifname: cmp.Or(a.Ifname, "eth0"), mtu: cmp.Or(a.MTU, n.mtu),
		offload: true, knobs: knobs{flags: vswitch.DefaultFlags}, asked: a,
	}
	switch a.Offload {
	case "", "on":
	case "off":
		p.kind, p.offload = kindPlain, false
	default:
		return nil, api.Errorf(http.StatusBadRequest, "offload %q: say on or off", a.Offload)
	}
	vm, path := vmOf(a)
	places := 0
	for _, s := range []string{a.Netns, a.Device, a.QEMUStream, a.QEMUDgram, a.VDE} {
		if s != "" {
			places++
		}
	}
	switch {
	case a.Handed:
		if a.Device != "" || vm != "" || a.Offload != "" || a.NoRoute {
			return nil, api.Errorf(http.StatusBadRequest, "a TAP that is handed over is made by others: device, sockets, offload and no_route are not for it")
		}
		p.handed = true
	case places > 1:
		return nil, api.Errorf(http.StatusBadRequest, "a port is in one place: say one of --netns, --device, --qemu-stream, --qemu-dgram and --vde")
	case places == 0:
		return nil, api.Errorf(http.StatusBadRequest, "say where the port is: --netns NAME makes a device in a namespace, --device DEV plugs one that exists; --qemu-stream, --qemu-dgram and --vde are for virtual machines")
	case vm != "":
		if a.Offload != "" || a.Ifname != "" || a.NoRoute {
			return nil, api.Errorf(http.StatusBadRequest, "--offload, --ifname and --no-route are for devices made with --netns")
		}
		if !filepath.IsAbs(path) {
			return nil, api.Errorf(http.StatusBadRequest, "%q: say the path from / on: the switch runs in a folder of its own", path)
		}
		for _, q := range d.ports {
			if q.isVM() && q.ifname == path {
				return nil, api.Errorf(http.StatusConflict, "%s is port %q's already", path, q.name)
			}
		}
		p.kind, p.ifname, p.offload = vm, path, false
	case a.Device != "":
		if a.Offload != "" || a.MTU != 0 || a.Ifname != "" || a.NoRoute {
			return nil, api.Errorf(http.StatusBadRequest, "--offload, --mtu, --ifname and --no-route are for devices made with --netns; %s stays as it is", a.Device)
		}
		p.kind, p.ifname = kindDevice, a.Device
		if a.Device == d.opts.Name+"0" || a.Device == d.opts.Name+"-up" {
			return nil, api.Errorf(http.StatusConflict, "%s is the switch's own device", a.Device)
		}
		if a.Device == "lo" || d.isUplinkDevice(a.Device) {
			return nil, api.Errorf(http.StatusConflict, "%s is the host's own way: plugged, the host could not use it any more", a.Device)
		}
		for _, q := range d.ports {
			if q.kind == kindDevice && q.ifname == a.Device {
				return nil, api.Errorf(http.StatusConflict, "device %s is plugged already, as port %q", a.Device, q.name)
			}
		}
	}
	if err := tap.CheckName(p.ifname); err != nil && !p.isVM() {
		return nil, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	if p.mtu < 576 || p.mtu > 65521 {
		return nil, api.Errorf(http.StatusBadRequest, "MTU %d is out of range: 576 to 65521 bytes", p.mtu)
	}
	if err := d.checkAddress(p, a); err != nil {
		return nil, err
	}
	if err := d.checkMAC(p, a.MAC); err != nil {
		return nil, err
	}
	k, err := withKnobs(p, a.Set)
	p.knobs = k
	return p, err
}

// checkAddress fills p.addr. A plugged device brings its own address, unless one is named to bind it to.
func (d *Daemon) checkAddress(p *port, a api.PortAdd) error {
	n := p.net
	var addr netip.Addr
	switch {
	case a.IP == "" && p.bringsItsOwn():
		return nil
	case a.IP == "" || a.IP == "auto":
		var ok bool
		if addr, ok = d.freeAddr(n); !ok {
			return api.Errorf(http.StatusConflict, "no address of %s is free; delete a port, or use a larger subnet", n.prefix)
		}
	default:
		ip, bits, found := strings.Cut(a.IP, "/")
		var err error
		if addr, err = netip.ParseAddr(ip); err != nil || !usable(n.prefix, addr) {
			return api.Errorf(http.StatusBadRequest, "%q is not a usable address of network %q, %s", a.IP, n.name, n.prefix)
		}
		if found && bits != fmt.Sprint(n.prefix.Bits()) {
			return api.Errorf(http.StatusBadRequest, "%s: network %q has prefix length %d", a.IP, n.name, n.prefix.Bits())
		}
	}
	if addr == n.gateway {
		return api.Errorf(http.StatusConflict, "address %s is the gateway's", addr)
	}
	if who, taken := d.holder(n, addr); taken {
		return api.Errorf(http.StatusConflict, "address %s is in use by port %q; choose another, or leave --ip out", addr, who)
	}
	p.addr = netip.PrefixFrom(addr, n.prefix.Bits())
	p.flags |= vswitch.Guard
	return nil
}

func (d *Daemon) checkMAC(p *port, mac string) error {
	if mac == "" {
		if p.addr.IsValid() && (!p.bringsItsOwn() || p.handed) {
			p.mac = macFor(p.addr.Addr())
		}
		return nil
	}
	m, err := frame.ParseMAC(mac)
	if err != nil || m == 0 || m.IsGroup() {
		return api.Errorf(http.StatusBadRequest, "%q is not the MAC address of a station, such as 02:00:00:00:00:01", mac)
	}
	if m == p.net.mac {
		return api.Errorf(http.StatusConflict, "MAC %s is the gateway's", m)
	}
	for _, q := range d.ports {
		if q.mac == m && q.net == p.net {
			return api.Errorf(http.StatusConflict, "MAC %s is in use by port %q", m, q.name)
		}
	}
	p.mac = m
	return nil
}

// plugTAP makes p's TAP in its namespace and puts it on the dataplane.
func (d *Daemon) plugTAP(p *port, setup tap.Setup) error {
	ns, err := tap.NamespacePath(p.netns)
	if err != nil {
		return err
	}
	if p.kind == kindPlain {
		var c *tap.Plain
		if c, err = tap.OpenPlain(ns, p.ifname); err == nil {
			p.conn = c
		}
	} else {
		var c *tap.Device
		if c, err = tap.Open(ns, p.ifname); err == nil {
			p.conn = c
		}
	}
	if err != nil {
		return err
	}
	if err := tap.Configure(ns, p.ifname, setup); err != nil {
		p.close()
		return err
	}
	return d.plug(p)
}

// vmOf is the kind and the path of a port for a virtual machine; empty for another.
func vmOf(a api.PortAdd) (kind, path string) {
	switch {
	case a.QEMUStream != "":
		return kindStream, a.QEMUStream
	case a.QEMUDgram != "":
		return kindDgram, a.QEMUDgram
	case a.VDE != "":
		return kindVDE, a.VDE
	}
	return "", ""
}

// plugVM makes the socket that a machine connects to. The port is down until one does.
func (d *Daemon) plugVM(p *port) (err error) {
	switch p.kind {
	case kindStream:
		p.conn, err = opened(tap.OpenStream(p.ifname))
	case kindDgram:
		p.conn, err = opened(tap.OpenDgram(p.ifname))
	default:
		p.conn, err = opened(tap.OpenVDE(p.ifname))
	}
	if err != nil {
		return err
	}
	return d.plug(p)
}

// opened keeps a nil pointer from being a Conn.
func opened[C frame.Conn](c C, err error) (frame.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// plugDevice takes an existing device of the switch's own namespace, as `brctl addif` does, and brings it up.
func (d *Daemon) plugDevice(p *port) error {
	c, err := tap.OpenAFPacket(tap.Own, p.ifname)
	if err != nil {
		return err
	}
	p.conn = c
	info, err := tap.Inspect(tap.Own, p.ifname)
	if err == nil && !info.Ether {
		err = api.Errorf(http.StatusConflict, "%s is no Ethernet device: the switch is one of Ethernet frames", p.ifname)
	}
	if err == nil {
		p.mtu = info.MTU
		p.swallower, err = uplink.DropIngress(info.Index)
	}
	if err == nil {
		err = tap.SetUp(tap.Own, p.ifname)
	}
	if err != nil {
		p.close()
		return err
	}
	return d.plug(p)
}

// refreshDevices follows plugged devices: one that has gone is a port that is down, and the next of that name takes its place; a
// new name and a new MTU are taken over. What fails is tried again in a second.
func (d *Daemon) refreshDevices() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if err := d.followDevices(); err != nil {
		d.log.Error("following the ports' devices", "error", err)
		time.AfterFunc(time.Second, d.refreshDevices)
	}
}

func (d *Daemon) followDevices() error {
	plugged := map[int]*port{} // by index
	var away []*port
	for _, p := range d.portList() {
		switch c, ok := p.conn.(*tap.AFPacket); {
		case !ok:
		case c.Bound():
			plugged[c.Index()] = p
		default:
			away = append(away, p)
			if p.swallower != nil { // elsewhere the device is its new owner's
				p.swallower.Close()
				p.swallower = nil
			}
		}
	}
	if len(plugged)+len(away) == 0 {
		return nil
	}
	list, err := tap.Devices(tap.Own)
	if err != nil {
		return err
	}
	named := map[string]tap.DeviceInfo{}
	for _, info := range list {
		named[info.Name] = info
		p := plugged[info.Index]
		if p == nil {
			continue
		}
		if p.ifname != info.Name {
			d.log.Info("the port's device has a new name", "port", p.name, "device", info.Name, "before", p.ifname)
			p.ifname = info.Name
		}
		d.takeMTU(p, info.MTU)
	}
	var errs error
	for _, p := range away {
		info, found := named[p.ifname]
		if !found || !info.Ether || plugged[info.Index] != nil || d.isUplinkDevice(p.ifname) { // not there, of another kind, or in another's hands
			continue
		}
		if err := d.replug(p, info); err != nil {
			errs = errors.Join(errs, fmt.Errorf("port %q, whose device %s is there again: %w", p.name, p.ifname, err))
			continue
		}
		plugged[info.Index] = p
		d.takeMTU(p, info.MTU)
		d.log.Info("the port's device is there again", "port", p.name, "device", p.ifname)
	}
	return errs
}

// takeMTU makes the device's MTU the port's.
func (d *Daemon) takeMTU(p *port, mtu int) {
	if p.mtu == mtu {
		return
	}
	d.log.Info("the port's device has a new MTU", "port", p.name, "device", p.ifname, "mtu", mtu)
	p.mtu = mtu
	d.dp.Switch.SetPort(d.switchPort(p))
}

// replug puts p on the device that has come in the place of its own.
func (d *Daemon) replug(p *port, info tap.DeviceInfo) error {
	if err := tap.SetUp(tap.Own, p.ifname); err != nil {
		return err
	}
	s, err := uplink.DropIngress(info.Index)
	if err != nil {
		return err
	}
	if err := tap.In(tap.Own, func() error { return p.conn.(*tap.AFPacket).Rebind(info.Index) }); err != nil {
		s.Close()
		return err
	}
	p.swallower = s
	d.forgetBehind(p)
	return nil
}

// plug gives p an id and puts it on the dataplane; on an error p is closed.
func (d *Daemon) plug(p *port) error {
	if d.closed {
		p.close()
		return errClosing
	}
	for i := range frame.PortID(frame.MaxPorts - 1) {
		if id := 1 + (d.lastID+i)%(frame.MaxPorts-1); d.byID[id] == nil {
			p.id, d.lastID = id, id
			break
		}
	}
	if p.id == frame.NoPort {
		p.close()
		return api.Errorf(http.StatusConflict, "there are %d ports already, which is the limit", frame.MaxPorts-1)
	}
	if err := d.dp.AddPort(d.switchPort(p), p.conn); err != nil {
		p.close()
		return err
	}
	if p.rx.Bits != 0 || p.tx.Bits != 0 {
		d.dp.SetRate(p.id, p.rx, p.tx)
	}
	d.byID[p.id], d.ports[p.name], d.names[p.id] = p, p, p.name
	d.neighborOf(p)
	d.log.Info("port added", "port", p.name, "kind", p.kind, "device", p.ifname, "netns", p.netns, "address", p.addr)
	return nil
}

var errClosing = api.Errorf(http.StatusServiceUnavailable, "the switch is ending")

// switchPort is p as the switch knows it.
func (d *Daemon) switchPort(p *port) vswitch.Port {
	s := vswitch.Port{ID: p.id, Flags: p.flags, MTU: p.mtu, MAC: p.mac}
	if p.net != nil {
		s.Net = p.net.id
	}
	if p.addr.IsValid() {
		s.Addr = frame.AddrFrom(p.addr.Addr())
	}
	return s
}

func (d *Daemon) setPort(name string, set api.PortSet) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.ports[name]
	if p == nil {
		return noPort(name)
	}
	k, err := withKnobs(p, set)
	if err != nil {
		return err
	}
	limited := k.rx != p.rx || k.tx != p.tx // else the buckets stay
	p.knobs = k
	d.dp.Switch.SetPort(d.switchPort(p))
	if limited {
		d.dp.SetRate(p.id, p.rx, p.tx)
	}
	return nil
}

func (d *Daemon) deletePort(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.ports[name]
	if p == nil {
		return noPort(name)
	}
	if p.kind == kindHost || p.kind == kindUplink {
		return api.Errorf(http.StatusConflict, "port %q is the switch's own; `uvswitch run --host off` and `--uplink none` are without", name)
	}
	d.unplug(p)
	return nil
}

// unplug takes a port and what hangs on it away: published ports, flows, stations, the neighbor, the device.
func (d *Daemon) unplug(p *port) {
	d.rules = slices.DeleteFunc(d.rules, func(r *rule) bool {
		if r.port == p {
			r.relays.close()
		}
		return r.port == p
	})
	delete(d.ports, p.name)
	d.dp.RemovePort(p.id)
	d.updateRules()
	d.forgetNeighborOf(p)
	d.dp.NAT.Flush(func(f nat.Flow) bool { return f.Port == p.id })
	d.byID[p.id] = nil
	p.close()
	if p.handed {
		d.forgetPort(p.name)
	}
	d.log.Info("port removed", "port", p.name)
}

// portGone is called by the dataplane when a port's device has died, with its namespace.
func (d *Daemon) portGone(id frame.PortID) {
	go func() { // the dataplane goes on: unplugging needs its workers
		d.mu.Lock()
		defer d.mu.Unlock()
		if p := d.byID[id]; p != nil && p.kind != kindUplink {
			d.log.Warn("the port's device is gone, and so is the port", "port", p.name, "device", p.ifname, "netns", p.netns)
			d.unplug(p)
			d.keep()
		}
	}()
}

func noPort(name string) error {
	return api.Errorf(http.StatusNotFound, "there is no port %q; `uvswitch port ls` lists them", name)
}

// portName names an id.
func (d *Daemon) portName(id frame.PortID) string {
	switch {
	case int(id) >= len(d.byID):
		return ""
	case d.byID[id] != nil:
		return d.byID[id].name
	}
	return d.names[id] // of one that is gone: its last flows are told of after it
}

// portList is in the order of ids.
func (d *Daemon) portList() []*port {
	var out []*port
	for _, p := range d.byID {
		if p != nil {
			out = append(out, p)
		}
	}
	return out
}

// explain gives errors of package tap a status.
func explain(err error) error {
	var known *api.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, tap.ErrMayNotEnter):
		return api.Errorf(http.StatusNotImplemented, "%v; `uvswitch port add`, by root, makes the device itself and hands it over", err)
	case errors.Is(err, tap.ErrNoNamespace), errors.Is(err, os.ErrNotExist):
		return api.Errorf(http.StatusNotFound, "%v", err)
	}
	return api.Errorf(http.StatusConflict, "%v", err)
}
