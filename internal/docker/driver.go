// Package docker implements a network driver for Docker. It serves libnetwork's remote driver protocol (moby
// libnetwork/docs/remote.md) and is a client of the control API.
//
// serve.go receives the calls, driver.go carries them out, protocol.go defines their bodies, state.go saves what must survive a
// restart, and restore.go restores it. names.go names ports after their containers.
package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
)

// A Switch is the part of the control API that the driver uses; *api.Client implements it.
type Switch interface {
	Networks(context.Context) ([]api.Network, error)
	AddNetwork(context.Context, api.NetworkAdd) error
	DeleteNetwork(ctx context.Context, name string) error
	Port(ctx context.Context, name string) (api.Port, error)
	Ports(context.Context) ([]api.Port, error)
	HandPort(ctx context.Context, p api.PortAdd, fd int) (api.Port, error)
	RenamePort(ctx context.Context, name string, to api.PortRename) error
	DeletePort(ctx context.Context, name string) error
	Publish(context.Context, api.PublishAdd) (api.Publish, error)
	Published(context.Context) ([]api.Publish, error)
	Unpublish(ctx context.Context, host string) error
}

// A Driver answers Docker's calls, one at a time: each takes a few milliseconds.
type Driver struct {
	sw      Switch
	devices devices
	path    string // of the state file
	engine  engine
	asked   time.Time // when the engine was asked last; follow's
	log     *slog.Logger

	mu    sync.Mutex // Lock 2: held through calls of the control API
	state *state
}

// madeName returns the name of a network, and of an endpoint's port until the driver knows its container's: Docker's calls have only IDs.
func madeName(id string) string { return "docker-" + short(id) }

// deviceName returns the name of an endpoint's device on the host. From there Docker moves it into the container, and later back.
func deviceName(id string) string { return "uvs" + short(id) }

func short(id string) string { return id[:min(len(id), 12)] }

func (d *Driver) createNetwork(ctx context.Context, q createNetwork) (any, error) {
	n, err := q.network()
	if err != nil {
		return nil, err
	}
	if have := d.state.Networks[q.NetworkID]; have != nil {
		if *have == *n {
			return nil, nil // Docker repeats the call when our answer did not arrive
		}
		return nil, fmt.Errorf("network %s already exists, with other settings", short(q.NetworkID))
	}
	err = d.sw.AddNetwork(ctx, n.Add)
	if api.IsStatus(err, http.StatusConflict) && d.dropStaleNetworks(ctx, n) {
		err = d.sw.AddNetwork(ctx, n.Add)
	}
	if err != nil {
		return nil, err
	}
	d.state.Networks[q.NetworkID] = n
	if err := d.save(); err != nil {
		delete(d.state.Networks, q.NetworkID)
		return nil, errors.Join(err, d.sw.DeleteNetwork(ctx, n.Add.Name))
	}
	return nil, nil
}

func (d *Driver) deleteNetwork(ctx context.Context, q networkID) (any, error) {
	n := d.state.Networks[q.NetworkID]
	if n == nil {
		return nil, nil
	}
	for id, e := range d.state.Endpoints {
		if e.Network == q.NetworkID { // Docker removes a network only after its endpoints: these are stale
			if err := d.removeEndpoint(ctx, id); err != nil {
				return nil, err
			}
		}
	}
	if err := gone(d.sw.DeleteNetwork(ctx, n.Add.Name)); err != nil {
		return nil, err
	}
	delete(d.state.Networks, q.NetworkID)
	return nil, d.save()
}

func (d *Driver) createEndpoint(ctx context.Context, q createEndpoint) (any, error) {
	n := d.state.Networks[q.NetworkID]
	if n == nil {
		return nil, d.unknownNetwork(q.NetworkID)
	}
	addr, err := netip.ParsePrefix(q.Interface.Address)
	if err != nil || !addr.Addr().Is4() {
		return nil, fmt.Errorf("%q is not an IPv4 address with a prefix length; create the network with Docker's own IPAM driver, or with another one that assigns addresses", q.Interface.Address)
	}
	e := &endpoint{Network: q.NetworkID, Address: addr.String(), Address6: q.Interface.AddressIPv6, MAC: q.Interface.MacAddress, Tenant: q.Options.Tenant, Policy: q.Options.Policy}
	var answer createEndpointAnswer
	if e.MAC == "" {
		e.MAC = frame.MACFor(frame.AddrFrom(addr.Addr())).String()
		answer.Interface.MacAddress = e.MAC
	} else if m, err := frame.ParseMAC(e.MAC); err != nil || m == 0 || m.IsGroup() {
		return nil, fmt.Errorf("--mac-address %s is not a unicast MAC address, such as 02:00:00:00:00:01", e.MAC)
	}
	if have := d.state.Endpoints[q.EndpointID]; have != nil {
		if have.Network == e.Network && have.Address == e.Address && have.Address6 == e.Address6 && have.MAC == e.MAC {
			return answer, nil // Docker repeats the call when our answer did not arrive
		}
		return nil, fmt.Errorf("endpoint %s already exists, with other addresses", short(q.EndpointID))
	}
	if err := d.place(ctx, e); err != nil {
		return nil, err
	}
	d.state.Endpoints[q.EndpointID] = e
	if err := d.save(); err != nil {
		delete(d.state.Endpoints, q.EndpointID)
		return nil, err
	}
	return answer, nil
}

// place makes sure that no live endpoint has e's addresses. Docker assigns each address once. So another endpoint with one of
// these addresses and without a container is a remainder from when Docker lost its state, and place removes it.
func (d *Driver) place(ctx context.Context, e *endpoint) error {
	for id, o := range d.state.Endpoints {
		what, byMAC := "", false
		switch {
		case o.Network != e.Network:
		case o.Address == e.Address:
			what = "address " + e.Address
		case e.Address6 != "" && o.Address6 == e.Address6:
			what = "address " + e.Address6
		case o.MAC == e.MAC:
			what, byMAC = "MAC address "+e.MAC, true
		}
		if what == "" {
			continue
		}
		if o.Sandbox != "" && d.holds(ctx, id, o) || o.Sandbox == "" && byMAC {
			return fmt.Errorf("%s is in use by endpoint %s", what, short(id))
		}
		if err := d.removeEndpoint(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) join(ctx context.Context, q join) (any, error) {
	n, e, err := d.find(q.endpointID)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(q.SandboxKey) {
		return nil, fmt.Errorf("%q is not the path of a container's network namespace", q.SandboxKey)
	}
	if err := d.deletePort(ctx, q.EndpointID); err != nil { // from a Join whose answer was lost
		return nil, err
	}
	if err := d.plug(ctx, q.EndpointID, q.SandboxKey, place{device: deviceName(q.EndpointID), mtu: n.Add.MTU}); err != nil {
		return nil, err
	}
	e.Sandbox, e.Ifname = q.SandboxKey, ""
	if err := d.save(); err != nil {
		e.Sandbox = ""
		return nil, errors.Join(err, d.deletePort(ctx, q.EndpointID))
	}
	var a joinAnswer
	a.InterfaceName.SrcName, a.InterfaceName.DstPrefix = deviceName(q.EndpointID), "eth"
	// Without one of these two, Docker would add a second device, on a bridge and with netfilter rules.
	if n.Add.Internal {
		a.DisableGatewayService = true
	} else {
		a.Gateway = n.Add.Gateway
		if e.Address6 != "" {
			a.GatewayIPv6 = n.Add.Gateway6
		}
	}
	return a, nil
}

// plug creates an endpoint's device and passes it to the switch.
func (d *Driver) plug(ctx context.Context, id, sandbox string, where place) error {
	e := d.state.Endpoints[id]
	n := d.state.Networks[e.Network]
	fd, done, err := d.devices.make(where)
	if err != nil {
		return err
	}
	defer done() // the switch has its own descriptor
	a := api.PortAdd{
		Name: cmp.Or(e.Name, madeName(id)), Network: n.Add.Name, Netns: sandbox, Ifname: where.device, IP: e.Address, IP6: e.Address6, MAC: e.MAC, MTU: n.Add.MTU, Tenant: cmp.Or(e.Tenant, n.Tenant),
		Policies: api.Words(e.Policy), Set: api.PortSet{"isolated": api.Switch(!n.ICC)},
	}
	if _, err = d.sw.HandPort(ctx, a, fd); api.IsStatus(err, http.StatusConflict) && a.Name != madeName(id) { // another port has the name by now
		a.Name, e.Given = madeName(id), ""
		_, err = d.sw.HandPort(ctx, a, fd)
	}
	e.Name = a.Name
	return err
}

func (d *Driver) leave(ctx context.Context, q endpointID) (any, error) {
	e := d.state.Endpoints[q.EndpointID]
	if e == nil {
		return nil, nil
	}
	if err := d.deletePort(ctx, q.EndpointID); err != nil {
		return nil, err
	}
	e.Sandbox, e.Ifname, e.Gateway, e.Publish = "", "", false, nil
	return nil, d.save()
}

func (d *Driver) deleteEndpoint(ctx context.Context, q endpointID) (any, error) {
	if d.state.Endpoints[q.EndpointID] == nil {
		return nil, nil
	}
	if err := d.removeEndpoint(ctx, q.EndpointID); err != nil {
		return nil, err
	}
	return nil, d.save()
}

// removeEndpoint removes an endpoint's port, which also removes its published ports, and forgets the endpoint.
func (d *Driver) removeEndpoint(ctx context.Context, id string) error {
	if err := d.deletePort(ctx, id); err != nil {
		return err
	}
	delete(d.state.Endpoints, id)
	return nil
}

// port returns the port of an endpoint. If it does not exist, the error has status 404. The name does not suffice: somebody may have renamed the
// port. So port compares the MAC address and the network, too.
func (d *Driver) port(ctx context.Context, id string) (api.Port, error) {
	e := d.state.Endpoints[id]
	p, err := d.sw.Port(ctx, cmp.Or(e.Name, madeName(id)))
	if err == nil && d.portIn([]api.Port{p}, e) != nil || gone(err) != nil {
		return p, err
	}
	all, err := d.sw.Ports(ctx)
	if err != nil {
		return p, err
	}
	found := d.portIn(all, e)
	if found == nil {
		return p, api.Errorf(http.StatusNotFound, "endpoint %s has no port", short(id))
	}
	e.Name = found.Name
	return *found, nil
}

// portIn is the port of an endpoint in a list; nil if it is not there.
func (d *Driver) portIn(list []api.Port, e *endpoint) *api.Port {
	network := d.state.Networks[e.Network].Add.Name
	i := slices.IndexFunc(list, func(p api.Port) bool { return strings.EqualFold(p.MAC, e.MAC) && p.Network == network })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// deletePort removes the port of an endpoint, if it exists.
func (d *Driver) deletePort(ctx context.Context, id string) error {
	p, err := d.port(ctx, id)
	if err == nil {
		err = d.sw.DeletePort(ctx, p.Name)
	}
	e := d.state.Endpoints[id]
	e.Name, e.Given, e.refused, e.since = "", "", "", time.Time{}
	return gone(err)
}

func (d *Driver) endpointInfo(ctx context.Context, q endpointID) (any, error) {
	if _, _, err := d.find(q); err != nil {
		return nil, err
	}
	return endpointInfo{Value: map[string]string{}}, nil
}

// learnIfnames saves the names that Docker gave to the devices in the containers, for a restart of the switch. Docker renames a
// device some time after its last call about the endpoint, and sends no notice.
func (d *Driver) learnIfnames(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d.mu.Lock()
	unknown := false
	for _, e := range d.state.Endpoints {
		unknown = unknown || e.Sandbox != "" && e.Ifname == ""
	}
	d.mu.Unlock()
	if !unknown {
		return nil
	}
	ports, err := d.sw.Ports(ctx) // without the lock, so that Docker's calls need not wait
	if err != nil {
		return nil // the switch may be ending
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := false
	for id, e := range d.state.Endpoints {
		if p := d.portIn(ports, e); p != nil && e.Sandbox == p.Netns && e.Ifname == "" && p.Ifname != deviceName(id) {
			e.Ifname, e.Name, changed = p.Ifname, p.Name, true
		}
	}
	if !changed {
		return nil
	}
	return d.save()
}

// programExternal makes the endpoint its container's default gateway endpoint and publishes its ports, all or none.
func (d *Driver) programExternal(ctx context.Context, q programExternal) (any, error) {
	_, e, err := d.find(q.endpointID)
	if err != nil {
		return nil, err
	}
	if err := d.revoke(ctx, q.EndpointID); err != nil {
		return nil, err
	}
	err = d.publishAll(ctx, q.EndpointID, e, joinRanges(withoutDuplicates(q.Options.PortMap)))
	if err == nil {
		e.Gateway = true
		err = d.save()
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience) // ctx may have expired
		defer cancel()
		return nil, errors.Join(err, d.revoke(ctx, q.EndpointID))
	}
	return nil, nil
}

func (d *Driver) publishAll(ctx context.Context, id string, e *endpoint, list []portBinding) error {
	p, err := d.port(ctx, id)
	if err != nil {
		return err
	}
	for _, b := range list {
		hosts, err := b.hosts()
		if err == nil {
			err = d.publish(ctx, p.Name, e, b, hosts)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// publish publishes b, for the port of a name, on the first of the host ports that is free.
func (d *Driver) publish(ctx context.Context, name string, e *endpoint, b portBinding, hosts []uint16) error {
	var last error
	for _, port := range hosts {
		spec, err := b.spec(port)
		if err != nil {
			return err
		}
		_, last = d.sw.Publish(ctx, api.PublishAdd{Spec: spec, Port: name})
		if last == nil {
			e.Publish = append(e.Publish, spec)
			return nil
		}
		if !api.IsStatus(last, http.StatusConflict) {
			return last
		}
	}
	return last
}

func (d *Driver) revokeExternal(ctx context.Context, q endpointID) (any, error) {
	e := d.state.Endpoints[q.EndpointID]
	if e == nil {
		return nil, nil
	}
	if err := d.revoke(ctx, q.EndpointID); err != nil {
		return nil, err
	}
	e.Gateway = false
	return nil, d.save()
}

// revoke removes an endpoint's published ports. It asks the switch for them: another port may have published the same host port
// by now.
func (d *Driver) revoke(ctx context.Context, id string) error {
	e := d.state.Endpoints[id]
	p, err := d.port(ctx, id)
	if err != nil {
		e.Publish = nil
		return gone(err)
	}
	list, err := d.sw.Published(ctx)
	if err != nil {
		return err
	}
	for _, x := range list {
		if x.Port != p.Name {
			continue
		}
		if err := gone(d.sw.Unpublish(ctx, x.Host())); err != nil {
			return err
		}
	}
	e.Publish = nil
	return nil
}

func (d *Driver) find(q endpointID) (*network, *endpoint, error) {
	n, e := d.state.Networks[q.NetworkID], d.state.Endpoints[q.EndpointID]
	switch {
	case n == nil:
		return nil, nil, d.unknownNetwork(q.NetworkID)
	case e == nil || e.Network != q.NetworkID:
		return nil, nil, fmt.Errorf("endpoint %s is unknown to the switch", short(q.EndpointID))
	}
	return n, e, nil
}

func (d *Driver) unknownNetwork(id string) error {
	return fmt.Errorf("network %s is unknown to the switch: it was created while another switch, or no switch, was behind this driver; remove it with `docker network rm`, and create it again", short(id))
}

func (d *Driver) save() error { return d.state.save(d.path) }

// gone returns err, or nil when err says that the object does not exist.
func gone(err error) error {
	if api.IsStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}
