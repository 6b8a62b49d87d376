package plan

import (
	"cmp"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
)

// Diff lists the steps from have to want, in an order in which each of them is possible: first what goes, then what changes,
// then what comes. want is made by model.Desired from have. The error names a setting that needs a restart, or a port that cannot be
// recreated.
func Diff(have, want *model.State) ([]Step, error) {
	if err := needsRestart(have, want); err != nil {
		return nil, err
	}
	d := &differ{have: have, want: want, recreated: map[object]bool{}, attached: map[string][]string{}}
	d.compare()
	for _, p := range d.goingPorts {
		if p.ByFD {
			return nil, api.Errorf(http.StatusConflict, "port %q was passed by another program (Docker, a CNI plugin) and cannot be recreated; stop what uses it first", p.Name)
		}
	}
	d.setPolicies()
	d.remove()
	d.change()
	d.add()
	d.removePolicies()
	return d.steps, nil
}

// An object is a network or a port, by name.
type object struct {
	kind objectKind
	name string
}

type objectKind uint8

const (
	network objectKind = iota
	port
)

// A differ compares two states.
type differ struct {
	have, want *model.State
	steps      []Step

	// An object that is recreated takes along what depends on it: a network its ports and routes, a port its published ports.
	recreated               map[object]bool
	newNets, changedNets    []*model.Network
	goingPorts, comingPorts []*model.Port
	changedPorts            []*model.Port
	attached                map[string][]string // policies that ports have got already
	routes                  []model.Route       // static ones through recreated networks
	neighbors               []model.Neighbor    // likewise
}

func (d *differ) step(do Action, undo ...Action) {
	d.steps = append(d.steps, Step{do, undo})
}

func (d *differ) compare() {
	for i := range d.want.Networks {
		n := &d.want.Networks[i]
		switch now := d.have.Network(n.Name); {
		case now == nil:
			d.newNets = append(d.newNets, n)
		case !now.SameSubnets(n):
			d.recreated[object{network, n.Name}] = true
			d.newNets = append(d.newNets, n)
		case now.Spec != n.Spec:
			d.changedNets = append(d.changedNets, n)
		}
	}
	for _, p := range d.wantedPorts() {
		now := d.have.Port(p.Name)
		switch {
		case now == nil:
			d.comingPorts = append(d.comingPorts, p)
		case !p.SameDevice(now) || d.recreated[object{network, p.Network}]:
			d.recreated[object{port, p.Name}] = true
			d.goingPorts, d.comingPorts = append(d.goingPorts, now), append(d.comingPorts, p)
		case p.Settings != now.Settings || !slices.Equal(p.Aliases, now.Aliases) || !slices.Equal(p.Policies, now.Policies):
			d.changedPorts = append(d.changedPorts, p)
		}
	}
	for i := range d.have.Ports {
		if p := &d.have.Ports[i]; !p.IsOwn() && d.want.Port(p.Name) == nil {
			d.goingPorts = append(d.goingPorts, p)
		}
	}
}

// wantedPorts are want's ports: those added by hand first, by name, then the configuration's in its order. Addresses are assigned
// in turn.
func (d *differ) wantedPorts() (out []*model.Port) {
	inFile := func(name string) int {
		return slices.IndexFunc(d.want.Config.Ports, func(a api.PortAdd) bool { return a.Name == name })
	}
	for i := range d.want.Ports {
		if p := &d.want.Ports[i]; !p.IsOwn() {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *model.Port) int {
		return cmp.Or(cmp.Compare(inFile(a.Name), inFile(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// setPolicies comes before every object to which a policy may be attached, and removePolicies after them.
func (d *differ) setPolicies() {
	for i := range d.want.Policies {
		p := &d.want.Policies[i]
		switch now := d.have.Policy(p.Name); {
		case now == nil:
			d.step(SetPolicy{p.Spec}, RemovePolicy{p.Name})
		case !reflect.DeepEqual(p.Spec, now.Spec):
			d.step(SetPolicy{p.Spec}, SetPolicy{now.Spec})
		}
	}
}

func (d *differ) removePolicies() {
	for i := range d.have.Policies {
		if p := &d.have.Policies[i]; d.want.Policy(p.Name) == nil {
			d.step(RemovePolicy{p.Name}, SetPolicy{p.Spec})
		}
	}
}

func (d *differ) remove() {
	want := model.PublishSetOf(d.want.Publishes)
	for _, p := range d.have.Publishes {
		if !want.Has(&p) || d.recreated[object{port, p.Port}] {
			d.step(RemovePublish{p}, AddPublish{p})
		}
	}
	for _, r := range d.have.Routes {
		if d.inFile(d.have, r) && !d.inFile(d.want, r) && !d.replaced(r) { // a route by hand to that destination stays
			d.step(RemoveRoute{r}, AddRoute{Route: r})
		}
	}
	for _, p := range d.goingPorts {
		d.step(RemovePort{p.Name}, AddPort{p.CurrentSpec()})
	}
	for _, n := range d.have.Networks {
		to := d.want.Network(n.Name)
		if to != nil && !d.recreated[object{network, n.Name}] {
			continue
		}
		d.removeNetwork(n, to)
	}
}

// replaced reports whether want has another route to r's destination, which takes r's place in one step.
func (d *differ) replaced(r model.Route) bool {
	goes := r.Network != "" && (d.want.Network(r.Network) == nil || d.recreated[object{network, r.Network}])
	return !goes && slices.ContainsFunc(d.want.Routes, func(x model.Route) bool { return x.Prefix == r.Prefix })
}

// removeNetwork removes n. to is what it is recreated as, or nil.
func (d *differ) removeNetwork(n model.Network, to *model.Network) {
	undo := []Action{AddNetwork{n.Spec}}
	for _, r := range d.have.Routes {
		if r.Network != n.Name {
			continue
		}
		undo = append(undo, AddRoute{Route: r})
		if _, err := d.want.NewRoute(r.Spec()); err == nil && to != nil && !d.inFile(d.have, r) && !d.inFile(d.want, r) {
			d.routes = append(d.routes, r)
		}
	}
	for _, x := range d.have.Neighbors {
		if x.Network != n.Name {
			continue
		}
		undo = append(undo, AddNeighbor{x})
		if to != nil && to.Usable(x.Addr) {
			d.neighbors = append(d.neighbors, x)
		}
	}
	d.step(RemoveNetwork{n.Name}, undo...)
}

// inFile reports whether the configuration of s has a route to the same destination through the same gateway.
func (d *differ) inFile(s *model.State, r model.Route) bool {
	return slices.ContainsFunc(s.Config.Routes, func(a api.RouteAdd) bool {
		p, err := model.ParseDst(a.Dst)
		return err == nil && p == r.Prefix && cmp.Or(a.Type, router.Unicast.String()) == r.Kind.String() && a.Gateway == model.AddrText(r.Gateway)
	})
}

func (d *differ) change() {
	for _, n := range d.newNets {
		d.step(AddNetwork{n.Spec}, RemoveNetwork{n.Name})
	}
	for _, p := range d.changedPorts { // a policy that moves from a network to a port is never missing
		now := d.have.Port(p.Name).Policies
		if both := union(now, p.Policies); len(d.changedNets) > 0 && len(both) > len(now) {
			d.step(SetPortPolicies{p.Name, both}, SetPortPolicies{p.Name, now})
			d.attached[p.Name] = both
		}
	}
	for _, n := range d.changedNets {
		now := d.have.Network(n.Name).Spec
		d.step(ChangeNetwork{now, n.Spec}, ChangeNetwork{n.Spec, now})
	}
	if before, after := d.have.Config.Uplink.Ports, d.want.Config.Uplink.Ports; after != before {
		d.step(SetNATPorts{after}, SetNATPorts{before})
	}
	if before, after := timers(d.have), timers(d.want); !reflect.DeepEqual(before, after) {
		d.step(SetTimers{after}, SetTimers{before})
	}
	for _, p := range d.changedPorts {
		now := d.have.Port(p.Name)
		if p.Settings != now.Settings {
			d.step(ChangePort{p.Name, p.Settings.Set()}, ChangePort{p.Name, now.Settings.Set()})
		}
		if !slices.Equal(p.Aliases, now.Aliases) {
			d.step(SetAliases{p.Name, p.Aliases}, SetAliases{p.Name, now.Aliases})
		}
		before, early := d.attached[p.Name]
		if !early {
			before = now.Policies
		}
		if !slices.Equal(p.Policies, before) {
			d.step(SetPortPolicies{p.Name, p.Policies}, SetPortPolicies{p.Name, before})
		}
	}
}

// union is a, and those of b that are not in a.
func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

func timers(s *model.State) nat.Timers {
	if t := s.Config.NAT.Timers; t.Established != 0 {
		return t
	}
	return nat.RFCTimers()
}

func (d *differ) add() {
	for _, p := range d.comingPorts {
		d.step(AddPort{d.comingSpec(p)}, RemovePort{p.Name})
	}
	have := model.PublishSetOf(d.have.Publishes)
	for _, p := range d.want.Publishes {
		if !have.Has(&p) || d.recreated[object{port, p.Port}] {
			d.step(AddPublish{p}, RemovePublish{p})
		}
	}
	for _, x := range d.neighbors { // it goes with its network
		d.step(AddNeighbor{x})
	}
	for _, r := range d.routes { // likewise
		d.step(AddRoute{Route: r, Again: true})
	}
	for _, r := range d.want.Routes {
		again := r.Network != "" && d.recreated[object{network, r.Network}]
		i := slices.IndexFunc(d.have.Routes, func(x model.Route) bool { return x.Prefix == r.Prefix })
		switch {
		case i >= 0 && d.have.Routes[i] == r && !again:
		case i >= 0 && !again:
			d.step(AddRoute{Route: r}, AddRoute{Route: d.have.Routes[i]})
		default:
			d.step(AddRoute{Route: r}, RemoveRoute{r})
		}
	}
}

// comingSpec asks for a port with the address that was found to be free.
func (d *differ) comingSpec(p *model.Port) api.PortAdd {
	now := d.have.Port(p.Name)
	byHand := !slices.ContainsFunc(d.want.Config.Ports, func(a api.PortAdd) bool { return a.Name == p.Name })
	if now != nil && byHand { // in a network that is recreated
		return now.CurrentSpec()
	}
	a := p.Spec
	if p.Addr.IsValid() && (!p.ConfiguresItself() || a.IP == api.AutoAddress) {
		a.IP = p.Addr.Addr().String()
	}
	if p.Addr6.IsValid() && (!p.ConfiguresItself() || a.IP6 == api.AutoAddress) {
		a.IP6 = p.Addr6.Addr().String()
	}
	return a
}

// needsRestart returns an error that names the settings that differ and cannot change while the switch runs. A word such as auto, and
// the value that it stood for, count as equal.
func needsRestart(have, want *model.State) error {
	was, will := &have.Config, &want.Config
	var out []string
	differ := func(what string, was, will any) {
		if was != will {
			out = append(out, fmt.Sprintf("%s (%v to %v)", what, was, will))
		}
	}
	device, kind := was.Uplink.Device, cmp.Or(was.Uplink.Kind, have.UplinkKind)
	if device != model.UplinkNone {
		if will.Uplink.Device == have.UplinkDevice {
			device = have.UplinkDevice
		}
		if will.Uplink.Kind == have.UplinkKind || will.Uplink.Kind == "" {
			kind = will.Uplink.Kind
		}
	}
	differ("uplink.device", device, will.Uplink.Device)
	if will.Uplink.Device != model.UplinkNone {
		differ("uplink.kind", kind, will.Uplink.Kind)
		differ("uplink.devices", was.Uplink.Devices, will.Uplink.Devices)
	}
	differ("host", hostText(have), hostText(want))
	differ("host.inbound", cmp.Or(was.Host.Inbound, "allow"), cmp.Or(will.Host.Inbound, "allow"))
	differ("host.cgroup", was.Host.Cgroup, will.Host.Cgroup)
	size := func(what string, was, will, found int) { // what was asked for, or what it came to
		if was != will && will != found {
			differ(what, found, will)
		}
	}
	flows := func(c *model.Config) int { return cmp.Or(c.NAT.Flows, nat.DefaultFlows) }
	flows6 := func(c *model.Config) int { return cmp.Or(c.NAT.Flows6, nat.DefaultFlows6(flows(c))) }
	size("nat.flows", flows(was), flows(will), have.FlowLimit)
	size("nat.flows6", flows6(was), flows6(will), have.FlowLimit6)
	size("nat.flows_per_port", was.NAT.FlowsPerPort, will.NAT.FlowsPerPort, have.FlowQuotaLimit)
	words := map[bool]string{true: "strict", false: "liberal"}
	differ("nat.windows", words[was.NAT.Strict], words[will.NAT.Strict])
	if len(out) > 0 {
		return api.Errorf(http.StatusConflict, "these settings cannot change while the switch runs: %s; restart the switch", strings.Join(out, ", "))
	}
	return nil
}

func hostText(s *model.State) string {
	if h := s.Port(model.HostPortName); h != nil {
		return h.Addr.Addr().String()
	}
	return "off"
}
