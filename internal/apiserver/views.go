package apiserver

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/config"
	"github.com/uvswitch/uvswitch/internal/daemon"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/gateway"
	"github.com/uvswitch/uvswitch/internal/history"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// A view is the switch's configuration at one moment, beside its counters and tables. It holds no lock.
type view struct {
	*model.State
	d       *daemon.Daemon
	dp      *dataplane.Dataplane
	version string
	missed  func() uint64 // flow events that readers missed
	history *history.History
}

func (s *Server) view() *view {
	return &view{State: s.d.State(), d: s.d, dp: s.dp, version: s.opts.Version, missed: s.events.missed.Load, history: s.history}
}

// Status is the answer of GET /v1/status.
func (s *Server) Status() api.Status { return s.view().status() }

func (v *view) port(p *model.Port, st daemon.PortStatus) api.Port {
	out := api.Port{
		Name: p.Name, ID: int(p.ID), Network: p.Network, Kind: string(p.Kind), Ifname: cmp.Or(st.Ifname, p.Ifname), Netns: p.Netns, Container: p.Spec.Container, Tenant: p.Spec.Tenant, Aliases: p.Aliases, Policies: p.Policies, Addresses: []string{}, MTU: p.MTU,
		State: st.State, Offload: p.Offload, Flags: p.FlagMap(), NoRoute: p.Spec.NoRoute, Handed: p.ByFD, Segmented: st.Segmented,
		RxRate: p.Rx.Bits, RxBurst: model.Burst(p.Rx), TxRate: p.Tx.Bits, TxBurst: model.Burst(p.Tx), Storm: p.StormMap(),
		PortStats: api.PortStats(v.dp.PortStats(p.ID)),
	}
	out.Backend, _ = v.d.Backend()
	if p.MAC != 0 {
		out.MAC = p.MAC.String()
	}
	if p.Addr.IsValid() {
		out.Addresses = append(out.Addresses, p.Addr.String())
	}
	switch {
	case p.Leased:
		out.DHCP = api.DHCPLeased
	case p.AsksDHCP() && !p.Addr.IsValid():
		out.DHCP = api.DHCPWaiting
	}
	if p.Addr6.IsValid() {
		out.Addresses = append(out.Addresses, p.Addr6.String())
		if a, ok := v.NetworkOf(p.Addr6.Addr()).OutsideOf(p.Addr6.Addr()); ok && a != p.Addr6.Addr() {
			out.Outside6 = a.String()
		}
	}
	return out
}

func (v *view) ports() []api.Port {
	out := []api.Port{}
	status := v.d.PortStatuses()
	for i := range v.Ports {
		p := &v.Ports[i]
		out = append(out, v.port(p, status[p.Name]))
	}
	return out
}

func (v *view) onePort(r *http.Request) (any, error) {
	name := r.PathValue("name")
	p := v.Port(name)
	if p == nil {
		return nil, model.NoPort(name)
	}
	return v.port(p, v.d.PortStatuses(name)[name]), nil
}

// way says where a packet goes: by the router's table and, for the uplink, by the host's routing.
func (v *view) way(r *http.Request) (any, error) {
	dst, err := netip.ParseAddr(r.PathValue("dst"))
	if err != nil {
		return nil, badRequest("%q is not an address", r.PathValue("dst"))
	}
	dst = dst.Unmap().WithZone("")
	var src netip.Addr
	if s := r.URL.Query().Get("src"); s != "" {
		if src, err = netip.ParseAddr(s); err != nil || src.Is4() != dst.Is4() {
			return nil, badRequest("from %q is not an address of the same family as %s", s, dst)
		}
	}
	if dst.IsLinkLocalUnicast() || dst.IsMulticast() || dst.IsLoopback() || dst.IsUnspecified() {
		return api.Way{Dst: dst.String(), Type: router.Unreachable.String(), Why: "packets to this address stay on their link: no router forwards them"}, nil
	}
	rt, ok := v.dp.Router.Lookup(dst)
	x := api.Way{Dst: dst.String(), Type: rt.Kind.String(), Why: "the switch has a route to " + rt.Prefix.String()}
	switch {
	case !ok:
		x.Type, x.Why = router.Unreachable.String(), "the switch has no route to this address"
	case rt.Kind != router.Unicast && rt.Kind != router.Local:
	case rt.Egress != frame.NoNet:
		if x.Dev = v.NetworkName(rt.Egress); rt.NextHop.IsValid() {
			x.Gateway = rt.NextHop.String()
		}
	default:
		w, err := v.hostWay(src, dst)
		if err != nil {
			return nil, err
		}
		x.Why = "the routing of the host decides (`ip route get` on the host)"
		if x.Dev, x.MTU = w.Device, w.MTU; w.Code != 0 {
			x.Type, x.MTU = w.Code.String(), 0
			return x, nil
		}
		if w.Source.IsValid() { // else only packets that keep their source leave
			x.Src = w.Source.String()
		}
		if src.Is6() {
			if own, ok := v.NetworkOf(src).OutsideOf(src); ok {
				x.Src = own.String() // it keeps its address, or has one of another prefix
			}
		}
		if w.NextHop != dst {
			x.Gateway = w.NextHop.String()
		}
	}
	return x, nil
}

// hostWay is the way that the host's routing chooses; src need not be valid.
func (v *view) hostWay(src, dst netip.Addr) (uplink.Way, error) {
	if dst.Is6() {
		t := frame.Tuple6{Dst: frame.Addr6From(dst), Proto: frame.TCP}
		if src.Is6() {
			t.Src = frame.Addr6From(src)
		}
		return v.d.Way6(t, 0)
	}
	t := frame.Tuple{Dst: frame.AddrFrom(dst), Proto: frame.TCP}
	if src.IsValid() {
		t.Src = frame.AddrFrom(src)
	}
	return v.d.Way(t, 0)
}

func (v *view) networks() []api.Network {
	out, static := []api.Network{}, v.staticNames()
	for _, n := range v.Networks {
		x := api.Network{
			Name: n.Name, Subnet: n.Prefix.String(), Gateway: n.Gateway.String(), Subnet6: n.Spec.Subnet6, Gateway6: n.Spec.Gateway6, NAT6: n.Spec.NAT6, In6: n.Spec.In6, RA: n.Spec.RA, NDProxy: n.Spec.NDProxy, ProxiedOn: v.d.ProxiedOn(&n), Routes6: prefixTexts(v.d.Routes6(&n)), MAC: n.MAC.String(), MTU: n.MTU,
			Internal: n.Internal, Isolated: n.Isolated, Mapping: n.Mapping.String(), Filtering: n.Filtering.String(), Protocols: n.Protocols.String(),
			DHCP: n.Spec.DHCP, DHCPRange: n.Spec.DHCPRange, DHCPLease: n.Spec.DHCPLease, DHCPRoutes: n.Spec.DHCPRoutes.List(), DNS: n.Names.DNS, Domain: n.Names.Domain, Names: static[n.Name],
		}
		x.Policies = n.Policies
		for _, s := range n.Names.Servers {
			x.DNSServers = append(x.DNSServers, s.String())
		}
		for i := range v.Ports {
			if v.Ports[i].Network == n.Name {
				x.Ports++
			}
		}
		out = append(out, x)
	}
	return out
}

// serverText is the address of a name server. Its port follows if it is not 53.
func serverText(a netip.AddrPort) string {
	if a.Port() == 53 {
		return a.Addr().String()
	}
	return a.String()
}

// leases are the rows of `lease ls`.
func (v *view) leases(r *http.Request) (any, error) {
	out := []api.Lease{}
	kind := map[bool]string{false: "static", true: "dynamic"}
	network, port := r.URL.Query().Get("network"), r.URL.Query().Get("port")
	if network != "" && v.Network(network) == nil {
		return nil, model.NoNetwork(network)
	}
	if port != "" && v.Port(port) == nil {
		return nil, model.NoPort(port)
	}
	for _, g := range v.d.Leases() {
		if network != "" && g.Network != network || port != "" && g.Port != port {
			continue
		}
		out = append(out, api.Lease{
			Network: g.Network, Port: g.Port, Hwaddr: g.MAC, Address: g.Addr.String(), Hostname: g.Hostname, ClientID: g.ClientID, Type: kind[g.Dynamic], Expires: g.Expires.UTC().Format(time.RFC3339),
		})
	}
	return out, nil
}

// names are the rows of `dns ls`.
func (v *view) names() []api.Name {
	out := []api.Name{}
	for _, r := range v.d.Names() {
		x := api.Name{Network: r.Network.Name, Name: r.Name, FQDN: r.Name + "." + r.Network.Names.Domain, Source: string(r.From), Port: r.Port}
		for _, a := range r.Addrs {
			x.Addresses = append(x.Addresses, a.String())
		}
		out = append(out, x)
	}
	return out
}

// staticNames are the names that no port brings, by network, as in its settings.
func (v *view) staticNames() map[string][]string {
	out := map[string][]string{}
	for _, r := range v.d.Names() {
		if r.From != gateway.FromStatic {
			continue
		}
		for _, a := range r.Addrs {
			out[r.Network.Name] = append(out[r.Network.Name], r.Name+"="+a.String())
		}
	}
	return out
}

func (v *view) fdb() []api.FDBEntry {
	out := []api.FDBEntry{}
	for _, n := range v.Networks {
		out = append(out, api.FDBEntry{MAC: n.MAC.String(), Ifname: "gateway", Flags: []string{"self"}, State: "permanent", Network: n.Name, IsLocal: true})
		table := v.dp.Switch.FDB(n.ID)
		if table == nil {
			continue // removed just now
		}
		entries := table.Entries()
		now := v.dp.Now() // after the entries: none of them is from later
		slices.SortFunc(entries, func(a, b vswitch.Entry) int { return int(a.Port) - int(b.Port) })
		for _, e := range entries {
			x := api.FDBEntry{MAC: e.MAC.String(), Ifname: v.PortName(e.Port), Flags: []string{}, Network: n.Name}
			switch {
			case e.Static && x.Ifname == model.HostPortName:
				x.State, x.IsLocal = "permanent", true
			case e.Static:
				x.State = api.FDBStatic
			case e.Sticky:
				x.State, x.Flags = api.FDBSticky, []string{"sticky"}
			default:
				x.Age = float64(now-e.LastSeen) / frame.TicksPerSecond
			}
			out = append(out, x)
		}
	}
	return out
}

func (v *view) bridges(r *http.Request) (any, error) {
	out, only := []api.Bridge{}, r.FormValue("network")
	if only != "" && v.Network(only) == nil {
		return nil, model.NoNetwork(only)
	}
	status := v.d.PortStatuses()
	for _, n := range v.Networks {
		if only != "" && n.Name != only {
			continue
		}
		id := "8000." + strings.ReplaceAll(n.MAC.String(), ":", "")
		b := api.Bridge{Network: n.Name, BridgeID: id, Root: id, AgeingTime: vswitch.DefaultAgeing, Ports: []api.BridgePort{}}
		for i := range v.Ports {
			p := &v.Ports[i]
			if p.Network != n.Name {
				continue
			}
			state := daemon.Forwarding
			if status[p.Name].State != daemon.Forwarding {
				state = daemon.Disabled
			}
			b.Ports = append(b.Ports, api.BridgePort{
				Name: p.Name, Number: int(p.ID), PortID: fmt.Sprintf("%04x", 0x8000|int(p.ID)), State: state, Cost: 2, Flags: p.FlagMap(),
			})
		}
		out = append(out, b)
	}
	return out, nil
}

func (v *view) neighbors(r *http.Request) (any, error) {
	family, err := familyOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	out := []api.Neighbor{}
	for _, n := range v.dp.Router.Neighbors() {
		if !family.has(n.Addr) {
			continue
		}
		x := api.Neighbor{Dst: n.Addr.String(), Network: v.NetworkName(n.Net), State: []string{n.State.String()}, Router: n.IsRouter}
		if n.MAC != 0 {
			x.Lladdr = n.MAC.String()
		}
		out = append(out, x)
	}
	return out, nil
}

func (v *view) routes(q *http.Request) (any, error) {
	family, err := familyOf(q.URL.Query())
	if err != nil {
		return nil, err
	}
	out := []api.Route{}
	for _, r := range v.dp.Router.Routes() {
		if !family.has(r.Prefix.Addr()) {
			continue
		}
		network := v.NetworkName(r.Egress)
		x := api.Route{Dst: r.Prefix.String(), Type: r.Kind.String(), Network: network, Dev: network, ByHand: v.CheckStaticRoute(r.Prefix) == nil, Family: api.FamilyOf(r.Prefix.Addr())}
		if r.Prefix.Bits() == 0 {
			x.Dst = "default"
		}
		if r.Egress == frame.NoNet && r.Kind == router.Unicast {
			x.Dev = model.UplinkPortName
		}
		if r.NextHop.IsValid() {
			x.Gateway = r.NextHop.String()
		}
		if r.Kind == router.Local {
			x.Dev = model.HostPortName
			if x.ByHand {
				x.Type, x.Gateway = router.Unicast.String(), model.ViaHost
			}
		}
		out = append(out, x)
	}
	return out, nil
}

// targets are the addresses of a published port's container: IPv4 and IPv6. Both are invalid when the port has just been removed.
func (v *view) targets(p *model.Publish) (a [2]netip.Addr) {
	if port := v.Port(p.Port); port != nil {
		a = [2]netip.Addr{port.Addr.Addr(), port.Known6().Addr()}
	}
	return a
}

func (v *view) publish(p *model.Publish) api.Publish {
	targets := v.targets(p)
	target := targets[0]
	if p.HostAddr.Is6() || !target.IsValid() {
		target = targets[1]
	}
	x := api.Publish{
		ID: int(p.ID), HostAddress: p.HostAddr.String(), HostPort: int(p.Lo), HostPortEnd: int(p.Hi), Protocol: p.Proto,
		Port: p.Port, Address: model.AddrText(target), ContainerPort: int(p.Target), From: prefixTexts(p.From), Waits: p.StandsBy,
	}
	if p.HostAddr.IsUnspecified() && targets[1].IsValid() {
		x.Address6 = targets[1].String()
	}
	c := v.d.PublishCount(p.ID)
	x.Packets, x.Bytes, x.HostClients = c.Total().Packets, c.Total().Bytes, c.HostClients
	return x
}

func (v *view) publishes() []api.Publish {
	out := []api.Publish{}
	for i := range v.Publishes {
		out = append(out, v.publish(&v.Publishes[i]))
	}
	for i := range v.Standby {
		out = append(out, v.publish(&v.Standby[i]))
	}
	return out
}

// natRules are the rules of both families: a published port and a network have one of each family that they have an address of.
func (v *view) natRules() []api.NATRule {
	out, open := []api.NATRule{}, map[string]bool{}
	external, everywhere := [2]netip.Addr{v.External, v.External6}, [2]netip.Prefix{model.Everywhere, model.Everywhere6}
	for i := range v.Publishes {
		p := &v.Publishes[i]
		count := v.d.PublishCount(p.ID)
		for family, target := range v.targets(p) {
			host := p.HostAddr
			if host.IsUnspecified() {
				host = external[family]
			}
			if !target.IsValid() || !host.IsValid() || host.Is4() != target.Is4() {
				continue
			}
			x := api.NATRule{
				Chain: "PREROUTING", Target: "DNAT", Protocol: p.Proto, Source: everywhere[family].String(), In: "*", Out: "*",
				Destination: p.HostPortsOf(host), To: netip.AddrPortFrom(target, p.Target).String(),
			}
			x.Packets, x.Bytes = count.Families[family].Packets, count.Families[family].Bytes
			if len(p.From) > 0 {
				x.Source = strings.Join(prefixTexts(p.From), ",")
			}
			out = append(out, x)
			if own, ok := v.NetworkOf(target).OutsideOf(target); ok && p.HostAddr.IsUnspecified() { // the port is open at the container's own address, too
				there := model.Publish{Lo: p.Target, Hi: p.Target + (p.Hi - p.Lo)}
				x.Destination = there.HostPortsOf(own)
				if k := x.Protocol + x.Destination; !open[k] { // another published port may lead to the same one
					open[k], out = true, append(out, x)
				}
			}
		}
	}
	_, kind, hasUplink := v.d.Uplink()
	for _, n := range v.Networks {
		if n.Internal || !hasUplink || kind == uplink.Host || kind == uplink.Sockets { // the host's stack translates; sockets have addresses of their own
			continue
		}
		counts := v.d.MasqueradeCounts(n.Name)
		for family, p := range [2]netip.Prefix{n.Prefix, n.Prefix6} {
			if !p.IsValid() || family == 1 && !external[1].IsValid() && !n.Outside6.IsValid() {
				continue
			}
			target, to := n.NATTarget(family == 1, external[family])
			out = append(out, api.NATRule{
				Chain: "POSTROUTING", Target: target, Protocol: "all", Source: p.String(), Destination: everywhere[family].String(),
				In: "*", Out: model.UplinkPortName, To: to, Packets: counts[family].Packets, Bytes: counts[family].Bytes,
			})
		}
	}
	return out
}

func prefixTexts(list []netip.Prefix) []string {
	out := []string{}
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

func (v *view) natSettings() api.NATSettings {
	x := api.NATSettings{Windows: "liberal", FlowsPerPort: v.dp.NAT.FlowsPerPort(), Timers: config.TimerKeys(v.Config.NAT.Timers)}
	if v.Config.NAT.Strict {
		x.Windows = "strict"
	}
	return x
}

// portUse is how many outside ports are in use.
func (v *view) portUse() []api.PortUse {
	out := []api.PortUse{}
	n := v.dp.NAT
	tcpQuota, udpQuota := n.PortQuota()
	for _, of := range []struct {
		proto uint8
		quota int
		held  func(frame.PortID) int
	}{
		{frame.TCP, tcpQuota, func(id frame.PortID) int { tcp, _ := n.PortsOf(id); return tcp }},
		{frame.UDP, udpQuota, func(id frame.PortID) int { _, udp := n.PortsOf(id); return udp }},
	} {
		u := n.PortUseOf(of.proto)
		x := api.PortUse{Protocol: frame.ProtoName(of.proto), Used: u.Used, Resting: u.Resting, Limit: u.Limit, Quota: of.quota}
		x.Holders, x.Tenants = v.held(of.held)
		out = append(out, x)
	}
	return out
}

func (v *view) tables() map[string]api.Table {
	fdb := api.Table{}
	for _, n := range v.Networks {
		if t := v.dp.Switch.FDB(n.ID); t != nil {
			fdb.Used += t.Used()
			fdb.Limit += t.Limit()
		}
	}
	n := v.dp.NAT
	natPorts := api.Table{}
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		u := n.PortUseOf(proto)
		natPorts.Used += u.Used + u.Resting
		natPorts.Limit += u.Limit
	}
	four, six := n.UsedByFamily()
	most, most6 := n.Limits()
	all := map[string]api.Table{"fdb": fdb, "flows": {Used: four, Limit: most}, "flows6": {Used: six, Limit: most6}, "nat_ports": natPorts}
	if used, most, ok := v.d.Sockets(); ok {
		all["sockets"] = api.Table{Used: used, Limit: most}
	}
	return all
}

func (v *view) stats() api.Stats {
	x := api.Stats{
		Ports: map[string]api.PortStats{}, Drops: v.dp.Drops(), Tables: v.tables(), Conservation: api.Conservation(v.dp.Conservation()),
	}
	for i := range v.Ports {
		x.Ports[v.Ports[i].Name] = api.PortStats(v.dp.PortStats(v.Ports[i].ID))
	}
	x.Ports["gateway"] = api.PortStats(v.dp.PortStats(frame.Gateway))
	x.IO = v.io()
	return x
}

func (v *view) io() (all []api.WorkerIO) {
	for _, c := range v.dp.IO() {
		x := api.WorkerIO{
			CPUSeconds: float64(c.CPU) / 1e9, SpinSeconds: float64(c.Spun) / 1e9, Calls: c.Calls, Sleeps: c.Sleeps, Rearms: c.Rearms, Switches: c.Switches, Preempted: c.Preempted, Hurried: c.Hurried, Diverted: c.Diverted,
			Batches: map[string]uint64{},
		}
		for i, n := range c.Batches {
			x.Batches[api.BatchNames[i]] = n
		}
		all = append(all, x)
	}
	return all
}

func (v *view) uplink() api.Uplink {
	s, kind, ok := v.d.Uplink()
	if !ok {
		return api.Uplink{Kind: "none", State: "none", State6: "none", Promise: "containers reach each other and the host, and nothing else"}
	}
	x := api.Uplink{
		Kind: string(kind), Device: s.Device, Address: model.AddrText(s.Addr), State: "up", Why: s.Why, MTU: s.MTU, Ports: v.Config.Uplink.Ports,
		Promise: "the host's netfilter does not see container traffic; published ports have their own filter (--from)",
	}
	if used, most, ok := v.d.Sockets(); ok {
		x.Promise = fmt.Sprintf("packets leave by sockets of the switch's user, which the host's firewall and `ss` see; %d of %d sockets are in use", used, most)
	}
	for _, r := range v.dp.Router.Routes() {
		if r.Kind == router.Local && !r.Kept && v.CheckStaticRoute(r.Prefix) == nil {
			x.Promise = "the host's netfilter sees container traffic only to destinations with a route `via host`; published ports have their own filter (--from)"
		}
	}
	if !s.Up {
		x.State = "down"
	}
	x.Addresses, x.Devices, x.GivenBack = []string{}, []string{}, v.dp.NAT.GivenBack()
	x.Allowed = v.Config.Uplink.Fence()
	x.Flooded = v.d.Flooded()
	x.State6, x.Address6 = "off", model.AddrText(s.Addr6)
	if v.Config.ULA.IsValid() {
		x.State6 = "down"
	}
	if r, ok := v.dp.Router.Interface(frame.NoNet); ok && r.Up6 && s.Addr6.IsValid() {
		x.State6 = "up"
	}
	switch {
	case x.State6 != "down":
	case s.Broken6 != "":
		x.Why6 = s.Broken6
	case kind == uplink.Host && !v.Network(api.DefaultNetwork).Prefix6.IsValid():
		x.Why6 = "the host's port has no IPv6 address, since network default has no IPv6 subnet (--subnet6)"
	case (kind == uplink.Host || kind == uplink.TAP) && !s.Forwards:
		x.Why6 = "the host does not forward IPv6: net.ipv6.conf.all.forwarding is 0"
	default:
		x.Why6 = s.Why6
	}
	for _, a := range slices.Concat(s.Own, s.Own6) {
		x.Addresses = append(x.Addresses, a.String())
	}
	for _, p := range s.Local {
		x.Local = append(x.Local, p.String())
	}
	for _, w := range s.Watched {
		x.Devices = append(x.Devices, w.Name)
	}
	if kind == uplink.Host {
		x.Promise = "container traffic passes the host's own stack untranslated: its netfilter, its routing and its forwarding apply"
	}
	if kind == uplink.TAP {
		x.Promise = "the host routes container traffic by its own rules; it must forward and masquerade packets from " + x.Address
	}
	return x
}

func (v *view) status() api.Status {
	c := v.dp.Conservation()
	x := api.Status{
		Version: v.version, PID: os.Getpid(), Uptime: time.Since(v.d.Started()).Seconds(), Uplink: v.uplink(), Workers: v.dp.Workers(),
		Networks: v.networks(), Ports: len(v.Ports), Tables: v.tables(), Drops: v.dp.Drops(), Balanced: c.Balanced,
	}
	x.Backend, x.BackendWhy = v.d.Backend()
	x.Sandbox = v.d.Sandbox()
	servers, silent, err := v.d.NameServers()
	for _, a := range servers {
		x.NameServers = append(x.NameServers, serverText(a))
	}
	for _, a := range silent {
		x.SilentNames = append(x.SilentNames, serverText(a))
	}
	if err != nil {
		x.NamesWhy = err.Error()
	}
	for _, w := range v.Waiting {
		p := api.WaitingPort{Port: w.Spec.Name, Why: w.Why, Add: w.Spec}
		for _, a := range v.Config.Publishes {
			if a.Port == w.Spec.Name {
				p.Publish = append(p.Publish, a)
			}
		}
		x.Waiting = append(x.Waiting, p)
	}
	if h := v.Port(model.HostPortName); h != nil {
		x.Host = h.Addr.Addr().String()
		x.HostClients, x.HostInbound, x.HostCgroup = "programs", cmp.Or(v.Config.Host.Inbound, "allow"), v.Config.Host.Cgroup
		if ok, why := v.d.HostClients(); !ok {
			x.HostClients = "relay: " + why
		}
	}
	return x
}

// reasons are all drop reasons, in the order of the stages.
func (v *view) reasons() (out []api.Reason) {
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		i := r.Info()
		out = append(out, api.Reason{Name: i.Name, Meaning: i.Meaning, Remedy: i.Remedy})
	}
	return out
}
