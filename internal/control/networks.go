package control

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"regexp"
	"slices"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

// network is one broadcast domain as its user named it.
type network struct {
	id       frame.NetID
	name     string
	prefix   netip.Prefix
	gateway  netip.Addr
	mac      frame.MAC
	mtu      int
	internal bool
	isolated bool

	mapping    nat.Mapping
	filtering  nat.Filtering
	masquerade *nat.RuleCount
	asked      api.NetworkAdd // with every default filled in
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

func checkName(what, name string) error {
	if !validName.MatchString(name) {
		return api.Errorf(http.StatusBadRequest, "%q is not a name for a %s: 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit", name, what)
	}
	return nil
}

// macFor is the MAC address of the station that has an address, unless its user says another.
func macFor(a netip.Addr) frame.MAC { return frame.MACFor(frame.AddrFrom(a)) }

// settle checks what is asked for and fills in the defaults, without regard to other networks. mu is held.
func (d *Daemon) settle(a api.NetworkAdd) (*network, error) {
	if err := checkName("network", a.Name); err != nil {
		return nil, err
	}
	p, err := netip.ParsePrefix(a.Subnet)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 {
		return nil, api.Errorf(http.StatusBadRequest, "%q is not an IPv4 subnet of /8 to /29, such as 172.30.0.0/16", a.Subnet)
	}
	if first := p.Masked().Addr().As4()[0]; first == 0 || first == 127 || first >= 224 {
		return nil, api.Errorf(http.StatusBadRequest, "%s is loopback, multicast or reserved: nothing there is ever routed", p)
	}
	if p != p.Masked() {
		return nil, api.Errorf(http.StatusBadRequest, "%s is an address inside a subnet; did you mean %s?", p, p.Masked())
	}
	gw := p.Addr().Next()
	if a.Gateway != "" {
		if gw, err = netip.ParseAddr(a.Gateway); err != nil || !usable(p, gw) {
			return nil, api.Errorf(http.StatusBadRequest, "gateway %q is not a usable address of %s", a.Gateway, p)
		}
	}
	if a.MTU == 0 {
		a.MTU = 1500
	}
	if a.MTU < 576 || a.MTU > 65521 {
		return nil, api.Errorf(http.StatusBadRequest, "MTU %d is out of range: 576 to 65521 bytes", a.MTU)
	}
	mapping, err := nat.ParseMapping(cmp.Or(a.Mapping, d.opts.Mapping))
	if err != nil {
		return nil, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	filtering, err := nat.ParseFiltering(cmp.Or(a.Filtering, d.opts.Filtering))
	if err != nil {
		return nil, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	if mapping != nat.EndpointIndependentMapping && filtering != nat.AddressAndPortDependentFiltering {
		return nil, api.Errorf(http.StatusBadRequest, "with mapping %s an outside port has no single owner whom others could be let in to: filtering is %s then", mapping, nat.AddressAndPortDependentFiltering)
	}
	a.Subnet, a.Gateway, a.Mapping, a.Filtering = p.String(), gw.String(), mapping.String(), filtering.String()
	return &network{name: a.Name, prefix: p, gateway: gw, mac: macFor(gw), mtu: a.MTU, internal: a.Internal, isolated: a.Isolated,
		mapping: mapping, filtering: filtering, asked: a}, nil
}

// fits says why n cannot be beside the networks that there are. mu is held.
func (d *Daemon) fits(n *network) error {
	if _, ok := d.networks[n.name]; ok {
		return api.Errorf(http.StatusConflict, "there is a network %q already; choose another name, or `uvswitch network del %s`", n.name, n.name)
	}
	for _, o := range d.networks {
		if o.prefix.Overlaps(n.prefix) {
			return api.Errorf(http.StatusConflict, "subnet %s overlaps %s of network %q; choose another", n.prefix, o.prefix, o.name)
		}
	}
	return nil
}

func (d *Daemon) addNetwork(a api.NetworkAdd) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.settle(a)
	if err != nil {
		return err
	}
	if err := d.fits(n); err != nil {
		return err
	}
	if s, ok := uplink.Overlap(n.prefix, d.opts.Name); ok {
		return api.Errorf(http.StatusConflict, "subnet %s overlaps %s; choose another (--subnet)", n.prefix, s)
	}
	if n.id = d.freeNetID(); n.id == frame.NoNet {
		return api.Errorf(http.StatusConflict, "there are %d networks already, which is the limit", frame.MaxNets-1)
	}
	n.masquerade = &nat.RuleCount{}
	d.networks[n.name] = n
	fdb := vswitch.NewFDB(vswitch.DefaultFDBSize, uint64(d.started.UnixNano())*uint64(n.id))
	d.dp.Switch.SetNetwork(vswitch.Network{ID: n.id, Gateway: n.mac, FDB: fdb})
	d.setInterface(n)
	d.updateRules()
	if err := d.routeFromHost(n); err != nil {
		d.removeNetwork(n)
		return err
	}
	return nil
}

func (d *Daemon) setInterface(n *network) {
	d.dp.Router.SetInterface(router.Interface{
		Net: n.id, Addr: frame.AddrFrom(n.gateway), Prefix: n.prefix, MAC: n.mac, MTU: n.mtu, Internal: n.internal, Isolated: n.isolated,
	})
}

// changeNetwork gives a network, whose subnet and gateway stay, other settings. Ports keep the MTU that they were made with.
func (d *Daemon) changeNetwork(a api.NetworkAdd) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	to, err := d.settle(a)
	if err != nil {
		return err
	}
	n := d.networks[a.Name]
	if n == nil {
		return d.noNetwork(a.Name)
	}
	was := *n
	turn := func(to *network) error {
		d.unrouteFromHost(n)
		n.mtu, n.internal, n.isolated, n.mapping, n.filtering, n.asked = to.mtu, to.internal, to.isolated, to.mapping, to.filtering, to.asked
		d.setInterface(n)
		d.updateRules()
		return d.routeFromHost(n)
	}
	if err := turn(to); err != nil {
		return errors.Join(err, turn(&was))
	}
	return nil
}

func (d *Daemon) freeNetID() frame.NetID {
	for id := frame.NetID(1); id < frame.MaxNets; id++ {
		if !slices.ContainsFunc(d.networkList(), func(n *network) bool { return n.id == id }) {
			return id
		}
	}
	return frame.NoNet
}

func (d *Daemon) deleteNetwork(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.networks[name]
	if n == nil {
		return d.noNetwork(name)
	}
	if name == DefaultNetwork {
		return api.Errorf(http.StatusConflict, "network %q lives as long as the switch", name)
	}
	for _, p := range d.ports {
		if p.net == n {
			return api.Errorf(http.StatusConflict, "network %q still has port %q; `uvswitch port del %s` first", name, p.name, p.name)
		}
	}
	d.removeNetwork(n)
	return nil
}

func (d *Daemon) removeNetwork(n *network) {
	d.unrouteFromHost(n)
	delete(d.networks, n.name)
	d.dp.SlowPath(func(out router.Output) { d.dp.Router.DeleteInterface(n.id, out) })
	d.dp.Switch.DeleteNetwork(n.id)
	d.updateRules()
}

func (d *Daemon) noNetwork(name string) error {
	return api.Errorf(http.StatusNotFound, "there is no network %q; `uvswitch network ls` lists them", name)
}

// networkList is in the order of ids.
func (d *Daemon) networkList() []*network {
	var out []*network
	for _, n := range d.networks {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *network) int { return cmp.Compare(a.id, b.id) })
	return out
}

// networkName names an id; the uplink's is empty.
func (d *Daemon) networkName(id frame.NetID) string {
	for _, n := range d.networks {
		if n.id == id {
			return n.name
		}
	}
	return ""
}

// usable tells whether a can be a station's address in p.
func usable(p netip.Prefix, a netip.Addr) bool {
	return p.Contains(a) && a != p.Addr() && a != last(p)
}

// last is the subnet's broadcast address.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-p.Bits())-1)
	return frame.Addr(v).Netip()
}

// freeAddr finds an unused address of n, from the first upwards.
func (d *Daemon) freeAddr(n *network) (netip.Addr, bool) {
	for a := n.prefix.Addr().Next(); usable(n.prefix, a); a = a.Next() {
		if _, taken := d.holder(n, a); !taken && a != n.gateway {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// holder names the port that has address a.
func (d *Daemon) holder(n *network, a netip.Addr) (string, bool) {
	for _, p := range d.ports {
		if p.net == n && p.addr.IsValid() && p.addr.Addr() == a {
			return p.name, true
		}
	}
	return "", false
}
