package daemon

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/natports"
	"github.com/uvswitch/uvswitch/internal/policy"
	"github.com/uvswitch/uvswitch/internal/relay"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/internal/usedports"
	"github.com/uvswitch/uvswitch/nat"
)

// A publish is one published port with its listeners on the host.
type publish struct {
	model.Publish
	port   *port
	count  familyCounts
	relays entrance
}

// AddPublish publishes a port.
func (d *Daemon) AddPublish(a api.PublishAdd) (added model.Publish, err error) {
	err = d.change("publishing "+a.Spec, func() error {
		added, err = d.addPublishLocked(a)
		return err
	})
	return added, err
}

// DeletePublish ends the published port that is named by its host's side: [ADDR:]PORT[-END][/PROTO].
func (d *Daemon) DeletePublish(name string) error {
	return d.change("unpublishing "+name, func() error {
		return d.unpublishLocked(name, func(p *model.Publish) bool { return p.IsNamed(name) })
	})
}

func (d *Daemon) addPublishLocked(a api.PublishAdd) (model.Publish, error) {
	m, err := d.State().NewPublish(a)
	if err != nil {
		return m, err
	}
	return d.publishLocked(m)
}

// publishLocked opens a published port that fits the state. Its port may be missing all the same: what undoes a reload could not add it again.
func (d *Daemon) publishLocked(m model.Publish) (_ model.Publish, err error) {
	if d.ports[m.Port] == nil {
		return m, model.NoPort(m.Port)
	}
	if m.StandsBy {
		d.setStandbyLocked(append(slices.Clone(d.standby), m))
		d.log.Info("a published port stands by", "host", m.HostPorts(), "port", m.Port)
		return m, nil
	}
	if err := d.checkHostPortsLocked(&m); err != nil {
		return m, err
	}
	m.ID = d.nextRule
	d.nextRule++
	p := &publish{Publish: m, port: d.ports[m.Port], count: newFamilyCounts()}
	if p.relays, err = d.openRelays(p); err != nil {
		return m, err
	}
	d.mu.Lock()
	d.publishes = append(d.publishes, p)
	d.mu.Unlock()
	d.poolFree -= p.Len()
	d.updateRulesLocked()
	d.log.Info("published", "host", p.HostPorts(), "port", p.Port, "target", p.Target, "protocol", p.Proto)
	return m, nil
}

var errManyFiles = api.Errorf(http.StatusConflict, "the switch may not open more files, and each published port takes one: raise the limit (`ulimit -n`, LimitNOFILE= of the unit), or publish fewer ports")

// openRelays binds the ports on the host. SCTP has no relay.
func (d *Daemon) openRelays(p *publish) (entrance, error) {
	if d.bySockets() {
		return d.openDoors(p)
	}
	if p.Proto == "sctp" {
		return (*relay.Set)(nil), nil
	}
	id := p.port.ID
	s, err := relay.Open(relay.Rule{
		Proto: p.Proto, Host: p.HostAddr, Lo: p.Lo, Hi: p.Hi, Target: p.port.Addr.Addr(), Target6: p.port.Known6().Addr(), TargetPort: p.Target, From: p.From, Serve: d.config.Host.On,
		May: func(client netip.Addr, target netip.AddrPort) bool {
			return d.mayReach(client, p.Proto, id, target)
		},
	})
	var bind *relay.BindError
	switch {
	case errors.Is(err, syscall.EMFILE):
		return nil, errManyFiles
	case errors.As(err, &bind):
		return nil, api.Errorf(http.StatusConflict, "cannot open port %d/%s of the host: %v; publish another port", bind.Port, p.Proto, bind.Err)
	}
	return s, err
}

// mayReach reports whether a client of the relay may begin a flow with a container: the container sees an address of the host, so that the client is
// judged here, by isolation and by policies. The host itself is judged as the host.
func (d *Daemon) mayReach(client netip.Addr, proto string, port frame.PortID, target netip.AddrPort) bool {
	state := d.State()
	to := state.PortByID(port)
	if to == nil || client.IsLoopback() || slices.Contains(state.Own, client) {
		return to != nil
	}
	from := state.Station(client)
	if from != nil && !from.IsOwn() && !state.MayTalk(from, to) {
		return false
	}
	rules := d.dp.NAT.Policies()
	if rules == nil || from != nil && from.IsOwn() {
		return true
	}
	number, _ := frame.ProtoNumber(proto)
	q := policy.Flow{From: frame.NoPort, To: to.ID, Src: client, Dst: target.Addr(), Proto: number, Port: target.Port()}
	if from != nil {
		q.From = from.ID
	}
	r := rules.Judge(q, policy.Admission{}, d.dp.Now())
	if r.Why != frame.None {
		rules.Count(&r)
	}
	return r.Why == frame.None
}

func (d *Daemon) unpublishLocked(name string, which func(*model.Publish) bool) error {
	gone := d.takePublishesLocked(func(p *publish) bool { return which(&p.Publish) })
	if len(gone) == 0 {
		return model.NotPublished(name)
	}
	for _, p := range gone {
		p.relays.Close()
		d.usesRead = false
	}
	d.setStandbyLocked(slices.DeleteFunc(slices.Clone(d.standby), func(p model.Publish) bool { return which(&p) }))
	d.updateRulesLocked()
	return nil
}

func (d *Daemon) setStandbyLocked(list []model.Publish) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.standby = list
}

// standInLocked publishes again what a removed port had, for a port of the same container that stands by.
func (d *Daemon) standInLocked(gone []*publish, removed string) {
	d.setStandbyLocked(slices.DeleteFunc(slices.Clone(d.standby), func(p model.Publish) bool { return p.Port == removed }))
	for _, x := range gone {
		i := slices.IndexFunc(d.standby, func(p model.Publish) bool { return p.HostPorts() == x.HostPorts() && p.Proto == x.Proto })
		if i < 0 {
			continue
		}
		next := d.standby[i]
		d.setStandbyLocked(slices.Delete(slices.Clone(d.standby), i, i+1))
		if _, err := d.addPublishLocked(next.Spec); err != nil {
			d.log.Error("cannot publish for the container's other port", "host", next.HostPorts(), "port", next.Port, "error", err)
		}
	}
}

// takePublishesLocked removes published ports from the list, and returns them.
func (d *Daemon) takePublishesLocked(which func(*publish) bool) (gone []*publish) {
	kept := make([]*publish, 0, len(d.publishes))
	for _, p := range d.publishes {
		if which(p) {
			gone = append(gone, p)
		} else {
			kept = append(kept, p)
		}
	}
	d.mu.Lock()
	d.publishes = kept
	d.mu.Unlock()
	return gone
}

// checkHostPortsLocked says what on the host stands in the way of a published port.
func (d *Daemon) checkHostPortsLocked(p *model.Publish) error {
	if d.poolFree <= p.Len() { // else there is room
		if err := d.checkPoolsLocked(p); err != nil {
			return err
		}
	}
	if at := p.HostAddr; d.usesBPF() && !at.IsUnspecified() && !at.IsLoopback() && d.dp.NAT.UseAddr(at) == frame.TooManySources {
		return api.Errorf(http.StatusConflict, "flows leave by %d addresses of the host already, and no more can be used at a time; publish the port on every address: leave %s out", nat.MaxAddrs, p.HostAddr)
	}
	list, err := d.usedPortsLocked()
	if err != nil {
		return err
	}
	for n := int(p.Lo); n <= int(p.Hi); n++ {
		if l, taken := usedports.Find(list, p.Proto, p.HostAddr, uint16(n)); taken {
			return model.HostPortTaken(n, p.Proto, l.Owner())
		}
	}
	return nil
}

// checkPoolsLocked says when more published ports would leave no port to NAT.
func (d *Daemon) checkPoolsLocked(more ...*model.Publish) error {
	if pool := d.poolsLocked(more...); d.up != nil && (pool[0].Len() == 0 || pool[1].Len() == 0) {
		return api.Errorf(http.StatusConflict, "this would leave no port for the containers' own connections; widen --nat-ports, or publish fewer ports")
	}
	return nil
}

// usedPortsLocked are the ports of the host in use. They are read once in each change, and again after the switch has closed some itself.
func (d *Daemon) usedPortsLocked() ([]usedports.Listener, error) {
	if d.usesRead {
		return d.hostUses, nil
	}
	list, err := usedports.List()
	if err == nil {
		d.hostUses, d.usesRead = list, true
	}
	return d.hostUses, err
}

// readUsedPortsLocked reads them for NAT. The kernel walks its whole table of connections for that, so that not each change does it.
func (d *Daemon) readUsedPortsLocked() {
	if _, err := d.usedPortsLocked(); err != nil {
		d.log.Error("cannot read which ports the host uses; NAT still leaves out those that it knew before", "error", err)
	}
}

// updateRulesLocked passes networks, published ports and NAT's ports to NAT and the uplink. Without a change, it has no effect. Among many
// published ports that come or go, only the last one has an effect.
func (d *Daemon) updateRulesLocked() {
	if d.closed || d.rulesHeld {
		return
	}
	d.followLocalLocked()
	d.updatePoliciesLocked(nil)
	pools := d.poolsLocked()
	d.poolFree = min(pools[0].Len(), pools[1].Len())
	local4, local6 := familiesOf(d.local)
	if d.bySockets() { // a port that is published at a loopback address is known by that address
		local4, local6 = append(local4, netip.MustParsePrefix("127.0.0.0/8")), append(local6, netip.MustParsePrefix("::1/128"))
	}
	r := nat.Rules{Pool: pools, Local: local4, Ephemeral: usedports.Ephemeral()}
	if d.external.IsValid() {
		r.Own = append(r.Own, frame.AddrFrom(d.external))
	}
	for _, a := range d.own {
		if a != d.external {
			r.Own = append(r.Own, frame.AddrFrom(a))
		}
	}
	r.Inbound, r.HostUses = d.inboundLocked(), d.hostProtocolsLocked()
	r.Six.Own, r.Six.Local = d.way6.addrs(), local6
	r.Six.Stations = map[frame.Addr6]frame.PortID{}
	stations6 := map[netip.Addr]frame.PortID{}
	for _, p := range d.ports {
		if p.net == nil {
			continue
		}
		for _, a := range []netip.Addr{p.Addr6.Addr(), p.Made6} {
			outside, ok := p.net.OutsideOf(a)
			switch {
			case !ok:
			case p.Kind == model.KindHost:
				r.Six.Reserved = append(r.Six.Reserved, frame.Addr6From(a))
			default:
				r.Six.Stations[frame.Addr6From(a)] = p.ID
				stations6[outside] = p.ID
			}
		}
	}
	var routes6 []netip.Prefix
	published, published6 := uplink.Published[frame.Addr]{}, uplink.Published[frame.Addr6]{}
	owners := map[uplink.PublishedPort]frame.PortID{}
	for _, p := range d.publishes {
		if p.HostAddr.IsLoopback() && !d.bySockets() {
			continue // the host's own relay only
		}
		noteOwner(owners, p)
		if x := ruleOf[frame.Addr](p, p.port.Addr, p.count[0]); x != nil {
			r.Publish = append(r.Publish, x)
			note(published, x)
		}
		if x := ruleOf[frame.Addr6](p, p.port.Known6(), p.count[1]); x != nil && d.leadsOut6(&p.port.net.Network) { // else the container has no route for its answers: the relay serves
			r.Six.Publish = append(r.Six.Publish, x)
			note(published6, x)
			if a, ok := p.port.net.OutsideOf(p.port.Known6().Addr()); ok && p.HostAddr.IsUnspecified() { // the container's port is open there, too
				own := *x
				own.HostAddr, own.Lo, own.Hi = frame.Addr6From(a), p.Target, p.Target+(p.Hi-p.Lo)
				r.Six.Publish = append(r.Six.Publish, &own)
			}
		}
	}
	for _, n := range d.networks {
		if n.Internal {
			continue
		}
		m := nat.Masquerade{Net: n.ID, Mapping: n.Mapping, Filtering: n.Filtering, Protocols: n.Protocols, RuleCount: n.masquerade[0]}
		if d.bySockets() { // the engine tells flows apart by the container's own address
			m.Inside, m.Outside = n.Prefix, n.Prefix
		}
		r.Masquerade = append(r.Masquerade, &m)
		if n.Prefix6.IsValid() {
			m6 := m
			m6.RuleCount, m6.Inside, m6.Outside, m6.Open = n.masquerade[1], n.Prefix6, n.Outside6, n.Open6
			if d.bySockets() {
				m6.Outside = n.Prefix6
			}
			r.Six.Masquerade = append(r.Six.Masquerade, &m6)
			if n.Outside6.IsValid() {
				routes6 = append(routes6, n.Outside6)
				r.Six.Reserved = append(r.Six.Reserved, frame.Addr6From(n.Gateway6))
			}
		}
	}
	d.dp.NAT.Update(r)
	d.updateClientsLocked()
	if d.usesBPF() {
		for _, p := range d.publishes {
			if at := p.HostAddr; !at.IsUnspecified() && !at.IsLoopback() {
				d.dp.NAT.UseAddr(at) // an address that is not on the host yet is tried again when it comes
			}
		}
		for _, a := range d.way6.sources {
			d.dp.NAT.UseAddr(a) // a packet of IPv4 asks for its source; one of IPv6 must find it
		}
		d.up.SetPublished(published, published6)
		d.up.SetOwners(owners)
		if d.leavesByHost() { // the host's stack forwards to these prefixes by its own routes
			routes6 = nil
		}
		d.up.SetRoutes6(routes6, stations6)
		d.proxyLocked(stations6)
	}
}

// ruleOf is the published port as NAT takes it, to the container's address of one family; nil if it is not of that family.
func ruleOf[A frame.Address](p *publish, target netip.Prefix, count *nat.RuleCount) *nat.PublishOf[A] {
	if !target.IsValid() || !p.HostAddr.IsUnspecified() && p.HostAddr.Is4() != target.Addr().Is4() {
		return nil
	}
	proto, _ := frame.ProtoNumber(p.Proto)
	r := &nat.PublishOf[A]{
		ID: p.ID, Proto: proto, Lo: p.Lo, Hi: p.Hi, Target: frame.Of[A](target.Addr()), Port: p.Target,
		From: p.From, Inside: p.port.ID, Net: p.port.net.ID, RuleCount: count,
	}
	if !p.HostAddr.IsUnspecified() {
		r.HostAddr = frame.Of[A](p.HostAddr)
	}
	return r
}

// noteOwner adds the ports of a published port to those whose owner is known.
func noteOwner(owners map[uplink.PublishedPort]frame.PortID, p *publish) {
	proto, _ := frame.ProtoNumber(p.Proto)
	for port := int(p.Lo); port <= int(p.Hi); port++ {
		k := uplink.PublishedPort{Proto: proto, Port: uint16(port)}
		if other, ok := owners[k]; ok && other != p.port.ID {
			owners[k] = frame.NoPort // by addresses of the host
		} else {
			owners[k] = p.port.ID
		}
	}
}

// note adds a rule's ports to the published ones.
func note[A frame.Address](published uplink.Published[A], x *nat.PublishOf[A]) {
	if published[x.HostAddr] == nil {
		published[x.HostAddr] = map[uint8]*nat.PortSet{frame.TCP: nat.NewPortSet(), frame.UDP: nat.NewPortSet(), frame.SCTP: nat.NewPortSet()}
	}
	published[x.HostAddr][x.Proto].AddRange(x.Lo, x.Hi)
}

// poolsLocked are the ports of the host's addresses that NAT may use, by what refreshNATPorts has read. more has ports that are about to be published.
func (d *Daemon) poolsLocked(more ...*model.Publish) [2]*nat.PortSet {
	for _, p := range d.publishes {
		more = append(more, &p.Publish)
	}
	state := d.State()
	return natports.Pools(d.config.Uplink.Ports, d.hostUses, func(a netip.Addr) bool { return state.NetworkOf(a) != nil }, more)
}

// hostProtocolsLocked are the IP protocols without ports that the host itself uses, by tunnels, IPsec or raw sockets.
func (d *Daemon) hostProtocolsLocked() (protocols []uint8) {
	if !d.usesBPF() {
		return nil
	}
	s, _ := d.up.State()
	protocols = slices.Clone(s.Tunnels)
	for _, l := range d.hostUses {
		if p := uint8(l.Port); l.Proto == "raw" && l.Port < 255 && p != frame.ICMP && !frame.HasPorts(p) {
			protocols = append(protocols, p)
		}
	}
	slices.Sort(protocols)
	return slices.Compact(protocols)
}

// refreshNATPorts keeps NAT's ports clear of those that the host begins to use.
func (d *Daemon) refreshNATPorts(ctx context.Context) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			d.follow("reading the host's ports", func() {
				if d.readUsedPortsLocked(); d.config.Uplink.Kind == model.KindTAP { // nothing tells when a neighbor on the host is flushed
					d.refreshUplinkLocked()
				}
				d.updateRulesLocked()
			})
		}
	}
}

// familyCounts are the counters of a rule: of IPv4 and of IPv6.
type familyCounts [2]*nat.RuleCount

func newFamilyCounts() familyCounts { return familyCounts{{}, {}} }

func (c familyCounts) load() (n [2]Count) {
	for i := range n {
		n[i] = Count{c[i].Packets.Load(), c[i].Bytes.Load()}
	}
	return n
}

// A Count counts the first packets of flows.
type Count struct{ Packets, Bytes uint64 }

// A PublishCount counts what a published port has received.
type PublishCount struct {
	Families    [2]Count // by IPv4 and by IPv6
	HostClients uint64   // connections and UDP clients of the host itself
}

// Total is the sum of both families.
func (c *PublishCount) Total() Count {
	return Count{c.Families[0].Packets + c.Families[1].Packets, c.Families[0].Bytes + c.Families[1].Bytes}
}

// PublishCount returns the counters of a published port.
func (d *Daemon) PublishCount(id uint32) (c PublishCount) {
	d.mu.Lock()
	i := slices.IndexFunc(d.publishes, func(p *publish) bool { return p.ID == id })
	if i < 0 {
		d.mu.Unlock()
		return c
	}
	p := d.publishes[i]
	d.mu.Unlock()
	c = PublishCount{p.count.load(), p.relays.Clients()}
	if r, ok := p.clientRule(); ok {
		c.HostClients += d.clients.Connections(r)
	}
	return c
}
