package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/dhcp"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/model"
	"github.com/uvswitch/uvswitch/router"
	vswitch "github.com/uvswitch/uvswitch/switch"
)

// narrate says what a stage found and did.
func (s *Switch) narrate(stage string, before, f *dataplane.TracedFrame) (result, text string) {
	switch stage {
	case "parse":
		return s.narrateParse(f)
	case "guard":
		return s.narrateGuard(f)
	case "learn":
		return s.narrateLearn(f)
	case "forward":
		return s.narrateForward(f)
	case "prerouting":
		return s.narratePreRouting(f)
	case "route":
		return s.narrateRoute(before, f)
	case "postrouting":
		return s.narratePostRouting(before, f)
	case "resolve":
		return s.narrateResolve(before, f)
	case "filter":
		return s.narrateFilter(f)
	}
	return s.narrateForward(f)
}

func (s *Switch) narrateFilter(f *dataplane.TracedFrame) (string, string) {
	switch {
	case f.Verdict != frame.ToPort && f.Verdict != frame.Flood:
		return "refuse", f.Reason.Info().Meaning
	case s.PortByID(f.In) != nil && s.PortByID(f.In).Kind == model.KindHost:
		return "ok", "the host may begin anything with containers (--host-inbound)"
	}
	if s.policed(f.In) || s.policed(f.Out) {
		return "ok", "the policies of the ports let it pass"
	}
	return "ok", "the host began this flow, or --host-inbound allows it"
}

// policed reports whether policies count for a port.
func (s *Switch) policed(id frame.PortID) bool {
	p := s.PortByID(id)
	return p != nil && len(s.PoliciesOf(p)) > 0
}

func (s *Switch) narrateParse(f *dataplane.TracedFrame) (string, string) {
	switch {
	case f.Malformed != frame.None:
		return "malformed", "the switch carries it, and the router rejects it: " + f.Malformed.Info().Meaning
	case f.Flags&frame.Fragment != 0 && f.Flags&frame.HasTuple == 0:
		return "ok", fmt.Sprintf("a later fragment of a %s packet: it has no ports", frame.ProtoName(f.Proto))
	case f.Flags&frame.IsIPv4 != 0:
		return "ok", fmt.Sprintf("IPv4, %s, TTL %d, from %s to %s", frame.ProtoName(f.Proto), f.IPv4().TTL(), f.Src, f.Dst)
	case f.Flags&frame.IsIPv6 != 0:
		return "ok", fmt.Sprintf("IPv6, %s, hop limit %d, from %s to %s", frame.ProtoName(f.Proto), f.IPv6().HopLimit(), f.Src, f.Dst)
	case f.Flags&frame.IsARP != 0:
		return "ok", fmt.Sprintf("ARP, from %s to %s", f.Src, f.Dst)
	}
	return "ok", fmt.Sprintf("EtherType %#04x, from %s to %s", f.EtherType, f.Src, f.Dst)
}

func (s *Switch) narrateGuard(f *dataplane.TracedFrame) (string, string) {
	p := s.PortByID(f.In)
	switch {
	case p == nil:
		return "ok", ""
	case p.Kind == model.KindUplink:
		return "router", "from the uplink: straight to the router" + rateText("the port may send", p.Rx)
	case p.Flags&vswitch.Guard == 0:
		return "ok", fmt.Sprintf("port %s is in network %s; its guard is off%s", p.Name, s.NetworkName(f.Net), rateText("the port may send", p.Rx))
	}
	allowed := p.Addr
	if f.Flags&frame.IsIPv6 != 0 {
		allowed = p.Addr6
	}
	return "ok", fmt.Sprintf("port %s is in network %s; its guard allows MAC %s and address %s%s", p.Name, s.NetworkName(f.Net), orAny(p.MAC != 0, p.MAC), orAny(allowed.IsValid(), allowed.Addr()),
		rateText("the port may send", p.Rx))
}

// ttlNames names the field that a router counts down, by whether the packet is IPv6.
var ttlNames = map[bool]string{false: "TTL", true: "hop limit"}

// rateText names the port's rate limit, if there is one: a trace does not know how much the port has sent just now.
func rateText(may string, r dataplane.Rate) string {
	if r.Bits == 0 {
		return ""
	}
	return fmt.Sprintf("; %s %s; faster frames are queued, or dropped", may, api.RateSetting(r.Bits, 0))
}

func orAny(known bool, v fmt.Stringer) string {
	if !known {
		return "any"
	}
	return v.String()
}

func (s *Switch) narrateLearn(f *dataplane.TracedFrame) (string, string) {
	p := s.PortByID(f.In)
	if p != nil && p.Flags&vswitch.Learning == 0 {
		return "ok", "learning is off on this port"
	}
	switch at := s.Dataplane.Switch.FDB(f.Net).Lookup(f.Src); at {
	case f.In:
		return "known", fmt.Sprintf("%s is behind port %s", f.Src, s.PortName(at))
	case frame.NoPort:
		return "new", fmt.Sprintf("%s would be learned behind port %s", f.Src, s.PortName(f.In))
	default:
		return "moved", fmt.Sprintf("%s would move from port %s to port %s", f.Src, s.PortName(at), s.PortName(f.In))
	}
}

// narrateForward is for both look-ups of a MAC: of a switched frame and of a routed one.
func (s *Switch) narrateForward(f *dataplane.TracedFrame) (string, string) {
	switch f.Verdict {
	case frame.Local:
		return "router", fmt.Sprintf("%s is the gateway of network %s", f.Dst, s.NetworkName(f.Net))
	case frame.Punt:
		if f.Proto == frame.UDP {
			return "gateway", "a DHCP question, which goes to the gateway only"
		}
		return "gateway", "the gateway has the address that the question is for: only the gateway is asked"
	case frame.ToPort:
		return "port", fmt.Sprintf("%s is behind port %s", f.Dst, s.PortName(f.Out))
	case frame.Policed:
		if !f.Dst.IsGroup() && f.Out != frame.NoPort {
			return "port", fmt.Sprintf("%s is behind port %s", f.Dst, s.PortName(f.Out))
		}
	}
	if f.Out != frame.NoPort {
		return "port", fmt.Sprintf("port %s has the address that the question is for: only this port is asked", s.PortName(f.Out))
	}
	if f.Dst == frame.BroadcastMAC && f.Proto == frame.UDP && f.Tuple.DstPort == dhcp.ServerPort && f.Flags&frame.IsIPv4 != 0 {
		return "flood", "a DHCP question, which the gateway does not answer on this port (`uvswitch port set NAME dhcp on`, `network show`): to every other port of network " + s.NetworkName(f.Egress)
	}
	if n := s.NetworkByID(f.Egress); n != nil && f.Flags&frame.IsARP != 0 && f.ARP().Operation() == frame.ARPRequest && s.Holder(n, f.ARP().TargetAddr().Netip()) == nil {
		return "flood", fmt.Sprintf("no port of network %s has the address %s: every other port is asked", n.Name, f.ARP().TargetAddr())
	}
	if f.Dst == frame.BroadcastMAC {
		return "flood", "broadcast: to every other port of network " + s.NetworkName(f.Egress)
	}
	if f.Dst.IsGroup() {
		return "flood", "multicast: to every other port of network " + s.NetworkName(f.Egress)
	}
	return "flood", fmt.Sprintf("%s is unknown: to every other port of network %s", f.Dst, s.NetworkName(f.Egress))
}

func (s *Switch) narratePreRouting(f *dataplane.TracedFrame) (string, string) {
	switch f.NAT {
	case frame.NATEstablished:
		dir := "a packet of"
		if f.Dir == 1 {
			dir = "a reply packet of"
		}
		text := fmt.Sprintf("%s flow %s", dir, s.flowText(f))
		if f.Flow == 0 {
			text = fmt.Sprintf("%s the flow that the first packet would create, %s", dir, s.flowText(f))
		}
		if f.RouteDst != f.Tuple.Dst {
			text += fmt.Sprintf("; routed to %s", f.RouteDst)
		}
		return "flow", text
	case frame.NATRelated:
		return "flow", fmt.Sprintf("an ICMP error about flow %s; routed to %s", s.flowText(f), f.RouteDst)
	case frame.NATNew:
		if f.Rule == 0 && f.Mapping == 0 {
			return "prefix", fmt.Sprintf("%s is the outside address of a container, whose network lets pings in, and with --in6 any everything; routed to %s", f.Tuple.Dst, f.RouteDst)
		}
		if f.Rule == 0 {
			inside, outside := s.Dataplane.NAT.MappingOf(f.Frame)
			how := "hairpinning"
			if !f.Hairpin {
				how = "the network's filtering lets others in"
			}
			return "mapping", fmt.Sprintf("%s is the outside port of %s (%s)", netip.AddrPortFrom(outside.Src, outside.SrcPort), netip.AddrPortFrom(inside.Src, inside.SrcPort), how)
		}
		text := "a published port"
		if r := s.PublishByID(f.Rule); r != nil {
			text = fmt.Sprintf("published: %s/%s to %s:%d", r.HostPorts(), r.Proto, r.Port, f.RoutePort)
		}
		if f.Hairpin {
			text += "; from inside, so it is hairpinned"
		}
		return "dnat", fmt.Sprintf("%s; routed to %s", text, netip.AddrPortFrom(f.RouteDst, f.RoutePort))
	}
	switch {
	case f.Verdict == frame.Punt, f.Flags&frame.Fragment != 0 && f.Flags&frame.HasTuple == 0:
		return "none", "a fragment that came before the first fragment, which has the ports: no flow can be looked up"
	case f.Flags&(frame.IsIPv4|frame.IsIPv6) == 0:
		return "none", "not IP: nothing to track"
	case s.Dataplane.NAT.Owns(f.Tuple.Dst):
		return "none", fmt.Sprintf("no flow, no published port and no mapping: the packet is for the host itself, %s", f.Tuple.Dst)
	}
	return "none", "no flow has this tuple"
}

func (s *Switch) flowText(f *dataplane.TracedFrame) string {
	w := s.Dataplane.NAT.FlowOf(f.Frame, s.Dataplane.Now())
	text := w.Original.String()
	if w.State != "" {
		text += ", " + w.State
	}
	if r := w.Reply.Reverse(); r != w.Original {
		text += fmt.Sprintf(", translated to %s > %s", netip.AddrPortFrom(r.Src, r.SrcPort), netip.AddrPortFrom(r.Dst, r.DstPort))
	}
	return text + fmt.Sprintf(", port %s", s.PortName(w.Port))
}

func (s *Switch) narrateRoute(before, f *dataplane.TracedFrame) (string, string) {
	if f.Verdict == frame.Punt && f.Reason == frame.GatewayService {
		return "gateway", fmt.Sprintf("%s is an address of the router", before.RouteDst)
	}
	rt, ok := s.Dataplane.Router.Lookup(before.RouteDst)
	if !ok {
		return "refuse", fmt.Sprintf("no route to %s", before.RouteDst)
	}
	text := fmt.Sprintf("%s is in %s", before.RouteDst, s.routeText(rt))
	if f.Verdict == frame.Punt && f.Reason == frame.FragmentationNeeded {
		text += fmt.Sprintf("; this way takes packets of %d bytes at most", uint32(f.Frame.NextHop))
	}
	if f.Verdict == frame.Punt {
		return "refuse", text + "; " + f.Reason.Info().Meaning
	}
	return "route", fmt.Sprintf("%s; %s %d becomes %d", text, ttlNames[f.Flags&frame.IsIPv6 != 0], int(f.TTL())+1, f.TTL())
}

// routeText is a route as `ip route` prints it.
func (s *Switch) routeText(rt router.Route) string {
	text := rt.Prefix.String()
	if rt.Prefix.Bits() == 0 {
		text = "default"
	}
	if rt.Kind != router.Unicast && rt.Kind != router.Local {
		return rt.Kind.String() + " " + text
	}
	if rt.NextHop.IsValid() {
		text += " via " + rt.NextHop.String()
	}
	switch {
	case rt.Kind == router.Local:
		return text + " dev " + model.HostPortName
	case rt.Egress == frame.NoNet:
		return text + " dev " + model.UplinkPortName
	}
	return text + " dev " + s.NetworkName(rt.Egress)
}

func (s *Switch) narratePostRouting(before, f *dataplane.TracedFrame) (string, string) {
	if f.Verdict == frame.Punt {
		if f.Reason == frame.FragmentWaits {
			return "hold", "its first fragment has not arrived"
		}
		return "refuse", f.Reason.Info().Meaning
	}
	if f.NAT == frame.NATNone && f.Egress != frame.NoNet {
		if rt, ok := s.Dataplane.Router.Lookup(f.RouteDst); ok && rt.Kind == router.Local && !rt.Kept && !slices.Contains(s.Own, f.RouteDst) {
			return "none", "through the host's own stack: nothing is translated here, and the host must forward the packet"
		}
		return "none", "between networks of the switch: nothing is translated"
	}
	what := "snat"
	switch {
	case f.NAT == frame.NATRelated:
		return "rewrite", "the addresses of the error, and of the packet that it quotes"
	case before.NAT == frame.NATNew, before.NAT == frame.NATEstablished && before.Dir == 0 && before.Tuple.Dst != f.Tuple.Dst:
		what = "dnat"
	case before.NAT == frame.NATEstablished && before.Dir == 1:
		what = "undo"
	}
	var changed []string
	if was, is := endString(before.Tuple.Src, before.Tuple.SrcPort, f.Proto), endString(f.Tuple.Src, f.Tuple.SrcPort, f.Proto); was != is {
		changed = append(changed, fmt.Sprintf("source %s becomes %s", was, is))
	}
	if was, is := endString(before.Tuple.Dst, before.Tuple.DstPort, f.Proto), endString(f.Tuple.Dst, f.Tuple.DstPort, f.Proto); was != is {
		changed = append(changed, fmt.Sprintf("destination %s becomes %s", was, is))
	}
	text := strings.Join(changed, ", ")
	if text == "" {
		text = "nothing changes"
	}
	if before.NAT == frame.NATNone {
		target := "MASQUERADE"
		if n := s.NetworkByID(f.Net); n != nil {
			target, _ = n.NATTarget(f.Flags&frame.IsIPv6 != 0, netip.Addr{})
		}
		if text = fmt.Sprintf("%s of network %s: %s", target, s.NetworkName(f.Net), text); f.Flow == 0 {
			text += "; " + s.wouldMake()
		}
	} else if before.NAT == frame.NATNew {
		text += "; " + s.wouldMake()
	}
	if was, is := s.Dataplane.NAT.StateAfter(f.Frame); was != is {
		text += fmt.Sprintf("; the flow goes from %s to %s", was, is)
	}
	return what, text
}

// wouldMake says that a flow would be created, and whether its port is an example.
func (s *Switch) wouldMake() string {
	if s.Dataplane.NAT.PortIsExample() {
		return "a new flow would be created (the outside port is an example: the switch picks one at random)"
	}
	return "a new flow would be created"
}

// endString is one end of a tuple.
func endString(a netip.Addr, port uint16, proto uint8) string {
	if frame.HasPorts(proto) {
		return netip.AddrPortFrom(a, port).String()
	}
	return a.String()
}

func (s *Switch) narrateResolve(before, f *dataplane.TracedFrame) (string, string) {
	switch {
	case f.Verdict == frame.Punt:
		return "ask", fmt.Sprintf("no MAC address is known for %s", before.NextHop)
	case f.Egress == frame.NoNet:
		return "uplink", "out through the uplink; " + s.wayText(before, f)
	}
	return "neighbor", fmt.Sprintf("%s is at %s", before.NextHop, f.Dst)
}

// wayText says where the host's routing sends a packet that leaves.
func (s *Switch) wayText(before, f *dataplane.TracedFrame) string {
	if f.Flags&frame.IsIPv6 != 0 {
		command, inside, _ := f.Way()
		t := frame.TupleFrom[frame.Addr6](f.Tuple)
		if s.Port(model.UplinkPortName).HasWays() {
			t.SrcPort, t.DstPort = uint16(f.Dst>>16), uint16(f.Dst)
		}
		w, err := s.Way6(inside, t, f.TrafficClass())
		if !w.Socket && command != frame.WayAsk && command != frame.WayAskSource { // its source stays
			w.Source = f.Tuple.Src
		}
		return s.wayTo(w, err, f.Tuple.Src)
	}
	t := before.Frame.Tuple
	if _, inside, ok := f.Way(); ok && s.Port(model.UplinkPortName).HasWays() {
		t.Src = frame.Addr(inside)
		if t.SrcPort, t.DstPort = uint16(f.Dst>>16), uint16(f.Dst); inside == 0 {
			t.Src = before.Frame.Tuple.Src
		}
	}
	w, err := s.Way(t, f.TrafficClass())
	return s.wayTo(w, err, f.Tuple.Src)
}

// wayTo describes a way of a packet with source src; err says why the way is not known.
func (s *Switch) wayTo(w Way, err error, src netip.Addr) string {
	if err != nil {
		return "the kernel finds the next hop"
	}
	if s.way = w; w.Code != 0 {
		return fmt.Sprintf("the host's routing does not send it (%s)", w.Code)
	}
	text := ""
	if w.Socket {
		text = "by a socket of the switch's user; "
	}
	text += fmt.Sprintf("the host's routing sends it by device %s to %s", w.Device, w.NextHop)
	if w.Source.IsValid() && w.Source != src {
		text += fmt.Sprintf(", with source %s", w.Source)
	}
	return text
}

// narrateSlowPath says what the slow path would do.
func (s *Switch) narrateSlowPath(t *api.Trace, f *frame.Frame, r *router.DryRunResult) {
	var sent []string
	for _, eth := range r.Sent {
		var g frame.Frame
		g.Reset(append(make([]byte, frame.VnetLen), eth...), frame.Gateway)
		frame.Parse(&g)
		sent = append(sent, Text(&g))
	}
	answer := strings.Join(sent, "; ")
	result := "hold"
	switch {
	case r.Pieces > 0:
		result, t.Verdict, t.Why = "fragment", "transmitted", fmt.Sprintf("in %d fragments, each of which passes the stages again", r.Pieces)
	case r.Consumed:
		result, t.Verdict, t.Why = "answer", "answered", "the gateway answers: "+answer
		if answer == "" {
			t.Verdict, t.Why = "consumed", "taken by the gateway, which does not answer it"
			if f.Proto == frame.UDP {
				t.Why = "taken by the gateway; if it is a question for a name of others, the gateway asks the name servers of the host"
			}
		}
	case r.Why != frame.None:
		result, t.Verdict, t.Reason = "drop", "dropped", r.Why.String()
		t.Why, t.Remedy = r.Why.Info().Meaning, r.Why.Info().Remedy
		if answer != "" {
			t.Why += "; the sender receives " + answer
		}
	case r.Released:
		t.Verdict, t.Why = "transmitted", "the neighbor has become known"
	default:
		asks := "ARP"
		if f.Flags&frame.IsIPv6 != 0 {
			asks = "neighbor solicitations"
		}
		t.Verdict, t.Reason, t.Why = "held", f.Reason.String(), "queued until the neighbor answers "+asks+" (3 requests, 1 s apart: "+answer+"); else dropped: neighbor_failed"
	}
	t.Steps = append(t.Steps, api.TraceStep{Stage: slowPathStage, Result: result, Text: t.Why})
}
