package daemon

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/rights"
	"github.com/uvswitch/uvswitch/internal/sockets"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/nat"
)

// bySockets reports whether packets leave by sockets of this process.
func (d *Daemon) bySockets() bool { return d.up != nil && d.config.Uplink.Kind == model.KindSockets }

// Sockets returns how many sockets containers use, and how many they may; ok is false with another kind of uplink.
func (d *Daemon) Sockets() (used, most int, ok bool) {
	if d.engine == nil {
		return 0, 0, false
	}
	used, most = d.engine.InUse()
	return used, most, true
}

// openSockets makes the engine that has the sockets.
func (d *Daemon) openSockets() (err error) {
	ula := d.config.ULA.Addr().As16()
	ula[15] = 1
	d.engine, err = sockets.New(sockets.Options{
		MAC: uplink.RouterMAC, PeerMAC: d.up.MAC, Clock: func() int64 { return int64(time.Since(d.started)) },
		Sockets: rights.SocketFiles(), JoinsUDP: true, Ephemeral: usedports.Ephemeral(), MayHost: mayHost(d.config.Host.Inbound),
		LocalClient: [2]netip.Addr{loopbackClient, netip.AddrFrom16(ula)},
	})
	return err
}

// mayHost returns whether containers may begin something with the host (host.inbound).
func mayHost(inbound string) func(proto uint8, port uint16) bool {
	in, _ := model.ParseInbound(inbound) // checked at the start
	return func(proto uint8, port uint16) bool {
		switch {
		case in == nil:
			return true
		case proto == frame.TCP:
			return in.Open[0].Has(port)
		case proto == frame.UDP:
			return in.Open[1].Has(port)
		}
		return in.Pings
	}
}

// loopbackClient is what a container sees of a client on the host at 127.0.0.1: the address that podman gives to the host.
var loopbackClient = netip.MustParseAddr("169.254.1.2")

// An entrance serves a published port, or keeps it from others.
type entrance interface {
	Clients() uint64
	Close()
}

// doors are the listening sockets of a published range.
type doors []*sockets.Listening

// Clients implements entrance: the flows count them.
func (doors) Clients() uint64 { return 0 }

// Close implements entrance.
func (l doors) Close() {
	for _, x := range l {
		x.Close()
	}
}

// openDoors listens on the ports on the host.
func (d *Daemon) openDoors(p *publish) (entrance, error) {
	number, _ := frame.ProtoNumber(p.Proto)
	if number != frame.TCP && number != frame.UDP {
		return nil, api.Errorf(http.StatusConflict, "ports of %s cannot be published with an uplink of kind sockets; run the switch as root", p.Proto)
	}
	var all doors
	for n := int(p.Lo); n <= int(p.Hi); n++ {
		l, err := d.engine.Listen(number, p.HostAddr, uint16(n), p.port.ID)
		if err == nil {
			all = append(all, l)
			continue
		}
		all.Close()
		switch {
		case errors.Is(err, sockets.ErrLowPort):
			return nil, api.Errorf(http.StatusConflict, "this user may not listen on port %d of the host: publish a port from 1024 on, or let the host's administrator allow lower ones with `sysctl net.ipv4.ip_unprivileged_port_start=%d`", n, n)
		case errors.Is(err, sockets.ErrNotOwn):
			return nil, api.Errorf(http.StatusConflict, "%s is no address of this host now, and without root it must be there first: see `ip addr`, or leave the address out to publish at all", p.HostAddr)
		case errors.Is(err, syscall.EMFILE):
			return nil, errManyFiles
		}
		return nil, api.Errorf(http.StatusConflict, "cannot open port %d/%s of the host: %v; publish another port", n, p.Proto, err)
	}
	return all, nil
}

// forgetSocketsLocked ends the connections of a port that has gone.
func (d *Daemon) forgetSocketsLocked(p *port) {
	if !d.bySockets() {
		return
	}
	d.engine.Do(func() { d.engine.Forget(p.ID) })
}

// SocketRefusal is why no socket would send a frame that leaves; None with another kind of uplink, or if only a try can tell.
func (d *Daemon) SocketRefusal(f *frame.Frame) frame.Reason {
	if !d.bySockets() {
		return frame.None
	}
	return d.engine.Refusal(f)
}

// addrsOf are the host's addresses, of each family the one by which packets leave first.
func addrsOf(s *uplink.State) (all []netip.Addr) {
	for _, a := range append([]netip.Addr{s.Addr, s.Addr6}, slices.Concat(s.Own, s.Own6)...) {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// SetSocketEndpoints writes into flows that leave by sockets where these are on the host: there, other uplinks have NAT's outside endpoint. It may
// wait for netlink.
func (d *Daemon) SetSocketEndpoints(flows []nat.Flow) {
	if !d.bySockets() {
		return
	}
	ends := make([]frame.Endpoints, len(flows))
	for i := range flows {
		ends[i] = flows[i].Original
	}
	sources := map[netip.Addr]netip.Addr{}
	for i, own := range d.engine.Endpoints(ends) {
		if !own.IsValid() {
			continue
		}
		f, at := &flows[i], own.Addr()
		if to := f.Original.Dst; at.IsUnspecified() {
			if _, known := sources[to]; !known {
				sources[to] = at
				if w, err := uplink.WayOfSocket(to); err == nil && w.Source.IsValid() {
					sources[to] = w.Source
				}
			}
			at = sources[to]
		}
		f.Reply.Dst, f.Reply.DstPort = at, own.Port()
	}
}
