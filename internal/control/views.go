package control

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/nat"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
	"github.com/uvswitch/uvswitch/tap"
)

func (d *Daemon) portView(p *port) api.Port {
	v := api.Port{
		Name: p.name, ID: int(p.id), Kind: p.kind, Ifname: p.ifname, Netns: p.netns, Addresses: []string{}, MTU: p.mtu,
		State: d.portState(p), Offload: p.offload, Backend: d.backend.name, Flags: flagMap(p.flags), RxRate: p.rx.Bits, RxBurst: burstOf(p.rx), TxRate: p.tx.Bits, TxBurst: burstOf(p.tx), NoRoute: p.asked.NoRoute, Handed: p.handed, PortStats: api.PortStats(d.dp.PortStats(p.id)),
	}
	if p.netns == tap.Own {
		v.Netns = ""
	}
	if c, ok := p.conn.(*tap.Device); ok && p.handed { // called by its maker what it likes
		if name, err := c.Name(); err == nil {
			v.Ifname = name
		}
	}
	if p.net != nil {
		v.Network = p.net.name
	}
	if p.mac != 0 {
		v.MAC = p.mac.String()
	}
	if p.addr.IsValid() {
		v.Addresses = append(v.Addresses, p.addr.String())
	}
	if c, ok := p.conn.(interface{ Segmented() uint64 }); ok {
		v.Segmented = c.Segmented()
	}
	return v
}

// portState is what the kernel says of the device, and the switch of the port.
func (d *Daemon) portState(p *port) string {
	if c, ok := p.conn.(interface{ Connected() bool }); ok {
		switch {
		case !c.Connected():
			return "down" // until a machine is there
		case p.flags&vswitch.Forwarding == 0:
			return "disabled"
		}
		return "forwarding"
	}
	var up bool
	switch c := p.conn.(type) {
	case *tap.AFPacket:
		info, err := tap.Inspect(tap.Own, p.ifname)
		up = err == nil && c.Bound() && info.Up // else until there is such a device again
	case interface{ Up() (bool, error) }: // a TAP, wherever it has been moved
		var err error
		if up, err = c.Up(); err != nil {
			return "gone"
		}
	}
	switch {
	case !up:
		return "down"
	case p.flags&vswitch.Forwarding == 0:
		return "disabled"
	}
	return "forwarding"
}

func (d *Daemon) portsView() []api.Port {
	out := []api.Port{}
	for _, p := range d.portList() {
		out = append(out, d.portView(p))
	}
	return out
}

func (d *Daemon) networksView() []api.Network {
	out := []api.Network{}
	for _, n := range d.networkList() {
		out = append(out, d.networkView(n))
	}
	return out
}

func (d *Daemon) publishedView() []api.Publish {
	out := []api.Publish{}
	for _, r := range d.rules {
		out = append(out, d.publishView(r))
	}
	return out
}

func (d *Daemon) networkView(n *network) api.Network {
	v := api.Network{
		Name: n.name, Subnet: n.prefix.String(), Gateway: n.gateway.String(), MAC: n.mac.String(), MTU: n.mtu,
		Internal: n.internal, Isolated: n.isolated, Mapping: n.mapping.String(), Filtering: n.filtering.String(),
	}
	for _, p := range d.ports {
		if p.net == n {
			v.Ports++
		}
	}
	return v
}

func (d *Daemon) fdbView() []api.FDBEntry {
	out := []api.FDBEntry{}
	for _, n := range d.networkList() {
		out = append(out, api.FDBEntry{
			MAC: n.mac.String(), Ifname: "gateway", Flags: []string{"self"}, State: "permanent", Network: n.name, IsLocal: true,
		})
		entries := d.dp.Switch.FDB(n.id).Entries()
		now := d.dp.Now() // after them: nobody was heard later
		slices.SortFunc(entries, func(a, b vswitch.Entry) int { return int(a.Port) - int(b.Port) })
		for _, e := range entries {
			v := api.FDBEntry{MAC: e.MAC.String(), Ifname: d.portName(e.Port), Flags: []string{}, Network: n.name}
			switch {
			case e.Static && v.Ifname == hostPort:
				v.State, v.IsLocal = "permanent", true
			case e.Static:
				v.State = "static"
			case e.Sticky:
				v.State, v.Flags = "sticky", []string{"sticky"}
			default:
				v.Age = float64(now-e.LastSeen) / frame.TicksPerSecond
			}
			out = append(out, v)
		}
	}
	return out
}

func (d *Daemon) bridgeView() []api.Bridge {
	var out []api.Bridge
	for _, n := range d.networkList() {
		id := "8000." + strings.ReplaceAll(n.mac.String(), ":", "")
		b := api.Bridge{Network: n.name, BridgeID: id, Root: id, AgeingTime: vswitch.DefaultAgeing, Ports: []api.BridgePort{}}
		for _, p := range d.portList() {
			if p.net != n {
				continue
			}
			state := "forwarding"
			if s := d.portState(p); s != "forwarding" {
				state = "disabled"
			}
			b.Ports = append(b.Ports, api.BridgePort{
				Name: p.name, Number: int(p.id), PortID: fmt.Sprintf("%04x", 0x8000|int(p.id)), State: state, Cost: 2,
				Flags: flagMap(p.flags),
			})
		}
		out = append(out, b)
	}
	return out
}

func (d *Daemon) neighView() []api.Neighbor {
	out := []api.Neighbor{}
	for _, n := range d.dp.Router.Neighbors() {
		v := api.Neighbor{Dst: n.Addr.String(), Network: d.networkName(n.Net), State: []string{n.State.String()}}
		if n.MAC != 0 {
			v.Lladdr = n.MAC.String()
		}
		out = append(out, v)
	}
	return out
}

func (d *Daemon) routeView() []api.Route {
	out := []api.Route{}
	for _, r := range d.dp.Router.Routes() {
		v := api.Route{Dst: r.Prefix.String(), Type: r.Kind.String(), Network: d.networkName(r.Egress), Dev: d.networkName(r.Egress)}
		if r.Prefix == everywhere {
			v.Dst = "default"
		}
		if r.Egress == frame.NoNet && r.Kind == router.Unicast {
			v.Dev = uplinkPort
		}
		if r.NextHop != 0 {
			v.Gateway = r.NextHop.String()
		}
		if r.Kind == router.Local {
			v.Dev = hostPort
		}
		v.ByHand = d.ownRoute(r.Prefix) == nil
		out = append(out, v)
	}
	return out
}

func (d *Daemon) publishView(r *rule) api.Publish {
	v := api.Publish{
		ID: int(r.id), HostAddress: r.hostAddr.String(), HostPort: int(r.lo), HostPortEnd: int(r.hi), Protocol: r.proto,
		Port: r.port.name, Address: r.port.addr.Addr().String(), ContainerPort: int(r.target), From: []string{},
		Packets: r.count.Packets.Load(), Bytes: r.count.Bytes.Load(),
	}
	for _, p := range r.from {
		v.From = append(v.From, p.String())
	}
	return v
}

func (d *Daemon) natView() []api.NATRule {
	out := []api.NATRule{}
	for _, r := range d.rules {
		v := api.NATRule{
			Chain: "PREROUTING", Target: "DNAT", Packets: r.count.Packets.Load(), Bytes: r.count.Bytes.Load(),
			Protocol: r.proto, Source: everywhere.String(), In: "*", Out: "*",
			To: netip.AddrPortFrom(r.port.addr.Addr(), r.target).String(),
		}
		if len(r.from) > 0 {
			var from []string
			for _, p := range r.from {
				from = append(from, p.String())
			}
			v.Source = strings.Join(from, ",")
		}
		host := r.hostAddr
		if host.IsUnspecified() && d.external.IsValid() {
			host = d.external
		}
		v.Destination = host.String() + ":" + strings.TrimPrefix(r.hostPorts(), r.hostAddr.String()+":")
		out = append(out, v)
	}
	for _, n := range d.networkList() {
		if n.internal || d.up == nil {
			continue
		}
		out = append(out, api.NATRule{
			Chain: "POSTROUTING", Target: "MASQUERADE", Packets: n.masquerade.Packets.Load(), Bytes: n.masquerade.Bytes.Load(),
			Protocol: "all", Source: n.prefix.String(), Destination: everywhere.String(), In: "*", Out: uplinkPort,
			To: d.externalString(),
		})
	}
	return out
}

// natSettings is what translation goes by.
func (d *Daemon) natSettings() api.NATSettings {
	t := d.opts.Timers
	if t.Established == 0 {
		t = nat.RFCTimers()
	}
	v := api.NATSettings{Windows: "liberal", FlowsPerPort: d.dp.NAT.FlowQuota(), Timers: map[string]uint32{
		"udp": t.UDP, "udp_stream": t.UDPStream, "udp_short": t.UDPShort, "tcp_syn_sent": t.SynSent, "tcp_syn_recv": t.SynRecv,
		"tcp_established": t.Established, "tcp_fin_wait": t.FinWait, "tcp_close_wait": t.CloseWait, "tcp_last_ack": t.LastAck,
		"tcp_time_wait": t.TimeWait, "tcp_close": t.TCPReset, "icmp": t.ICMP, "generic": t.Generic,
	}}
	if d.opts.Strict {
		v.Windows = "strict"
	}
	for _, p := range t.Ports {
		v.Timers[fmt.Sprintf("%d/%s", p.Port, frame.ProtoName(p.Proto))] = p.Seconds
	}
	return v
}

// portUseView is how far the outside ports are used.
func (d *Daemon) portUseView() []api.PortUse {
	out := []api.PortUse{}
	n := d.dp.NAT
	tcpQuota, udpQuota := n.PortQuota()
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		u := n.PortUseOf(proto)
		v := api.PortUse{Protocol: frame.ProtoName(proto), Used: u.Used, Resting: u.Resting, Limit: u.Limit, Quota: tcpQuota, Holders: map[string]int{}}
		for _, p := range d.portList() {
			tcp, udp := n.PortsOf(p.id)
			held := tcp
			if proto == frame.UDP {
				v.Quota, held = udpQuota, udp
			}
			if held > 0 {
				v.Holders[p.name] = held
			}
		}
		out = append(out, v)
	}
	return out
}

// externalString is the host's address on the uplink; empty while there is none.
func (d *Daemon) externalString() string {
	if !d.external.IsValid() {
		return ""
	}
	return d.external.String()
}

func (d *Daemon) flowView(f nat.Flow) api.Flow {
	v := api.Flow{
		ID: f.ID, Protocol: frame.ProtoName(f.Original.Proto), Number: int(f.Original.Proto), State: f.State, Timeout: int(f.Timeout),
		Original: flowSide(f.Original, f, 0), Reply: flowSide(f.Reply, f, 1), Status: []string{},
		Network: d.networkName(f.Net), Port: d.portName(f.Port),
	}
	if f.Assured {
		v.Status = append(v.Status, "assured")
	}
	if !f.Replied {
		v.Status = append(v.Status, "unreplied")
	}
	return v
}

// stateOf names a flow's state for totals: TCP's, else whether it was answered.
func stateOf(f nat.Flow) string {
	state := f.State
	if state == "" {
		state = "UNREPLIED"
		if f.Replied {
			state = "REPLIED"
		}
	}
	return frame.ProtoName(f.Original.Proto) + " " + state
}

func flowSide(t frame.Tuple, f nat.Flow, dir int) api.FlowSide {
	s := api.FlowSide{
		Src: t.Src.String(), Dst: t.Dst.String(), Sport: int(t.SrcPort), Dport: int(t.DstPort),
		Packets: f.Packets[dir], Bytes: f.Bytes[dir],
	}
	if t.Proto == frame.ICMP {
		typ, id, code := int(t.DstPort), int(t.SrcPort), 0
		if dir == 1 {
			id, typ = int(t.DstPort), int(t.SrcPort)+1
			if t.SrcPort == frame.ICMPEcho {
				typ = frame.ICMPEchoReply
			}
		}
		s.Sport, s.Dport, s.Type, s.Code, s.ID = 0, 0, &typ, &code, &id
	}
	return s
}

func (d *Daemon) tables() map[string]api.Table {
	fdb := api.Table{}
	for _, n := range d.networkList() {
		t := d.dp.Switch.FDB(n.id)
		fdb.Used += t.Used()
		fdb.Limit += t.Limit()
	}
	n := d.dp.NAT
	natPorts := api.Table{}
	for _, proto := range []uint8{frame.TCP, frame.UDP} {
		u := n.PortUseOf(proto)
		natPorts.Used += u.Used + u.Resting
		natPorts.Limit += u.Limit
	}
	return map[string]api.Table{
		"fdb": fdb, "flows": {Used: n.Used(), Limit: n.Limit()}, "nat_ports": natPorts,
	}
}

func (d *Daemon) statsView() api.Stats {
	s := api.Stats{
		Ports: map[string]api.PortStats{}, Drops: d.dp.Drops(), Tables: d.tables(), Conservation: api.Conservation(d.dp.Conservation()),
	}
	for _, p := range d.portList() {
		s.Ports[p.name] = api.PortStats(d.dp.PortStats(p.id))
	}
	s.Ports["gateway"] = api.PortStats(d.dp.PortStats(frame.Gateway))
	return s
}

func (d *Daemon) uplinkStatus() api.Uplink {
	if d.up == nil {
		return api.Uplink{Kind: "none", State: "none", Promise: "containers reach each other and the host, and nothing else"}
	}
	s, kind := d.up.State()
	v := api.Uplink{Kind: string(kind), Device: s.Device, State: "up", Why: s.Why, MTU: s.MTU, Ports: d.opts.NATPorts}
	if s.Addr.IsValid() {
		v.Address = s.Addr.String()
	}
	if !s.Up {
		v.State = "down"
	}
	v.Promise = "the host's netfilter does not see container traffic; publishing has its own policy (--from)"
	if kind == uplink.TAP {
		v.Promise = "the host routes container traffic by its own rules; it must forward and translate " + v.Address
	}
	return v
}

func (d *Daemon) statusView() api.Status {
	v := api.Status{
		Version: d.opts.Version, PID: os.Getpid(), Uptime: time.Since(d.started).Seconds(), Uplink: d.uplinkStatus(),
		Backend: d.backend.name, BackendWhy: d.backend.why, Workers: d.dp.Workers(), Ports: len(d.ports), Tables: d.tables(), Drops: d.dp.Drops(),
		Balanced: d.dp.Conservation().Balanced,
	}
	for _, n := range d.networkList() {
		v.Networks = append(v.Networks, d.networkView(n))
	}
	if h := d.ports[hostPort]; h != nil {
		v.Host = h.addr.Addr().String()
	}
	return v
}

// flowFilter selects flows by query values: src and dst, addresses or prefixes of the original direction; proto, port (a port's
// name), sport, dport and state, each exact. Empty ones select all.
type flowFilter struct {
	src, dst                         netip.Prefix
	proto, port, sport, dport, state string
}

// flowsView lists the flows that f selects, limit of them at most when that is not 0.
func (d *Daemon) flowsView(f flowFilter, limit int) []api.Flow {
	out := []api.Flow{}
	d.dp.NAT.Flows(d.dp.Now(), func(x nat.Flow) bool {
		v := d.flowView(x)
		if f.matches(&v) {
			out = append(out, v)
		}
		return limit == 0 || len(out) < limit
	})
	return out
}

// reasonsView is every drop reason there is, in the order of the stages.
func reasonsView() (out []api.Reason) {
	for r := frame.None + 1; r < frame.NumReasons; r++ {
		i := r.Info()
		out = append(out, api.Reason{Name: i.Name, Meaning: i.Meaning, Remedy: i.Remedy})
	}
	return out
}

func (f *flowFilter) matches(v *api.Flow) bool {
	eq := func(want, have string) bool { return want == "" || strings.EqualFold(want, have) }
	in := func(p netip.Prefix, have string) bool {
		a, err := netip.ParseAddr(have)
		return !p.IsValid() || err == nil && p.Contains(a)
	}
	return in(f.src, v.Original.Src) && in(f.dst, v.Original.Dst) && eq(f.proto, v.Protocol) && eq(f.port, v.Port) &&
		eq(f.sport, strconv.Itoa(v.Original.Sport)) && eq(f.dport, strconv.Itoa(v.Original.Dport)) && eq(f.state, v.State)
}
