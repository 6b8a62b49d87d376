package control

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/hostports"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/tap"
)

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
	p := &planner{d: d, want: want, remade: map[string]bool{}}
	p.compare()
	if err := p.possible(); err != nil {
		return nil, err
	}
	p.takeAway()
	p.change()
	p.add()
	return p.steps, nil
}

// A planner compares the running switch, d, with the shadow of what it is to be, want, whose options are the new ones.
type planner struct {
	d, want *Daemon
	steps   []step

	// What is replaced takes along what hangs on it: a network its ports and routes, a port what is published of it.
	remade                     map[string]bool // "network N", "port N"
	newNets, changedNets       []*network
	oldPorts, newPorts, turned []*port
	routes                     []api.RouteAdd // by hand, by networks that are made anew
	neighbors                  []api.NeighborAdd
}

func (p *planner) step(text string, do, undo func() error) {
	p.steps = append(p.steps, step{text, do, undo})
}

func (p *planner) compare() {
	d := p.d
	for _, n := range p.want.networkList() {
		switch have := d.networks[n.name]; {
		case have == nil:
			p.newNets = append(p.newNets, n)
		case have.prefix != n.prefix || have.gateway != n.gateway:
			p.remade["network "+n.name] = true
			p.newNets = append(p.newNets, n)
		case have.asked != n.asked:
			p.changedNets = append(p.changedNets, n)
		}
	}
	for _, x := range p.want.inOrder() {
		have := d.ports[x.name]
		switch {
		case x.kind == kindHost:
		case have == nil:
			p.newPorts = append(p.newPorts, x)
		case x.conn != have.conn || p.remade["network "+x.net.name]: // a shadow of the one that there is has its wire
			p.remade["port "+x.name] = true
			p.oldPorts, p.newPorts = append(p.oldPorts, have), append(p.newPorts, x)
		case x.knobs != have.knobs:
			p.turned = append(p.turned, x)
		}
	}
	for _, x := range d.portList() {
		if p.want.ports[x.name] == nil && x.kind != kindUplink && x.kind != kindHost {
			p.oldPorts = append(p.oldPorts, x)
		}
	}
}

// possible looks at the host for what would make a step fail.
func (p *planner) possible() error {
	if ranges := p.want.opts.NATPorts; ranges != p.d.opts.NATPorts && noneLeft(ranges) {
		return api.Errorf(http.StatusBadRequest, "uplink.ports: the host's kernel picks all of %s for its own connections; NAT would have none", ranges)
	}
	for _, x := range p.oldPorts {
		if x.handed {
			return api.Errorf(http.StatusConflict, "port %q was handed over by another program (Docker, a CNI plugin), and could not be made anew; stop what uses it first", x.name)
		}
	}
	for _, x := range p.newPorts {
		if x.kind == kindDevice {
			if _, err := tap.Inspect(tap.Own, x.ifname); err != nil {
				return fmt.Errorf("port %q: %w", x.name, explain(err))
			}
		} else if _, err := tap.NamespacePath(x.netns); !x.isVM() && err != nil {
			return api.Errorf(http.StatusNotFound, "port %q: %v", x.name, err)
		}
	}
	for _, r := range p.want.rules {
		ours := slices.ContainsFunc(p.d.rules, func(x *rule) bool { return x.proto == r.proto && x.lo <= r.hi && r.lo <= x.hi })
		if !hasRule(p.d.rules, r) && !ours { // else its own listeners are there
			if err := p.d.checkHostPorts(r); err != nil {
				return fmt.Errorf("publish %s: %w", r.asked.Spec, err)
			}
		}
	}
	return nil
}

func (p *planner) takeAway() {
	d := p.d
	for _, r := range d.rules {
		if !hasRule(p.want.rules, r) || p.remade["port "+r.asked.Port] {
			p.step("unpublish "+ruleText(r), func() error { return d.deletePublish(r.hostPorts() + "/" + r.proto) }, func() error { _, err := d.addPublish(r.asked); return err })
		}
	}
	for _, a := range d.opts.Routes {
		if !slices.Contains(p.want.opts.Routes, a) && d.isRoute(a) { // another to that destination is by hand
			p.step("remove "+routeAsked(a), func() error { return d.deleteRoute(a.Dst) }, func() error { return d.addRoute(replacing(a)) })
		}
	}
	for _, x := range p.oldPorts {
		back := d.asItIs(x)
		p.step("remove port "+x.name, func() error { return d.deletePort(x.name) }, func() error { _, err := d.addPort(back, nil); return err })
	}
	for _, n := range d.networkList() {
		to := p.want.networks[n.name]
		if to != nil && !p.remade["network "+n.name] {
			continue
		}
		restore := d.restorer(n)
		p.step("remove network "+n.name, func() error { return d.deleteNetwork(n.name) }, func() error {
			if err := d.addNetwork(n.asked); err != nil {
				return err
			}
			return restore()
		})
		if to == nil {
			continue
		}
		p.routes = append(p.routes, d.routesBy(n, p.want)...)
		for _, x := range d.neighborsByHand(n) {
			if a, err := netip.ParseAddr(x.Dst); err == nil && usable(to.prefix, a) {
				p.neighbors = append(p.neighbors, x)
			}
		}
	}
}

func (p *planner) change() {
	d, o := p.d, &p.want.opts
	for _, n := range p.newNets {
		p.step(fmt.Sprintf("add network %s, %s", n.name, n.prefix), func() error { return d.addNetwork(n.asked) }, func() error { return d.deleteNetwork(n.name) })
	}
	for _, n := range p.changedNets {
		old := d.networks[n.name].asked
		p.step("change network "+n.name+": "+difference(old, n.asked), func() error { return d.changeNetwork(n.asked) }, func() error { return d.changeNetwork(old) })
	}
	if before, after := d.opts.NATPorts, o.NATPorts; after != before {
		p.step("give out ports "+after, func() error { return d.setNATPorts(after) }, func() error { return d.setNATPorts(before) })
	}
	if before, after := withDefault(d.opts.Timers), withDefault(o.Timers); !reflect.DeepEqual(before, after) {
		p.step("change time-outs", func() error { d.setTimers(after); return nil }, func() error { d.setTimers(before); return nil })
	}
	for _, x := range p.turned {
		was := d.ports[x.name].set()
		p.step("turn knobs of port "+x.name, func() error { return d.setPort(x.name, x.set()) }, func() error { return d.setPort(x.name, was) })
	}
}

func (p *planner) add() {
	d, o := p.d, &p.want.opts
	for _, x := range p.newPorts {
		ask := x.asked
		if have := d.ports[x.name]; have != nil && !slices.ContainsFunc(o.Ports, func(a api.PortAdd) bool { return a.Name == x.name }) {
			ask = d.asItIs(have) // by hand, in a network that is made anew
		} else if x.addr.IsValid() && !x.bringsItsOwn() {
			ask.IP = x.addr.Addr().String() // that was found to be free
		}
		p.step("add port "+x.name, func() error { _, err := d.addPort(ask, nil); return err }, func() error { return d.deletePort(x.name) })
	}
	for _, r := range p.want.rules {
		if !hasRule(d.rules, r) || p.remade["port "+r.asked.Port] {
			p.step("publish "+ruleText(r), func() error { _, err := d.addPublish(r.asked); return err }, func() error { return d.deletePublish(r.hostPorts() + "/" + r.proto) })
		}
	}
	withNetwork := func() error { return nil } // it goes with its network
	for _, a := range p.neighbors {
		p.step("add neighbor "+a.Dst+" again", func() error { return d.addNeighbor(a) }, withNetwork)
	}
	for _, a := range p.routes {
		p.step("add "+routeAsked(a)+" again", func() error { return d.addRoute(replacing(a)) }, withNetwork)
	}
	for _, a := range o.Routes {
		rt, err := p.want.checkRoute(a)
		anew := err == nil && a.Gateway != "" && p.remade["network "+p.want.networkName(rt.Egress)]
		if !anew && d.isRoute(a) {
			continue
		}
		back := func() error { return ignoreMissing(d.deleteRoute(a.Dst)) }
		if old, ok := d.liveRoute(a.Dst); ok && !anew {
			back = func() error { return d.addRoute(replacing(old)) }
		}
		p.step("add "+routeAsked(a), func() error { return d.addRoute(replacing(a)) }, back)
	}
}

func hasRule(list []*rule, r *rule) bool {
	return slices.ContainsFunc(list, func(x *rule) bool { return sameRule(x, r) })
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
	size := func(what string, was, will, real int) { // what was asked for, or what it came to
		if was != will && will != real {
			differ(what, real, will)
		}
	}
	size("nat.flows", cmp.Or(d.opts.Flows, nat.DefaultFlows), cmp.Or(o.Flows, nat.DefaultFlows), d.dp.NAT.Limit())
	size("nat.flows_per_port", cmp.Or(d.opts.FlowsPerPort, nat.DefaultFlowsPerPort), cmp.Or(o.FlowsPerPort, nat.DefaultFlowsPerPort), d.dp.NAT.FlowQuota())
	words := map[bool]string{true: "strict", false: "liberal"}
	differ("nat.windows", words[d.opts.Strict], words[o.Strict])
	return out
}

// asItIs asks for a port as it is now, with its address and its knobs.
func (d *Daemon) asItIs(p *port) api.PortAdd {
	a := p.asked
	a.Set = p.set()
	if p.addr.IsValid() {
		a.IP = p.addr.Addr().String()
	}
	if p.kind != kindDevice {
		a.MTU = p.mtu
	}
	return a
}

// routesBy are the routes by hand through a network that will be made anew, as far as their gateways are of it then.
func (d *Daemon) routesBy(n *network, want *Daemon) (out []api.RouteAdd) {
	for _, r := range d.dp.Router.Routes() {
		if r.Egress != n.id || r.Kind != router.Unicast || d.ownRoute(r.Prefix) != nil {
			continue
		}
		a := api.RouteAdd{Dst: r.Prefix.String(), Gateway: r.NextHop.String()}
		if _, err := want.checkRoute(a); err == nil && !slices.ContainsFunc(append(slices.Clone(want.opts.Routes), d.opts.Routes...), func(x api.RouteAdd) bool { return x.Dst == a.Dst }) {
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

// noneLeft tells whether the kernel picks every port of these ranges for the host's own connections.
func noneLeft(ranges string) bool {
	list, err := ParseRanges(ranges)
	eph := hostports.Ephemeral()
	return err == nil && !slices.ContainsFunc(list, func(r [2]uint16) bool { return r[0] < eph[0] || r[1] > eph[1] })
}

// liveRoute is the route to exactly dst that is in force.
func (d *Daemon) liveRoute(dst string) (api.RouteAdd, bool) {
	p, err := parseDst(dst)
	list := d.dp.Router.Routes()
	i := slices.IndexFunc(list, func(r router.Route) bool { return r.Prefix == p })
	if err != nil || i < 0 {
		return api.RouteAdd{}, false
	}
	a := api.RouteAdd{Dst: dst, Type: list[i].Kind.String()}
	if list[i].Kind == router.Unicast {
		a.Gateway = list[i].NextHop.String()
	}
	return a, true
}

// isRoute tells whether what a asks for is in force.
func (d *Daemon) isRoute(a api.RouteAdd) bool {
	live, ok := d.liveRoute(a.Dst)
	return ok && live.Gateway == a.Gateway && live.Type == cmp.Or(a.Type, router.Unicast.String())
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

func routeAsked(a api.RouteAdd) string {
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
