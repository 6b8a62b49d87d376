package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/hostports"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

// A reload makes the switch what a file says, while it runs: what the file says is there afterwards, what only the file
// before said is gone, and what was added by hand stays. All of it is checked before anything is touched; should a step
// fail even so, those before it are taken back.

// Check tells whether what o says about networks, ports, published ports and routes can be at all. It touches nothing, and
// knows nothing of the host.
func Check(o Options) error {
	_, err := shadow(o, nil)
	return err
}

// shadow is a daemon without a dataplane that has what o says, and those networks, ports and published ports of d that were
// added by hand. What the file says of a port that is there and may stay is that port.
func shadow(o Options, d *Daemon) (*Daemon, error) {
	if _, err := ParseRanges(o.NATPorts); err != nil {
		return nil, err
	}
	s := &Daemon{opts: o, networks: map[string]*network{}, ports: map[string]*port{}}
	for i, a := range append([]api.NetworkAdd{o.Default}, o.Networks...) {
		n, err := s.settle(a)
		if err == nil {
			err = s.fits(n)
		}
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", a.Name, err)
		}
		n.id = frame.NetID(i + 1)
		s.networks[n.name] = n
	}
	if o.Host {
		n := s.networks[DefaultNetwork]
		addr, err := hostAddr(n, o.HostAddr)
		if err != nil {
			return nil, err
		}
		s.ports[hostPort] = &port{name: hostPort, kind: kindHost, net: n, mac: macFor(addr), addr: netip.PrefixFrom(addr, n.prefix.Bits())}
	}
	if d != nil {
		if err := s.keepByHand(d); err != nil {
			return nil, err
		}
	}
	for _, a := range o.Ports {
		p, err := s.shadowPort(a, d)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", a.Name, err)
		}
		s.ports[p.name] = p
	}
	for _, a := range o.Publish {
		if err := s.shadowPublish(a); err != nil {
			return nil, fmt.Errorf("publish %s: %w", a.Spec, err)
		}
	}
	if d != nil {
		for _, r := range d.rules {
			if _, there := s.ports[r.asked.Port]; !there || ruleIn(d.opts.Publish, r) || ruleIn(o.Publish, r) {
				continue
			}
			if err := s.shadowPublish(r.asked); err != nil {
				return nil, fmt.Errorf("publish %s, added by hand: %w", r.asked.Spec, err)
			}
		}
	}
	seen := map[netip.Prefix]bool{}
	for _, a := range o.Routes {
		rt, err := s.checkRoute(a)
		if err == nil && seen[rt.Prefix] {
			err = api.Errorf(http.StatusConflict, "it is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", a.Dst, err)
		}
		seen[rt.Prefix] = true
	}
	return s, nil
}

// keepByHand takes over d's networks and ports that no file has said.
func (s *Daemon) keepByHand(d *Daemon) error {
	said := namesOf(append(slices.Clone(d.opts.Networks), s.opts.Networks...), func(a api.NetworkAdd) string { return a.Name })
	for _, n := range d.networkList() {
		if n.name == DefaultNetwork || slices.Contains(said, n.name) {
			continue
		}
		c := *n
		if err := s.fits(&c); err != nil {
			return fmt.Errorf("network %q, added by hand: %w", n.name, err)
		}
		s.networks[n.name] = &c
	}
	said = namesOf(append(slices.Clone(d.opts.Ports), s.opts.Ports...), func(a api.PortAdd) string { return a.Name })
	for _, p := range d.portList() {
		if p.kind == kindUplink || p.kind == kindHost || slices.Contains(said, p.name) {
			continue
		}
		c := *p
		if c.net = s.networks[p.net.name]; c.net == nil {
			return fmt.Errorf("port %q, added by hand, is in network %q, which would be gone; `uvswitch port del %s` first", p.name, p.net.name, p.name)
		}
		if p.addr.IsValid() && !usable(c.net.prefix, p.addr.Addr()) {
			return fmt.Errorf("port %q, added by hand, has address %s, which is not of network %q any more", p.name, p.addr, p.net.name)
		}
		s.ports[p.name] = &c
	}
	return nil
}

// shadowPort is the port that a asks for: the one that d has, if that is such a one, but for its knobs.
func (s *Daemon) shadowPort(a api.PortAdd, d *Daemon) (*port, error) {
	var have *port
	if d != nil {
		have = d.ports[a.Name]
	}
	if n := s.networks[cmp.Or(a.Network, DefaultNetwork)]; have != nil && n != nil && have.net != nil && have.net.name == n.name && have.net.prefix == n.prefix && have.net.gateway == n.gateway {
		if _, taken := s.ports[a.Name]; taken {
			return nil, api.Errorf(http.StatusConflict, "it is there twice")
		}
		asked := a
		if have.addr.IsValid() && (a.IP == "" && have.kind != kindDevice || a.IP == "auto") {
			asked.IP = have.addr.Addr().String() // the one it has been given is as good
		}
		if a.MTU == 0 && have.asked.MTU == 0 {
			asked.MTU = have.mtu // what its network had when it was made
		}
		if have.kind == kindDevice {
			asked.MTU = 0
		}
		p, err := s.checkPort(asked)
		if err != nil {
			return nil, err
		}
		if p.kind == kindDevice {
			p.mtu = have.mtu // the device's own
			if a.MAC == "" {
				p.mac = have.mac
			}
		}
		flags := p.flags
		c := *have
		c.net, c.asked = n, a
		if p.kind == have.kind && p.netns == have.netns && p.ifname == have.ifname && p.addr == have.addr && p.mac == have.mac && p.mtu == have.mtu && a.NoRoute == have.asked.NoRoute {
			c.flags = withoutSaid(have, a.Set)&^knobMask(a.Set) | flags&knobMask(a.Set)
			return &c, nil
		}
	}
	return s.checkPort(a)
}

// withoutSaid are the flags of a port with those knobs at their defaults that the file before turned and set does not.
func withoutSaid(p *port, set api.PortSet) vswitch.PortFlags {
	was := knobMask(p.asked.Set) &^ knobMask(set)
	defaults := vswitch.DefaultFlags
	if p.addr.IsValid() {
		defaults |= vswitch.Guard
	}
	return p.flags&^was | defaults&was
}

// knobMask are the flags that set speaks of.
func knobMask(set api.PortSet) (m vswitch.PortFlags) {
	for _, n := range flagNames {
		if _, said := set[n.name]; said {
			m |= n.flag
		}
	}
	return m
}

func (s *Daemon) shadowPublish(a api.PublishAdd) error {
	r, err := ruleOf(a)
	if err != nil {
		return err
	}
	if r.port = s.ports[a.Port]; r.port == nil {
		return noPort(a.Port)
	}
	if err := s.checkPublish(r); err != nil {
		return err
	}
	s.rules = append(s.rules, r)
	return nil
}

// sameRule tells whether two published ports are the same, however they were written.
func sameRule(a, b *rule) bool {
	return a.hostAddr == b.hostAddr && a.lo == b.lo && a.hi == b.hi && a.proto == b.proto && a.target == b.target && a.asked.Port == b.asked.Port && slices.Equal(a.from, b.from)
}

// ruleIn tells whether r is among what a file says.
func ruleIn(list []api.PublishAdd, r *rule) bool {
	return slices.ContainsFunc(list, func(a api.PublishAdd) bool {
		x, err := ruleOf(a)
		return err == nil && sameRule(x, r)
	})
}

func namesOf[T any](list []T, name func(T) string) (out []string) {
	for _, x := range list {
		out = append(out, name(x))
	}
	return out
}

// needsRestart names what o says otherwise than the running switch and only a restart changes. Words for what was found out,
// such as auto, and what was found are the same. mu is held.
func (d *Daemon) needsRestart(o *Options, want *Daemon) (out []string) {
	differ := func(what string, was, will any) {
		if was != will {
			out = append(out, fmt.Sprintf("%s (%v to %v)", what, was, will))
		}
	}
	device, kind := d.opts.Uplink, d.opts.UplinkKind
	if d.up != nil {
		s, k := d.up.State()
		if o.Uplink == s.Device {
			device = s.Device
		}
		if o.UplinkKind == k || o.UplinkKind == uplink.Auto {
			kind = o.UplinkKind
		}
	}
	differ("uplink.device", device, o.Uplink)
	if o.Uplink != "none" {
		differ("uplink.kind", kind, o.UplinkKind)
	}
	host := func(x *Daemon) string {
		if h := x.ports[hostPort]; h != nil {
			return h.addr.Addr().String()
		}
		return "off"
	}
	differ("host", host(d), host(want))
	flows := func(n int) int { return cmp.Or(n, nat.DefaultFlows) }
	differ("nat.flows", d.dp.NAT.Limit(), flows(o.Flows))
	differ("nat.flows_per_port", d.dp.NAT.FlowQuota(), min(cmp.Or(o.FlowsPerPort, nat.DefaultFlowsPerPort), flows(o.Flows)))
	words := map[bool]string{true: "strict", false: "liberal"}
	differ("nat.windows", words[d.opts.Strict], words[o.Strict])
	return out
}

// A step of a reload. undo takes it back.
type step struct {
	text     string
	do, undo func() error
}

// plan lists what is to be done so that the switch is what o says. mu is held.
func (d *Daemon) plan(o Options) ([]step, error) {
	if n, err := d.settle(o.Default); err == nil {
		if now := d.networks[DefaultNetwork]; now.prefix != n.prefix || now.gateway != n.gateway {
			return nil, api.Errorf(http.StatusConflict, "while the switch runs the subnet and gateway of network %s cannot change (%s, %s to %s, %s); restart it", n.name, now.prefix, now.gateway, n.prefix, n.gateway)
		}
	}
	want, err := shadow(o, d)
	if err != nil {
		return nil, err
	}
	if fixed := d.needsRestart(&o, want); len(fixed) > 0 {
		return nil, api.Errorf(http.StatusConflict, "while the switch runs these cannot change: %s; restart it", strings.Join(fixed, ", "))
	}
	var steps []step
	add := func(text string, do, undo func() error) { steps = append(steps, step{text, do, undo}) }

	// What is replaced takes along what hangs on it: a network its ports and routes, a port what is published of it.
	remade := map[string]bool{} // networks and ports
	var newNets, changedNets []*network
	for _, n := range want.networkList() {
		switch have := d.networks[n.name]; {
		case have == nil:
			newNets = append(newNets, n)
		case have.prefix != n.prefix || have.gateway != n.gateway:
			remade["network "+n.name] = true
			newNets = append(newNets, n)
		case have.asked != n.asked:
			changedNets = append(changedNets, n)
		}
	}
	var newPorts, oldPorts, turned []*port
	for _, p := range want.inOrder() {
		have := d.ports[p.name]
		switch {
		case p.kind == kindHost:
		case have == nil:
			newPorts = append(newPorts, p)
		case p.conn != have.conn || remade["network "+p.net.name]: // a shadow of the one that there is has its wire
			remade["port "+p.name] = true
			oldPorts, newPorts = append(oldPorts, have), append(newPorts, p)
		case p.flags != have.flags:
			turned = append(turned, p)
		}
	}
	for _, p := range d.portList() {
		if want.ports[p.name] == nil && p.kind != kindUplink && p.kind != kindHost {
			oldPorts = append(oldPorts, p)
		}
	}
	has := func(list []*rule, r *rule) bool {
		return slices.ContainsFunc(list, func(x *rule) bool { return sameRule(x, r) })
	}
	for _, r := range d.rules {
		if !has(want.rules, r) || remade["port "+r.asked.Port] {
			add("unpublish "+ruleText(r), func() error { return d.deletePublish(r.hostPorts() + "/" + r.proto) }, func() error { _, err := d.addPublish(r.asked); return err })
		}
	}
	for _, a := range d.opts.Routes {
		if !slices.Contains(o.Routes, a) && d.hasRoute(a.Dst) {
			add("remove "+routeOf(a), func() error { return d.deleteRoute(a.Dst) }, func() error { return d.addRoute(replacing(a)) })
		}
	}
	for _, p := range oldPorts {
		back := d.asItIs(p)
		add("remove port "+p.name, func() error { return d.deletePort(p.name) }, func() error { _, err := d.addPort(back); return err })
	}
	var lost []api.RouteAdd // by networks that are made anew
	var strangers []api.NeighborAdd
	for _, n := range d.networkList() {
		if want.networks[n.name] != nil && !remade["network "+n.name] {
			continue
		}
		restore := d.restorer(n)
		add("remove network "+n.name, func() error { return d.deleteNetwork(n.name) }, func() error {
			if err := d.addNetwork(n.asked); err != nil {
				return err
			}
			return restore()
		})
		if want.networks[n.name] != nil {
			lost = append(lost, d.routesBy(n, want)...)
			for _, x := range d.neighborsByHand(n) {
				if a, err := netip.ParseAddr(x.Dst); err == nil && usable(want.networks[n.name].prefix, a) {
					strangers = append(strangers, x)
				}
			}
		}
	}
	for _, n := range newNets {
		add(fmt.Sprintf("add network %s, %s", n.name, n.prefix), func() error { return d.addNetwork(n.asked) }, func() error { return d.deleteNetwork(n.name) })
	}
	for _, n := range changedNets {
		old := d.networks[n.name].asked
		add("change network "+n.name+": "+difference(old, n.asked), func() error { return d.changeNetwork(n.asked) }, func() error { return d.changeNetwork(old) })
	}
	if before := d.opts.NATPorts; o.NATPorts != before {
		if noneLeft(o.NATPorts) {
			return nil, api.Errorf(http.StatusBadRequest, "uplink.ports: the host's kernel picks all of %s for its own connections; NAT would have none", o.NATPorts)
		}
		add("give out ports "+o.NATPorts, func() error { return d.setNATPorts(o.NATPorts) }, func() error { return d.setNATPorts(before) })
	}
	if before, after := withDefault(d.opts.Timers), withDefault(o.Timers); !reflect.DeepEqual(before, after) {
		add("change time-outs", func() error { d.setTimers(after); return nil }, func() error { d.setTimers(before); return nil })
	}
	for _, p := range newPorts {
		add("add port "+p.name, func() error { _, err := d.addPort(p.asked); return err }, func() error { return d.deletePort(p.name) })
	}
	for _, p := range turned {
		was := api.PortSet(flagMap(d.ports[p.name].flags))
		add("turn knobs of port "+p.name, func() error { return d.setPort(p.name, flagMap(p.flags)) }, func() error { return d.setPort(p.name, was) })
	}
	for _, p := range newPorts {
		if p.kind == kindDevice {
			if _, err := tap.Inspect(tap.Own, p.ifname); err != nil {
				return nil, fmt.Errorf("port %q: %w", p.name, explain(err))
			}
		} else if _, err := tap.NamespacePath(p.netns); err != nil {
			return nil, api.Errorf(http.StatusNotFound, "port %q: %v", p.name, err)
		}
	}
	for _, r := range want.rules {
		ours := slices.ContainsFunc(d.rules, func(x *rule) bool { return x.proto == r.proto && x.lo <= r.hi && r.lo <= x.hi })
		if !has(d.rules, r) && !ours { // else its own listeners are there
			if err := d.checkHostPorts(r); err != nil {
				return nil, fmt.Errorf("publish %s: %w", r.asked.Spec, err)
			}
		}
		if !has(d.rules, r) || remade["port "+r.asked.Port] {
			add("publish "+ruleText(r), func() error { _, err := d.addPublish(r.asked); return err }, func() error { return d.deletePublish(r.hostPorts() + "/" + r.proto) })
		}
	}
	for _, a := range strangers {
		add("add neighbor "+a.Dst+" again", func() error { return d.addNeighbor(a) }, func() error { return nil }) // its network goes
	}
	for _, a := range lost {
		add("add "+routeOf(a)+" again", func() error { return d.addRoute(replacing(a)) }, func() error { return nil }) // its network goes
	}
	for _, a := range o.Routes {
		rt, err := want.checkRoute(a)
		anew := err == nil && a.Gateway != "" && remade["network "+want.networkName(rt.Egress)]
		if anew || !slices.Contains(d.opts.Routes, a) || !d.hasRoute(a.Dst) {
			add("add "+routeOf(a), func() error { return d.addRoute(replacing(a)) }, func() error { return ignoreMissing(d.deleteRoute(a.Dst)) })
		}
	}
	return steps, nil
}

// inOrder lists the ports of a shadow: those by hand, then the file's as it has them, since addresses are chosen in turn.
func (s *Daemon) inOrder() (out []*port) {
	said := namesOf(s.opts.Ports, func(a api.PortAdd) string { return a.Name })
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		if !slices.Contains(said, name) {
			out = append(out, s.ports[name])
		}
	}
	for _, name := range said {
		out = append(out, s.ports[name])
	}
	return out
}

// asItIs asks for a port as it is now, with its address and its knobs.
func (d *Daemon) asItIs(p *port) api.PortAdd {
	a := p.asked
	a.Set = flagMap(p.flags)
	if p.addr.IsValid() {
		a.IP = p.addr.Addr().String()
	}
	return a
}

// routesBy are the routes by hand or file through a network that will be made anew, as far as their gateways are of it then.
func (d *Daemon) routesBy(n *network, want *Daemon) (out []api.RouteAdd) {
	for _, r := range d.dp.Router.Routes() {
		if r.Egress != n.id || r.Kind != router.Unicast || d.ownRoute(r.Prefix) != nil {
			continue
		}
		a := api.RouteAdd{Dst: r.Prefix.String(), Gateway: r.NextHop.String()}
		if _, err := want.checkRoute(a); err == nil && !slices.ContainsFunc(want.opts.Routes, func(x api.RouteAdd) bool { return x.Dst == a.Dst }) {
			out = append(out, a)
		}
	}
	return out
}

func (d *Daemon) neighborsByHand(n *network) (out []api.NeighborAdd) {
	for _, x := range d.dp.Router.Neighbors() {
		if _, bound := d.holder(n, x.Addr.Netip()); x.Net == n.id && x.State == router.Permanent && !bound {
			out = append(out, api.NeighborAdd{Dst: x.Addr.String(), Lladdr: x.MAC.String()})
		}
	}
	return out
}

// restorer gives back what goes with a network, should it come back: routes and neighbors by hand.
func (d *Daemon) restorer(n *network) func() error {
	var routes []api.RouteAdd
	for _, r := range d.dp.Router.Routes() {
		if r.Egress == n.id && r.Kind == router.Unicast && d.ownRoute(r.Prefix) == nil {
			routes = append(routes, api.RouteAdd{Dst: r.Prefix.String(), Gateway: r.NextHop.String(), Replace: true})
		}
	}
	neighbors := d.neighborsByHand(n)
	return func() error {
		var errs []error
		for _, a := range routes {
			errs = append(errs, d.addRoute(a))
		}
		for _, a := range neighbors {
			errs = append(errs, d.addNeighbor(a))
		}
		return errors.Join(errs...)
	}
}

// Reload makes the switch what o says; with dry it only says what would be done. Either all of it is done, or an error
// tells why nothing is.
func (d *Daemon) Reload(o Options, dry bool) (done api.Reload, err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.mu.Lock()
	steps, err := d.plan(o)
	d.mu.Unlock()
	done.Changes = namesOf(steps, func(s step) string { return s.text })
	if done.Changes == nil {
		done.Changes = []string{}
	}
	if err != nil || dry {
		return done, err
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			problems := d.undo(steps[:i])
			return api.Reload{}, api.Errorf(http.StatusConflict, "%s: %v; %s", s.text, err, problems)
		}
	}
	d.mu.Lock()
	d.opts.Networks, d.opts.Default, d.opts.Ports, d.opts.Publish, d.opts.Routes = o.Networks, o.Default, o.Ports, o.Publish, o.Routes
	d.opts.NATPorts, d.opts.Timers, d.opts.Mapping, d.opts.Filtering = o.NATPorts, o.Timers, o.Mapping, o.Filtering
	d.mu.Unlock()
	d.log.Info("reloaded", "changes", len(steps))
	return done, nil
}

// reloadOnHangup reloads the switch's own file each time it is asked to; what is wrong is logged.
func (d *Daemon) reloadOnHangup(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.opts.Hangup:
			o, err := d.opts.Load(nil)
			if err == nil {
				_, err = d.Reload(o, false)
			}
			if err != nil {
				d.log.Error("reload", "error", err)
			}
		}
	}
}

// undo takes steps back, the last first, and says how it went.
func (d *Daemon) undo(steps []step) string {
	var failed []string
	for _, s := range slices.Backward(steps) {
		if err := s.undo(); err != nil {
			failed = append(failed, fmt.Sprintf("%s could not be taken back: %v", s.text, err))
		}
	}
	if len(failed) == 0 && !slices.ContainsFunc(steps, func(s step) bool { return strings.HasPrefix(s.text, "remove ") }) {
		return "nothing has changed"
	}
	if len(failed) == 0 {
		return "everything has been taken back; what had been removed was made anew, and its flows begin again"
	}
	d.log.Error("reload", "error", strings.Join(failed, "; "))
	return strings.Join(failed, "; ")
}

// noneLeft tells whether the kernel picks every port of these ranges for the host's own connections.
func noneLeft(ranges string) bool {
	list, err := ParseRanges(ranges)
	eph := hostports.Ephemeral()
	return err == nil && !slices.ContainsFunc(list, func(r [2]uint16) bool { return r[0] < eph[0] || r[1] > eph[1] })
}

func (d *Daemon) setTimers(t nat.Timers) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Timers = t
	d.dp.NAT.SetTimers(t)
}

func (d *Daemon) setNATPorts(s string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.NATPorts = s
	d.updateRules()
	return nil
}

func (d *Daemon) hasRoute(dst string) bool {
	p, err := parseDst(dst)
	return err == nil && slices.ContainsFunc(d.dp.Router.Routes(), func(r router.Route) bool { return r.Prefix == p })
}

func withDefault(t nat.Timers) nat.Timers {
	if t.Established == 0 {
		return nat.RFCTimers()
	}
	return t
}

func replacing(a api.RouteAdd) api.RouteAdd {
	a.Replace = true
	return a
}

// ignoreMissing is err unless what should go had gone already.
func ignoreMissing(err error) error {
	if e, ok := err.(*api.Error); ok && e.Status == http.StatusNotFound {
		return nil
	}
	return err
}

func ruleText(r *rule) string { return fmt.Sprintf("%s to %s", r.asked.Spec, r.asked.Port) }

func routeOf(a api.RouteAdd) string {
	if a.Gateway != "" {
		return "route " + a.Dst + " via " + a.Gateway
	}
	return "route " + a.Type + " " + a.Dst
}

// difference names what differs between two settings of a network.
func difference(a, b api.NetworkAdd) string {
	var out []string
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if x.Field(i).Interface() != y.Field(i).Interface() {
			out = append(out, fmt.Sprintf("%s %v to %v", strings.ToLower(x.Type().Field(i).Name), x.Field(i), y.Field(i)))
		}
	}
	return strings.Join(out, ", ")
}
