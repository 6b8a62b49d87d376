package daemon

import (
	"net/netip"

	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/ndproxy"
	"github.com/uvswitch/uvswitch/internal/uplink"
)

// proxiedOn returns where neighbor solicitations are answered for a network's containers; nowhere unless the network asks for it.
func (d *Daemon) proxiedOn(n *model.Network) []uplink.OnLink {
	if !n.Spec.NDProxy || !d.usesBPF() {
		return nil
	}
	s, _ := d.up.State()
	return s.OnLinkOf(n.Outside6)
}

// ProxiedOn names the devices of the host on which neighbor solicitations are answered for a network's containers.
func (d *Daemon) ProxiedOn(n *model.Network) (devices []string) {
	for _, l := range d.proxiedOn(n) {
		devices = append(devices, l.Name)
	}
	return devices
}

// ProxyAnswers is how many neighbor solicitations were answered.
func (d *Daemon) ProxyAnswers() uint64 { return d.proxy.Answers() }

// proxyLocked says to the proxy which addresses ports have outside.
func (d *Daemon) proxyLocked(stations map[netip.Addr]frame.PortID) {
	want := map[ndproxy.Device]ndproxy.Addrs{}
	for a, id := range stations {
		for _, l := range d.proxiedOn(&d.byID[id].net.Network) {
			at := ndproxy.Device{Index: l.Device, Name: l.Name, MAC: l.MAC, Source: frame.Addr6From(l.LinkLocal)}
			if want[at] == nil {
				want[at] = ndproxy.Addrs{}
			}
			want[at][frame.Addr6From(a)] = struct{}{}
		}
	}
	if err := d.proxy.Set(want); err != nil {
		d.log.Error("neighbors outside may not find some containers", "error", err)
	}
}
