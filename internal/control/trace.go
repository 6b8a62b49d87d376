package control

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"github.com/uvswitch/uvswitch/cmd/uvswitch/api"
	"github.com/uvswitch/uvswitch/internal/dataplane"
	"github.com/uvswitch/uvswitch/internal/frame"
	"github.com/uvswitch/uvswitch/internal/uplink"
	"github.com/uvswitch/uvswitch/router"
	"github.com/uvswitch/uvswitch/switch"
)

// trace explains what would happen to a packet: the stages decide, this puts words to it. mu is held.
func (d *Daemon) trace(q api.TraceRequest) (api.Trace, error) {
	p := d.ports[q.In]
	if p == nil {
		return api.Trace{}, noPort(q.In)
	}
	var raw []byte
	var err error
	if q.Hex != "" {
		raw, err = hexFrame(q.Hex)
	} else {
		raw, err = d.buildPacket(p, q.Packet)
	}
	if err != nil {
		return api.Trace{}, api.Errorf(http.StatusBadRequest, "%v", err)
	}
	var t api.Trace
	if p.kind == kindUplink && d.opts.UplinkKind != uplink.TAP {
		var f frame.Frame
		f.Reset(raw, p.id)
		if frame.Parse(&f); !d.up.Claims(&f) {
			why := "it is the host's own: the uplink takes only what is for an outside port of NAT, a published one, or belongs to a flow"
			return api.Trace{
				Packet: frame.Text(&f), In: p.name, Length: f.Len(), Ports: []string{}, Verdict: "passed", Why: why,
				Steps: []api.TraceStep{{Stage: "uplink", Result: "host", Text: why}},
			}, nil
		}
	}
	d.dp.Trace(func(tr *dataplane.Tracer) {
		var answer []byte
		var by frame.PortID
		t, answer, by = d.traceOne(tr, p.id, raw)
		switch {
		case !q.Reverse:
		case answer == nil:
			if t.Verdict != "answered" {
				t.Why += "; so there is no answer to trace"
			}
		default:
			back, _, _ := d.traceOne(tr, by, answer)
			t.Reverse = &back
		}
	})
	return t, nil
}

// hexFrame reads a frame from the destination MAC on.
func hexFrame(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", ":", "").Replace(s))
	if err != nil {
		return nil, fmt.Errorf("the frame is not hexadecimal: %w", err)
	}
	if len(b) > frame.MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes is longer than any, %d", len(b), frame.MaxFrame)
	}
	return append(make([]byte, frame.VnetLen), b...), nil
}

// traceOne runs one frame. The answer is what its receiver would send back, and by which port it would come.
func (d *Daemon) traceOne(tr *dataplane.Tracer, in frame.PortID, raw []byte) (t api.Trace, answer []byte, by frame.PortID) {
	t = api.Trace{In: d.portName(in), Length: len(raw) - frame.VnetLen, Steps: []api.TraceStep{}, Ports: []string{}}
	add := func(stage, result, text string) {
		t.Steps = append(t.Steps, api.TraceStep{Stage: stage, Result: result, Text: text})
	}
	o := tr.Run(in, raw, func(stage string, before, f *frame.Frame) {
		if stage == "parse" {
			t.Packet = frame.Text(f)
		}
		result, text := d.explain(stage, before, f)
		if f.Verdict == frame.Drop && before.Verdict != frame.Drop {
			result, text = "drop", f.Reason.Info().Meaning
			if rt, ok := d.dp.Router.Lookup(before.RouteDst); ok && stage == "route" {
				text = fmt.Sprintf("%s is in %s; %s", before.RouteDst, routeText(d, rt), text)
			}
		}
		add(stage, result, text)
	})
	f := o.Frame
	for _, id := range o.Ports {
		t.Ports = append(t.Ports, d.portName(id))
	}
	switch {
	case f.Verdict == frame.Drop:
		t.Verdict, t.Reason = "dropped", f.Reason.String()
		t.Why, t.Remedy = f.Reason.Info().Meaning, f.Reason.Info().Remedy
	case o.Waits:
		t.Verdict, t.Reason = "held", f.Reason.String()
		if t.Why = f.Reason.Info().Meaning; f.Reason == frame.FragmentWaits {
			t.Why = "it waits for the first fragment of its packet, which has the ports; without that it is dropped for fragment_timeout"
		}
		add("housekeeper", "hold", t.Why)
	case o.Slow != nil && len(o.Ports) == 0:
		d.explainSlow(&t, f, o.Slow)
	default:
		if o.Slow != nil {
			d.explainSlow(&t, f, o.Slow)
			t.Reason, t.Remedy = "", ""
		}
		t.Verdict, t.Out = "transmitted", frame.Text(f)
		t.Why = "to port " + strings.Join(t.Ports, ", ")
		text := t.Out
		for _, id := range o.Ports {
			if p := d.byID[id]; p != nil {
				text += rateText(p.name+" may get", p.tx)
			}
		}
		add("transmit", strings.Join(t.Ports, ","), text)
		if p := d.byID[o.Ports[0]]; len(o.Ports) == 1 && p != nil && d.portState(p) == "down" { // the kernel will refuse it
			i := frame.PortDown.Info()
			t.Verdict, t.Reason, t.Why, t.Remedy = "dropped", i.Name, i.Meaning+": "+p.ifname, i.Remedy
			return t, nil, 0
		}
		if len(o.Ports) == 1 {
			answer, by = reverseFrame(f), o.Ports[0]
		}
	}
	return t, answer, by
}

// explain says what a stage found and did.
func (d *Daemon) explain(stage string, before, f *frame.Frame) (result, text string) {
	switch stage {
	case "parse":
		return d.explainParse(f)
	case "guard":
		return d.explainGuard(f)
	case "learn":
		return d.explainLearn(f)
	case "forward":
		return d.explainForward(f)
	case "prerouting":
		return d.explainPreRouting(f)
	case "route":
		return d.explainRoute(before, f)
	case "postrouting":
		return d.explainPostRouting(before, f)
	case "resolve":
		return d.explainResolve(before, f)
	}
	return d.explainForward(f)
}

func (d *Daemon) explainParse(f *frame.Frame) (string, string) {
	switch {
	case f.Malformed != frame.None:
		return "malformed", "the switch carries it, the router would not: " + f.Malformed.Info().Meaning
	case f.Flags&frame.Fragment != 0 && f.Flags&frame.HasTuple == 0:
		return "ok", fmt.Sprintf("a later fragment, of %s: it has no ports", frame.ProtoName(f.Proto))
	case f.Flags&frame.IsIPv4 != 0:
		return "ok", fmt.Sprintf("IPv4, %s, TTL %d, from %s to %s", frame.ProtoName(f.Proto), f.IPv4().TTL(), f.Src, f.Dst)
	case f.Flags&frame.IsARP != 0:
		return "ok", fmt.Sprintf("ARP, from %s to %s", f.Src, f.Dst)
	}
	return "ok", fmt.Sprintf("EtherType %#04x, from %s to %s", f.EtherType, f.Src, f.Dst)
}

func (d *Daemon) explainGuard(f *frame.Frame) (string, string) {
	p := d.byID[f.In]
	switch {
	case p == nil:
		return "ok", ""
	case p.kind == kindUplink:
		return "router", "from the uplink: the router's at once" + rateText("it may send", p.rx)
	case p.flags&vswitch.Guard == 0:
		return "ok", fmt.Sprintf("port %s is in network %s; its guard is off%s", p.name, d.networkName(f.Net), rateText("it may send", p.rx))
	}
	return "ok", fmt.Sprintf("port %s is in network %s; its guard allows MAC %s and address %s%s", p.name, d.networkName(f.Net), orAny(p.mac != 0, p.mac), orAny(p.addr.IsValid(), p.addr.Addr()),
		rateText("it may send", p.rx))
}

// rateText says what a port is held to, if it is: a trace cannot know how much it has sent just now.
func rateText(may string, r dataplane.Rate) string {
	if r.Bits == 0 {
		return ""
	}
	return fmt.Sprintf("; %s %s, and what is faster waits or is dropped", may, api.RateKnob(r.Bits, 0))
}

func orAny(known bool, v fmt.Stringer) string {
	if !known {
		return "any"
	}
	return v.String()
}

func (d *Daemon) explainLearn(f *frame.Frame) (string, string) {
	p := d.byID[f.In]
	if p != nil && p.flags&vswitch.Learning == 0 {
		return "ok", "the port does not learn"
	}
	switch at := d.dp.Switch.FDB(f.Net).Lookup(f.Src); at {
	case f.In:
		return "known", fmt.Sprintf("%s is behind port %s", f.Src, d.portName(at))
	case frame.NoPort:
		return "new", fmt.Sprintf("%s would be noted behind port %s", f.Src, d.portName(f.In))
	default:
		return "moved", fmt.Sprintf("%s would move from port %s to port %s", f.Src, d.portName(at), d.portName(f.In))
	}
}

// explainForward is for both look-ups of a MAC: of a switched frame and of a routed one.
func (d *Daemon) explainForward(f *frame.Frame) (string, string) {
	switch f.Verdict {
	case frame.Local:
		return "router", fmt.Sprintf("%s is the gateway of network %s", f.Dst, d.networkName(f.Net))
	case frame.ToPort:
		return "port", fmt.Sprintf("%s is behind port %s", f.Dst, d.portName(f.Out))
	}
	if f.Dst == frame.BroadcastMAC {
		return "flood", "broadcast: to every other port of network " + d.networkName(f.Egress)
	}
	if f.Dst.IsGroup() {
		return "flood", "multicast: to every other port of network " + d.networkName(f.Egress)
	}
	return "flood", fmt.Sprintf("nobody has heard %s yet: to every other port of network %s", f.Dst, d.networkName(f.Egress))
}

func (d *Daemon) explainPreRouting(f *frame.Frame) (string, string) {
	host := d.dp.NAT.External()
	switch f.NAT {
	case frame.NATEstablished:
		dir := "a packet of"
		if f.Dir == 1 {
			dir = "the answer to"
		}
		text := fmt.Sprintf("%s flow %s", dir, d.flowText(f.Flow))
		if f.Flow == 0 {
			text = fmt.Sprintf("%s the flow that the first packet would make, %s", dir, d.flowText(f.Flow))
		}
		if f.RouteDst != f.Tuple.Dst {
			text += fmt.Sprintf("; routed to %s", f.RouteDst)
		}
		return "flow", text
	case frame.NATRelated:
		return "flow", fmt.Sprintf("an ICMP error about flow %s; it goes to %s", d.flowText(f.Flow), f.RouteDst)
	case frame.NATNew:
		if f.Rule == 0 {
			inside, outside := d.dp.NAT.MappingOf(f.Flow)
			how := "hairpinning"
			if !f.Hairpin {
				how = "the network's filter lets others in"
			}
			return "mapping", fmt.Sprintf("%s:%d is the outside port of %s:%d (%s)", outside.Src, outside.SrcPort, inside.Src, inside.SrcPort, how)
		}
		text := "a published port"
		for _, r := range d.rules {
			if r.id == f.Rule {
				text = fmt.Sprintf("published: %s/%s to %s:%d", r.hostPorts(), r.proto, r.port.name, f.RoutePort)
			}
		}
		if f.Hairpin {
			text += "; from inside, so it is hairpinned"
		}
		return "dnat", fmt.Sprintf("%s; routed to %s:%d", text, f.RouteDst, f.RoutePort)
	}
	switch {
	case f.Verdict == frame.Punt, f.Flags&frame.Fragment != 0 && f.Flags&frame.HasTuple == 0:
		return "none", "a fragment before the first one of its packet, which has the ports: no flow can be looked up"
	case f.Flags&frame.IsIPv4 == 0:
		return "none", "not IPv4: nothing to track"
	case f.Tuple.Dst == host && host != 0:
		return "none", fmt.Sprintf("no flow, no published port and no mapping: %s itself is meant, the host", host)
	}
	return "none", "no flow has this tuple"
}

func (d *Daemon) flowText(e uint32) string {
	w := d.dp.NAT.Flow(e, d.dp.Now())
	text := w.Original.String()
	if w.State != "" {
		text += ", " + w.State
	}
	if r := w.Reply.Reverse(); r != w.Original {
		text += fmt.Sprintf(", translated to %s:%d > %s:%d", r.Src, r.SrcPort, r.Dst, r.DstPort)
	}
	return text + fmt.Sprintf(", port %s", d.portName(w.Port))
}

func (d *Daemon) explainRoute(before, f *frame.Frame) (string, string) {
	if f.Verdict == frame.Punt && f.Reason == frame.GatewayService {
		return "gateway", fmt.Sprintf("%s is the router's own", before.RouteDst)
	}
	rt, ok := d.dp.Router.Lookup(before.RouteDst)
	if !ok {
		return "refuse", fmt.Sprintf("no route to %s", before.RouteDst)
	}
	text := fmt.Sprintf("%s is in %s", before.RouteDst, routeText(d, rt))
	if f.Verdict == frame.Punt {
		if f.Reason == frame.FragmentationNeeded && !f.IPv4().DontFrag() {
			return "cut", text + "; too long for it"
		}
		return "refuse", text + "; " + f.Reason.Info().Meaning
	}
	return "route", fmt.Sprintf("%s; TTL %d becomes %d", text, int(f.IPv4().TTL())+1, f.IPv4().TTL())
}

// routeText is a route as `ip route` prints it.
func routeText(d *Daemon, rt router.Route) string {
	text := rt.Prefix.String()
	if rt.Prefix == everywhere {
		text = "default"
	}
	if rt.Kind != router.Unicast && rt.Kind != router.Local {
		return rt.Kind.String() + " " + text
	}
	if rt.NextHop != 0 {
		text += " via " + rt.NextHop.String()
	}
	switch {
	case rt.Kind == router.Local:
		return text + " dev " + hostPort
	case rt.Egress == frame.NoNet:
		return text + " dev " + uplinkPort
	}
	return text + " dev " + d.networkName(rt.Egress)
}

func (d *Daemon) explainPostRouting(before, f *frame.Frame) (string, string) {
	if f.Verdict == frame.Punt {
		if f.Reason == frame.FragmentWaits {
			return "hold", "its first fragment has not come"
		}
		return "refuse", f.Reason.Info().Meaning
	}
	if f.NAT == frame.NATNone && f.Egress != frame.NoNet {
		return "none", "between networks of the switch: addresses stay as they are"
	}
	what := "snat"
	switch {
	case f.NAT == frame.NATRelated:
		return "rewrite", "the error's addresses, and those of the packet that it quotes"
	case before.NAT == frame.NATNew, before.NAT == frame.NATEstablished && before.Dir == 0 && before.Tuple.Dst != f.Tuple.Dst:
		what = "dnat"
	case before.NAT == frame.NATEstablished && before.Dir == 1:
		what = "undo"
	}
	var changed []string
	if s, w := end(before.Tuple.Src, before.Tuple.SrcPort, f.Proto), end(f.Tuple.Src, f.Tuple.SrcPort, f.Proto); s != w {
		changed = append(changed, fmt.Sprintf("source %s becomes %s", s, w))
	}
	if s, w := end(before.Tuple.Dst, before.Tuple.DstPort, f.Proto), end(f.Tuple.Dst, f.Tuple.DstPort, f.Proto); s != w {
		changed = append(changed, fmt.Sprintf("destination %s becomes %s", s, w))
	}
	text := strings.Join(changed, ", ")
	if text == "" {
		text = "nothing changes"
	}
	if before.NAT == frame.NATNone {
		if f.Flow == 0 {
			text = fmt.Sprintf("MASQUERADE of network %s: %s; %s", d.networkName(f.Net), text, d.wouldMake())
		} else {
			text = fmt.Sprintf("MASQUERADE of network %s: %s", d.networkName(f.Net), text)
		}
	} else if before.NAT == frame.NATNew {
		text += "; " + d.wouldMake()
	}
	if was, is := d.dp.NAT.StateAfter(f); was != is {
		text += fmt.Sprintf("; the flow goes from %s to %s", was, is)
	}
	return what, text
}

// wouldMake says that a flow would be made, and whether its port is an example.
func (d *Daemon) wouldMake() string {
	if d.dp.NAT.PortIsExample() {
		return "a new flow would be made (the outside port is an example: it is drawn at random)"
	}
	return "a new flow would be made"
}

// end is one end of a tuple.
func end(a frame.Addr, port uint16, proto uint8) string {
	if frame.HasPorts(proto) {
		return fmt.Sprintf("%s:%d", a, port)
	}
	return a.String()
}

func (d *Daemon) explainResolve(before, f *frame.Frame) (string, string) {
	switch {
	case f.Verdict == frame.Punt:
		return "ask", fmt.Sprintf("no MAC is known for %s", before.NextHop)
	case f.Egress == frame.NoNet:
		return "uplink", "out by the uplink; the kernel finds the next hop"
	}
	return "neighbor", fmt.Sprintf("%s is at %s", before.NextHop, f.Dst)
}

// explainSlow says what the housekeeper would do.
func (d *Daemon) explainSlow(t *api.Trace, f *frame.Frame, r *router.DryRunResult) {
	var sent []string
	for _, eth := range r.Sent {
		var g frame.Frame
		g.Reset(append(make([]byte, frame.VnetLen), eth...), frame.Gateway)
		frame.Parse(&g)
		sent = append(sent, frame.Text(&g))
	}
	answer := strings.Join(sent, "; ")
	result := "hold"
	switch {
	case r.Pieces > 0:
		result, t.Verdict, t.Why = "fragment", "transmitted", fmt.Sprintf("in %d fragments, each of which goes this way again", r.Pieces)
	case r.Consumed:
		result, t.Verdict, t.Why = "answer", "answered", "the gateway answers: "+answer
		if answer == "" {
			t.Verdict, t.Why = "consumed", "for the gateway, which has nothing to say"
		}
	case r.Why != frame.None:
		result, t.Verdict, t.Reason = "drop", "dropped", r.Why.String()
		t.Why, t.Remedy = r.Why.Info().Meaning, r.Why.Info().Remedy
		if answer != "" {
			t.Why += "; its sender gets " + answer
		}
	case r.Released:
		t.Verdict, t.Why = "transmitted", "its neighbor is known by now"
	default:
		t.Verdict, t.Reason, t.Why = "held", f.Reason.String(), "it waits for the neighbor, who is asked ("+answer+") three times in 3 s; then it is dropped for this reason"
	}
	t.Steps = append(t.Steps, api.TraceStep{Stage: "housekeeper", Result: result, Text: t.Why})
}
