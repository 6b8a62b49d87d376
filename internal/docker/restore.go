package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/tapmaker"
)

// A place says where a device is created, and how.
type place struct {
	sandbox string // the container's namespace; empty: the host's, from where Docker moves the device
	device  string
	mtu     int
	setup   link.Config // only for a device in a container
}

// devices creates TAPs and inspects namespaces on the host.
type devices interface {
	make(place) (fd int, done func(), err error)
	alive(sandbox string) bool
	seen(sandbox string) bool
}

// taps implements devices with real TAPs.
type taps struct{ maker tapmaker.Maker }

func (t taps) make(p place) (int, func(), error) {
	r := tapmaker.Request{Netns: netns.Original, Ifname: p.device}
	if p.sandbox != "" {
		r.Netns, r.Config = p.sandbox, &p.setup
	}
	c, err := t.maker.Make(r)
	if err != nil {
		return -1, nil, err
	}
	done := func() { _ = c.Close() }
	if p.sandbox == "" { // Docker configures everything but the MTU
		if err := link.SetMTU(netns.Original, p.device, p.mtu); err != nil {
			done()
			return -1, nil, err
		}
	}
	return c.FD(), done, nil
}

// alive reports whether a sandbox exists. Without permission to look, it assumes so.
func (t taps) alive(sandbox string) bool {
	if _, err := os.Stat(sandbox); errors.Is(err, os.ErrPermission) {
		return true
	}
	return t.seen(sandbox)
}

func (taps) seen(sandbox string) bool {
	_, err := netns.Path(sandbox)
	return sandbox != "" && err == nil
}

// there reports whether an endpoint's container still runs. Its namespace must exist.
func (d *Driver) there(ctx context.Context, id string, e *endpoint) bool {
	if !d.devices.alive(e.Sandbox) {
		return false
	}
	p, err := d.port(ctx, id)
	return err != nil || runs(id, e, &p)
}

// runs reports whether the container of an endpoint with a port still runs: its device is not back on the host, where Docker puts the devices
// of ended containers. While the device's name in the container is not known, it counts as running.
func runs(id string, e *endpoint, p *api.Port) bool {
	return p.Ifname != deviceName(id) || e.Ifname == ""
}

// holds reports whether an endpoint still reserves its addresses and its network. An endpoint without a port does so only when
// its container can be seen.
func (d *Driver) holds(ctx context.Context, id string, e *endpoint) bool {
	if !d.devices.alive(e.Sandbox) {
		return false
	}
	p, err := d.port(ctx, id)
	if err != nil {
		return d.devices.seen(e.Sandbox)
	}
	return runs(id, e, &p)
}

// restore recreates the networks and, in every container that still exists, a device with the same name, address, MAC and
// published ports. Docker itself reports the containers that ended meanwhile.
func (d *Driver) restore(ctx context.Context) error {
	have, err := d.sw.Networks(ctx)
	if err != nil {
		return err
	}
	for id, n := range d.state.Networks {
		if slices.ContainsFunc(have, func(x api.Network) bool { return x.Name == n.Add.Name && x.Subnet == n.Add.Subnet }) {
			continue // it exists: from the configuration file, or kept by the store
		}
		if err := d.sw.AddNetwork(ctx, n.Add); err != nil { // the other networks can still be restored
			d.log.Error("docker: cannot restore a network; remove what conflicts with it, and restart the switch", "network", short(id), "subnet", n.Add.Subnet, "error", err)
		}
	}
	byName := slices.SortedFunc(maps.Keys(d.state.Endpoints), func(a, b string) int { // a container's eth0 first
		x, y := d.state.Endpoints[a].Ifname, d.state.Endpoints[b].Ifname
		return cmp.Or(cmp.Compare(len(y), 0)-cmp.Compare(len(x), 0), cmp.Compare(x, y), cmp.Compare(a, b)) // unknown names last
	})
	for _, id := range byName {
		e := d.state.Endpoints[id]
		if e.Sandbox == "" {
			continue // Docker has not called Join yet
		}
		if !d.there(ctx, id, e) { // the container has ended
			if err := d.removeEndpoint(ctx, id); err != nil {
				return err
			}
			continue
		}
		if err := d.rejoin(ctx, id, e); err != nil {
			e.Publish = nil
			d.log.Error("docker: cannot restore the network of a container; restart the container", "endpoint", short(id), "namespace", e.Sandbox, "error", err)
		}
	}
	return d.save()
}

// rejoin recreates the device of a running container.
func (d *Driver) rejoin(ctx context.Context, id string, e *endpoint) error {
	n := d.state.Networks[e.Network]
	if _, err := d.port(ctx, id); err == nil {
		return nil // the store kept its device and its published ports
	}
	addr, err := netip.ParsePrefix(e.Address)
	if err != nil {
		return err
	}
	mac, err := frame.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	where := place{sandbox: e.Sandbox, device: e.Ifname, mtu: n.Add.MTU, setup: link.Config{MAC: mac, MTU: n.Add.MTU, Addr: addr}}
	if e.Address6 != "" {
		if where.setup.Addr6, err = netip.ParsePrefix(e.Address6); err != nil {
			return err
		}
	}
	if where.device == "" { // the switch ended before learnIfnames saw the name
		where.device = d.freeIfname(e.Sandbox)
	}
	if e.Gateway && !n.Add.Internal {
		if where.setup.Gateway, err = netip.ParseAddr(n.Add.Gateway); err != nil {
			return err
		}
		if where.setup.Addr6.IsValid() {
			if where.setup.Via6, err = netip.ParseAddr(n.Add.Gateway6); err != nil {
				return err
			}
			where.setup.Behind6 = []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		}
	}
	if err := d.plug(ctx, id, e.Sandbox, where); err != nil {
		return err
	}
	e.Ifname = where.device
	var errs error
	for _, p := range e.Publish {
		_, err := d.sw.Publish(ctx, api.PublishAdd{Spec: p, Port: e.Name})
		errs = errors.Join(errs, err)
	}
	return errs
}

// freeIfname returns the first of eth0, eth1, ... that no endpoint of a container has.
func (d *Driver) freeIfname(sandbox string) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		taken := false
		for _, e := range d.state.Endpoints {
			taken = taken || e.Sandbox == sandbox && e.Ifname == name
		}
		if !taken {
			return name
		}
	}
}

// dropStaleNetworks removes networks without containers that overlap n. Docker assigns no subnet twice, so it has lost these.
func (d *Driver) dropStaleNetworks(ctx context.Context, n *network) (dropped bool) {
	for id, o := range d.state.Networks {
		if !overlap(n.Add.Subnet, o.Add.Subnet) && !overlap(n.Add.Subnet6, o.Add.Subnet6) || d.inUse(ctx, id) {
			continue
		}
		if _, err := d.deleteNetwork(ctx, networkID{id}); err != nil {
			d.log.Warn("docker: cannot remove a network that Docker no longer knows", "network", short(id), "error", err)
			continue
		}
		dropped = true
	}
	return dropped
}

// overlap reports whether two subnets have an address in common; a text that is no subnet has none.
func overlap(a, b string) bool {
	p, aErr := netip.ParsePrefix(a)
	q, bErr := netip.ParsePrefix(b)
	return aErr == nil && bErr == nil && p.Overlaps(q)
}

func (d *Driver) inUse(ctx context.Context, network string) bool {
	for id, e := range d.state.Endpoints {
		if e.Network == network && (e.Sandbox == "" || d.holds(ctx, id, e)) {
			return true
		}
	}
	return false
}
