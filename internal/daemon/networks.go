package daemon

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/link"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/netns"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// AddNetwork adds a network.
func (d *Daemon) AddNetwork(a api.NetworkAdd) error {
	return d.change("adding network "+a.Name, func() error { return d.addNetworkLocked(a) })
}

// DeleteNetwork removes a network that has no ports.
func (d *Daemon) DeleteNetwork(name string) error {
	return d.change("removing network "+name, func() error { return d.deleteNetworkLocked(name) })
}

func (d *Daemon) addNetworkLocked(a api.NetworkAdd) error {
	m, err := reattachLocked(d, d.formerly.Networks, "network", a.Name, &a.Policies, func() (model.Network, error) { return d.State().NewNetwork(a) })
	if err != nil {
		return err
	}
	if what, collides := uplink.Overlap(m.Prefix, false, d.opts.Name); collides {
		return api.Errorf(http.StatusConflict, "subnet %s overlaps %s; choose another subnet (--subnet)", m.Prefix, what)
	}
	if err := errors.Join(d.checkFree6(&m, m.Prefix6, "--subnet6"), d.checkOutside6(&m)); err != nil {
		return err
	}
	if m.ID = d.freeNetIDLocked(); m.ID == frame.NoNet {
		return api.Errorf(http.StatusConflict, "the switch already has %d networks, which is the limit", frame.MaxNets-1)
	}
	n := &network{m, newFamilyCounts(), d.formerly.Networks[m.Name]}
	d.mu.Lock()
	d.networks[n.Name] = n
	d.mu.Unlock()
	delete(d.formerly.Networks, n.Name) // it has them
	fdb := vswitch.NewFDB(vswitch.DefaultFDBSize, rand.Uint64())
	i := d.interfaceOf(n)
	d.dp.Switch.SetNetwork(vswitch.Network{ID: n.ID, Gateway: n.MAC, Addr: i.Addr, Addrs6: i.Addrs6(), Groups: i.Groups(), FDB: fdb})
	d.setInterfaceLocked(n)
	d.updateRulesLocked()
	d.keepHostPortLocked()
	return nil
}

// checkFree6 says what of the host has an IPv6 prefix of n already; flag is the option that has named it. An invalid prefix is free.
func (d *Daemon) checkFree6(n *model.Network, p netip.Prefix, flag string) error {
	if !p.IsValid() {
		return nil
	}
	what, collides := uplink.Overlap(p, n.Spec.NDProxy && p == n.Outside6, d.opts.Name)
	if !collides {
		return nil
	}
	remedy := ""
	if _, still := uplink.Overlap(p, true, d.opts.Name); !still {
		remedy = "; or, with --nat6 routed or npt=PREFIX, let the switch answer for the containers there (--nd-proxy)"
	}
	return api.Errorf(http.StatusConflict, "prefix %s overlaps %s; choose another one (%s)%s", p, what, flag, remedy)
}

// checkOutside6 is checkFree6 for the prefix by which the outside knows a network, if it is another one than the network's own.
func (d *Daemon) checkOutside6(n *model.Network) error {
	if n.Outside6 == n.Prefix6 {
		return nil
	}
	return d.checkFree6(n, n.Outside6, "--nat6")
}

func (d *Daemon) freeNetIDLocked() frame.NetID {
	used := map[frame.NetID]bool{}
	for _, n := range d.networks {
		used[n.ID] = true
	}
	for id := frame.NetID(1); id < frame.MaxNets; id++ {
		if !used[id] {
			return id
		}
	}
	return frame.NoNet
}

func (d *Daemon) setInterfaceLocked(n *network) { d.dp.Router.SetInterface(d.interfaceOf(n)) }

// interfaceOf is the router's interface in a network.
func (d *Daemon) interfaceOf(n *network) router.Interface {
	i := router.Interface{
		Net: n.ID, Addr: frame.AddrFrom(n.Gateway), Prefix: n.Prefix, Addr6: frame.Addr6From(n.Gateway6), Prefix6: n.Prefix6,
		MAC: n.MAC, MTU: n.MTU, Internal: n.Internal, Isolated: n.Isolated,
	}
	i.Keeps6 = n.Outside6.IsValid() || d.leavesByHost()
	if n.Prefix6.IsValid() && !n.Internal && d.config.ULA.IsValid() {
		i.Behind = []netip.Prefix{d.config.ULA}
	}
	i.Slaac = n.Spec.RA == model.RASlaac
	for _, p := range d.ports {
		i.Advertise = i.Advertise || n.Prefix6.IsValid() && n.Spec.RA != model.RAOff && p.net == n && p.Kind != model.KindHost
	}
	return i
}

// advertiseLocked has the gateway of a network send router advertisements while the network has a port that takes them.
func (d *Daemon) advertiseLocked(n *network) {
	if n == nil {
		return
	}
	want := d.interfaceOf(n)
	if have, ok := d.dp.Router.Interface(n.ID); ok && have.Advertise != want.Advertise {
		d.dp.Router.SetInterface(want)
	}
}

// Routes6 are the IPv6 destinations that a station of a network reaches through its gateway now.
func (d *Daemon) Routes6(n *model.Network) (to []netip.Prefix) {
	if !n.Prefix6.IsValid() || n.Internal {
		return nil
	}
	if d.config.ULA.IsValid() {
		to = append(to, d.config.ULA)
	}
	if d.leadsOut6(n) || n.Spec.RA == model.RAOff { // router advertisements tell of it later, if there are any
		to = append(to, model.Everywhere6)
	}
	return to
}

// leadsOut6 reports whether IPv6 packets of a network leave by the uplink now.
func (d *Daemon) leadsOut6(n *model.Network) bool {
	up, _ := d.dp.Router.Interface(frame.NoNet)
	own, _ := d.dp.Router.Interface(n.ID)
	return own.LeadsOut6(&up)
}

// SetNetwork changes settings of a network. edit gets those of now.
func (d *Daemon) SetNetwork(name string, edit func(*api.NetworkAdd) error) error {
	return d.change("changing network "+name, func() error {
		n := d.networks[name]
		if n == nil {
			return model.NoNetwork(name)
		}
		spec := n.Spec
		if err := edit(&spec); err != nil {
			return err
		}
		if was := n.Spec; spec.Name != was.Name || spec.Subnet != was.Subnet || spec.Gateway != was.Gateway || spec.Subnet6 != was.Subnet6 || spec.Gateway6 != was.Gateway6 {
			return api.Errorf(http.StatusConflict, "the name, the subnets and the gateways of a network cannot change; make another network, and move its ports")
		}
		return d.changeNetworkLocked(spec)
	})
}

// changeNetworkLocked gives a network other settings. Its subnet and gateway stay; its ports keep their MTU. The host's port gets the new one.
func (d *Daemon) changeNetworkLocked(a api.NetworkAdd) error {
	to, err := d.State().ChangedNetwork(a)
	if err != nil {
		return err
	}
	n := d.networks[a.Name]
	if to.Outside6 != n.Outside6 || to.Spec.NDProxy != n.Spec.NDProxy {
		if err := errors.Join(d.checkFree6(&to, to.Prefix6, "--subnet6"), d.checkOutside6(&to)); err != nil {
			return err
		}
	}
	after := d.State()
	*after.Network(a.Name) = to
	for _, p := range d.ports {
		if err := after.CheckPoliced(&p.Port); p.net == n && err != nil {
			return err
		}
	}
	if h := d.ports[model.HostPortName]; h != nil && h.net == n && h.MTU != to.MTU {
		if err := link.SetMTU(netns.Original, h.Ifname, to.MTU); err != nil {
			return err
		}
	}
	d.unrouteFromHostLocked(n)
	d.mu.Lock()
	n.Network = to
	d.mu.Unlock()
	state := d.State()
	for _, p := range d.ports {
		if p.net != n {
			continue
		}
		made, mtu := state.MadeBy(&n.Network, &p.Port), p.MTU
		if p.Kind == model.KindHost {
			mtu = to.MTU
		}
		if mtu == p.MTU && p.DHCP == to.DHCP.On && made == p.Made6 {
			continue
		}
		other := made != p.Made6
		if other {
			d.forgetMadeLocked(p)
		}
		d.mu.Lock()
		p.MTU, p.DHCP, p.Made6 = mtu, to.DHCP.On, made
		d.mu.Unlock()
		d.dp.Switch.SetPort(p.SwitchPort(n.ID))
		if other {
			d.bindNeighborLocked(p)
		}
	}
	d.setInterfaceLocked(n)
	d.updateRulesLocked()
	d.keepHostPortLocked()
	d.savePoliciesLocked()
	return nil
}

func (d *Daemon) deleteNetworkLocked(name string) error {
	n := d.networks[name]
	if n == nil {
		return model.NoNetwork(name)
	}
	if name == api.DefaultNetwork {
		return api.Errorf(http.StatusConflict, "network %q always exists and cannot be removed", name)
	}
	for _, p := range d.ports {
		if p.net == n {
			return api.Errorf(http.StatusConflict, "network %q still has port %q; remove the port first: `uvswitch port del %s`", name, p.Name, p.Name)
		}
	}
	d.removeNetworkLocked(n)
	d.savePoliciesLocked()
	return nil
}

func (d *Daemon) removeNetworkLocked(n *network) {
	d.unrouteFromHostLocked(n)
	d.mu.Lock()
	delete(d.networks, n.Name)
	d.freed = slices.DeleteFunc(slices.Clone(d.freed), n.Prefix.Contains)
	d.mu.Unlock()
	d.dp.WithSlowPath(func(out router.Output) { d.dp.Router.DeleteInterface(n.ID, out) })
	d.dp.Switch.DeleteNetwork(n.ID)
	d.setNamesLocked(n.Name, nil)
	d.updateRulesLocked()
}

// MasqueradeCounts returns the counters of a network's masquerading: of IPv4 and of IPv6.
func (d *Daemon) MasqueradeCounts(name string) (c [2]Count) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.networks[name]; n != nil {
		c = n.masquerade.load()
	}
	return c
}
