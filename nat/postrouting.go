package nat

import "github.com/uvswitch/uvswitch/internal/frame"

// PostRouting translates the routed frames that belong to a flow, making the flow for what begins one: masquerade
// for what leaves by the uplink, DNAT for what came to a published port. Step 7.
//
//uvswitch:hot
func (n *NAT) PostRouting(b *frame.Batch) {
	c := n.config.Load()
	for i := range b.Frames[:b.N] {
		f := &b.Frames[i]
		if f.Verdict != frame.Routed {
			continue
		}
		if f.NAT == frame.NATFlow && f.Dir == 0 && f.Egress != frame.NoNet && n.state[f.Flow].rule == 0 {
			n.remove(f.Flow) // what it speaks to has become inside
			f.NAT = frame.NATNone
		}
		if f.NAT == frame.NATNone {
			if f.Egress != frame.NoNet {
				continue
			}
			if c.masq[f.Net] == nil || c.External == 0 {
				f.PuntFor(frame.UplinkDown)
				continue
			}
		}
		if why := n.postRoute(c, f, b.Tick); why == frame.NATPortsExhausted || why == frame.FlowTableFull {
			f.PuntFor(why)
		} else if why != frame.None {
			f.DropFor(why)
		}
	}
}

//uvswitch:hot
func (n *NAT) postRoute(c *config, f *frame.Frame, now frame.Tick) frame.Reason {
	if f.Flags&frame.Fragment != 0 {
		return frame.FragmentNotTranslated // a later one has no ports, and perhaps no transport header
	}
	switch f.NAT {
	case frame.NATError:
		return n.translateError(f)
	case frame.NATFlow:
	default:
		if why := n.create(c, f, now); why != frame.None {
			return why
		}
	}
	n.translate(f, now)
	return frame.None
}

// create makes the flow that f begins, or finds that another packet has just made it, and sets f.Flow and f.Dir.
func (n *NAT) create(c *config, f *frame.Frame, now frame.Tick) frame.Reason {
	if e, dir, ok := n.find(c, f.Tuple, now); ok { // by an earlier frame of this batch, or another worker
		f.Flow, f.Dir = e, dir
		return frame.None
	}
	if why := begins(f); why != frame.None {
		return why
	}
	reply := frame.Tuple{Src: f.RouteDst, SrcPort: f.RoutePort, Dst: f.Tuple.Src, DstPort: f.Tuple.SrcPort, Proto: f.Tuple.Proto}
	inside, net := f.In, f.Net
	var count *RuleCount
	if f.NAT == frame.NATNew {
		p := c.published(f.Tuple.Proto, f.Tuple.Dst, f.Tuple.DstPort)
		if p == nil || p.ID != f.Rule {
			return frame.FlowNotFound
		}
		inside, net, count = p.Inside, p.Net, p.RuleCount
	} else {
		count = c.masq[f.Net].RuleCount
	}
	if int(inside) >= len(n.held) {
		return frame.FlowInvalid
	}
	if n.held[inside].Add(1) > n.quota {
		n.held[inside].Add(-1)
		return frame.FlowQuota
	}
	var mapping uint32
	if f.NAT != frame.NATNew || f.Hairpin {
		var why frame.Reason
		from := frame.Tuple{Src: f.Tuple.Src, SrcPort: f.Tuple.SrcPort, Dst: c.External, Proto: f.Tuple.Proto}
		if mapping, reply.DstPort, why = n.acquire(c, from, inside); why != frame.None {
			n.held[inside].Add(-1)
			return why
		}
		reply.Dst = c.External
	}
	e, dir, why := n.insert(c, f, reply, flowOf{mapping, inside, net}, now)
	if why == frame.FlowBusy {
		n.yield(c, reply, now)
		e, dir, why = n.insert(c, f, reply, flowOf{mapping, inside, net}, now)
	}
	if why != frame.None || f.NAT == frame.NATFlow {
		n.held[inside].Add(-1)
		if mapping != 0 {
			n.release(mapping)
		}
	}
	if why == frame.None {
		f.Flow, f.Dir = e, dir
		count.Packets.Add(1)
		count.Bytes.Add(uint64(f.L3End - uint32(f.L3)))
	}
	return why
}

// flowOf is what a new flow belongs to.
type flowOf struct {
	mapping uint32
	inside  frame.PortID
	net     frame.NetID
}

// insert fills an entry and makes it visible. When another worker was first, its flow is adopted and f.NAT says
// so.
func (n *NAT) insert(c *config, f *frame.Frame, reply frame.Tuple, of flowOf, now frame.Tick) (uint32, uint8, frame.Reason) {
	orig := f.Tuple
	if n.flows.standing(orig) == busy {
		return 0, 0, frame.FlowBusy
	}
	e, ok := n.flows.alloc(orig, reply)
	if !ok {
		return 0, 0, frame.FlowTableFull
	}
	to := reply.Reverse()
	s := &n.state[e]
	s.mapping, s.rule, s.port, s.net = of.mapping, f.Rule, of.inside, of.net
	s.addrs = frame.Delta32(uint32(orig.Src), uint32(to.Src)).Plus(frame.Delta32(uint32(orig.Dst), uint32(to.Dst)))
	s.l4ports = frame.Delta16(orig.SrcPort, to.SrcPort).Plus(frame.Delta16(orig.DstPort, to.DstPort))
	s.state.Store(0)
	s.gen.Store(c.gen)
	s.expires.Store(uint32(now + n.timers.timeout(&orig, 0)))
	for i := range s.count {
		s.count[i].packets.Store(0)
		s.count[i].bytes.Store(0)
	}
	other, dir, out := n.flows.insert(e)
	switch out {
	case inserted:
		return e, 0, frame.None
	case exists:
		f.NAT = frame.NATFlow
		return other, dir, frame.None
	case full:
		return 0, 0, frame.FlowTableFull
	}
	return 0, 0, frame.FlowBusy
}

// yield ends the flow that holds the reply tuple which a new flow needs, if it may: a masqueraded one, whose
// container spoke first from what is a published port; or a published one that is no conversation yet.
func (n *NAT) yield(c *config, reply frame.Tuple, now frame.Tick) {
	if e, _, ok := n.find(c, reply, now); ok && (n.state[e].rule == 0 || n.state[e].state.Load()&assured == 0) {
		n.remove(e)
	}
}

// begins says why f may not begin a flow. A TCP segment without SYN may: it belongs to a connection that is older
// than this switch, which goes on if its ports are unchanged and else is reset by its peer at once.
func begins(f *frame.Frame) frame.Reason {
	switch f.Proto {
	case frame.TCP:
		if fl := f.Payload()[13]; fl&frame.FlagRST != 0 || fl&(frame.FlagSYN|frame.FlagACK) == 0 ||
			fl&(frame.FlagSYN|frame.FlagACK) == frame.FlagSYN|frame.FlagACK {
			return frame.FlowInvalid
		}
	case frame.UDP:
	case frame.ICMP:
		if f.Flags&frame.HasTuple == 0 || frame.IsICMPAnswer(f.Payload()[0]) {
			return frame.FlowInvalid
		}
	default:
		return frame.ProtocolNotTranslated
	}
	return frame.None
}
